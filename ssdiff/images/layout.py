"""Tensors of pixels: bytes and floats, grids, film strips, magnification."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssdiff.errors import UsageError


def to_uint8(x: Tensor) -> Tensor:
    """Return the nearest bytes of pixels in [-1, 1]; what lies outside is clipped.

    Args:
        x: (...), floating point; uint8 is returned as it is.
    """
    if x.dtype == torch.uint8:
        return x
    # Half precision cannot hold 256 steps between -1 and 1, so the rounding happens in float32.
    return x.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def from_uint8(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return bytes 0..255 as pixels 2 b / 255 - 1 in [-1, 1]; undone exactly by :func:`to_uint8`.

    The one formula of training, sampling and evaluation: a run that is resumed must see the same bits.

    Args:
        x: (...), uint8.
        dtype: floating-point type of the result.
    """
    return x.to(torch.float32, copy=True).mul_(2 / 255).sub_(1).to(dtype)


def upscale_nearest(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Repeat pixels, so that a small image can be looked at without inventing detail.

    Args:
        x: (..., h, w).
        size: pixels a side of the result, or (height, width). Need not be a multiple of h and w.

    Returns:
        (..., height, width), same type.
    """
    height, width = (size, size) if isinstance(size, int) else size
    rows = torch.arange(height, device=x.device) * x.shape[-2] // height
    columns = torch.arange(width, device=x.device) * x.shape[-1] // width
    return x[..., rows.unsqueeze(1), columns]


def grid(x: Tensor, columns: int | None = None, pad: int = 2, fill: float = 1.0) -> Tensor:
    """Lay images side by side in rows, separated and framed by lines.

    Args:
        x: (N, C, H, W), in [-1, 1] or uint8.
        columns: images in a row; by default the grid is about square.
        pad: width of the lines, pixels.
        fill: grey of the lines and of empty places, in [-1, 1].

    Returns:
        (C, H', W'), same type as x.

    Raises:
        UsageError: there is no image, or columns is not positive.
    """
    count, channels, height, width = x.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    if count == 0 or columns < 1:
        raise UsageError(f"a grid needs at least 1 image and 1 column, not {count} and {columns}")
    rows = -(-count // columns)
    extent = grid_extent(count, (height, width), columns, pad)
    # Each image brings the line on its left and above it; one line more closes the right and the bottom.
    cells = _blank(x, (rows * columns, channels, height + pad, width + pad), fill)
    cells[:count, :, pad:, pad:] = x
    cells = cells.reshape(rows, columns, channels, height + pad, width + pad).permute(2, 0, 3, 1, 4)
    sheet = _blank(x, (channels, *extent), fill)
    sheet[:, : sheet.shape[1] - pad, : sheet.shape[2] - pad] = cells.reshape(
        channels, rows * (height + pad), columns * (width + pad)
    )
    return sheet


def grid_extent(
    count: int, size: tuple[int, int], columns: int | None = None, pad: int = 2
) -> tuple[int, int]:
    """Return (height, width) of :func:`grid` of ``count`` images of (height, width), pixels."""
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    return -(-count // columns) * (size[0] + pad) + pad, columns * (size[1] + pad) + pad


def strip_extent(sizes: Sequence[tuple[int, int]], pad: int = 2) -> tuple[int, int]:
    """Return (height, width) of :func:`film_strip` of images of (height, width), pixels."""
    height = max(size[0] for size in sizes)
    widths = (max(1, round(width * height / own)) for own, width in sizes)
    return height, sum(widths) + pad * (len(sizes) - 1)


def film_strip(
    images: Sequence[Tensor], height: int | None = None, pad: int = 2, fill: float = 1.0
) -> Tensor:
    """Lay images of any sizes in one row, each magnified to the same height by repeating pixels.

    Args:
        images: (C, h, w) each, all uint8 or all in [-1, 1]; grey and colour may be mixed.
        height: pixels; by default that of the tallest image.
        pad: width of the gaps, pixels.
        fill: grey of the gaps, in [-1, 1].

    Returns:
        (C, height, W), same type as the images.

    Raises:
        UsageError: there is no image.
    """
    if not images:
        raise UsageError("a film strip needs at least 1 image")
    height = height or max(image.shape[-2] for image in images)
    channels = max(image.shape[0] for image in images)
    gap = _blank(images[0], (channels, height, pad), fill)
    parts = []
    for image in images:
        width = max(1, round(image.shape[-1] * height / image.shape[-2]))
        parts += [upscale_nearest(image, (height, width)).expand(channels, -1, -1), gap]
    return torch.cat(parts[:-1], dim=-1)


def _blank(like: Tensor, shape: tuple[int, ...], fill: float) -> Tensor:
    value = round((fill + 1) * 127.5) if like.dtype == torch.uint8 else fill
    return like.new_full(shape, value)
