"""Colour and its luma."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue [BT.601], as in Pillow."""


def luma(images: Tensor) -> Tensor:
    """Return the (B, 1, H, W) luma of (B, 3, H, W) images; the mean of the channels where there are not
    three."""
    if images.shape[1] != len(LUMA):
        return images.mean(1, keepdim=True)
    return torch.einsum("c,bchw->bhw", images.new_tensor(LUMA), images)[:, None]
