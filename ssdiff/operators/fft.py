"""Operators for images of any size: no matrices, so that photographs of thousands of pixels cost little.

:class:`ssdiff.operators.separable.Separable` is better where an SVD is wanted or images are small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssdiff.operators.base import Constants, Operator, Scale, Size


class Mirrored(Operator):
    """A symmetric blur of an image continued by its mirror image, by FFT: no matrices, any size.

    The same map as a :class:`Separable` one, with O(n log n) work a row and memory in proportion to the image
    instead of n^2, which a photograph of thousands of pixels needs.

    Args:
        rows: (F,) real frequency response for the height; of the period 2H where the edge pixel is repeated
            (F = H + 1), else 2H - 2 (F = H).
        columns: likewise for the width.
        repeat_edge: whether the mirror image begins with the edge pixel again (the DCT-II's continuation) or
            without it ('reflect' padding).
    """

    def __init__(self, rows: Tensor, columns: Tensor, repeat_edge: bool) -> None:
        self._edge = int(repeat_edge)
        self.in_size = self.out_size = (len(rows) - self._edge, len(columns) - self._edge)
        self._response = Constants(rows=rows, columns=columns)

    def apply(self, x: Tensor) -> Tensor:
        """Filter (B, C, H, W) to the same shape; half precision is computed in float32."""
        wide = x.float() if x.dtype.itemsize < 4 else x
        response = self._response.like(wide)
        for dim, name in ((-1, "columns"), (-2, "rows")):
            n = wide.shape[dim]
            mirror = wide.narrow(dim, 1 - self._edge, self._reflected(n)).flip(dim)
            wide = _convolve(torch.cat([wide, mirror], dim), response[name], dim).narrow(dim, 0, n)
        return wide.to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """Fold the reflections back onto the pixels that they came from."""
        wide = y.float() if y.dtype.itemsize < 4 else y
        response = self._response.like(wide)
        for dim, name in ((-2, "rows"), (-1, "columns")):
            n, reflected = wide.shape[dim], self._reflected(wide.shape[dim])
            outside = wide.new_zeros(_resized(wide.shape, dim, reflected))
            spread = _convolve(torch.cat([wide, outside], dim), response[name], dim)
            wide = spread.narrow(dim, 0, n).clone()
            wide.narrow(dim, 1 - self._edge, reflected).add_(spread.narrow(dim, n, reflected).flip(dim))
        return wide.to(y.dtype)

    def norm(self) -> float:
        """Return the largest singular value, by power iteration to a relative 1e-12."""
        return (Scale() @ self).norm()

    def _reflected(self, n: int) -> int:
        """Pixels of a row of n that the mirror image repeats."""
        return n if self._edge else max(0, n - 2)


class Blocks(Operator):
    """Each block of pixels replaced by its mean: the orthogonal projection onto images of constant blocks.

    Args:
        size: (H, W).
        blocks: how many, (down, across), 1 to H and 1 to W; blocks are whole pixels and differ by at most one
            pixel a side.
    """

    def __init__(self, size: Size, blocks: Size) -> None:
        self.in_size = self.out_size = size
        self._blocks = blocks

    def apply(self, x: Tensor) -> Tensor:
        """Project (B, C, H, W) to the same shape."""
        for dim, count in ((-1, self._blocks[1]), (-2, self._blocks[0])):
            n = x.shape[dim]
            block = torch.arange(n, device=x.device) * count // n
            pixels = torch.bincount(block, minlength=count).to(x.dtype)
            total = x.new_zeros(_resized(x.shape, dim, count)).index_add_(dim, block, x)
            mean = total / (pixels if dim == -1 else pixels[:, None])
            x = mean.index_select(dim, block)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the same as ``apply``: a projection is symmetric."""
        return self.apply(y)

    def norm(self) -> float:
        """Return 1."""
        return 1.0


def gaussian_response(n: int, std: float) -> Tensor:
    """Return the (n,) frequency response, for :class:`Mirrored` without a repeated edge, of a sampled
    Gaussian.

    The kernel reaches 4 standard deviations each way, at most n - 1 pixels, and sums to 1: the same map as
    :func:`ssdiff.operators.matrices.gaussian_blur` with reflect padding.

    Args:
        n: pixels in a row.
        std: standard deviation in pixels, above 0.
    """
    period = max(1, 2 * n - 2)
    reach = min(max(1, math.ceil(4 * std)), n - 1)
    offset = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offset.double() / std) ** 2)
    circle = torch.zeros(period, dtype=torch.float64)
    circle.index_add_(0, offset % period, kernel / kernel.sum())
    response: Tensor = torch.fft.rfft(circle).real.contiguous()
    return response


def heat_response(n: int, std: float) -> Tensor:
    """Return the (n + 1,) frequency response, for :class:`Mirrored` with a repeated edge, of the heat
    equation.

    exp(-(pi k / n)^2 std^2 / 2) [IHDM, section 2]: the same map as :func:`ssdiff.operators.matrices.heat`.

    Args:
        n: pixels in a row.
        std: blur in pixels, 0 or more.
    """
    frequency = math.pi * torch.arange(n + 1, dtype=torch.float64) / n
    return torch.exp(-0.5 * (frequency * std) ** 2)


def _convolve(x: Tensor, response: Tensor, dim: int) -> Tensor:
    """Circular convolution along one dimension by a real frequency response."""
    gain = response if dim == -1 else response[:, None]
    result: Tensor = torch.fft.irfft(torch.fft.rfft(x, dim=dim) * gain, n=x.shape[dim], dim=dim)
    return result


def _resized(shape: Sequence[int], dim: int, length: int) -> list[int]:
    """``shape`` with another length in one dimension."""
    result = list(shape)
    result[dim] = length
    return result
