"""Measured properties of scale-spaces: semigroup, symmetries, average grey value, Lyapunov sequences.

Of noisy processes [GS], and of image filters [Weickert 1998; Weickert et al. 2013].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.analysis.image_filters import Flow, Move
from ssdiff.analysis.scale_space_curves import (
    Point,
    image_entropy,
    relative_entropy,
    signal,
)
from ssdiff.process.base import Process

EXACT = 1e-8  # what rounding may do to float64
_FORGOTTEN = 0.01  # nats a pixel that the last state may still know of the image
_PROBES = 4
_DISCRETE = 0.02  # of a scheme of first order whose steps are 3 % of the time
_STEADY = 1e-6
_FEW = 16  # images for what takes more runs of the filter
_LONG = 4.0  # in units of the squared side, by when even the slowest wave is gone


@dataclass(frozen=True, slots=True)
class Check:
    """How far a process is from a property of scale-spaces.

    Attributes:
        process: name.
        law: the property, in words.
        deviation: 0 where the property holds exactly.
        tolerance: the largest deviation that passes.
        note: what the numbers need to be understood, or nothing.
    """

    process: str
    law: str
    deviation: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the property holds; never for a deviation that is not a number."""
        return self.deviation <= self.tolerance


def ordered(values: list[float], rising: bool) -> float:
    """Measure how far a sequence is from monotone: the largest step in the wrong direction, 0 if none."""
    steps = [(a - b if rising else b - a) for a, b in itertools.pairwise(values)]
    return max([0.0, *steps])


def jumps(process: Process, points: list[Point], quantity: str) -> list[float]:
    """Return what a quantity gains at each resolution transition, from the points on both sides of it."""
    values = {int(point.t): point.value for point in points if point.quantity == quantity}
    return [
        values[t] - values[s]
        for s, t in itertools.pairwise(sorted(values))
        if process.states[s].size != process.states[t].size
    ]


def rotate(x: Tensor) -> Tensor:
    """Rotate by 90 degrees: (..., H, W) to (..., W, H)."""
    return x.rot90(1, (-2, -1))


def mirror(x: Tensor) -> Tensor:
    """Mirror left to right."""
    return x.flip(-1)


MOVES: tuple[tuple[str, Move], ...] = (("rotation by 90 degrees", rotate), ("mirror image", mirror))
"""Two symmetries that generate all eight of the square."""


def check_process(name: str, process: Process, images: Tensor, points: Sequence[Point]) -> list[Check]:
    """Check every property of one noisy process.

    Args:
        name: of the process.
        process: takes grey square images.
        images: (N, 1, H, W) in [-1, 1].
        points: its curves, in the order of t.
    """
    x = images.double()
    checks = [_semigroup(name, process)]
    checks += [_equivariance(name, process, x, label, move) for label, move in MOVES]
    checks += [_permutation(name, process, x), *_grey_value(name, process, x)]
    return checks + _monotone(name, process, list(points))


def _some(process: Process) -> list[int]:
    """A few timesteps from 1 to T."""
    return sorted({max(1, round(share * process.T)) for share in (0, 0.25, 0.5, 0.75, 1)})


def _semigroup(name: str, process: Process) -> Check:
    """Whether s -> u -> t is s -> t, for means and covariances."""
    label, T = "semigroup", process.T
    if T < 3:
        return Check(name, label, math.nan, EXACT, f"needs 3 timesteps, the process has {T}")
    s, t = max(1, round(0.2 * T)), max(3, round(0.9 * T))
    u = min(max(s + 1, T // 2), t - 1)
    return Check(name, label, semigroup_deviation(process, s, u, t), EXACT, f"timesteps {s}, {u}, {t}")


def semigroup_deviation(process: Process, s: int, u: int, t: int) -> float:
    """Measure how far a process is from a Markov chain with s -> u -> t equal to s -> t, relative.

    Transitions x_t = M_{s:t} x_s + N(0, Q_{s:t}) come by Bayes' rule from the posteriors that the samplers
    use, so that this measures those too. Of a chain

        M_{s:t} = M_{u:t} M_{s:u},    Q_{s:t} = M_{u:t} Q_{s:u} M_{u:t}^T + Q_{u:t},    A_t = M_{s:t} A_s

    Args:
        process: for grey images.
        s: timestep, at least 1.
        u: above s.
        t: above u.
    """
    first, second, whole = (_transition(process, *pair) for pair in ((s, u), (u, t), (s, t)))
    a_s, a_t = _signal_matrix(process, s), _signal_matrix(process, t)
    composed = second[0] @ first[0], second[0] @ first[1] @ second[0].mT + second[1]
    deviations = [
        _distance(composed[0], whole[0]),
        _distance(composed[1], whole[1]),
        _distance(whole[0] @ a_s, a_t),
        *(transition[2] for transition in (first, second, whole)),
    ]
    return max(deviations)


def _transition(process: Process, s: int, t: int) -> tuple[Tensor, Tensor, float]:
    """M (e_t, e_s) and Q (e_t, e_t) of x_t given x_s, and how far the posterior is from Bayes' rule."""
    noise_s, noise_t = _noise_matrix(process, s), _noise_matrix(process, t)
    eye_s, eye_t = (_basis(process, timestep) for timestep in (s, t))
    size_s = process.states[s].size
    back = process.posterior(eye_t, eye_t.new_zeros(len(eye_t), 1, *size_s), t, s)
    gain = back.mean.flatten(1).mT  # (e_s, e_t): B of x_s = mu_s + B (x_t - A_t x_0) + C^{1/2} eps
    root = back.root(eye_s).flatten(1)
    spread = root.mT @ root
    # Equation (66) of docs/math.md; given x_0, cov(x_s, x_t) is B times the covariance of the noise of x_t.
    matrix = torch.linalg.solve(noise_s, gain @ noise_t).mT
    explained = gain @ noise_t @ gain.mT
    return matrix, noise_t - matrix @ noise_s @ matrix.mT, _distance(explained + spread, noise_s)


def _basis(process: Process, t: int) -> Tensor:
    """(e, 1, h, w) images with one pixel set, at the size of t."""
    size = process.states[t].size
    return torch.eye(math.prod(size), dtype=torch.float64).reshape(-1, 1, *size)


def _signal_matrix(process: Process, t: int) -> Tensor:
    """(e, d) A_t."""
    return signal(process, _basis(process, 0), t).flatten(1).mT


def _noise_matrix(process: Process, t: int) -> Tensor:
    """(e, e) covariance of x_t given x_0."""
    basis = _basis(process, t)
    root = process.marginal(basis.new_zeros(len(basis), 1, *process.states[0].size), t, basis).flatten(1)
    return root.mT @ root


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the largest number of b; infinite if only b is zero."""
    difference = float((a - b).abs().max())
    return difference / float(b.abs().max()) if difference and b.any() else math.inf if difference else 0.0


def _equivariance(name: str, process: Process, x: Tensor, label: str, move: Move) -> Check:
    """Whether a moved image becomes the moved x_t: means and noise, relative to the largest of each."""
    worst = 0.0
    key = rng.derive(0, "scale-space/probe")
    for t in _some(process):
        worst = max(worst, _distance(signal(process, move(x), t), move(signal(process, x, t))))
        size = process.states[t].size
        probe = rng.normal(key, torch.arange(_PROBES), t, (1, *size), torch.float64)
        worst = max(
            worst,
            _distance(_noise_covariance(process, move(probe), t), move(_noise_covariance(process, probe, t))),
        )
    return Check(name, label, worst, EXACT)


def _noise_covariance(process: Process, z: Tensor, t: int) -> Tensor:
    """The covariance of x_t given x_0, applied to (B, 1, h, w); the noise's root is symmetric."""
    nothing = z.new_zeros(len(z), 1, *process.states[0].size)
    return process.marginal(nothing, t, process.marginal(nothing, t, z))


def _permutation(name: str, process: Process, x: Tensor) -> Check:
    """Whether shuffled pixels come out shuffled: the values of A_t x, sorted, stay, and noise is white."""
    label, worst = "permutation of pixels", 0.0
    key = rng.derive(0, "scale-space/shuffle")
    order = rng.uniform(key, torch.arange(1), 0, x.shape[-2:]).flatten().argsort()
    shuffled = x.flatten(-2)[..., order].reshape(x.shape)
    for t in _some(process):
        before, after = (signal(process, images, t).flatten(1).sort(1).values for images in (x, shuffled))
        deviations = process.noise_deviations(t)
        spread = float((deviations.max() - deviations.min()) / deviations.max())
        worst = max(worst, _distance(after, before), spread)
    return Check(name, label, worst, EXACT)


def _grey_value(name: str, process: Process, x: Tensor) -> list[Check]:
    """Whether the expected mean of x_t is that of x_0, and that of D(x_0, t) without the signal scale."""
    means, raw, scaled = x.mean((-2, -1)), 0.0, 0.0
    for t in _some(process):
        raw = max(raw, float((signal(process, x, t).mean((-2, -1)) - means).abs().max()))
        scaled = max(scaled, float((process.degrade(x, t).mean((-2, -1)) - means).abs().max()))
    return [
        Check(name, "average grey value", raw, EXACT, "expected mean of x_t"),
        Check(name, "average grey value, signal scale undone", scaled, EXACT, "mean of D(x_0, t)"),
    ]


def _monotone(name: str, process: Process, points: list[Point]) -> list[Check]:
    """Lyapunov sequences: entropies rise within each size, information falls all along."""
    checks = []
    for label, quantity in (
        ("conditional entropy rises", "conditional-entropy"),
        ("marginal entropy rises", "marginal-entropy"),
    ):
        pieces = _pieces(process, points, quantity)
        worst = max((ordered(piece, rising=True) for piece in pieces), default=math.nan)
        gains = ", ".join(f"{gain:+.3g}" for gain in jumps(process, points, quantity))
        note = f"within each size; at the changes it jumps by {gains} nats" if gains else ""
        checks.append(Check(name, label, worst, EXACT, note))
    known = [point.value for point in points if point.quantity == "information"]
    checks.append(Check(name, "information on x_0 falls", ordered(known, rising=False), EXACT))
    note = "nats a pixel that x_T knows of x_0"
    return [*checks, Check(name, "ends in noise", known[-1], _FORGOTTEN, note)]


def _pieces(process: Process, points: list[Point], quantity: str) -> list[list[float]]:
    """Values of a quantity, one list for each size."""
    pieces: dict[tuple[int, int], list[float]] = {}
    for point in points:
        if point.quantity == quantity:
            pieces.setdefault(process.states[int(point.t)].size, []).append(point.value)
    return list(pieces.values())


def check_flow(
    name: str, flow: Flow, times: Sequence[float], states: Sequence[Tensor], exact: bool
) -> list[Check]:
    """Check every property of one image filter.

    Args:
        name: of the filter.
        flow: the filter.
        times: increasing, squared pixels; the first is 0.
        states: (B, C, H, W) at each time.
        exact: whether the filter is exact in time, or discretised.
    """
    start, steady = states[0], flow.steady(states[0])
    few, begin = flow.first(_FEW), start[:_FEW]
    middle = times[-1] / 64
    whole = few.advance(begin, 0.0, middle)
    half = few.advance(few.advance(begin, 0.0, middle / 9), middle / 9, middle)
    tolerance, note = (EXACT, "") if exact else (_DISCRETE, "error of the time steps")
    checks = [Check(name, "semigroup", _distance(half, whole), tolerance, note)]
    for label, move in MOVES:
        moved = few.moved(move).advance(move(begin), 0.0, middle)
        checks.append(Check(name, label, _distance(moved, move(whole)), EXACT))
    means = torch.stack([u.mean((-2, -1)) for u in states])  # (K, B, C)
    least = min(float(u.min()) for u in states)
    entropies = torch.stack([image_entropy(u) for u in states])
    distances = torch.stack([relative_entropy(u, steady) for u in states])
    end = few.advance(states[-1][:_FEW], times[-1], _LONG * start.shape[-1] ** 2)
    flat = "" if torch.allclose(steady, steady[..., :1, :1]) else "not expected, the steady state is not flat"
    return [
        *checks,
        Check(name, "average grey value", float((means - means[0]).abs().max()), EXACT),
        Check(name, "positivity", max(0.0, -least), 0.0, f"least value {least:.3g}"),
        Check(name, "entropy of the image rises", _worst(-entropies.diff(dim=0)), EXACT, flat),
        Check(name, "relative entropy to the steady state falls", _worst(distances.diff(dim=0)), EXACT),
        Check(name, "ends at the steady state", _distance(end, steady[:_FEW]), _STEADY),
    ]


def _worst(steps: Tensor) -> float:
    """The largest step in the wrong direction, 0 if there is none."""
    return max(0.0, float(steps.max()))
