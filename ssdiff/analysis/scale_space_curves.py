"""Curves of a scale-space: entropies, information, variance and distance to the data along t [GS].

Of noisy processes they are exact for Gaussian data: x_t = A_t x_0 + n_t, n_t ~ N(0, Q_t) with a Q_t that is
diagonal in a known orthonormal basis. With S the covariance of the data, x_t has the covariance
S_t = A_t S A_t^T + Q_t, and

    H(x_t | x_0) = log det(2 pi e Q_t) / 2                         conditional entropy
    I(x_0; x_t)  = log det(I + Q_t^{-1/2} A_t S A_t^T Q_t^{-1/2}) / 2
    H(x_t)       = H(x_t | x_0) + I(x_0; x_t)                      entropy of the marginal

in nats per pixel of the full grid, so that sizes compare [docs/math.md, section 14]. Of image filters, which
have no density, they are those of the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ssdiff.analysis.covariance import frechet, frechet_of_samples, information, normal_entropy, root_sum
from ssdiff.analysis.data_moments import GaussianData
from ssdiff.errors import UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Size
from ssdiff.process.base import Process, State
from ssdiff.process.gaussian import GaussianProcess


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one curve.

    Attributes:
        process: name.
        t: timestep, 0..T; diffusion time in squared pixels for image filters.
        time: position along the process, 0 (clean) to 1.
        quantity: what the value is, e.g. ``"information"``.
        value: finite; entropies and information in nats per pixel of the full grid, grey in [-1, 1].
    """

    process: str
    t: float
    time: float
    quantity: str
    value: float


def variance_exploding(side: int, T: int = 1000, first: float = 0.01, last: float = 50.0) -> GaussianProcess:
    """Build the process of noise alone, x_t = x_0 + sigma_t eps with a sigma that rises geometrically.

    [Song et al. 2021, section 3.4].

    Args:
        side: pixels a side.
        T: timesteps.
        first: sigma at t = 1, in units of the [-1, 1] image.
        last: sigma at t = T.
    """
    sigmas = torch.logspace(math.log10(first), math.log10(last), T, dtype=torch.float64).tolist()
    size = (side, side)
    return GaussianProcess([State(size, 1.0, 0.0), *(State(size, 1.0, sigma) for sigma in sigmas)])


def timesteps(process: Process, points: int) -> list[int]:
    """Choose about ``points`` timesteps from 0 to T evenly, and those on both sides of each transition.

    Raises:
        UsageError: fewer than 2 points.
    """
    if points < 2:
        raise UsageError(f"a curve needs at least 2 points, not {points}")
    even = torch.linspace(0, process.T, points, dtype=torch.float64).round().long().tolist()
    sizes = [state.size for state in process.states]
    changes = [t for t in range(1, len(sizes)) if sizes[t] != sizes[t - 1]]
    return sorted({*even, *changes, *(t - 1 for t in changes)})


class NoisyCurves:
    """The quantities of one process at one timestep after the other.

    Args:
        name: of the process, in the points.
        process: takes grey images of the data's size.
        data: moments of the data.
        images: (N, 1, H, W) some of them, in [-1, 1], for what depends on more than two moments.
    """

    def __init__(self, name: str, process: Process, data: GaussianData, images: Tensor) -> None:
        self._name, self._process, self._data = name, process, data
        self._images = images.double()
        self._full = process.states[0].size
        self._spread = _Isotropic(process, data) if process.isotropic else _Coloured(process, data)

    def at(self, t: int) -> list[Point]:
        """Compute everything that is finite at a timestep: entropies are not at t = 0."""
        return [
            Point(self._name, t, t / self._process.T, quantity, value)
            for quantity, value in self._values(t).items()
            if math.isfinite(value)
        ]

    def _values(self, t: int) -> dict[str, float]:
        size, d = self._process.states[t].size, self._data.pixels
        mean = signal(self._process, self._data.mean.reshape(1, 1, *self._full), t)
        result = {"mean": float(mean.mean()), "area": math.prod(size) / d}
        if t == 0:
            total = self._data.total
            return result | {"variance": total / d, "frechet": 0.0, "signal-dominated": 1.0}
        conditional = float(normal_entropy(self._process.noise_deviations(t))) / d
        spread = self._spread.at(t)
        gained, repeats = spread.information / d, d / math.prod(size)
        lifted = _repetition(size, self._full) @ mean.flatten()
        distance = frechet(
            lifted - self._data.mean, repeats * spread.trace, self._data.total, spread.root_sum
        )
        return result | {
            "conditional-entropy": conditional,
            "information": gained,
            "marginal-entropy": conditional + gained,
            "variance": spread.trace / math.prod(size),
            "frechet": distance / self._data.total,
            "signal-dominated": self._signal_dominated(t) * result["area"],
        }

    def _signal_dominated(self, t: int) -> float:
        """Share of the pixels of x_t with |A_t x_0| > |noise| [SSD, figure 1], expected over the noise.

        P(|eps| < r) = erf(r / sqrt 2), with r the ratio of a pixel's signal to its noise's deviation.
        """
        deviation = self._process.pixel_deviations(t)
        ratio = signal(self._process, self._images, t).abs() / (math.sqrt(2) * deviation)
        return float(torch.erf(ratio).mean())


class _Spread(NamedTuple):
    """What a timestep makes of the covariance.

    Small images are seen at the full grid by repeating their pixels.
    """

    trace: float  # of the covariance of x_t, at its own size
    information: float  # I(x_0; x_t), nats
    root_sum: float  # tr (S^{1/2} S_t S^{1/2})^{1/2}, S of the data and S_t of x_t at the full grid


class _Isotropic:
    """Covariances a^2 R S R^T + sigma^2 I: one eigendecomposition for each size does for all timesteps."""

    def __init__(self, process: Process, data: GaussianData) -> None:
        self._process, self._data = process, data
        self._full = process.states[0].size
        self._sizes: dict[Size, tuple[Tensor, Tensor, Tensor]] = {}

    def at(self, t: int) -> _Spread:
        state = self._process.states[t]
        energy, covariance, seen = self._of_size(t)
        gained = 0.5 * float(torch.log1p(state.snr * energy).sum())
        trace = state.signal**2 * float(energy.sum()) + state.sigma**2 * math.prod(state.size)
        if state.size == self._full:  # the covariances commute
            spread = state.signal**2 * energy + state.sigma**2
            return _Spread(trace, gained, float((energy * spread).sqrt().sum()))
        noisy = state.signal**2 * covariance
        noisy.diagonal().add_(state.sigma**2)
        return _Spread(trace, gained, root_sum(noisy, seen))

    def _of_size(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (e,) and matrix (e, e) of R S R^T; (e, k) the data's factor through the repetition."""
        size, factor = self._process.states[t].size, self._data.factor
        if size == self._full:
            return self._data.eigenvalues, factor[:0], factor
        if size not in self._sizes:
            columns = factor.mT.reshape(-1, 1, *self._full)
            reduced = self._process.degrade(columns, t).flatten(1)  # (k, e)
            covariance = reduced.mT @ reduced
            energy = torch.linalg.eigvalsh(covariance).clamp_min(0)
            self._sizes[size] = energy, covariance, _repetition(size, self._full).mT @ factor
        return self._sizes[size]


class _Coloured:
    """Covariances of one size with signal and noise for each coefficient of a basis."""

    def __init__(self, process: Process, data: GaussianData) -> None:
        self._process = process
        self._columns = data.factor.mT.reshape(-1, 1, *process.states[0].size)
        self._seen = process.analysis(self._columns).flatten(1).mT  # (d, k)

    def at(self, t: int) -> _Spread:
        sigma = self._process.noise_deviations(t).flatten()
        columns = self._process.analysis(signal(self._process, self._columns, t)).flatten(1)  # (k, d)
        gained = information(columns / sigma)
        covariance = columns.mT @ columns
        covariance.diagonal().add_(sigma.square())
        trace = float(covariance.diagonal().sum())
        return _Spread(trace, gained, root_sum(covariance, self._seen))


@lru_cache(maxsize=8)
def _repetition(size: Size, full: Size) -> Tensor:
    """(H W, h w) pixels of a small image, repeated over the full grid."""
    rows, columns = (matrices.nearest(n, large) for n, large in zip(size, full, strict=True))
    return torch.kron(rows, columns)


def signal(process: Process, x: Tensor, t: int) -> Tensor:
    """Return A_t x, the expected x_t: (B, 1, H, W) float64 to (B, 1, h, w)."""
    return process.marginal(x, t, x.new_zeros(len(x), 1, *process.states[t].size))


def image_entropy(u: Tensor) -> Tensor:
    """Compute the (B, C) entropy of each plane as a distribution p of grey over n pixels, in nats.

        H = -sum_i p_i log p_i,    log n where the plane is flat [Weickert 1998]

    Args:
        u: (B, C, H, W), not negative, with a positive mean.
    """
    p = u / u.sum((-2, -1), keepdim=True)
    return -torch.xlogy(p, p).sum((-2, -1))


def relative_entropy(u: Tensor, steady: Tensor) -> Tensor:
    """Compute the (B, C) Kullback-Leibler divergence sum_i p_i log(p_i / q_i) of planes, in nats.

    Args:
        u: (B, C, H, W) grey, p once each plane is scaled to sum 1.
        steady: likewise q, the steady state.
    """
    p, q = (x / x.sum((-2, -1), keepdim=True) for x in (u, steady))
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum((-2, -1))


def flow_points(name: str, u: Tensor, start: Tensor, steady: Tensor, t: float, time: float) -> list[Point]:
    """Compute the quantities of an image filter at one time.

    Args:
        name: of the filter, in the points.
        u: (B, 1, H, W) in [0, 1] at this time.
        start: the same images at time 0.
        steady: where they end.
        t: diffusion time, squared pixels.
        time: position along the process, 0..1.
    """
    now, first = (2 * x.flatten(1) - 1 for x in (u, start))  # grey in [-1, 1], as everywhere else
    total = float(first.var(0).sum())
    values = {
        "mean": float(now.mean()),
        "variance": float(now.var(0).mean()),
        "frechet": frechet_of_samples(now, first) / total,
        "image-entropy": float(image_entropy(u).mean()),
        "relative-entropy": float(relative_entropy(u, steady).mean()),
    }
    return [
        Point(name, t, time, quantity, value) for quantity, value in values.items() if math.isfinite(value)
    ]
