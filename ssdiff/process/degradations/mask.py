"""Inpainting masks: Gaussian bumps that grow and multiply up [CD, section 5.3].

The mask of severity t is the product over i < t of 1 - g_i, g_i a bump of maximum 1 and standard deviation
kernel_std (i + initial) [docs/math.md, equation (53)].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.devices import to_device
from ssdiff.errors import UsageError
from ssdiff.operators.base import Constants, Size
from ssdiff.operators.pixelwise import Mask
from ssdiff.process.base import Timestep
from ssdiff.process.degradations.base import (
    Degradation,
    LinearDegradation,
    check_severity,
    check_size,
    image_numbers,
    positive_pixels,
)
from ssdiff.process.degradations.registry import register_degradation

_BUMPS, _BUMP_GROWTH = 50, 1 / 320  # the official masks of CIFAR-10: 50 bumps, 0.1 px at 32 px


@register_degradation("mask")
def mask(
    size: Size,
    T: int,
    *,
    kernel_std: float | None = None,
    initial: int = 1,
    bumps: int | None = None,
    centre: str = "middle",
    seed: int = 0,
) -> Degradation:
    """Grow a hole with a soft edge [CD, section 5.3].

    Args:
        size: (H, W).
        T: the highest severity.
        kernel_std: pixels by which each bump is wider than the one before; 1/320 of the shorter side where
            omitted, which is the official 0.1 at 32 px.
        initial: width of the first bump in units of ``kernel_std``.
        bumps: how many there are at T; 50 where omitted, as for CIFAR-10.
        centre: ``middle``, or ``random``: a pixel of each image's own.
        seed: decides the random centres.
    """
    growth = positive_pixels("kernel_std", kernel_std, min(size) * _BUMP_GROWTH)
    count = _BUMPS if bumps is None else bumps
    if count < 1 or initial < 1 or centre not in ("middle", "random"):
        raise UsageError(
            f"a mask needs bumps and initial of at least 1, not {count} and {initial}, and a known centre, "
            f"not {centre!r}",
            hint="centre is 'middle' or 'random'",
        )
    family = GaussianMaskSchedule(count, T, growth, initial)
    return centred(size, T, family) if centre == "middle" else RandomMask(size, T, family, seed)


class GaussianMaskSchedule:
    """The bumps of a family of masks, for any number of severities.

    Args:
        count: bumps behind the mask of severity T.
        T: the highest severity; in between, a bump counts by the part of it that has come.
        kernel_std: pixels by which a bump is wider than the one before.
        initial: width of the first one, in units of ``kernel_std``.
    """

    def __init__(self, count: int, T: int, kernel_std: float, initial: int) -> None:
        self._count, self._T = count, T
        self._stds = [kernel_std * (i + initial) for i in range(count)]

    def product(self, rows: Tensor, columns: Tensor, t: int) -> Tensor:
        """Return the (H, W) float64 mask of severity t.

        Args:
            rows: (H,) distance of each row from the centre, pixels.
            columns: (W,) likewise.
            t: severity, 0..T.
        """
        progress = t * self._count / self._T
        weights = [min(1.0, progress - i) for i in range(math.ceil(progress))]
        mask = torch.ones(len(rows), len(columns), dtype=torch.float64)
        for std, weight in zip(self._stds, weights, strict=False):
            y, x = (torch.exp(-0.5 * (d.double() / std).square()) for d in (rows, columns))
            kept = 1 - y[:, None] * x
            mask *= kept if weight == 1 else kept.clamp_min(0) ** weight
        return mask


def centred(size: Size, T: int, bumps: GaussianMaskSchedule) -> LinearDegradation:
    """Return masks around the middle, pixel (H / 2 - 1, W / 2 - 1) as in the official code."""
    rows, columns = (torch.arange(n) - max(n // 2 - 1, 0) for n in size)
    return LinearDegradation(size, T, lambda t: Mask(bumps.product(rows, columns, t)))


class RandomMask:
    """Masks around a pixel of each image's own, the same at every severity.

    Args:
        size: (H, W).
        T: the highest severity.
        bumps: what the masks are made of.
        seed: decides the centres, with the image numbers.
    """

    def __init__(self, size: Size, T: int, bumps: GaussianMaskSchedule, seed: int) -> None:
        self.size, self._top, self._bumps = size, T, bumps
        self._keys = [rng.derive(seed, f"degrade/mask/{axis}") for axis in ("row", "column")]

    @property
    def T(self) -> int:
        """The highest severity."""
        return self._top

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t), as :meth:`ssdiff.process.degradations.base.Degradation.degrade`."""
        check_size(x0, self.size)
        check_severity(t, self.T)
        numbers = image_numbers(x0, images)
        # Every mask is a window of one that is centred in twice the size.
        rows, columns = (
            n - rng.integers(key, numbers, 0, 0, n)[:, None] + torch.arange(n, device=x0.device)
            for key, n in zip(self._keys, self.size, strict=True)
        )
        if isinstance(t, int):
            return self._canvas(t).to(x0)[rows[:, None, :, None], columns[:, None, None, :]] * x0
        table = self._canvases.like(x0)["masks"]
        chosen = to_device(t, x0.device)[:, None, None, None]
        return table[chosen, rows[:, None, :, None], columns[:, None, None, :]] * x0

    def _canvas(self, t: int) -> Tensor:
        rows, columns = (torch.arange(2 * n) - n for n in self.size)
        return self._bumps.product(rows, columns, t)

    @cached_property
    def _canvases(self) -> Constants:
        masks: Sequence[Tensor] = [self._canvas(t) for t in range(self.T + 1)]
        return Constants(masks=torch.stack(list(masks)))
