"""How much noise a picture has, where nobody says."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_MEDIAN = 0.6744897501960817  # of |n|, n standard normal


def estimate_noise(images: Tensor) -> Tensor:
    """Estimate the std of white noise on pictures from their finest diagonal details.

    The median of |HH| / 0.6745, HH the diagonal coefficients of the Daubechies wavelet with four taps, which
    are noise but at edges and in fine texture [Donoho & Johnstone 1994, section 3]; the median over all
    channels.

    Args:
        images: (B, C, H, W) in [-1, 1].

    Returns:
        (B,) in units of the [-1, 1] image, 0 or more.
    """
    root = math.sqrt(3)
    low = torch.tensor([1 + root, 3 + root, 3 - root, 1 - root], dtype=torch.float64) / (4 * math.sqrt(2))
    high = low.flip(0) * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    kernel = torch.outer(high, high).to(images)[None, None]
    short = [max(0, 4 - n) for n in images.shape[-2:]]  # a picture smaller than the wavelet says little
    planes = F.pad(images.flatten(0, 1)[:, None], (0, short[1], 0, short[0]), mode="replicate")
    details = F.conv2d(planes, kernel, stride=2).unflatten(0, images.shape[:2])
    spread: Tensor = details.abs().flatten(1).median(dim=1).values
    return spread / _MEDIAN
