"""Masks: Gaussian bumps that grow and multiply up [CD, section 5.3].

What severity t keeps of a pixel is the product over i < t of 1 - g_i, g_i a bump of maximum 1 and standard
deviation kernel_std (i + initial); in reverse order it is 1 minus that product over i < T - t. What is lost
becomes grey, or one constant colour an image [docs/math.md, equation (53)].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property

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
    check_choice,
    check_severity,
    check_size,
    image_numbers,
    positive_pixels,
)
from ssdiff.process.degradations.registry import register_degradation

_BUMPS, _BUMP_GROWTH = 50, 1 / 320  # the official masks of CIFAR-10: 50 bumps, 0.1 px at 32 px
_TABLE = 2**25  # numbers in the masks of all severities that are computed at once and kept, 256 MB
_PALEST = 0.5  # of a colour that images fade into, away from grey [CD, section 5.3]

Colours = Callable[[Tensor, int], Tensor]
"""Image numbers (B,) and a number of channels to colours (B, C) in [-1, 1]."""


@register_degradation("mask")
def mask(
    size: Size,
    T: int,
    *,
    kernel_std: float | None = None,
    std: str = "incremental",
    initial: int = 1,
    bumps: int | None = None,
    centre: str = "middle",
    reverse: bool = False,
    fill: str = "grey",
    seed: int = 0,
) -> Degradation:
    """Grow a hole with a soft edge, or let all but the middle vanish [CD, section 5.3].

    The masks of restoration are the default; those of the published generation are ``reverse = True`` and
    ``fill = "colour"`` with as many bumps as severities: nothing of an image is left at T, so that it can be
    sampled from a constant image.

    Args:
        size: (H, W).
        T: the highest severity.
        kernel_std: pixels by which each bump is wider than the one before; 1/320 of the shorter side where
            omitted, which is the official 0.1 at 32 px.
        std: ``incremental``, or ``constant``: every bump is ``kernel_std`` wide, so that the hole deepens and
            its edge creeps outwards; then kernel_std has to be given, and initial has no part.
        initial: width of the first bump in units of ``kernel_std``.
        bumps: how many there are at T; 50 where omitted, as for CIFAR-10.
        centre: ``middle``, or ``random``: a pixel of each image's own.
        reverse: information vanishes from the border inwards, not from the centre outwards.
        fill: what is lost becomes ``grey``, 0; or one ``colour`` an image, each channel uniform in
            [-0.5, 0.5], the same at every severity.
        seed: decides the random centres and colours.
    """
    check_choice("std", std, ("incremental", "constant"))
    check_choice("centre", centre, ("middle", "random"))
    check_choice("fill", fill, ("grey", "colour"))
    check_choice("reverse", reverse, (True, False))
    if std == "constant" and (kernel_std is None or initial != 1):
        raise UsageError(
            "std = 'constant' is one width for all bumps", hint="give kernel_std, and leave initial out"
        )
    growth = positive_pixels("kernel_std", kernel_std, min(size) * _BUMP_GROWTH)
    count = _BUMPS if bumps is None else bumps
    if count < 1 or initial < 1:
        raise UsageError(f"a mask needs bumps and initial of at least 1, not {count} and {initial}")
    stds = [growth * (i + initial if std == "incremental" else 1) for i in range(count)]
    family = GaussianMaskSchedule(stds, T, reverse=reverse)
    faded = centred(size, T, family) if centre == "middle" else RandomMask(size, T, family, seed)
    return ColourFade(faded, random_colours(seed), complete=reverse) if fill == "colour" else faded


class GaussianMaskSchedule:
    """The bumps of a family of masks, for any number of severities.

    Args:
        stds: of the bumps behind the mask of the last severity, pixels.
        T: the highest severity; in between, a bump counts by the part of it that has come.
        reverse: severity t keeps what severity T - t takes.
    """

    def __init__(self, stds: Sequence[float], T: int, *, reverse: bool = False) -> None:
        self._stds, self._T, self._reverse = stds, T, reverse

    def kept(self, rows: Tensor, columns: Tensor, t: int) -> Tensor:
        """Return the (H, W) float64 share of each pixel that severity t keeps.

        Args:
            rows: (H,) distance of each row from the centre, pixels.
            columns: (W,) likewise.
            t: severity, 1..T.
        """
        last = self._T - t if self._reverse else t
        for holes in self._holes(rows, columns, range(last, last + 1)):
            return self._turned(holes)
        raise AssertionError("one severity has one mask")

    def all_kept(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return (T, H, W), :meth:`kept` of every severity 1..T; the time grows with T, not its square."""
        wanted = range(self._T) if self._reverse else range(1, self._T + 1)
        masks = [self._turned(holes) for holes in self._holes(rows, columns, wanted)]
        return torch.stack(masks[::-1] if self._reverse else masks)

    def _turned(self, holes: Tensor) -> Tensor:
        return 1 - holes if self._reverse else holes

    def _holes(self, rows: Tensor, columns: Tensor, wanted: range) -> Iterator[Tensor]:
        """The product of the first bumps, for each of rising severities."""
        whole, product = 0, torch.ones(len(rows), len(columns), dtype=torch.float64)
        for t in wanted:
            progress = t * len(self._stds) / self._T
            while whole < math.floor(progress):
                product = product * self._spared(rows, columns, whole)
                whole += 1
            part = progress - whole
            if part:
                yield product * self._spared(rows, columns, whole).clamp_min(0) ** part
            else:
                yield product

    def _spared(self, rows: Tensor, columns: Tensor, i: int) -> Tensor:
        """1 - g_i."""
        y, x = (torch.exp(-0.5 * (d.double() / self._stds[i]).square()) for d in (rows, columns))
        return 1 - y[:, None] * x


def centred(size: Size, T: int, bumps: GaussianMaskSchedule) -> LinearDegradation:
    """Return masks around the middle, pixel (H / 2 - 1, W / 2 - 1) as in the official code."""
    rows, columns = (torch.arange(n) - max(n // 2 - 1, 0) for n in size)
    if T * size[0] * size[1] > _TABLE:
        return LinearDegradation(size, T, lambda t: Mask(bumps.kept(rows, columns, t)))

    @cache
    def masks() -> Tensor:
        return bumps.all_kept(rows, columns)

    return LinearDegradation(size, T, lambda t: Mask(masks()[t - 1]))


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
        if isinstance(t, int) and t == 0:
            return x0
        numbers = image_numbers(x0, images)
        # Every mask is a window of one that is centred in twice the size.
        rows, columns = (
            n - rng.integers(key, numbers, 0, 0, n)[:, None] + torch.arange(n, device=x0.device)
            for key, n in zip(self._keys, self.size, strict=True)
        )
        if isinstance(t, int):
            return self._canvas(t).to(x0)[rows[:, None, :, None], columns[:, None, None, :]] * x0
        table = self._canvases.like(x0)["masks"]
        chosen = to_device(t - 1, x0.device)[:, None, None, None]
        return table[chosen, rows[:, None, :, None], columns[:, None, None, :]] * x0

    def _canvas(self, t: int) -> Tensor:
        return self._bumps.kept(*self._distances(), t)

    def _distances(self) -> tuple[Tensor, Tensor]:
        rows, columns = (torch.arange(2 * n) - n for n in self.size)
        return rows, columns

    @cached_property
    def _canvases(self) -> Constants:
        return Constants(masks=self._bumps.all_kept(*self._distances()))


class ColourFade:
    """Images that fade into one constant colour c each: D(x, t) = c + K_t (x - c), K_t the share kept.

    See docs/math.md, equation (53), and [CD, section 5.3]. The colour of an image is the same at every
    severity, so Algorithm 2 keeps it along a trajectory.

    Args:
        kept: fades into grey: K_t x.
        colours: gives c by image number.
        complete: nothing but the colour is left at T, so that images can be sampled.
    """

    def __init__(self, kept: Degradation, colours: Colours, *, complete: bool) -> None:
        self.size, self._kept, self._colours, self.generates = kept.size, kept, colours, complete

    @property
    def T(self) -> int:
        """The highest severity."""
        return self._kept.T

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t), as :meth:`ssdiff.process.degradations.base.Degradation.degrade`."""
        if isinstance(t, int) and t == 0:
            return self._kept.degrade(x0, t, images)
        colour = self._colours(image_numbers(x0, images), x0.shape[1]).to(x0)[:, :, None, None]
        return self._kept.degrade(x0 - colour, t, images) + colour


def random_colours(seed: int) -> Colours:
    """Draw colours, each channel uniform in [-0.5, 0.5], a pure function of (seed, image number)."""
    key = rng.derive(seed, "degrade/mask/colour")
    return lambda images, channels: (2 * rng.uniform(key, images, 0, (channels,)) - 1) * _PALEST
