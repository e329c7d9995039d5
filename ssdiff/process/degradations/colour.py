"""Degradations of colour."""

from __future__ import annotations

import torch

from ssdiff.operators.base import Size
from ssdiff.operators.pixelwise import ChannelMix
from ssdiff.process.degradations.base import LinearDegradation
from ssdiff.process.degradations.registry import register_degradation


@register_degradation("desaturate")
def desaturate(size: Size, T: int) -> LinearDegradation:
    """Fade colours linearly to the mean of the three channels [CD, appendix]; grey at T.

    D(x, t) = (1 - t / T) x + (t / T) mean(x) [docs/math.md, equation (54)].
    """
    grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    return LinearDegradation(size, T, lambda t: ChannelMix(torch.lerp(eye, grey, t / T)))
