"""A small data set that needs no files: one bright, shaded shape on a quiet background, in 8 classes.

Every pixel is a pure function of (seed, image number). Shapes are signed distance functions, and how much of
a pixel they cover is read off the distance of its centre, so edges are smooth at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.operators.colour import LUMA, luma
from ssdiff.rng import derive, uniform

SHAPES = ("disc", "ring", "square", "triangle", "star", "cross", "heart", "crescent")
"""Class names; the label of an image is the position of its class here."""

# Machines may differ in the last bit of a sine; rounding to bytes hides that only with bits to spare.
_TYPE = torch.float64

# Saturated hues that stay apart at 8 pixels, and calm ones, pale and dark, to put them on. RGB, 0..1.
_COLOURS = (
    (0.91, 0.20, 0.24),
    (0.96, 0.51, 0.12),
    (0.99, 0.80, 0.16),
    (0.30, 0.72, 0.28),
    (0.08, 0.66, 0.66),
    (0.17, 0.45, 0.91),
    (0.53, 0.29, 0.83),
    (0.94, 0.34, 0.62),
)
_PALE = ((0.95, 0.92, 0.86), (0.85, 0.91, 0.95), (0.88, 0.94, 0.88), (0.94, 0.87, 0.89), (0.90, 0.88, 0.95))
_DARK = ((0.13, 0.16, 0.24), (0.20, 0.15, 0.22), (0.10, 0.20, 0.21), (0.20, 0.19, 0.18), (0.15, 0.14, 0.26))
_CHUNK = 2**18  # pixels drawn at once: bounds the memory, does not change the result


def draw(count: int, size: int, channels: int = 3, seed: int = 0, start: int = 0) -> tuple[Tensor, Tensor]:
    """Draw images start, ..., start + count - 1 of the endless set of a seed.

    Args:
        count: number of images.
        size: pixels a side.
        channels: 3 (RGB) or 1 (its Rec. 601 luma).
        seed: any integer.
        start: number of the first image.

    Returns:
        (count, channels, size, size) uint8 and (count,) int64 labels, positions in :data:`SHAPES`. Among
        images 8 k, ..., 8 k + 7 every class occurs once, in random order.

    Raises:
        UsageError: count, size or start is negative or zero where it must not be, or channels is not 1 or 3.
    """
    if count < 0 or size < 1 or start < 0 or channels not in (1, 3):
        raise UsageError(
            f"shapes need count >= 0, size >= 1, start >= 0 and channels 1 or 3, "
            f"not {count}, {size}, {start} and {channels}"
        )
    images = torch.empty(count, channels, size, size, dtype=torch.uint8)
    numbers = torch.arange(start, start + count)
    labels = _labels(seed, numbers)
    step = max(1, _CHUNK // size**2)
    for part in range(0, count, step):
        chunk = slice(part, part + step)
        images[chunk] = _paint(seed, numbers[chunk], labels[chunk], size, channels)
    return images, labels


def _labels(seed: int, numbers: Tensor) -> Tensor:
    group = uniform(derive(seed, "shapes/label"), numbers // 8, 0, (8,), _TYPE)  # (B, 8)
    return group.argsort(dim=1).gather(1, (numbers % 8).unsqueeze(1)).squeeze(1)


def _paint(seed: int, numbers: Tensor, labels: Tensor, size: int, channels: int) -> Tensor:
    """(B, channels, size, size) uint8."""
    u = uniform(derive(seed, "shapes/look"), numbers, 0, (16,), _TYPE)  # (B, 16)
    axis = (torch.arange(size, dtype=_TYPE) + 0.5) * (2 / size) - 1  # pixel centres, -1..1
    down, right = torch.meshgrid(axis, axis, indexing="ij")  # (S, S)
    radius = (0.66 + 0.12 * u[:, 0])[:, None, None]  # (B, 1, 1), in half image sides
    room = 0.6 * (0.9 - radius)
    x = right - room * (2 * u[:, 1, None, None] - 1)  # (B, S, S), relative to the centre of the shape
    y = down - room * (2 * u[:, 2, None, None] - 1)
    turn = 0.2 * (2 * u[:, 3, None, None] - 1)

    distance = _distance(labels, x / radius, y / radius, turn) * radius  # half image sides, negative inside
    cover = (0.5 - distance * (size / 2)).clamp(0, 1)  # a pixel is 2 / size wide
    fall = 0.12 * radius
    shadow = _distance(labels, (x - fall) / radius, (y - fall) / radius, turn)
    shadow = 0.4 * (0.5 - 2.5 * shadow).clamp(0, 1)

    back, colour = _colours(u)  # (B, 2, 3), (B, 3)
    way = 2 * math.pi * u[:, 12, None, None]
    blend = 0.5 + 0.35 * (right * way.cos() + down * way.sin())  # within 0..1 in the corners
    ground = back[:, 0, :, None, None] + blend[:, None] * (back[:, 1] - back[:, 0])[:, :, None, None]
    ground = ground * (1 - shadow)[:, None]
    light = 1 - 0.16 * ((x + y) / radius).clamp(-1.4, 1.4)  # from the upper left
    shape = colour[:, :, None, None] * light[:, None]
    picture = (ground + cover[:, None] * (shape - ground)).clamp(0, 1)  # (B, 3, S, S)
    if channels == 1:
        picture = luma(picture)
    return (picture * 255).round().to(torch.uint8)


def _colours(u: Tensor) -> tuple[Tensor, Tensor]:
    """Two colours of the ground (B, 2, 3) and one of the shape (B, 3), in 0..1."""
    choice = (u[:, 4] * len(_COLOURS)).long().clamp_max(len(_COLOURS) - 1)
    colour = u.new_tensor(_COLOURS)[choice] + 0.1 * (u[:, 5:8] - 0.5)
    grounds = u.new_tensor((_PALE, _DARK))  # (2, K, 3)
    # A bright shape on a pale ground would be lost in grey.
    bright = (colour * u.new_tensor(LUMA)).sum(1) > 0.7
    dark = (bright | (u[:, 8] < 0.4)).long()
    first = (u[:, 9] * len(_PALE)).long().clamp_max(len(_PALE) - 1)
    second = (first + 1 + (u[:, 10] * 2).long().clamp_max(1)) % len(_PALE)
    back = torch.stack((grounds[dark, first], grounds[dark, second]), dim=1)
    # The second colour is a little darker, or a flat ground would be as likely as a gradient.
    back[:, 1] *= (0.78 + 0.12 * u[:, 11])[:, None]
    return back, colour


def _distance(labels: Tensor, x: Tensor, y: Tensor, turn: Tensor) -> Tensor:
    """Signed distance to the outline of each image's shape, which fits a circle of radius 1; y is down."""
    across = x * turn.cos() + y * turn.sin()
    up = x * turn.sin() - y * turn.cos()
    result = torch.empty_like(across)
    for label, shape in enumerate(_OUTLINES):
        mine = (labels == label).nonzero().squeeze(1)
        result[mine] = shape(across[mine], up[mine])
    return result


def _length(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt()


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    x, y = x.abs() - half_width, y.abs() - half_height
    return _length(x.clamp_min(0), y.clamp_min(0)) + torch.maximum(x, y).clamp_max(0)


def _points(x: Tensor, y: Tensor, points: int, tip: float, valley: float) -> Tensor:
    """A star of an odd number of points, or a regular polygon when the valleys lie on its sides."""
    half = math.pi / points
    x = x.abs()
    # Reflections in the valleys fold every sector onto the upper one: angles 0..pi, 0..k pi / points, ...
    for k in range(points - 2, 0, -2):
        sine, cosine = math.sin(k * half), math.cos(k * half)
        beyond = 2 * (x * cosine - y * sine).clamp_min(0)
        x, y = x - beyond * cosine, y + beyond * sine
    x = x.abs()
    edge_x, edge_y = valley * math.sin(half), valley * math.cos(half) - tip
    y = y - tip
    along = ((x * edge_x + y * edge_y) / (edge_x**2 + edge_y**2)).clamp(0, 1)
    outside = edge_x * y - edge_y * x
    return _length(x - along * edge_x, y - along * edge_y).copysign(outside)


def _disc(x: Tensor, y: Tensor) -> Tensor:
    return _length(x, y) - 0.9


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (_length(x, y) - 0.7).abs() - 0.24


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.66, 0.66) - 0.07


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return _points(x, y + 0.1, 3, 0.92, 0.46) - 0.07


def _star(x: Tensor, y: Tensor) -> Tensor:
    return _points(x, y, 5, 0.98, 0.44) - 0.04


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.86, 0.24), _box(x, y, 0.24, 0.86)) - 0.05


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner and a disc on each of its two upper sides."""
    half = 0.54
    x, y = x.abs(), y + 0.12
    corner = math.sqrt(0.5)
    square = _box((x + y) * corner, (x - y) * corner, half, half)
    return torch.minimum(square, _length(x - half * corner, y - half * corner) - half)


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    """A disc without the part under a second disc; its two arcs meet in the horns."""
    outer, inner, apart = 0.92, 0.74, 0.44
    horn_x = (outer**2 - inner**2 + apart**2) / (2 * apart)
    horn_y = math.sqrt(outer**2 - horn_x**2)
    # The opening looks to the upper right; from here on it looks along x.
    x, y = x * 0.96 + y * 0.28 + 0.07, (y * 0.96 - x * 0.28).abs()
    to_outer, to_inner = _length(x, y) - outer, inner - _length(x - apart, y)
    # An arc is nearest only to points that see it from its centre; to others the horn is.
    on_outer = x * horn_y <= y * horn_x
    on_inner = (x - apart) * horn_y <= y * (horn_x - apart)
    nearest = _length(x - horn_x, y - horn_y)
    nearest = torch.where(on_outer, torch.minimum(nearest, to_outer.abs()), nearest)
    nearest = torch.where(on_inner, torch.minimum(nearest, to_inner.abs()), nearest)
    return nearest.copysign(torch.maximum(to_outer, to_inner))


_OUTLINES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _disc,
    _ring,
    _square,
    _triangle,
    _star,
    _cross,
    _heart,
    _crescent,
)
