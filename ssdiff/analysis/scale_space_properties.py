"""Measured properties of scale-spaces: semigroup, symmetries, average grey value, Lyapunov sequences.

Of noisy processes [GS], and of image filters [Weickert 1998; Weickert et al. 2013].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.analysis import scale_space_theory as theory
from ssdiff.analysis.image_filters import Flow, Move
from ssdiff.analysis.scale_space_curves import (
    Point,
    image_entropy,
    noise_variances,
    relative_entropy,
    signal,
)
from ssdiff.analysis.scale_space_theory import Expected
from ssdiff.errors import ProcessError
from ssdiff.process.base import Posterior, Process

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
        expected: whether theory says that it holds; None where it promises nothing.
    """

    process: str
    law: str
    deviation: float
    tolerance: float
    note: str = ""
    expected: bool | None = None

    @property
    def measured(self) -> bool:
        """Whether there is a deviation at all."""
        return not math.isnan(self.deviation)

    @property
    def passed(self) -> bool:
        """Whether the property holds; never for a deviation that is not a number."""
        return self.deviation <= self.tolerance

    @property
    def surprising(self) -> bool:
        """Whether the result is not the one that theory expects."""
        return self.measured and self.expected is not None and self.expected != self.passed

    @property
    def verdict(self) -> str:
        """``pass``, ``fail``, or a dash where nothing could be measured."""
        return ("pass" if self.passed else "fail") if self.measured else "-"

    @property
    def expectation(self) -> str:
        """``yes``, ``no``, or a dash where theory promises nothing."""
        return "-" if self.expected is None else "yes" if self.expected else "no"


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


MOVES: tuple[tuple[str, Move], ...] = ((theory.ROTATION, rotate), (theory.MIRROR, mirror))
"""Two symmetries that generate all eight of the square."""


def foretold(checks: Sequence[Check], expected: Expected) -> list[Check]:
    """Return the checks with what theory expects of each."""
    return [replace(check, expected=expected.get(check.law, check.expected)) for check in checks]


def check_process(
    name: str, process: Process, images: Tensor, points: Sequence[Point], expected: Expected | None = None
) -> list[Check]:
    """Check every property of one noisy process.

    Args:
        name: of the process.
        process: takes square images.
        images: (N, C, H, W) in [-1, 1].
        points: its curves, in the order of t.
        expected: what theory says of each property.
    """
    x = images.double()
    checks = [_semigroup(name, process, x)]
    checks += [_equivariance(name, process, x, label, move) for label, move in MOVES]
    checks += [_permutation(name, process, x), *_grey_value(name, process, x)]
    checks.append(extremum_check(name, [x, *(process.degrade(x, t) for t in some_timesteps(process))]))
    return foretold(checks + _monotone(name, process, list(points)), expected or {})


def some_timesteps(process: Process) -> list[int]:
    """Return a few timesteps from 1 to T."""
    return sorted({max(1, round(share * process.T)) for share in (0, 0.25, 0.5, 0.75, 1)})


def _semigroup(name: str, process: Process, x: Tensor) -> Check:
    """Whether s -> u -> t is s -> t, for means and covariances."""
    T = process.T
    if T < 3:
        note = f"needs 3 timesteps, the process has {T}"
        return Check(name, theory.SEMIGROUP, math.nan, EXACT, note)
    s, t = max(1, round(0.2 * T)), max(3, round(0.9 * T))
    u = min(max(s + 1, T // 2), t - 1)
    deviation = semigroup_deviation(process, s, u, t, channels=x.shape[1])
    return Check(name, theory.SEMIGROUP, deviation, EXACT, f"timesteps {s}, {u}, {t}")


def semigroup_deviation(process: Process, s: int, u: int, t: int, channels: int = 1) -> float:
    """Measure how far a process is from a Markov chain with s -> u -> t equal to s -> t, relative.

    Transitions x_t = M_{s:t} x_s + N(0, Q_{s:t}) come by Bayes' rule from the posteriors that the samplers
    use, so that this measures those too [docs/math.md, equation (66)]. Of a chain

        M_{s:t} = M_{u:t} M_{s:u},    Q_{s:t} = M_{u:t} Q_{s:u} M_{u:t}^T + Q_{u:t},    A_t = M_{s:t} A_s

    Each side is applied to a few random images, so that the cost does not grow with the square of their size:
    sides that differ do so for random images, with probability 1.

    Args:
        process: noisy.
        s: timestep, at least 1.
        u: above s.
        t: above u.
        channels: of the images.
    """
    first, second, whole = (_Transition(process, *pair, channels) for pair in ((s, u), (u, t), (s, t)))
    x_0, x_s, x_t = (_probes(process, step, channels) for step in (0, s, t))
    # What hardly leaves a trace is measured in units of the noise, of which gains have a rounding of 1e-8.
    noise = float(noise_variances(process, t, channels).max().sqrt())
    return max(
        distance(second.forward(first.forward(x_s)), whole.forward(x_s), noise),
        distance(second.forward(first.spread(second.backward(x_t))) + second.spread(x_t), whole.spread(x_t)),
        distance(whole.forward(signal(process, x_0, s)), signal(process, x_0, t), noise),
        *(transition.deviation() for transition in (first, second, whole)),
    )


def _probes(process: Process, t: int, channels: int) -> Tensor:
    """(B, C, h_t, w_t) random images."""
    key = rng.derive(0, "scale-space/probe")
    return rng.normal(key, torch.arange(_PROBES), t, (channels, *process.states[t].size), torch.float64)


class _Transition:
    """x_t = M x_s + N(0, Q), from the posterior with the gain B: M = (Sigma_s^{-1} B Sigma_t)^T."""

    def __init__(self, process: Process, s: int, t: int, channels: int) -> None:
        self._process, self._s, self._t, self._channels = process, s, t, channels
        self._noise = {step: noise_variances(process, step, channels) for step in (s, t)}

    def forward(self, x: Tensor) -> Tensor:
        """M of (B, C, h_s, w_s) images: Sigma_t B^T Sigma_s^{-1} x."""
        given = torch.zeros(len(x), self._channels, *self._process.states[self._t].size, dtype=torch.float64)
        with torch.enable_grad():
            given.requires_grad_()
            gained = self._gain(given)  # B is linear, so that its adjoint is its gradient
        [adjoint] = torch.autograd.grad(gained, given, self._covariance(self._s, x, -1))
        return self._covariance(self._t, adjoint)

    def backward(self, y: Tensor) -> Tensor:
        """M^T of (B, C, h_t, w_t) images: Sigma_s^{-1} B Sigma_t y."""
        return self._covariance(self._s, self._gain(self._covariance(self._t, y)), -1)

    def spread(self, y: Tensor) -> Tensor:
        """Q of (B, C, h_t, w_t) images: Sigma_t - M Sigma_s M^T."""
        return self._covariance(self._t, y) - self.forward(self._covariance(self._s, self.backward(y)))

    def deviation(self) -> float:
        """How far the posterior is from Bayes' rule: B Sigma_t B^T + C must be Sigma_s."""
        x = _probes(self._process, self._s, self._channels)
        kept = self._covariance(self._s, x)
        explained = self._gain(self.forward(kept))  # B Sigma_t B^T = B M Sigma_s
        root = self._posterior(x.new_zeros(len(x), *x.shape[1:2], *self._process.states[self._t].size)).root
        return distance(explained + root(root(x)), kept)

    def _gain(self, y: Tensor) -> Tensor:
        """B of x_s = mu_s + B (x_t - A_t x_0) + C^{1/2} eps."""
        return self._posterior(y).mean

    def _posterior(self, y: Tensor) -> Posterior:
        clean = y.new_zeros(len(y), self._channels, *self._process.states[self._s].size)
        return self._process.posterior(y, clean, self._t, self._s)

    def _covariance(self, t: int, x: Tensor, power: int = 1) -> Tensor:
        """Sigma_t of images, or its inverse."""
        return self._process.synthesis(self._noise[t] ** power * self._process.analysis(x))


def distance(a: Tensor, b: Tensor, least: float = 0.0) -> float:
    """Measure the largest difference, in units of the largest number of b; infinite if only b is zero.

    Args:
        a: (B, C, h, w).
        b: likewise.
        least: unit where the largest number of b is smaller.
    """
    difference, unit = float((a - b).abs().max()), max(float(b.abs().max()), least)
    return difference / unit if difference and unit else math.inf if difference else 0.0


def _equivariance(name: str, process: Process, x: Tensor, label: str, move: Move) -> Check:
    """Whether a moved image becomes the moved x_t: means and noise, relative to the largest of each."""
    worst = 0.0
    for t in some_timesteps(process):
        try:
            worst = max(worst, distance(signal(process, move(x), t), move(signal(process, x, t))))
            probe = _probes(process, t, x.shape[1])
            moved = _noise_covariance(process, move(probe), t)
            worst = max(worst, distance(moved, move(_noise_covariance(process, probe, t))))
        except (RuntimeError, ProcessError):  # a state that is not square cannot be rotated
            return Check(name, label, math.inf, EXACT, "the states are not square")
    return Check(name, label, worst, EXACT)


def _noise_covariance(process: Process, z: Tensor, t: int) -> Tensor:
    """The covariance of x_t given x_0, applied to (B, C, h, w); the noise's root is symmetric."""
    return process.pure_noise(t, process.pure_noise(t, z))


def shuffle_pixels(x: Tensor) -> Tensor:
    """Move the pixels of (B, C, H, W) images to places at random, all images and channels alike."""
    key = rng.derive(0, "scale-space/shuffle")
    order = rng.uniform(key, torch.arange(1), 0, x.shape[-2:]).flatten().argsort()
    return x.flatten(-2)[..., order].reshape(x.shape)


def _permutation(name: str, process: Process, x: Tensor) -> Check:
    """Whether shuffled pixels come out shuffled: the values of A_t x, sorted, stay, and noise is white."""
    worst, shuffled = 0.0, shuffle_pixels(x)
    for t in some_timesteps(process):
        before, after = (signal(process, images, t).flatten(1).sort(1).values for images in (x, shuffled))
        deviations = noise_variances(process, t, x.shape[1]).sqrt()
        spread = float((deviations.max() - deviations.min()) / deviations.max())
        worst = max(worst, distance(after, before), spread)
    return Check(name, theory.PERMUTATION, worst, EXACT)


def _grey_value(name: str, process: Process, x: Tensor) -> list[Check]:
    """Whether the expected mean of x_t is that of x_0, and that of D(x_0, t) without the signal scale."""
    means, raw, scaled = x.mean((-3, -2, -1)), 0.0, 0.0
    for t in some_timesteps(process):
        raw = max(raw, float((signal(process, x, t).mean((-3, -2, -1)) - means).abs().max()))
        scaled = max(scaled, float((process.degrade(x, t).mean((-3, -2, -1)) - means).abs().max()))
    return [
        Check(name, theory.GREY_VALUE, raw, EXACT, "expected mean of x_t"),
        Check(name, theory.UNSCALED_GREY_VALUE, scaled, EXACT, "mean of D(x_0, t)"),
    ]


def extremum_check(name: str, states: Sequence[Tensor]) -> Check:
    """Check that no image gets brighter or darker anywhere than its brightest and darkest pixel before.

    Args:
        name: of the process.
        states: (B, C, h, w) each, without noise, in the order of t.
    """
    highest, lowest = (
        torch.stack([u.flatten(1).amax(1) for u in each]) for each in (states, [-u for u in states])
    )
    worst = max(_worst(highest.diff(dim=0)), _worst(lowest.diff(dim=0)))
    return Check(name, theory.MAXIMUM_MINIMUM, worst, EXACT, "largest excess in grey, from time to time")


def _monotone(name: str, process: Process, points: list[Point]) -> list[Check]:
    """Lyapunov sequences: entropies rise within each size, information falls all along."""
    checks = []
    for label, quantity in (
        (theory.CONDITIONAL_ENTROPY, "conditional-entropy"),
        (theory.MARGINAL_ENTROPY, "marginal-entropy"),
    ):
        pieces = _pieces(process, points, quantity)
        worst = max((ordered(piece, rising=True) for piece in pieces), default=math.nan)
        gains = ", ".join(f"{gain:+.3g}" for gain in jumps(process, points, quantity))
        note = f"within each size; at the changes it jumps by {gains} nats" if gains else ""
        checks.append(Check(name, label, worst, EXACT, note))
    known = [point.value for point in points if point.quantity == "information"]
    checks.append(Check(name, theory.INFORMATION, ordered(known, rising=False), EXACT))
    note = "nats a value that x_T knows of x_0"
    checks.append(Check(name, theory.ENDS_IN_NOISE, known[-1], _FORGOTTEN, note))
    pieces = _pieces(process, points, "terminal-relative-entropy")
    worst = max((ordered(piece, rising=False) for piece in pieces), default=math.nan)
    note = "within each size" if process.changes_resolution else ""
    return [*checks, Check(name, theory.TO_TERMINAL, worst, EXACT, note)]


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
    checks = [Check(name, theory.SEMIGROUP, distance(half, whole), tolerance, note)]
    for label, move in MOVES:
        moved = few.moved(move).advance(move(begin), 0.0, middle)
        checks.append(Check(name, label, distance(moved, move(whole)), EXACT))
    means = torch.stack([u.mean((-2, -1)) for u in states])  # (K, B, C)
    least = min(float(u.min()) for u in states)
    entropies = torch.stack([image_entropy(u) for u in states])
    distances = torch.stack([relative_entropy(u, steady) for u in states])
    end = few.advance(states[-1][:_FEW], times[-1], _LONG * start.shape[-1] ** 2)
    flat = bool(torch.allclose(steady, steady[..., :1, :1]))
    checks += [
        Check(name, theory.GREY_VALUE, float((means - means[0]).abs().max()), EXACT),
        Check(name, theory.POSITIVITY, max(0.0, -least), 0.0, f"least value {least:.3g}"),
        extremum_check(name, states),
        Check(
            name,
            theory.IMAGE_ENTROPY,
            _worst(-entropies.diff(dim=0)),
            EXACT,
            "" if flat else "the steady state is not flat",
        ),
        Check(name, theory.TO_STEADY, _worst(distances.diff(dim=0)), EXACT),
        Check(name, theory.ENDS_STEADY, distance(end, steady[:_FEW]), _STEADY),
    ]
    return foretold(checks, theory.expected_of_filter(flat))


def _worst(steps: Tensor) -> float:
    """The largest step in the wrong direction, 0 if there is none."""
    return max(0.0, float(steps.max()))
