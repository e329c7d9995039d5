"""What a diagonal process does to each coefficient of its basis: signal and noise at every timestep.

Three published ones: blurring diffusion [BDM], inverse heat dissipation [IHDM] and blur diffusion [BD].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssdiff.errors import ProcessError, UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Size

_LARGEST_SIDE = 4096  # pixels, above which an eigenbasis takes minutes


class Coefficients(NamedTuple):
    """(n, C, H, W) float64 factors of x_0 and of the noise, for n timesteps; 1 broadcasts."""

    signal: Tensor
    sigma: Tensor


class Spectrum(Protocol):
    """A family of diagonal states.

    Attributes:
        size: (H, W) of the images.
        T: the highest timestep.
        rows: (H, H) orthonormal analysis matrix of the columns of pixels.
        columns: (W, W) likewise of the rows.
        scale: (T + 1,) factor of the coefficient that is degraded least, 1 at t = 0.
        sigma: (T + 1,) noise of that coefficient, 0 at t = 0.
        independent: whether the noise of two timesteps is two draws, not a chain.
        coloured: whether signal and noise share the variance of each coefficient, as in blur diffusion.
        unit_range: whether the network sees images in [0, 1], not [-1, 1].
    """

    size: Size
    T: int
    rows: Tensor
    columns: Tensor
    scale: Tensor
    sigma: Tensor
    independent: bool
    coloured: bool
    unit_range: bool

    def coefficients(self, t: Tensor) -> Coefficients:
        """Return the signal and noise of (n,) timesteps, 0..T; t = 0 is (1, 0)."""


class Blurring:
    """Isotropic noise, DCT coefficients that fade with their frequency [BDM, section 4].

    d = (1 - floor) exp(-lambda sigma_b^2 / 2) + floor with sigma_b = sigma_max sin^2(pi t / 2T)
    [docs/math.md, equation (58)].

    Args:
        size: (H, W).
        nu: (T,) sigma_t / alpha_t.
        sigma_max: blur at T, pixels.
        floor: share of every frequency that is never lost.
    """

    independent = coloured = unit_range = False

    def __init__(self, size: Size, nu: Tensor, sigma_max: float = 20.0, floor: float = 0.001) -> None:
        self.size, self.T = size, len(nu)
        self.rows, self.columns = matrices.dct(size[0]), matrices.dct(size[1])
        alpha = (1 + nu.double().square()).rsqrt()
        self.scale = torch.cat([torch.ones(1, dtype=torch.float64), alpha])
        self.sigma = torch.cat([torch.zeros(1, dtype=torch.float64), alpha * nu])
        time = torch.linspace(0, 1, self.T + 1, dtype=torch.float64)
        self._blur = sigma_max * torch.sin(math.pi / 2 * time).square()
        self._floor, self._frequency = floor, _frequency(size)

    def coefficients(self, t: Tensor) -> Coefficients:
        """Return signal alpha_t d_t and isotropic noise."""
        fade = torch.exp(-0.5 * self._frequency * self._blur[t].square()[:, None, None, None])
        fade = (1 - self._floor) * fade + self._floor
        return Coefficients(self.scale[t][:, None, None, None] * fade, self.sigma[t][:, None, None, None])


class Heat:
    """Heat dissipation with little noise, the same at every timestep [IHDM, section 2].

    Signal exp(-lambda sigma_b^2 / 2), the blur sigma_b geometric in t [docs/math.md, equation (59)].

    Args:
        size: (H, W).
        T: timesteps.
        sigma_min: blur at t = 1, pixels; rises geometrically.
        sigma_max: blur at T, pixels.
        noise: standard deviation, in units of the [-1, 1] image; published 0.01 for images in [0, 1].
    """

    independent = True
    coloured = unit_range = False

    def __init__(
        self, size: Size, T: int, sigma_min: float = 0.5, sigma_max: float = 24.0, noise: float = 0.02
    ) -> None:
        self.size, self.T = size, T
        self.rows, self.columns = matrices.dct(size[0]), matrices.dct(size[1])
        self.scale = torch.ones(T + 1, dtype=torch.float64)
        self.sigma = torch.full((T + 1,), noise, dtype=torch.float64)
        self.sigma[0] = 0.0
        self._blur = torch.zeros(T + 1, dtype=torch.float64)
        self._blur[1:] = torch.logspace(math.log10(sigma_min), math.log10(sigma_max), T, dtype=torch.float64)
        self._frequency = _frequency(size)

    def coefficients(self, t: Tensor) -> Coefficients:
        """Return signal exp(-lambda sigma_b^2 / 2) and constant noise."""
        fade = torch.exp(-0.5 * self._frequency * self._blur[t].square()[:, None, None, None])
        return Coefficients(fade, self.sigma[t][:, None, None, None])


class BlurNoise:
    """Blur diffusion: signal B_t^{1/2}, coloured noise (I - B_t)^{1/2} in the eigenbasis of a blur [BD,
    section 3].

    B_t = abar_t D^{2 F_t}, F_t the sum of the rates f(1..t), D the eigenvalues of a Gaussian blur with zeros
    beyond the border [docs/math.md, equation (60)].

    Args:
        size: (H, W), at most 4096 pixels a side.
        nu: (T,) sqrt((1 - abar) / abar) of the noise alone.
        rate: how f grows, one of :data:`RATES`.
        kernel_std: of the blur whose powers are taken, pixels.
        sigma_min: std of the blur of the first step, pixels.
        sigma_max: std of the blur of the last step, pixels.
        interleaved: 0 for the method as published; a number of channels for what the published code does: it
            lays out factors channel after channel but coefficients pixel after pixel, so that coefficient k
            (by falling factor) of channel c gets the factor of coefficient (channels * k + c) mod H W.
        unit_range: noise of std 1 for images in [0, 1], as published, which is 2 in units of [-1, 1].
        former_rates: the rates of ssdiff 0.1 and 0.2, :data:`FORMER_RATES`, for runs of then.

    Raises:
        UsageError: for an unknown rate.
        ProcessError: for an image that is too large, or rates that sharpen at the first timestep.
    """

    independent, coloured = False, True

    def __init__(
        self,
        size: Size,
        nu: Tensor,
        rate: str = "quartic",
        kernel_std: float = 0.4,
        sigma_min: float = 0.0,
        sigma_max: float = 0.15,
        interleaved: int = 0,
        unit_range: bool = False,
        former_rates: bool = False,
    ) -> None:
        if rate not in RATES:
            raise UsageError(f"unknown rate {rate!r}", hint=f"choose one of {', '.join(RATES)}")
        if max(size) > _LARGEST_SIDE:
            raise ProcessError(
                f"blur diffusion needs the eigenvectors of the image's side: {max(size)} pixels is over "
                f"{_LARGEST_SIDE}",
                hint="use a smaller image",
            )
        self.size, self.T = size, len(nu)
        self.rows, row_values = _blur_basis(size[0], kernel_std)
        self.columns, column_values = _blur_basis(size[1], kernel_std)
        log_d = (row_values[:, None] * column_values).clamp(max=1.0).log()
        self._log_d = _interleave(log_d, interleaved) if interleaved else log_d[None]
        first, last = (sigma_min / kernel_std) ** 2, (sigma_max / kernel_std) ** 2
        powers = (FORMER_RATES if former_rates else RATES)[rate](first, last, self.T).cumsum(0)
        if bool((powers < 0).any()):
            raise ProcessError(
                f"rate {rate!r} sharpens instead of blurring with {self.T} timesteps", hint="use more of them"
            )
        self._power = torch.cat([torch.zeros(1, dtype=torch.float64), powers])
        log_abar = -torch.log1p(nu.double().square())
        self._log_abar = torch.cat([torch.zeros(1, dtype=torch.float64), log_abar])
        top = self._log_abar + 2 * self._power * self._log_d.max()
        self.unit_range, self._noise = unit_range, 2.0 if unit_range else 1.0
        self.scale, self.sigma = torch.exp(top / 2), self._noise * torch.sqrt(-torch.expm1(top))

    def coefficients(self, t: Tensor) -> Coefficients:
        """Return B^{1/2} and (I - B)^{1/2}, twice that for images in [0, 1]."""
        log_abar, power = (table[t][:, None, None, None] for table in (self._log_abar, self._power))
        log_b = log_abar + 2 * power * self._log_d
        return Coefficients(torch.exp(log_b / 2), self._noise * torch.sqrt(-torch.expm1(log_b)))


Rate = Callable[[float, float, int], Tensor]


def _linear_rate(first: float, last: float, steps: int) -> Tensor:
    """A line from ``first`` at 1 to ``last`` at N."""
    return _line(first, last, torch.arange(1, steps + 1, dtype=torch.float64), steps)


def _line(first: float, last: float, i: Tensor, steps: int) -> Tensor:
    return first + (last - first) * (i - 1) / max(steps - 1, 1)


def _log_rate(first: float, last: float, steps: int) -> Tensor:
    """Early: a line in ln i, 90 % of the way at N / 2 of 1000."""
    i = torch.arange(1, steps + 1, dtype=torch.float64) + 1e-6
    return first + (last - first) * i.log() / math.log(steps + 1e-6)


def _quadratic_rate(first: float, last: float, steps: int) -> Tensor:
    """A line in i^2 from ``first`` at 1."""
    i = torch.arange(1, steps + 1, dtype=torch.float64)
    return first + (last - first) * (i.square() - 1) / max(steps**2 - 1, 1)


def _power_rate(exponent: int) -> Rate:
    """A line in i^exponent from ``first`` at 0."""

    def rate(first: float, last: float, steps: int) -> Tensor:
        i = torch.arange(1, steps + 1, dtype=torch.float64)
        return first + (last - first) * (i / steps) ** exponent

    return rate


def _triangular_rate(first: float, last: float, steps: int) -> Tensor:
    """The line up to N / 2, about half the way, and back; a little under ``first`` at N, as published."""
    i = torch.arange(1, steps + 1, dtype=torch.float64)
    return _line(first, last, torch.where(i < steps / 2, i, steps - i), steps)


RATES: Mapping[str, Rate] = MappingProxyType(
    {
        "linear": _linear_rate,
        "quadratic": _quadratic_rate,
        "cubic": _power_rate(3),
        "quartic": _power_rate(4),
        "log": _log_rate,
        "triangular": _triangular_rate,
    }
)
"""Name to f(first, last, N): (N,) powers of the blur of each step, [BD, section 3] and [docs/math.md,
equation (61)]."""


def _former_power_rate(exponent: int) -> Rate:
    """f^(1 / exponent) on a line of N + 1 points, the first of which is not used."""

    def rate(first: float, last: float, steps: int) -> Tensor:
        ends = (first ** (1 / exponent), last ** (1 / exponent))
        return torch.linspace(*ends, steps + 1, dtype=torch.float64)[1:] ** exponent

    return rate


def _former_log_rate(first: float, last: float, steps: int) -> Tensor:
    """log f on a line; zero has no logarithm and counts as 1e-6."""
    ends = (math.log(max(first, 1e-6)), math.log(last))
    return torch.linspace(*ends, steps + 1, dtype=torch.float64)[1:].exp()


def _former_triangular_rate(first: float, last: float, steps: int) -> Tensor:
    """Up to ``last`` in the middle and down again."""
    distance = torch.linspace(-1, 1, steps + 1, dtype=torch.float64)[1:].abs()
    return last + (first - last) * distance


FORMER_RATES: Mapping[str, Rate] = MappingProxyType(
    {
        "linear": _former_power_rate(1),
        "quadratic": _former_power_rate(2),
        "cubic": _former_power_rate(3),
        "quartic": _former_power_rate(4),
        "log": _former_log_rate,
        "triangular": _former_triangular_rate,
    }
)
"""The same of ssdiff 0.1 and 0.2, which are not the published ones: a run of then goes on with them."""

_LEAST_EIGENVALUE = 0.03  # of a 1-D blur, as published


def _blur_basis(n: int, std: float) -> tuple[Tensor, Tensor]:
    """(n, n) analysis matrix and (n,) eigenvalues of a 1-D Gaussian blur with zeros beyond the border."""
    values, vectors = torch.linalg.eigh(matrices.gaussian_blur(n, std, 2 * n - 1, "zero"))
    return vectors.mT.contiguous(), values.clamp_min(_LEAST_EIGENVALUE)


def _interleave(log_d: Tensor, channels: int) -> Tensor:
    """(channels, H, W) factors in the order of the published code."""
    # Not a stable sort: factors come in equal pairs, which the published code orders as torch.sort does.
    ordered, pixels = log_d.flip(0, 1).flatten().sort(descending=True)
    rank = torch.empty_like(pixels)
    rank[pixels] = torch.arange(len(pixels))
    source = (channels * rank + torch.arange(channels)[:, None]) % len(pixels)
    return ordered[source].reshape(channels, *log_d.shape).flip(1, 2)


def _frequency(size: Size) -> Tensor:
    """(H, W) lambda = pi^2 (i^2 / H^2 + j^2 / W^2), the eigenvalues of the negative Laplace operator."""
    rows, columns = (math.pi * torch.arange(n, dtype=torch.float64) / n for n in size)
    return rows.square()[:, None] + columns.square()
