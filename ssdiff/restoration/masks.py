"""Masks out of files, pictures and tensors."""

from __future__ import annotations

import os

import torch
from PIL import Image
from torch import Tensor

from ssdiff import images as pictures
from ssdiff.arguments import as_path, require_type
from ssdiff.errors import UsageError
from ssdiff.images import from_uint8
from ssdiff.images.convert import ImageLike
from ssdiff.images.read import from_pillow, pixels
from ssdiff.operators.base import Size


def known_pixels(mask: Tensor | ImageLike, side: int) -> Tensor:
    """Return (side, side) float, 1 where the image is known, of a mask that is white or True where it is
    missing.

    Raises:
        UsageError: it has another size or form.
        DataError: a file that cannot be read.
    """
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool or tuple(mask.shape) != (side, side):
            raise UsageError(
                f"the mask must be ({side}, {side}) bool, not {tuple(mask.shape)} {mask.dtype}",
                hint="True where the image is missing",
            )
        return (~mask).float().cpu()
    require_type("the mask", mask, Image.Image | str | os.PathLike, "give an image or (R, R) bool")
    height, width = _mask_pixels(mask).shape[-2:]
    if height != width:
        raise UsageError(
            f"the mask has {width} x {height} pixels, the image {side} x {side}",
            hint="give one of the image's shape: black is known, white is missing",
        )
    return (_mask_pixels(mask, (side, side))[0] < 0).float()


def _mask_pixels(mask: ImageLike, size: Size | None = None) -> Tensor:
    """(1, H, W); on black, because what was not painted on a transparent layer is not missing."""
    if isinstance(mask, Image.Image):
        grey = pixels(from_pillow(mask, channels=1, background=0.0, size=size))
        return from_uint8(torch.from_numpy(grey))
    return pictures.read_image(as_path("mask", mask), channels=1, background=0.0, size=size)
