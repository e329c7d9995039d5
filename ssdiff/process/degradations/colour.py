"""Degradations of colour."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.operators.base import Size
from ssdiff.operators.colour import lab_to_rgb, rgb_to_lab
from ssdiff.operators.pixelwise import ChannelMix
from ssdiff.process.base import Timestep
from ssdiff.process.degradations.base import Degradation, LinearDegradation, check_choice
from ssdiff.process.degradations.registry import register_degradation

_FACTOR = 0.9  # of the published constant routine


@register_degradation("desaturate")
def desaturate(
    size: Size,
    T: int,
    *,
    rule: str = "linear",
    factor: float | None = None,
    grey_last: bool = False,
    space: str = "rgb",
) -> Degradation:
    """Fade colours to the mean of the three channels [CD, appendix].

    D(x, t) = f_t x + (1 - f_t) mean(x), f_t = 1 - t / T, or ``factor``^t [docs/math.md, equation (54)].

    Args:
        size: (H, W).
        T: the highest severity.
        rule: ``linear``: grey at T; or ``constant``: a step multiplies what is left of colour by ``factor``,
            so that some is left at T, 12 % with the published 0.9 and T = 20.
        factor: of the constant rule, in (0, 1); 0.9 where omitted.
        grey_last: the last step of the constant rule takes all that is left.
        space: ``rgb``; or ``lab``: each step takes images to CIE Lab and back, as the published code does
            where it holds them there. That cuts what lies outside [-1, 1], such as the predictions of a
            network, and changes nothing else. The published networks of that routine see Lab, ours RGB.
    """
    check_choice("rule", rule, ("linear", "constant"))
    check_choice("space", space, ("rgb", "lab"))
    check_choice("grey_last", grey_last, (True, False))
    if rule == "linear" and (factor is not None or grey_last):
        raise UsageError(
            "factor and grey_last are for rule = 'constant'", hint="the linear rule ends in grey"
        )
    each = _FACTOR if factor is None else factor
    if not 0 < each < 1:
        raise UsageError(f"factor must be between 0 and 1, not {each}")
    grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)

    def operator(t: int) -> ChannelMix:
        constant = 0.0 if grey_last and t == T else each**t
        return ChannelMix(torch.lerp(eye, grey, t / T if rule == "linear" else 1 - constant))

    mixed = LinearDegradation(size, T, operator)
    return InLab(mixed) if space == "lab" else mixed


class InLab:
    """A degradation of images that are held in CIE Lab: cut to the gamut of sRGB before it.

    Args:
        inner: of images in [-1, 1], whose results stay there.
    """

    def __init__(self, inner: Degradation) -> None:
        self.size, self._inner = inner.size, inner

    @property
    def T(self) -> int:
        """The highest severity."""
        return self._inner.T

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t), as :meth:`ssdiff.process.degradations.base.Degradation.degrade`."""
        if isinstance(t, int) and t == 0:
            return self._inner.degrade(x0, t, images)
        return lab_to_rgb(self.degrade_lab(rgb_to_lab(x0.clamp(-1, 1)), t, images))

    def degrade_lab(self, lab: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D of images in Lab, in Lab: (B, 3, H, W) with L in 0..100; t is 1..T."""
        return rgb_to_lab(self._inner.degrade(lab_to_rgb(lab), t, images))
