"""Snowfall: a fixed layer of flakes for each image, denser and more blurred with t [CD, section 5.4;
ImageNet-C].

Not linear: it needs the clean image.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff import rng
from ssdiff.devices import to_device
from ssdiff.errors import UsageError
from ssdiff.operators.base import Size
from ssdiff.operators.colour import luma
from ssdiff.process.base import Timestep
from ssdiff.process.degradations.base import check_choice, check_severity, check_size, image_numbers
from ssdiff.process.degradations.registry import register_degradation


class SnowLevel(NamedTuple):
    """How hard it snows; pairs run linearly from t = 1 to T."""

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
"""The published levels [docs/math.md, equation (55)]."""

_STEEPEST, _FLATTEST = math.radians(-135), math.radians(-45)  # of flakes that are blurred aslant [ImageNet-C]


@register_degradation("snow")
def snowfall(
    size: Size,
    T: int,
    *,
    level: int = 3,
    whiten: bool = False,
    share: int = 1,
    motion: str = "axis",
    seed: int = 0,
) -> Snow:
    """Let it snow [CD, section 5.4], as the published runs do where options are omitted.

    Args:
        size: (H, W).
        T: the highest severity.
        level: 1 to 4; CIFAR-10 has 3, CelebA 4.
        whiten: brighten the image towards white as well, a step that the published runs switch off (their
            ``fix_brightness``).
        share: images with consecutive numbers that share one layer of flakes: 1, a layer for each image; the
            batch size, for a layer a batch of training (the published ``random_snow``); 0, one layer for all.
        motion: ``axis``: flakes are blurred along a row or a column, with even odds; ``slanted``: half a blur
            in a direction between, as ssdiff 0.2 had it, for models that were trained with it.
        seed: decides the layers, with the image numbers.
    """
    if level not in LEVELS:
        raise UsageError(f"snow has no level {level}", hint=f"choose one of {', '.join(map(str, LEVELS))}")
    check_choice("motion", motion, tuple(_FLAKES))
    check_choice("whiten", whiten, (True, False))
    if type(share) is not int or share < 0:
        raise UsageError(
            f"share is a number of images, not {share!r}", hint="1 is a layer an image, 0 one for all"
        )
    return Snow(size, T, LEVELS[level], _FLAKES[motion](size, LEVELS[level], seed), share, whiten=whiten)


class Flakes(Protocol):
    """Layers of flakes, a pure function of a number."""

    def draw(self, numbers: Tensor, progress: Tensor, like: Tensor) -> Tensor:
        """Return (B, 1, H, W) flakes in [0, 1].

        Args:
            numbers: (B,) of the layers.
            progress: (B or 1,) from 0 at t = 1 to 1 at T.
            like: gives device and type.
        """


class Snow:
    """D(x, t) = x plus a layer of flakes and its half-turn, clipped to [-1, 1].

    See docs/math.md, equation (55). With t more of the layer shows, and it is blurred more.

    Args:
        size: (H, W).
        T: the highest severity.
        level: of :data:`LEVELS`.
        flakes: draws layers.
        share: images with consecutive numbers that have one layer; 0 for one layer for all.
        whiten: brighten the image as well.
    """

    def __init__(
        self, size: Size, T: int, level: SnowLevel, flakes: Flakes, share: int = 1, *, whiten: bool = False
    ) -> None:
        self.size, self._top, self._level = size, T, level
        self._flakes, self._share, self._whiten = flakes, share, whiten

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
        layers = numbers // self._share if self._share else torch.zeros_like(numbers)
        layer = self._flakes.draw(layers, progress, x0)
        return fall(x0, layer, _along(self._level.brightness, progress) if self._whiten else None)


def fall(x0: Tensor, layer: Tensor, brightness: Tensor | None = None) -> Tensor:
    """Add a layer of flakes and its half-turn to images [docs/math.md, equation (55)].

    Args:
        x0: (B, C, H, W) in [-1, 1]; 1 or 3 channels.
        layer: (B or 1, 1, H, W) in [0, 1].
        brightness: (B or 1, 1, 1, 1) share that is not whitened; None for all of it.

    Returns:
        (B, C, H, W), clipped to [-1, 1].
    """
    pixels = x0 * 0.5 + 0.5
    if brightness is not None:
        grey = luma(x0) * 0.5 + 0.5
        pixels = torch.lerp(torch.maximum(pixels, grey * 1.5 + 0.5), pixels, brightness)
    return (pixels + layer + layer.flip(-1, -2)).clamp(0, 1) * 2 - 1


class AxisFlakes:
    """Layers that are blurred along a row or a column, with even odds, as published.

    Args:
        size: (H, W).
        level: of :data:`LEVELS`.
        seed: decides the layers, with their numbers.
    """

    def __init__(self, size: Size, level: SnowLevel, seed: int) -> None:
        self._size, self._level = size, level
        self._field, self._axis = rng.derive(seed, "degrade/snow"), rng.derive(seed, "degrade/snow/axis")

    def draw(self, numbers: Tensor, progress: Tensor, like: Tensor) -> Tensor:
        """Draw (B, 1, H, W) flakes in [0, 1], as :meth:`Flakes.draw`."""
        level = self._level
        small = [math.ceil(n / level.zoom) for n in self._size]
        field = level.mean + level.std * rng.normal(self._field, numbers, 0, (1, *small))
        vertical = rng.integers(self._axis, numbers, 0, 0, 2).bool()
        return flakes(field.to(like), self._size, level, progress, vertical)


def flakes(field: Tensor, size: Size, level: SnowLevel, progress: Tensor, vertical: Tensor) -> Tensor:
    """Return the layer of flakes that a field gives [docs/math.md, equation (55)].

    Args:
        field: (B, 1, h, w) random numbers, one for every ``level.zoom`` pixels; of a larger field the middle
            counts.
        size: (H, W) of the layer.
        level: of :data:`LEVELS`.
        progress: (B or 1,) from 0 at t = 1 to 1 at T.
        vertical: (B or 1,) bool, whether a layer is blurred along columns, not along rows.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    zoomed = zoom_field(field, size, level.zoom)
    clipped = torch.where(zoomed < _along(level.threshold, progress), 0, zoomed).clamp(0, 1)
    return _axis_blur(clipped, vertical, _along(level.blur, progress), level.taps)


def zoom_field(field: Tensor, size: Size, zoom: float) -> Tensor:
    """Resize the middle of a field, linearly and with its corners kept, and cut (H, W) from its middle.

    Args:
        field: (B, 1, h, w) with at least ceil(H / zoom) rows and ceil(W / zoom) columns.
        size: (H, W).
        zoom: of the field.
    """
    small = [math.ceil(n / zoom) for n in size]
    large = [round(n * zoom) for n in small]
    enlarged = F.interpolate(_middle(field, small), large, mode="bilinear", align_corners=True)
    return _middle(enlarged, size)


def _middle(x: Tensor, size: Size | list[int]) -> Tensor:
    top, left = ((found - n) // 2 for found, n in zip(x.shape[-2:], size, strict=True))
    return x[..., top : top + size[0], left : left + size[1]]


def _axis_blur(x: Tensor, vertical: Tensor, std: Tensor, taps: int) -> Tensor:
    """A Gaussian of some taps along columns or rows, (B,) and (B, 1, 1, 1) stds; zeros beyond the border."""
    reach, (height, width) = taps // 2, x.shape[-2:]
    offset = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offset / std.flatten()[:, None]).square())  # (B or 1, taps)
    weights = weights / weights.sum(1, keepdim=True)
    padded = F.pad(x, (reach, reach, reach, reach))
    along_columns = vertical[:, None, None, None]
    result = torch.zeros_like(x)
    for k in range(taps):
        down = padded[..., k : k + height, reach : reach + width]
        across = padded[..., reach : reach + height, k : k + width]
        result += weights[:, k, None, None, None] * torch.where(along_columns, down, across)
    return result


class SlantedFlakes:
    """Layers that are blurred by half a Gaussian in a direction of their own, as ssdiff 0.2 drew them.

    Args:
        size: (H, W).
        level: of :data:`LEVELS`.
        seed: decides the layers, with their numbers.
    """

    def __init__(self, size: Size, level: SnowLevel, seed: int) -> None:
        self._size, self._level = size, level
        self._field, self._angle = rng.derive(seed, "degrade/snow"), rng.derive(seed, "degrade/snow/angle")

    def draw(self, numbers: Tensor, progress: Tensor, like: Tensor) -> Tensor:
        """Draw (B, 1, H, W) flakes in [0, 1], as :meth:`Flakes.draw`."""
        level = self._level
        small = [math.ceil(n / level.zoom) for n in self._size]
        field = level.mean + level.std * rng.normal(self._field, numbers, 0, (1, *small))
        layer = F.interpolate(field.to(like), self._size, mode="bilinear", align_corners=False)
        layer = torch.where(layer < _along(level.threshold, progress), 0, layer).clamp(0, 1)
        turn = rng.uniform(self._angle, numbers, 0, ()).to(like)
        angle = _STEEPEST + (_FLATTEST - _STEEPEST) * turn
        return _slanted_blur(layer, angle, _along(level.blur, progress), level.taps)


def _slanted_blur(x: Tensor, angle: Tensor, std: Tensor, taps: int) -> Tensor:
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


_FLAKES: dict[str, type[AxisFlakes | SlantedFlakes]] = {"axis": AxisFlakes, "slanted": SlantedFlakes}


def _along(ends: tuple[float, float], progress: Tensor) -> Tensor:
    """(B or 1, 1, 1, 1): from the first to the second number."""
    return (ends[0] + (ends[1] - ends[0]) * progress)[:, None, None, None]
