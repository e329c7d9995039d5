"""Curves of a scale-space: entropies, information, variance and distance to the data along t [GS].

Of noisy processes they are exact for Gaussian data: x_t = A_t x_0 + n_t, n_t ~ N(0, Q_t) with a Q_t that is
diagonal in a known orthonormal basis. With S the covariance of the data, x_t has the covariance
S_t = A_t S A_t^T + Q_t, and

    H(x_t | x_0) = log det(2 pi e Q_t) / 2                         conditional entropy
    I(x_0; x_t)  = log det(I + Q_t^{-1/2} A_t S A_t^T Q_t^{-1/2}) / 2
    H(x_t)       = H(x_t | x_0) + I(x_0; x_t)                      entropy of the marginal

in nats per value (pixel and channel) of the full grid, so that sizes compare [docs/math.md, section 14]. Of
image filters, which have no density, they are those of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.analysis.covariance import (
    frechet,
    information,
    information_of_blocks,
    normal_entropy,
    root_sum,
    root_sum_of_blocks,
    trace_of_root,
)
from ssdiff.analysis.data_moments import GaussianData
from ssdiff.analysis.scale_space_moments import Basis, BlockMoments, dct_coefficients, structure
from ssdiff.errors import UsageError
from ssdiff.images import upscale_nearest
from ssdiff.operators import matrices
from ssdiff.operators.base import Size
from ssdiff.process.base import Process, State
from ssdiff.process.gaussian import GaussianProcess

_AT_ONCE = 2**23  # values of images that are looked at together
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one curve.

    Attributes:
        process: name.
        t: timestep, 0..T; diffusion time in squared pixels for image filters.
        time: position along the process, 0 (clean) to 1.
        quantity: what the value is, e.g. ``"information"``.
        value: finite; entropies and information in nats per value of the full grid, grey in [-1, 1].
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
    """The quantities of one noisy process at one timestep after the other.

    Args:
        name: of the process, in the points.
        process: takes images of the data's size and channels.
        data: moments of the data, for closed forms with the full covariance; None has them frequency by
            frequency, which costs a number a pixel [docs/math.md, equation (77)].
        images: (N, C, H, W) in [-1, 1], from which ``data`` are taken.
    """

    def __init__(self, name: str, process: Process, data: GaussianData | None, images: Tensor) -> None:
        self._name, self._process, self._images = name, process, images
        self._full = process.states[0].size
        self._spread: _Spreads
        if data is None:
            self._mean = torch.stack([part.double().sum(0) for part in parts(images)]).sum(0) / len(images)
            self._spread = _ByFrequency(process, images)
        else:
            self._mean = data.mean.reshape(images.shape[1:])
            kind = _Isotropic if process.isotropic else _Coloured
            self._spread = kind(process, data, images.shape[1])

    def at(self, t: int) -> list[Point]:
        """Compute everything that is finite at a timestep: entropies are not at t = 0."""
        return [
            Point(self._name, t, t / self._process.T, quantity, value)
            for quantity, value in self._values(t).items()
            if math.isfinite(value)
        ]

    def mean_image(self, t: int) -> Tensor:
        """Return the (C, h_t, w_t) mean of x_t."""
        return signal(self._process, self._mean[None], t)[0]

    def _values(self, t: int) -> dict[str, float]:
        size, d = self._process.states[t].size, self._mean.numel()
        mean = self.mean_image(t)
        result = {
            "mean": float(mean.mean()),
            "area": math.prod(size) / math.prod(self._full),
            "mean-structure": structure(mean),
        }
        total = self._spread.total
        if t == 0:
            return result | {"variance": total / d, "frechet": 0.0, "signal-dominated": 1.0}
        noise = noise_variances(self._process, t, len(mean))
        conditional = float(normal_entropy(noise.sqrt())) / d
        terminal = terminal_variances(self._process, t, len(mean))
        spread = self._spread.at(t, terminal)
        gained = spread.information / d
        repeats = math.prod(self._full) / math.prod(size)
        distance = frechet(
            (upscale_nearest(mean, self._full) - self._mean).flatten(),
            repeats * spread.trace,
            total,
            spread.root_sum,
        )
        coefficients = self._process.analysis(mean).square()
        # KL(p || q) = -H(p) - E_p log q, with q = N(0, diag(terminal)) in the basis of the noise.
        against = ((2 * math.pi * terminal).log().sum() + (coefficients / terminal).sum()) / 2
        relative = (float(against) + spread.whitened_trace / 2) / d - (conditional + gained)
        wide = frechet(mean.flatten(), spread.trace, float(terminal.sum()), spread.terminal_root_sum)
        return result | {
            "conditional-entropy": conditional,
            "information": gained,
            "marginal-entropy": conditional + gained,
            "variance": spread.trace / mean.numel(),
            "frechet": distance / total,
            "terminal-relative-entropy": max(0.0, relative),
            "terminal-frechet": wide / float(terminal.sum()),
            "signal-dominated": self._signal_dominated(t) * result["area"],
        }

    def _signal_dominated(self, t: int) -> float:
        """Share of the pixels of x_t with |A_t x_0| > |noise| [SSD, figure 1], expected over the noise.

        P(|eps| < r) = erf(r / sqrt 2), with r the ratio of a pixel's signal to its noise's deviation.
        """
        deviation = math.sqrt(2) * self._process.pixel_deviations(t)
        shares = [
            float(torch.erf(signal(self._process, part.double(), t).abs() / deviation).mean((1, 2, 3)).sum())
            for part in parts(self._images)
        ]
        return sum(shares) / len(self._images)


def parts(images: Tensor) -> Sequence[Tensor]:
    """Return images in batches that are small in float64."""
    found: tuple[Tensor, ...] = images.split(max(1, _AT_ONCE // images[0].numel()))
    return found


def noise_variances(process: Process, t: int, channels: int) -> Tensor:
    """Return the (C, h_t, w_t) variances of the noise of x_t in the basis in which it is independent."""
    ones = torch.ones(1, channels, *process.states[t].size, dtype=torch.float64)
    return process.analysis(process.pure_noise(t, process.synthesis(ones)))[0].square()


def terminal_variances(process: Process, t: int, channels: int) -> Tensor:
    """Return (C, h_t, w_t) variances of the terminal Gaussian: the noise of x_T, at the size of t.

    Of another size than x_T it is white noise of the mean variance of x_T's.
    """
    last = noise_variances(process, process.T, channels)
    size = process.states[t].size
    return last if last.shape[1:] == size else last.mean().expand(channels, *size)


class _Spread(NamedTuple):
    """What a timestep makes of the covariance.

    Small images are seen at the full grid by repeating their pixels.
    """

    trace: float  # of the covariance of x_t, at its own size
    information: float  # I(x_0; x_t), nats
    root_sum: float  # tr (S^{1/2} S_t S^{1/2})^{1/2}, S of the data and S_t of x_t at the full grid
    whitened_trace: float  # tr Q^{-1} S_t, Q of the terminal Gaussian at the size of t
    terminal_root_sum: float  # tr (Q^{1/2} S_t Q^{1/2})^{1/2}


class _Spreads(Protocol):
    """How a data set's covariance spreads along a process."""

    total: float  # trace of the covariance of the data

    def at(self, t: int, terminal: Tensor) -> _Spread:
        """Compute it at t >= 1, given the (C, h_t, w_t) variances of the terminal Gaussian."""


class _Isotropic:
    """Covariances a^2 R S R^T + sigma^2 I: one eigendecomposition for each size does for all timesteps."""

    def __init__(self, process: Process, data: GaussianData, channels: int) -> None:
        self._process, self._data, self._channels = process, data, channels
        self._full = process.states[0].size
        self.total = data.total
        self._sizes: dict[Size, tuple[Tensor, Tensor, Tensor]] = {}

    def at(self, t: int, terminal: Tensor) -> _Spread:
        state = self._process.states[t]
        energy, covariance, seen = self._of_size(t)
        noise, dimensions = state.sigma**2, self._channels * math.prod(state.size)
        gained = 0.5 * float(torch.log1p(state.snr * energy).sum())
        spread = state.signal**2 * energy + noise
        others = (dimensions - len(energy)) * noise  # where the data have no variance
        trace = float(spread.sum()) + others
        last = float(terminal.mean())  # white noise
        roots = math.sqrt(last) * (float(spread.sqrt().sum()) + (dimensions - len(energy)) * math.sqrt(noise))
        if state.size == self._full:  # the covariances commute
            return _Spread(trace, gained, float((energy * spread).sqrt().sum()), trace / last, roots)
        noisy = state.signal**2 * covariance
        noisy.diagonal().add_(noise)
        return _Spread(trace, gained, root_sum(noisy, seen), trace / last, roots)

    def _of_size(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (e,) and matrix (e, e) of R S R^T; (e, k) the data's factor through the repetition."""
        size, factor = self._process.states[t].size, self._data.factor
        if size == self._full:
            return self._data.eigenvalues, factor[:0], factor
        if size not in self._sizes:
            columns = factor.mT.reshape(-1, self._channels, *self._full)
            reduced = self._process.degrade(columns, t).flatten(1)  # (k, e)
            covariance = reduced.mT @ reduced
            energy = torch.linalg.eigvalsh(covariance).clamp_min(0)
            self._sizes[size] = energy, covariance, _repeated_adjoint(columns, size).flatten(1).mT
        return self._sizes[size]


class _Coloured:
    """Covariances from signal and noise at each coefficient of the basis in which noise is independent."""

    def __init__(self, process: Process, data: GaussianData, channels: int) -> None:
        self._process, self._channels = process, channels
        self._columns = data.factor.mT.reshape(-1, channels, *process.states[0].size)
        self.total = data.total

    def at(self, t: int, terminal: Tensor) -> _Spread:
        noise = noise_variances(self._process, t, self._channels).flatten()
        columns = self._process.analysis(signal(self._process, self._columns, t)).flatten(1)  # (k, e)
        gained = information(columns / noise.sqrt())
        covariance = columns.mT @ columns
        covariance.diagonal().add_(noise)
        seen = self._process.analysis(_repeated_adjoint(self._columns, self._process.states[t].size))
        trace, last = float(covariance.diagonal().sum()), terminal.flatten()
        whitened = float((covariance.diagonal() / last).sum())
        root = last.sqrt()
        roots = trace_of_root(root[:, None] * covariance * root)
        return _Spread(trace, gained, root_sum(covariance, seen.flatten(1).mT), whitened, roots)


class _ByFrequency:
    """Covariances of the channels at each coefficient of a basis [docs/math.md, equation (77)].

    The basis is the DCT-II, or that in which the process's noise is independent where this is another one.
    Where the process multiplies each coefficient by a number, the data are looked at once; otherwise once for
    each size of an isotropic process, and for each timestep of any other.
    """

    def __init__(self, process: Process, images: Tensor) -> None:
        self._process, self._images, self._channels = process, images, images.shape[1]
        self._full = process.states[0].size
        self._white = all(_is_white(process, t, self._channels) for t in (1, process.T))
        self._basis: Basis = dct_coefficients if self._white else process.analysis
        self._data = self._moments(0, lambda x: x)
        self._diagonal = not process.changes_resolution and all(
            _is_diagonal(process, t, self._basis, self._channels)
            for t in (1, (process.T + 1) // 2, process.T)
        )
        self._sizes: dict[Size, tuple[BlockMoments, BlockMoments]] = {}
        self.total = self._data.total

    def at(self, t: int, terminal: Tensor) -> _Spread:
        own, seen, scale = self._of(t)
        noise = noise_variances(self._process, t, self._channels)  # constant where the basis is the DCT
        variances = noise.permute(1, 2, 0)
        covariance = scale[..., :, None] * own.covariance * scale[..., None, :]
        gained = information_of_blocks(covariance, variances)
        marginal = covariance + torch.diag_embed(variances)
        if seen is None:
            wide = marginal
        else:
            factors = _repeated_noise(self._process.states[t].size, self._full) * float(noise.mean())
            square = scale[0, 0, 0] ** 2
            wide = square * seen.covariance + factors[..., None, None] * torch.eye(self._channels).double()
        last = terminal.permute(1, 2, 0)
        roots = root_sum_of_blocks(torch.diag_embed(last), marginal)
        diagonal = marginal.diagonal(dim1=-2, dim2=-1)
        return _Spread(
            float(diagonal.sum()),
            gained,
            root_sum_of_blocks(self._data.covariance, wide),
            float((diagonal / last).sum()),
            roots,
        )

    def _of(self, t: int) -> tuple[BlockMoments, BlockMoments | None, Tensor]:
        """Moments at the size of t, those at the full grid if it is another one, and factors of both."""
        state = self._process.states[t]
        ones = torch.ones(*state.size, self._channels, dtype=torch.float64)
        if self._diagonal:
            return self._data, None, _response(self._process, t, self._basis, self._channels)
        full = state.size == self._full
        if self._process.isotropic:
            if full:
                return self._data, None, state.signal * ones
            if state.size not in self._sizes:
                self._sizes[state.size] = self._both(t, lambda x: self._process.degrade(x, t))
            own, seen = self._sizes[state.size]
            return own, seen, state.signal * ones
        if full:
            return self._moments(t, lambda x: signal(self._process, x, t)), None, ones
        return *self._both(t, lambda x: signal(self._process, x, t)), ones

    def _moments(self, t: int, make: Callable[[Tensor], Tensor]) -> BlockMoments:
        found = BlockMoments(self._basis)
        for part in parts(self._images):
            found.add(make(part.double()))
        return found

    def _both(self, t: int, make: Callable[[Tensor], Tensor]) -> tuple[BlockMoments, BlockMoments]:
        seen = BlockMoments(self._basis)
        own = BlockMoments(self._basis)
        for part in parts(self._images):
            x = make(part.double())
            own.add(x)
            seen.add(upscale_nearest(x, self._full))
        return own, seen


def _is_white(process: Process, t: int, channels: int) -> bool:
    """Whether the noise of x_t is white, so that every orthonormal basis is one for it."""
    found = noise_variances(process, t, channels)
    return bool(found.max() - found.min() <= _ROUNDING * found.max())


def _response(process: Process, t: int, basis: Basis, channels: int) -> Tensor:
    """(h, w, C) by which each coefficient is multiplied, if the process is diagonal in the basis."""
    probe = torch.ones(1, channels, *process.states[0].size, dtype=torch.float64)
    image = _inverse(basis, process, probe)
    return basis(signal(process, image, t))[0].permute(1, 2, 0)


def _is_diagonal(process: Process, t: int, basis: Basis, channels: int) -> bool:
    """Whether the process multiplies each coefficient of a basis by a number of its own."""
    shape = (channels, *process.states[0].size)
    x = rng.normal(rng.derive(0, "scale-space/probe"), torch.arange(1), t, shape, torch.float64)
    factor = _response(process, t, basis, channels).permute(2, 0, 1)
    found, expected = basis(signal(process, x, t)), factor * basis(x)
    return bool((found - expected).abs().max() <= _ROUNDING * expected.abs().max())


def _inverse(basis: Basis, process: Process, coefficients: Tensor) -> Tensor:
    """Pixels of coefficients."""
    if basis is not dct_coefficients:
        return process.synthesis(coefficients)
    rows, columns = (matrices.dct(n) for n in coefficients.shape[-2:])
    return rows.mT @ coefficients @ columns


def _repeated_adjoint(x: Tensor, size: Size) -> Tensor:
    """The sums of the pixels of (..., H, W) that repeating a small image makes of one: (..., h, w)."""
    if tuple(x.shape[-2:]) == size:
        return x
    rows, columns = (matrices.nearest(n, large) for n, large in zip(size, x.shape[-2:], strict=True))
    return rows.mT @ x @ columns


def _repeated_noise(size: Size, full: Size) -> Tensor:
    """(H, W) variances of the DCT of white noise of variance 1 on a small grid whose pixels are repeated."""
    rows, columns = (
        (matrices.dct(large) @ matrices.nearest(n, large)).square().sum(1)
        for n, large in zip(size, full, strict=True)
    )
    return rows[:, None] * columns


def signal(process: Process, x: Tensor, t: int) -> Tensor:
    """Return A_t x, the expected x_t: (B, C, H, W) float64 to (B, C, h, w)."""
    return process.marginal(x, t, x.new_zeros(*x.shape[:2], *process.states[t].size))


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


class FlowCurves:
    """The quantities of an image filter at one time after the other, from the states of all images.

    Args:
        name: of the filter, in the points.
        start: (N, C, H, W) in [0, 1], the images at time 0.
        steady: where they end.
        data: moments of the images in [-1, 1]; None has distances frequency by frequency.
    """

    def __init__(self, name: str, start: Tensor, steady: Tensor, data: GaussianData | None) -> None:
        self._name, self._steady, self._data = name, steady, data
        self._first = BlockMoments()
        if data is None:
            self._add(self._first, start)

    def at(self, u: Tensor, t: float, time: float) -> list[Point]:
        """Compute everything at one time.

        Args:
            u: (N, C, H, W) in [0, 1] at this time.
            t: diffusion time, squared pixels.
            time: position along the process, 0..1.
        """
        mean = 2 * u.mean(0) - 1  # grey in [-1, 1], as everywhere else
        variance, distance = self._spread(u, mean)
        if t == 0:
            distance = 0.0  # apart from rounding
        values = {
            "mean": float(mean.mean()),
            "variance": variance,
            "frechet": distance,
            "mean-structure": structure(mean),
            "image-entropy": float(image_entropy(u).mean()),
            "relative-entropy": float(relative_entropy(u, self._steady).mean()),
        }
        return [
            Point(self._name, t, time, quantity, value)
            for quantity, value in values.items()
            if math.isfinite(value)
        ]

    def _spread(self, u: Tensor, mean: Tensor) -> tuple[float, float]:
        """Variance of a pixel, and Frechet distance to the images at time 0 relative to their variance."""
        if self._data is None:
            now = BlockMoments()
            self._add(now, u)
            return now.total / mean.numel(), now.distance(self._first) / self._first.total
        centred = (2 * u.flatten(1) - 1 - mean.flatten()) / math.sqrt(len(u) - 1)
        covariance, total = centred.mT @ centred, self._data.total
        trace, factor = float(covariance.diagonal().sum()), self._data.factor
        roots = trace_of_root(factor.mT @ covariance @ factor)
        return trace / mean.numel(), frechet(mean.flatten() - self._data.mean, trace, total, roots) / total

    @staticmethod
    def _add(moments: BlockMoments, u: Tensor) -> None:
        for part in parts(u):
            moments.add(2 * part - 1)
