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


_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)  # of linear sRGB; rows X, Y, Z
_WHITE = (0.95047, 1.0, 1.08883)  # D65
_EDGE = 0.008856  # of X / X_white, below which the cube root is a line


def rgb_to_lab(images: Tensor) -> Tensor:
    """Return (B, 3, H, W) images in CIE Lab (D65), L in 0..100, of sRGB images in [-1, 1]."""
    coded = (_wide(images) + 1) / 2
    linear = torch.where(coded > 0.04045, ((coded + 0.055) / 1.055).clamp_min(0) ** 2.4, coded / 12.92)
    xyz = torch.einsum("dc,bchw->bdhw", linear.new_tensor(_XYZ), linear)
    share = xyz / xyz.new_tensor(_WHITE)[:, None, None]
    f = torch.where(share > _EDGE, share.clamp_min(_EDGE) ** (1 / 3), 7.787 * share + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1).to(images.dtype)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Return (B, 3, H, W) sRGB images, cut to [-1, 1], of images in CIE Lab as from :func:`rgb_to_lab`."""
    lightness, a, b = _wide(lab).unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, (y - b / 200).clamp_min(0)], 1)
    share = torch.where(f > _EDGE ** (1 / 3), f**3, (f - 4 / 29) / 7.787)
    xyz = share * share.new_tensor(_WHITE)[:, None, None]
    from_xyz = torch.linalg.inv(torch.tensor(_XYZ, dtype=torch.float64)).to(xyz)
    linear = torch.einsum("dc,bchw->bdhw", from_xyz, xyz)
    curved = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    coded = torch.where(linear > 0.0031308, curved, 12.92 * linear)
    return (coded.clamp(0, 1) * 2 - 1).to(lab.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x
