"""Blurs and reductions of images of thousands of pixels: diagonal in cosines, by FFT, without matrices.

The image is continued by its mirror image, the edge pixel repeated. A symmetric filter is then a gain for
each cosine of the DCT-II, and a reduction by a whole factor folds the frequencies of the image onto those of
the result, each onto one: the singular values are known, and cost O(n log n) a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.operators.base import Constants, Size
from ssdiff.operators.factored import Factored

_LINES = 2**20  # numbers in the lines that are transformed at once
_LEAST_GAIN = 1e-150  # stands for 0, of which there is no singular value; a product of two is still a number


def cosines_of(x: Tensor, dim: int) -> Tensor:
    """Return the orthonormal DCT-II along one of the last two dimensions, by FFTs of the same length.

    Args:
        x: (..., H, W), float32 or float64.
        dim: -1 or -2.
    """
    return _by_lines(_forward, x, dim)


def pixels_of(coefficients: Tensor, dim: int) -> Tensor:
    """Return the inverse of :func:`cosines_of`."""
    return _by_lines(_backward, coefficients, dim)


def _by_lines(transform: Callable[[Tensor, Tensor], Tensor], x: Tensor, dim: int) -> Tensor:
    """Transform lines a few at a time: what is in between takes several times the memory of its lines."""
    n = x.shape[dim]
    angle = torch.arange(n // 2 + 1, dtype=torch.float64) * (-math.pi / (2 * n))
    twiddle = torch.polar(torch.ones_like(angle), angle)
    twiddle = twiddle.to(x.device, torch.complex64 if x.dtype == torch.float32 else torch.complex128)
    result, count = torch.empty_like(x, memory_format=torch.contiguous_format), max(1, _LINES // n)
    if dim == -1:
        for lines, out in zip(x.reshape(-1, n).split(count), result.view(-1, n).split(count), strict=True):
            out.copy_(transform(lines, twiddle))
        return result
    planes = x.reshape(-1, *x.shape[-2:])
    for plane, target in zip(planes, result.view(planes.shape), strict=True):
        for lines, out in zip(plane.split(count, 1), target.split(count, 1), strict=True):
            out.copy_(transform(lines.mT.contiguous(), twiddle).mT)
    return result


def _forward(x: Tensor, twiddle: Tensor) -> Tensor:
    """The DCT-II of (k, n) lines."""
    n = x.shape[-1]
    turned = torch.fft.rfft(torch.cat([x[:, ::2], x[:, 1::2].flip(-1)], -1)).mul_(twiddle)
    # X_k = Re(w_k V_k), and X_{n-k} = -Im(w_k V_k)
    upper = turned.imag[:, 1 : n - n // 2].flip(-1).neg()
    result = torch.cat([turned.real, upper], -1).mul_(math.sqrt(2.0 / n))
    result[:, 0].mul_(math.sqrt(0.5))
    return result


def _backward(coefficients: Tensor, twiddle: Tensor) -> Tensor:
    """The lines of (k, n) coefficients."""
    n = coefficients.shape[-1]
    c = coefficients.mul(math.sqrt(n / 2.0))
    c[:, 0].mul_(math.sqrt(2.0))
    mirrored = F.pad(c[:, n - n // 2 :].flip(-1), (1, 0)).neg_()
    v = torch.fft.irfft(torch.complex(c[:, : n // 2 + 1].contiguous(), mirrored).div_(twiddle), n=n)
    result, evens = torch.empty_like(v), (n + 1) // 2
    result[:, ::2], result[:, 1::2] = v[:, :evens], v[:, evens:].flip(-1)
    return result


class CosineFilter(Factored):
    """A separable symmetric blur: each cosine of the DCT-II times a gain g_i g_j.

    The singular values are the sizes of the gains; what is negative, as of a blur whose tails are cut off, is
    a sign of U.

    Args:
        rows: (H,) gains of the columns of pixels.
        columns: (W,) gains of the rows of pixels.
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        self.in_size = self.out_size = (len(rows), len(columns))
        self.row_values, self.column_values = (
            gains.double().abs().clamp_min(_LEAST_GAIN) for gains in (rows, columns)
        )
        signs = [torch.where(gains < 0, -1.0, 1.0) for gains in (rows, columns)]
        self._signs = Constants(rows=signs[0][:, None], columns=signs[1])
        self._negative = bool((signs[0] < 0).any() or (signs[1] < 0).any())

    def to_right(self, x: Tensor) -> Tensor:
        """Return the cosines of (..., H, W) pixels."""
        return cosines_of(cosines_of(x, -1), -2)

    def from_right(self, coefficients: Tensor) -> Tensor:
        """Return the pixels of cosines."""
        return pixels_of(pixels_of(coefficients, -2), -1)

    def to_left(self, y: Tensor) -> Tensor:
        """Return the same as :meth:`to_right`, but for the signs: the blur is symmetric."""
        return self._signed(self.to_right(y))

    def from_left(self, coefficients: Tensor) -> Tensor:
        """Return the same as :meth:`from_right`, but for the signs."""
        return self.from_right(self._signed(coefficients))

    def _signed(self, coefficients: Tensor) -> Tensor:
        if not self._negative:
            return coefficients
        signs = self._signs.like(coefficients)
        return coefficients * signs["rows"] * signs["columns"]


def gaussian_filter(size: Size, std: float) -> CosineFilter:
    """Return the blur by a sampled Gaussian of 4 standard deviations each way, the edge pixel repeated.

    Inside, that of :func:`ssdiff.operators.matrices.gaussian_blur`.

    Args:
        size: (H, W).
        std: in pixels, above 0.
    """
    reach = max(1, math.ceil(4 * std))
    offset = torch.arange(-reach, reach + 1, dtype=torch.float64)
    taps = torch.exp(-0.5 * (offset / std).square())
    return CosineFilter(*(_response(taps / taps.sum(), offset, n) for n in size))


class Reduction(Factored):
    """A reduction by a whole factor: symmetric taps around the middle of each block of factor pixels.

    Args:
        size: (H, W), multiples of the factor.
        factor: 2 or more.
        taps: (k,) the weights, symmetric, whose middle is the middle of a block; k is even where the factor
            is.

    Raises:
        ProcessError: a size that the factor does not divide, or taps that are not symmetric.
    """

    def __init__(self, size: Size, factor: int, taps: Tensor) -> None:
        if any(n % factor for n in size):
            raise ProcessError(f"a factor of {factor} does not divide {size} pixels")
        if (len(taps) - factor) % 2 or not torch.allclose(taps, taps.flip(0)):
            raise ProcessError("the taps of a reduction must be symmetric around the middle of a block")
        self.in_size, self.out_size = size, (size[0] // factor, size[1] // factor)
        self.factor, self.taps = factor, taps.double()
        offset = torch.arange(len(taps), dtype=torch.float64) - (len(taps) - 1) / 2
        (self.row_values, rows, self._rows), (self.column_values, columns, self._columns) = (
            _folded(n, factor, _response(self.taps, offset, n)) for n in size
        )
        self._weights = Constants(rows=rows, columns=columns)
        self._kernel = Constants(taps=self.taps)

    def then(self, outer: Reduction) -> Reduction:
        """Return the reduction by both factors, ``outer`` after this one."""
        assert outer.in_size == self.out_size and self.in_size, "sizes of a chain"
        spread = torch.zeros((len(outer.taps) - 1) * self.factor + 1, dtype=torch.float64)
        spread[:: self.factor] = outer.taps
        taps = F.conv1d(F.pad(spread, [len(self.taps) - 1] * 2)[None, None], self.taps.flip(0)[None, None])
        return Reduction(self.in_size, self.factor * outer.factor, taps[0, 0])

    def apply(self, x: Tensor) -> Tensor:
        """Return A x by its taps; half precision is computed in float32."""
        wide = x.float() if x.dtype.itemsize < 4 else x
        taps, outside = self._kernel.like(wide)["taps"], (len(self.taps) - self.factor) // 2
        planes = wide.reshape(-1, 1, *wide.shape[-2:])
        rows = F.conv2d(_mirrored(planes, outside, -1), taps[None, None, None], stride=(1, self.factor))
        result = F.conv2d(_mirrored(rows, outside, -2), taps[None, None, :, None], stride=(self.factor, 1))
        return result.view(*x.shape[:-2], *result.shape[-2:]).to(x.dtype)

    def to_right(self, x: Tensor) -> Tensor:
        """Return V^T x: cosines, weighed, and folded onto those that they become."""
        weights = self._weights.like(x)
        x = _fold(cosines_of(x, -1).mul_(weights["columns"]), self._columns, self.column_values, -1)
        return _fold(cosines_of(x, -2).mul_(weights["rows"][:, None]), self._rows, self.row_values, -2)

    def from_right(self, coefficients: Tensor) -> Tensor:
        """Return V c."""
        weights = self._weights.like(coefficients)
        c = coefficients.index_select(-2, self._rows.to(coefficients.device)).mul_(weights["rows"][:, None])
        c = pixels_of(c, -2)
        return pixels_of(c.index_select(-1, self._columns.to(c.device)).mul_(weights["columns"]), -1)

    def to_left(self, y: Tensor) -> Tensor:
        """Return the cosines of the result."""
        return cosines_of(cosines_of(y, -1), -2)

    def from_left(self, coefficients: Tensor) -> Tensor:
        """Return the pixels of the result's cosines."""
        return pixels_of(pixels_of(coefficients, -2), -1)


class BlockMean(Factored):
    """The mean of each block of factor x factor pixels; all singular values are 1 / factor.

    Args:
        size: (H, W), multiples of the factor.
        factor: 2 or more.

    Raises:
        ProcessError: a size that the factor does not divide.
    """

    def __init__(self, size: Size, factor: int) -> None:
        if any(n % factor for n in size):
            raise ProcessError(f"a factor of {factor} does not divide {size} pixels")
        self.in_size, self.out_size, self.factor = size, (size[0] // factor, size[1] // factor), factor
        value = factor**-0.5
        self.row_values, self.column_values = (
            torch.full((n,), value, dtype=torch.float64) for n in self.out_size
        )

    def to_right(self, x: Tensor) -> Tensor:
        """Return the sum of each block over the factor, (..., h, w)."""
        return F.avg_pool2d(x, self.factor).mul_(self.factor)

    def from_right(self, coefficients: Tensor) -> Tensor:
        """Return each coefficient over the factor, in all pixels of its block."""
        spread = coefficients / self.factor
        return spread.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    def to_left(self, y: Tensor) -> Tensor:
        """Return y itself."""
        return y

    def from_left(self, coefficients: Tensor) -> Tensor:
        """Return the coefficients themselves."""
        return coefficients


def bilinear_reduction(size: Size, factor: int) -> Reduction:
    """Return the antialiased bilinear reduction by a whole factor, the edge pixel repeated.

    Inside, that of :func:`ssdiff.operators.matrices.resize`: a triangle of two blocks' width.
    """
    count = 2 * factor - factor % 2
    offset = torch.arange(count, dtype=torch.float64) - (count - 1) / 2
    taps = 1 - offset.abs() / factor
    return Reduction(size, factor, taps / taps.sum())


def _response(taps: Tensor, offset: Tensor, n: int) -> Tensor:
    """(n,) gains of the cosines of n pixels: sum over d of h_d cos(pi k d / n)."""
    k = torch.arange(n, dtype=torch.float64)[:, None] * (math.pi / n)
    return torch.cat([(part * offset).cos() @ taps for part in k.split(1024)])


def _folded(n: int, factor: int, response: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values of one dimension, the weight of each of n cosines in its right singular vector, and
    which of the n / factor that is.

    With m = n / factor pixels of the result, cosine k = 2 m q +- p of the image is (-1)^q times cosine p of
    the result; p = m is zero at every pixel.
    """
    m, k = n // factor, torch.arange(n)
    q = (k + m) // (2 * m)
    p = (k - 2 * m * q).abs()
    gain = response * (1 - 2 * (q % 2)) / math.sqrt(factor)
    # orthonormal cosines: that of p = 0 is sqrt(2) smaller than the others
    gain = torch.where((p == 0) & (k > 0), gain * math.sqrt(2.0), gain)
    gain, p = torch.where(p == m, 0.0, gain), p.clamp_max(m - 1)
    values = torch.zeros(m, dtype=torch.float64).index_add_(0, p, gain.square()).sqrt()
    return values, gain / values[p], p


def _mirrored(x: Tensor, count: int, dim: int) -> Tensor:
    """x with as many pixels of its mirror image at both ends, the edge pixel repeated."""
    n = x.shape[dim]
    index = (torch.arange(-count, n + count, device=x.device) % (2 * n)) if count else None
    return x if index is None else x.index_select(dim, torch.minimum(index, 2 * n - 1 - index))


def _fold(x: Tensor, target: Tensor, values: Tensor, dim: int) -> Tensor:
    shape = list(x.shape)
    shape[dim] = len(values)
    return x.new_zeros(shape).index_add_(dim, target.to(x.device), x)
