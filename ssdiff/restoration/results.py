"""Restored images, and how near they are to the clean ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ssdiff import images as pictures
from ssdiff.evaluation.image_quality import compare
from ssdiff.images import to_uint8
from ssdiff.images.convert import Given, png_bytes

_SHOWN = 8  # rows of a notebook's picture


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """Restored images, and how near they are to the clean ones.

    A notebook shows degraded | restored (| clean), an image a row.

    Attributes:
        images: restored, in the form in which the images were given.
        degraded: what was restored, at full size, enlarged or filled in without a model; in the same form.
        sampler: rule of a step.
        psnr: (N,) float64, decibels; None where the clean images are not known.
        ssim: likewise, at most 1.
        rmse: likewise, of pixels in 0..1.
    """

    images: Any
    degraded: Any
    sampler: str
    psnr: Tensor | None
    ssim: Tensor | None
    rmse: Tensor | None
    _rows: Tensor = field(repr=False)  # (N, 2 or 3, C, R, R) uint8

    def picture(self) -> Image.Image:
        """Return degraded, restored and (if known) clean images side by side, an image a row."""
        return pictures.to_pillow(pictures.grid(self._rows.flatten(0, 1), self._rows.shape[1]))

    def to_dict(self) -> dict[str, Any]:
        """Return the number of images, the sampler, and the means of the three measures."""
        scores = {"psnr": self.psnr, "ssim": self.ssim, "rmse": self.rmse}
        means = {name: None if value is None else float(value.mean()) for name, value in scores.items()}
        return {"n": len(self._rows), "sampler": self.sampler, **means}

    def _repr_png_(self) -> bytes:
        shown = self._rows[:_SHOWN]
        return png_bytes(pictures.to_pillow(pictures.grid(shown.flatten(0, 1), shown.shape[1])))


def compared(
    read: Given, degraded: Tensor, restored: Tensor, clean: Tensor | None, sampler: str
) -> RestoreResult:
    """Return the result in the form in which the images were given, compared with clean ones if known."""
    quality = None if clean is None else compare(clean, restored)
    shown = [degraded, restored, *([] if clean is None else [clean])]
    counts = [len(one) for one in read.batches]
    return RestoreResult(
        read.like(restored.split(counts)),
        read.like(degraded.split(counts)),
        sampler,
        quality and quality.psnr,
        quality and quality.ssim,
        quality and quality.rmse,
        torch.stack([to_uint8(x) for x in shown], dim=1),
    )
