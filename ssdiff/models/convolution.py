"""Convolutions of the networks, with quicker ways to train them in fp32 on a processor.

There a 3x3 convolution of many channels is trained by Winograd's minimal filtering F(2x2, 3x3) [Lavin & Gray
2016]: a tile of 2x2 pixels of the result takes 16 products for each pair of channels in place of 36, and each
of the three passes, forward and both gradients, becomes 16 products of large matrices. A 1x1 convolution is
one product of matrices. Both differ from PyTorch's kernels by rounding alone. Drawing images takes PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ARITHMETIC = 2
"""Raised when the same convolution is trained by sums in another order, so that a resumed run can say so."""

_SLOTS = 16  # products of a tile, 4 x 4
_LEAST_CHANNELS = 128  # in and out; of fewer the transforms take more than the products save
_NUMBERS = 1 << 17  # pixels times channels of one slot at a time: 8 MiB of tiles, which stay in the cache
_BIAS = 5  # slot (1, 1), which every pixel of a tile adds


class Conv2d(nn.Conv2d):
    """A convolution with the weights of :class:`torch.nn.Conv2d`, trained in fp32 on a CPU by products of
    matrices where they are quicker."""

    @property
    def by_products(self) -> bool:
        """Whether it may be trained otherwise than by PyTorch's own kernel."""
        many = min(self.in_channels, self.out_channels) >= _LEAST_CHANNELS
        return many and (self._is(3, padding=1) or self._is(1, padding=0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) as the base class does; in evaluation mode and on other devices by it."""
        if not (self.training and torch.is_grad_enabled() and self.by_products and _plain(x)):
            return super().forward(x)
        if self.padding == (0, 0):
            result = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
            return result.permute(0, 3, 1, 2)
        if not _tiled(x.shape, self.out_channels):
            return super().forward(x)
        filtered: Tensor = _Winograd.apply(x, self.weight, self.bias)
        return filtered

    def _is(self, side: int, padding: int) -> bool:
        return (
            self.kernel_size == (side, side)
            and self.padding == (padding, padding)
            and self.stride == self.dilation == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
        )


def _plain(x: Tensor) -> bool:
    """Whether PyTorch's CPU kernels would be run in fp32 as they stand."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _tiled(shape: Sequence[int], out_channels: int) -> bool:
    """Whether tiles of 2x2 pixels cover the images, and those of one image stay in the cache."""
    _, channels, height, width = shape
    even = height % 2 == width % 2 == 0
    return even and height * width // 4 * max(channels, out_channels) <= 2 * _NUMBERS


class _Winograd(torch.autograd.Function):
    """Y = A^T [sum over channels of (G g G^T) * (B^T d B)] A for each tile d of 4x4 pixels and filter g.

    With U = G g G^T, V = B^T d B and N = A (gradient of Y) A^T, slot by slot: V's gradient is N U^T, U's is
    N^T V; those of d and g follow by the adjoint transforms. V and U are made anew for the gradients, because
    to keep them would take four times the memory of what a convolution keeps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        pixels = _last(x)
        result = pixels.new_empty(*pixels.shape[:3], len(weight))
        filters = [(rows, _filters(weight[rows])) for rows in _parts(len(weight), weight.shape[1])]
        for images in _batches(pixels, len(weight)):
            tiles = _tiles(pixels[images])
            for rows, filtering in filters:
                products = torch.bmm(tiles, filtering.mT)
                if bias is not None:
                    products[_BIAS] += bias[rows]
                _assemble(products, result[images, ..., rows])
        return result.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        pixels, given = _last(x), _last(gradient)
        out, channels = weight.shape[:2]
        parts = list(_parts(out, channels))
        filters = [_filters(weight[rows]) for rows in parts] if of_x else []
        sums = (
            [pixels.new_empty(_SLOTS, rows.stop - rows.start, channels) for rows in parts]
            if of_weight
            else []
        )
        back = torch.empty_like(pixels) if of_x else None
        bias = given.new_zeros(out) if of_bias else None
        for number, images in enumerate(_batches(pixels, out)):
            spread = _spread(given[images])
            if bias is not None:
                bias += spread[_BIAS].sum(0)
            if back is not None:
                tiles = torch.bmm(spread[..., parts[0]], filters[0])
                for rows, filtering in zip(parts[1:], filters[1:], strict=True):
                    tiles.baddbmm_(spread[..., rows], filtering)
                _overlap(tiles, back[images])
            if of_weight:
                tiles = _tiles(pixels[images])
                for rows, total in zip(parts, sums, strict=True):
                    total.baddbmm_(spread[..., rows].mT, tiles, beta=min(number, 1))
        return (
            None if back is None else back.permute(0, 3, 1, 2),
            _filters_adjoint(parts, sums, weight.shape) if of_weight else None,
            bias,
        )


def _last(x: Tensor) -> Tensor:
    """(B, H, W, C), contiguous: a view where channels are last in memory already."""
    return x.permute(0, 2, 3, 1).contiguous()


def _batches(pixels: Tensor, out: int) -> Iterator[slice]:
    """So many images at a time that what is made of them stays in the cache."""
    count, height, width, channels = pixels.shape
    together = max(1, _NUMBERS // (height * width // 4 * max(channels, out)))
    return (slice(first, first + together) for first in range(0, count, together))


def _parts(out: int, channels: int) -> Iterator[slice]:
    """So many filters at a time that memory for them is used again, not asked of the system each time."""
    together = max(1, 2 * _NUMBERS // channels)
    return (slice(first, min(first + together, out)) for first in range(0, out, together))


@cache
def _kronecker(dtype: torch.dtype) -> Tensor:
    """(16, 9) G x G, of G g G^T."""
    g = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]], dtype=dtype)
    return torch.kron(g, g)


def _filters(weight: Tensor) -> Tensor:
    """(K, C, 3, 3) to G g G^T as (16, K, C)."""
    out, channels = weight.shape[:2]
    taps = weight.permute(0, 2, 3, 1).reshape(out, 9, channels)
    return torch.bmm(_kronecker(weight.dtype).expand(out, _SLOTS, 9), taps).transpose(0, 1)


def _filters_adjoint(parts: Sequence[slice], sums: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Gradients (16, K', C) of parts of the filters to that of the weights, (K, C, 3, 3), channels last."""
    out, channels = shape[:2]
    result = sums[0].new_empty(out, 9, channels)
    for rows, total in zip(parts, sums, strict=True):
        adjoint = _kronecker(total.dtype).T.expand(total.shape[1], 9, _SLOTS)
        torch.bmm(adjoint, total.transpose(0, 1), out=result[rows])
    return result.view(out, 3, 3, channels).permute(0, 3, 1, 2)


def _tiles(pixels: Tensor) -> Tensor:
    """(B, H, W, C) to B^T d B of all tiles, (16, B H W / 4, C)."""
    count, height, width, channels = pixels.shape
    padded = F.pad(pixels, (0, 0, 1, 1, 1, 1))
    rows = pixels.new_empty(4, count, height // 2, width + 2, channels)
    _differences([padded[:, k : k + height : 2] for k in range(4)], rows.unbind(0))
    tiles = pixels.new_empty(4, 4, count, height // 2, width // 2, channels)
    _differences([rows[..., k : k + width : 2, :] for k in range(4)], tiles.unbind(1))
    return tiles.view(_SLOTS, -1, channels)


def _overlap(tiles: Tensor, into: Tensor) -> None:
    """Write the adjoint of :func:`_tiles` into (B, H, W, C)."""
    count, height, width, channels = into.shape
    found = tiles.view(4, 4, count, height // 2, width // 2, channels)
    rows = tiles.new_empty(4, count, height // 2, width, channels)
    _differences_adjoint(found.unbind(1), rows[..., 0::2, :], rows[..., 1::2, :], -2)
    _differences_adjoint(rows.unbind(0), into[:, 0::2], into[:, 1::2], 1)


def _assemble(products: Tensor, into: Tensor) -> None:
    """Write A^T m A of all tiles, from (16, B H W / 4, K), into (B, H, W, K)."""
    count, height, width, out = into.shape
    found = products.view(4, 4, count, height // 2, width // 2, out)
    rows = products.new_empty(2, 4, count, height // 2, width // 2, out)
    _sums(found.unbind(0), rows[0], rows[1])
    top, below = into[:, 0::2], into[:, 1::2]
    for row, target in zip(rows, (top, below), strict=True):
        _sums(row.unbind(0), target[:, :, 0::2], target[:, :, 1::2])


def _spread(gradient: Tensor) -> Tensor:
    """Compute the adjoint of :func:`_assemble`: (B, H, W, K) to A y A^T of all tiles, (16, B H W / 4, K)."""
    count, height, width, out = gradient.shape
    rows = gradient.new_empty(4, count, height // 2, width, out)
    _sums_adjoint(gradient[:, 0::2], gradient[:, 1::2], rows.unbind(0))
    tiles = gradient.new_empty(4, 4, count, height // 2, width // 2, out)
    _sums_adjoint(rows[..., 0::2, :], rows[..., 1::2, :], tiles.unbind(1))
    return tiles.view(_SLOTS, -1, out)


def _differences(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """B^T d along one axis."""
    torch.sub(d[0], d[2], out=out[0])
    torch.add(d[1], d[2], out=out[1])
    torch.sub(d[2], d[1], out=out[2])
    torch.sub(d[1], d[3], out=out[3])


def _differences_adjoint(v: Sequence[Tensor], even: Tensor, odd: Tensor, axis: int) -> None:
    """B v along one axis, tiles overlapping by two pixels, without the border that was padded."""
    last = even.shape[axis] - 1
    torch.sub(v[1], v[2], out=even).add_(v[3])
    even.narrow(axis, 1, last).sub_(v[3].narrow(axis, 0, last))
    torch.add(v[1], v[2], out=odd).sub_(v[0])
    odd.narrow(axis, 0, last).add_(v[0].narrow(axis, 1, last))


def _sums(m: Sequence[Tensor], first: Tensor, second: Tensor) -> None:
    """A^T m along one axis."""
    torch.add(m[0], m[1], out=first).add_(m[2])
    torch.sub(m[1], m[2], out=second).sub_(m[3])


def _sums_adjoint(first: Tensor, second: Tensor, out: Sequence[Tensor]) -> None:
    """A y along one axis."""
    out[0].copy_(first)
    torch.add(first, second, out=out[1])
    torch.sub(first, second, out=out[2])
    torch.neg(second, out=out[3])
