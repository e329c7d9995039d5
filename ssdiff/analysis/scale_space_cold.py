"""Cold processes as scale-spaces: curves of D(x, t) over the severity, semigroup and invariances of D.

A cold process has no density, so that entropies are those of images, and distances those of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ssdiff.analysis import scale_space_theory as theory
from ssdiff.analysis.scale_space_curves import Point, image_entropy, parts
from ssdiff.analysis.scale_space_moments import SampleMoments
from ssdiff.analysis.scale_space_properties import (
    EXACT,
    MOVES,
    Check,
    distance,
    extremum_check,
    foretold,
    shuffle_pixels,
    some_timesteps,
)
from ssdiff.analysis.scale_space_theory import Expected
from ssdiff.errors import ProcessError
from ssdiff.process.base import Process

_DENSE = 1024  # values of an image up to which D is written as a matrix
_SOLVED = 1e-6  # relative, that a badly conditioned system of equations leaves
_AFFINE = 1e-6  # relative, of a D that computes in float32
_HALF_BYTE = 0.5 / 255  # what a black pixel counts as, so that a black image has an entropy


class ColdCurves:
    """The quantities of a cold process at one severity after the other, from D(x, t) of all images.

    Args:
        name: of the process, in the points.
        process: takes images of the data's size and channels.
        images: (N, C, H, W) in [-1, 1].
    """

    def __init__(self, name: str, process: Process, images: Tensor) -> None:
        self._name, self._process, self._images = name, process, images
        self._start = self._moments(0)[0]

    def at(self, t: int) -> list[Point]:
        """Compute everything that is finite at a severity."""
        moments, entropy = self._moments(t)
        values = moments.values() | {
            "area": math.prod(self._process.states[t].size) / math.prod(self._process.states[0].size),
            "sample-frechet": moments.seen.distance(self._start.seen) / self._start.seen.total,
            "image-entropy": entropy,
        }
        return [
            Point(self._name, t, t / self._process.T, quantity, value)
            for quantity, value in values.items()
            if math.isfinite(value)
        ]

    def mean_image(self, t: int) -> Tensor:
        """Return the (C, h_t, w_t) mean of D(x, t)."""
        return self._moments(t)[0].mean_image()

    def _moments(self, t: int) -> tuple[SampleMoments, float]:
        """Moments of the states, and the mean entropy of their images."""
        found, entropies, first = SampleMoments(self._process.states[0].size), 0.0, 0
        for part in parts(self._images):
            numbers = torch.arange(first, first + len(part))
            x = self._process.degrade(part.double(), t, numbers)
            first += len(part)
            found.add(x)
            # Dark pixels of a distribution of grey are none; what overshoots has no part in it.
            grey = ((x + 1) / 2).clamp_min(0) + _HALF_BYTE
            entropies += float(image_entropy(grey).mean(1).sum())
        return found, entropies / len(self._images)


def check_cold(name: str, process: Process, images: Tensor, expected: Expected | None = None) -> list[Check]:
    """Check every property of D.

    Args:
        name: of the process.
        process: cold; takes square images.
        images: (N, C, H, W) in [-1, 1].
        expected: what theory says of each property.
    """
    x, numbers = images.double(), torch.arange(len(images))
    chosen = some_timesteps(process)

    def degrade(images: Tensor, t: int) -> Tensor:
        return process.degrade(images, t, numbers[: len(images)])

    states = [x, *(degrade(x, t) for t in chosen)]
    checks = [Check(name, theory.CLEAN_START, distance(degrade(x, 0), x), EXACT)]
    checks += [_additive(name, process, x, degrade), _factors(name, process, x, degrade)]
    for label, move in (*MOVES, (theory.PERMUTATION, shuffle_pixels)):
        checks.append(_invariance(name, label, move, x, states[1:], chosen, degrade))
    means = x.mean((-3, -2, -1))
    worst = max(float((state.mean((-3, -2, -1)) - means).abs().max()) for state in states)
    checks += [
        Check(name, theory.GREY_VALUE, worst, EXACT, "mean over pixels and channels"),
        extremum_check(name, states),
    ]
    contrasts = torch.stack([state.flatten(1).std(1) for state in states])
    worst = max(0.0, float(contrasts.diff(dim=0).max()))
    checks.append(Check(name, theory.CONTRAST, worst, EXACT, "standard deviation within an image"))
    return foretold(checks, expected or {})


_Degrade = Callable[[Tensor, int], Tensor]


def _severities(process: Process) -> tuple[int, int]:
    """s < t with room on both sides, where the process has it."""
    s = max(1, round(0.3 * process.T))
    return s, max(s + 1, round(0.8 * process.T))


def _additive(name: str, process: Process, x: Tensor, degrade: _Degrade) -> Check:
    """Whether D(D(x, s), t - s) is D(x, t)."""
    s, t = _severities(process)
    if t > process.T or process.changes_resolution:
        why = "needs 2 severities" if t > process.T else "states change their size"
        return Check(name, theory.ADDITIVE, math.nan, EXACT, why)
    found = distance(degrade(degrade(x, s), t - s), degrade(x, t))
    return Check(name, theory.ADDITIVE, found, EXACT, f"D(D(x, {s}), {t - s}) against D(x, {t})")


def _factors(name: str, process: Process, x: Tensor, degrade: _Degrade) -> Check:
    """Whether there is an M with D(x, t) = M D(x, s): what s has lost, t has not.

    M is the least squares solution over all images, D written as a matrix.
    """
    s, t = _severities(process)
    if t > process.T:
        return Check(name, theory.FACTORS, math.nan, _SOLVED, "needs 2 severities")
    try:
        matrices = _matrices(process, x, (s, t))
    except ProcessError as error:
        return Check(name, theory.FACTORS, math.nan, _SOLVED, str(error))
    if isinstance(matrices, str):
        return Check(name, theory.FACTORS, math.nan, _SOLVED, matrices)
    a, b = matrices  # (n, e) D_s^T and D_t^T, a row for each basis image
    solution = torch.linalg.lstsq(a, b, rcond=1e-12, driver="gelsd").solution
    found = float((a @ solution - b).abs().max() / b.abs().max().clamp_min(1e-300))
    return Check(name, theory.FACTORS, found, _SOLVED, f"severities {s}, {t}")


def _matrices(process: Process, x: Tensor, severities: tuple[int, int]) -> list[Tensor] | str:
    """D^T at each severity, (n, n); or why there is none. Channels apart, where D keeps them so."""
    channels, pixels = x.shape[1], math.prod(x.shape[-2:])

    def linear(z: Tensor, t: int) -> Tensor:
        # One image number for all: a random D is one function then. What D adds to a black image is no part.
        zeros = torch.zeros(len(z), dtype=torch.long)
        return process.degrade(z, t, zeros) - process.degrade(torch.zeros_like(z), t, zeros)

    for t in severities:
        one, two = x[:1], x[-1:].flip(-1)
        sides = linear(one + two / 2, t), linear(one, t) + linear(two, t) / 2
        if distance(*sides) > _AFFINE:
            return "D is not linear"
    planes = channels
    if channels * pixels > _DENSE:
        alone = torch.zeros_like(x[:1])
        alone[:, 0] = x[:1, 0]
        apart = not any(linear(alone, t)[:, 1:].any() for t in severities)
        if channels == 1 or not apart or pixels > _DENSE:
            return f"not measured above {_DENSE} values of an image"
        planes = 1
    basis = torch.zeros(planes * pixels, channels, *x.shape[-2:], dtype=torch.float64)
    basis[:, :planes] = torch.eye(planes * pixels, dtype=torch.float64).reshape(-1, planes, *x.shape[-2:])
    return [linear(basis, t)[:, :planes].flatten(1) for t in severities]


def _invariance(
    name: str,
    label: str,
    move: Callable[[Tensor], Tensor],
    x: Tensor,
    states: list[Tensor],
    chosen: list[int],
    degrade: _Degrade,
) -> Check:
    """Whether a moved image becomes the moved D(x, t), at the same random numbers."""
    worst = 0.0
    for state, t in zip(states, chosen, strict=True):
        moved = degrade(move(x), t)
        if moved.shape != x.shape and label == theory.PERMUTATION:
            return Check(name, label, math.inf, EXACT, "states change their size")
        worst = max(worst, distance(moved, move(state)))
    return Check(name, label, worst, EXACT)
