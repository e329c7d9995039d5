"""Operators for images of any size: no matrices, so that photographs of thousands of pixels cost little.

:class:`ssdiff.operators.separable.Separable` is better where an SVD is wanted or images are small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff.operators.base import Constants, Operator, Scale, Size

_LARGE = 2**22  # pixels of a plane above which it is filtered in parts


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
        if wide[..., 0, 0].numel() > 1 and wide[0, 0].numel() > _LARGE:  # one by one, for less memory
            return torch.stack([torch.stack([self.apply(one[None, None])[0, 0] for one in y]) for y in x])
        for dim, name in ((-1, "columns"), (-2, "rows")):
            parts = [wide] if wide.numel() <= _LARGE else wide.split(_LARGE // wide.shape[dim], -3 - dim)
            done = [self._filtered(part, response[name], dim) for part in parts]
            wide = done[0] if len(done) == 1 else torch.cat(done, -3 - dim)
        return wide.to(x.dtype)

    def _filtered(self, x: Tensor, response: Tensor, dim: int) -> Tensor:
        """Along one dimension."""
        n = x.shape[dim]
        mirror = x.narrow(dim, 1 - self._edge, self._reflected(n)).flip(dim)
        return _convolve(torch.cat([x, mirror], dim), response, dim).narrow(dim, 0, n)

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


class Interpolated(Operator):
    """Reductions and returns to the full size one after the other, by ``torch.nn.functional.interpolate``.

    Args:
        size: (H, W).
        smaller: (h, w) of each reduction.
        mode: bicubic, bilinear or area, none of them antialiased; the return is by the nearest pixel.
        soften: an operator before and after each step, or None.
    """

    def __init__(
        self, size: Size, smaller: Sequence[Size], mode: str, soften: Operator | None = None
    ) -> None:
        self.in_size = self.out_size = size
        self._smaller, self._mode, self._soften = tuple(smaller), mode, soften or Scale()

    def apply(self, x: Tensor) -> Tensor:
        """Return D x, (B, C, H, W)."""
        corners = {} if self._mode == "area" else {"align_corners": False}
        wide = x.float() if x.dtype.itemsize < 4 else x
        for size in self._smaller:
            small = F.interpolate(self._soften.apply(wide), size, mode=self._mode, **corners)
            wide = self._soften.apply(F.interpolate(small, x.shape[-2:], mode="nearest-exact"))
        return wide.to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return D^T y, as the gradient of <D x, y>."""
        with torch.enable_grad():
            x = torch.zeros_like(y, requires_grad=True)
            (result,) = torch.autograd.grad(self.apply(x), x, y)
        return result


def gaussian_response(n: int, std: float, taps: int | None = None) -> Tensor:
    """Return the (n,) frequency response, for :class:`Mirrored` without a repeated edge, of a sampled
    Gaussian.

    The same map as :func:`ssdiff.operators.matrices.gaussian_blur` with reflect padding; of kernels that
    follow one another the responses are multiplied.

    Args:
        n: pixels in a row.
        std: standard deviation in pixels, above 0.
        taps: odd length of the kernel, which sums to 1; by default it reaches 4 standard deviations each way,
            at most n - 1 pixels.
    """
    period = max(1, 2 * n - 2)
    reach = min(max(1, math.ceil(4 * std)), n - 1) if taps is None else taps // 2
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
