"""Masks out of files, pictures and tensors."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from ssdiff import images as pictures
from ssdiff.arguments import as_path, require_type
from ssdiff.errors import UsageError
from ssdiff.images import from_uint8
from ssdiff.images.convert import ImageLike
from ssdiff.images.read import alpha_of, from_pillow, pixels
from ssdiff.operators.base import Size


@dataclass(frozen=True)
class GivenMask:
    """What is missing: white or True; of a picture with transparency what is opaque.

    Attributes:
        mask: an image or file, or (H, W) bool.
        invert: what is missing and what is known change places.
        notes: what the user should hear of it, filled while it is read.

    Raises:
        UsageError: it is of another form.
    """

    mask: Tensor | ImageLike
    invert: bool = False
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.mask, Tensor):
            if self.mask.dtype != torch.bool or self.mask.ndim != 2:
                raise UsageError(
                    f"the mask must be (H, W) bool, not {tuple(self.mask.shape)} {self.mask.dtype}",
                    hint="True where the image is missing",
                )
            return
        require_type("the mask", self.mask, Image.Image | str | os.PathLike, "give an image or (H, W) bool")

    def look(self) -> None:
        """Read as much of a picture as its notes need.

        Raises:
            DataError: it cannot be read.
        """
        if not isinstance(self.mask, Tensor):
            _ = self._alpha

    def known(self, size: Size, *, resized: bool) -> Tensor:
        """Return (H, W) float, 1 where an image is known.

        Args:
            size: (H, W) of the image.
            resized: a picture of another size but the same shape is resized, as the image was.

        Raises:
            UsageError: another size, or nothing is known, or nothing missing.
        """
        missing = self._missing(size, resized)
        known = missing if self.invert else ~missing
        share = float(known.float().mean())
        if share in (0.0, 1.0):
            raise UsageError(
                f"the mask says that {'all' if share else 'nothing'} is known; needed are some known and "
                "some missing pixels",
                hint="black is known, white is missing; --invert-mask takes it the other way",
            )
        return known.float()

    @property
    def size(self) -> Size:
        """(H, W) of the mask as it was given."""
        if isinstance(self.mask, Tensor):
            return self.mask.shape[0], self.mask.shape[1]
        grey = self._grey()
        return grey.shape[-2], grey.shape[-1]

    def _missing(self, size: Size, resized: bool) -> Tensor:
        height, width = found = self.size
        same_shape = not isinstance(self.mask, Tensor) and height * size[1] == width * size[0]
        if found != size and not (resized and same_shape):
            raise UsageError(
                f"the mask has {width} x {height} pixels, the image {size[1]} x {size[0]}",
                hint="give one of the image's size: black is known, white is missing",
            )
        if isinstance(self.mask, Tensor):
            return self.mask.cpu()
        if self._alpha is not None:
            return self._alpha > 0.5
        return self._grey(size)[0] >= 0

    def _grey(self, size: Size | None = None) -> Tensor:
        """(1, H, W) in [-1, 1]."""
        assert not isinstance(self.mask, Tensor)
        if isinstance(self.mask, Image.Image):
            grey = pixels(from_pillow(self.mask, channels=1, background=0.0, size=size))
            return from_uint8(torch.from_numpy(grey))
        return pictures.read_image(as_path("mask", self.mask), channels=1, background=0.0, size=size)

    @cached_property
    def _alpha(self) -> Tensor | None:
        """(H, W) opacity in 0..1 of a picture that is opaque in parts; None of any other."""
        assert not isinstance(self.mask, Tensor)
        alpha = alpha_of(self.mask if isinstance(self.mask, Image.Image) else as_path("mask", self.mask))
        if alpha is not None and bool((alpha == alpha.flatten()[0]).all()):
            alpha = None
        if alpha is not None:
            self.notes.append(
                "the mask has transparent parts: what is opaque is missing, what is transparent known"
                + (", inverted" if self.invert else "; --invert-mask takes it the other way")
            )
        return alpha


def given_mask(mask: Tensor | ImageLike | None, invert: bool = False) -> GivenMask | None:
    """Return a mask as it was given; None where none was.

    Raises:
        UsageError: none is to be inverted, or it is of another form.
    """
    if mask is not None:
        return GivenMask(mask, invert)
    if invert:
        raise UsageError("--invert-mask needs a mask", hint="give one (--mask), or leave it out")
    return None
