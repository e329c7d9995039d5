"""Snowfall: brighter, whiter, with one fixed layer of flakes for each image [CD, section 5.4; ImageNet-C].

Not linear: it needs the clean image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff import rng
from ssdiff.devices import to_device
from ssdiff.errors import UsageError
from ssdiff.operators.base import Size
from ssdiff.operators.colour import luma
from ssdiff.process.base import Timestep
from ssdiff.process.degradations.base import check_severity, check_size, image_numbers
from ssdiff.process.degradations.registry import register_degradation


class SnowLevel(NamedTuple):
    """How hard it snows; pairs run from t = 1 to T."""

    mean: float  # of the Gaussian field
    std: float
    zoom: float  # of the field, so that flakes are larger than a pixel
    threshold: tuple[float, float]  # of the field, below which there is no flake
    blur: tuple[float, float]  # std of the motion blur, pixels
    taps: int  # of the motion blur
    brightness: tuple[float, float]  # share of the image that is not whitened


LEVELS = {
    1: SnowLevel(0.1, 0.3, 3.0, (0.7, 0.3), (0.5, 5.0), 5, (0.95, 0.7)),
    2: SnowLevel(0.55, 0.3, 2.5, (1.15, 0.7), (0.05, 12.0), 11, (0.95, 0.55)),
    3: SnowLevel(0.55, 0.3, 2.5, (1.15, 0.7), (0.05, 16.0), 11, (0.95, 0.4)),
    4: SnowLevel(0.55, 0.3, 2.5, (1.15, 0.55), (0.05, 20.0), 11, (0.95, 0.3)),
}
"""The official levels [docs/math.md, equation (55)]."""

_STEEPEST, _FLATTEST = math.radians(-135), math.radians(-45)  # direction of falling flakes [ImageNet-C]


@register_degradation("snow")
def snowfall(size: Size, T: int, *, level: int = 3, seed: int = 0) -> Snow:
    """Let it snow, one layer of flakes an image [CD, section 5.4]; level 1 to 4."""
    if level not in LEVELS:
        raise UsageError(f"snow has no level {level}", hint=f"choose one of {', '.join(map(str, LEVELS))}")
    return Snow(size, T, LEVELS[level], seed)


class Snow:
    """D(x, t) = x whitened, plus a layer of flakes and its half-turn, clipped to [-1, 1].

    The layer is a pure function of (seed, image number, size); with t more of it shows.

    Args:
        size: (H, W).
        T: the highest severity.
        level: of :data:`LEVELS`.
        seed: decides the layers, with the image numbers.
    """

    def __init__(self, size: Size, T: int, level: SnowLevel, seed: int) -> None:
        self.size, self._top, self._level = size, T, level
        self._field, self._angle = rng.derive(seed, "degrade/snow"), rng.derive(seed, "degrade/snow/angle")

    @property
    def T(self) -> int:
        """The highest severity."""
        return self._top

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t), as :meth:`ssdiff.process.degradations.base.Degradation.degrade`; 1 or 3
        channels."""
        check_size(x0, self.size)
        check_severity(t, self.T)
        if isinstance(t, int) and t == 0:
            return x0
        severity = torch.tensor([t]) if isinstance(t, int) else t
        progress = (severity - 1) / max(self.T - 1, 1) if self.T > 1 else severity.float()
        progress = to_device(progress.to(x0.dtype), x0.device)
        numbers = image_numbers(x0, images)
        layer = self._layer(numbers, progress, x0)
        grey = luma(x0) * 0.5 + 0.5
        brightness = _along(self._level.brightness, progress)
        pixels = x0 * 0.5 + 0.5
        whitened = torch.lerp(torch.maximum(pixels, grey * 1.5 + 0.5), pixels, brightness)
        return (whitened + layer + layer.flip(-1, -2)).clamp(0, 1) * 2 - 1

    def _layer(self, numbers: Tensor, progress: Tensor, like: Tensor) -> Tensor:
        """(B, 1, H, W) flakes in [0, 1]."""
        level = self._level
        small = [math.ceil(n / level.zoom) for n in self.size]
        field = level.mean + level.std * rng.normal(self._field, numbers, 0, (1, *small))
        flakes = F.interpolate(field.to(like), self.size, mode="bilinear", align_corners=False)
        flakes = torch.where(flakes < _along(level.threshold, progress), 0, flakes).clamp(0, 1)
        turn = rng.uniform(self._angle, numbers, 0, ()).to(like)
        angle = _STEEPEST + (_FLATTEST - _STEEPEST) * turn
        return _motion_blur(flakes, angle, _along(level.blur, progress), level.taps)


def _motion_blur(x: Tensor, angle: Tensor, std: Tensor, taps: int) -> Tensor:
    """Half a Gaussian laid along a direction, (B,) angles and (B, 1, 1, 1) stds; edge pixels repeated."""
    height, width = x.shape[-2:]
    rows = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=x.device, dtype=x.dtype)
    columns = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=x.device, dtype=x.dtype)
    distance = torch.arange(taps, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (distance / std.flatten()[:, None]).square())  # (B or 1, taps)
    weights = weights / weights.sum(1, keepdim=True)
    result = torch.zeros_like(x)
    for k in range(taps):
        across = columns + 2 * k * angle.cos()[:, None] / width  # (B, W)
        down = rows + 2 * k * angle.sin()[:, None] / height  # (B, H)
        grid = torch.stack(
            torch.broadcast_tensors(across[:, None, :], down[:, :, None]), dim=-1
        )  # (B, H, W, 2)
        moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        result += weights[:, k, None, None, None] * moved
    return result


def _along(ends: tuple[float, float], progress: Tensor) -> Tensor:
    """(B or 1, 1, 1, 1): from the first to the second number."""
    return (ends[0] + (ends[1] - ends[0]) * progress)[:, None, None, None]
