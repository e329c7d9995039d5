"""What a JPEG file has rounded: quantisation tables and the sampling of its colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ssdiff.arguments import require_whole
from ssdiff.images.convert import to_pillow
from ssdiff.images.layout import from_uint8
from ssdiff.images.read import pixels

_COLOURS = (82, 71, 66)  # components by these names, R, G and B, are colours, not luma and chroma
_FACTORS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class JpegTables:
    """How coarsely a JPEG file keeps the cosines of its blocks of 8 x 8 samples.

    Attributes:
        luma: 64 steps, row by row, in grey levels of 0..255.
        chroma: likewise; None of a grey file.
        factor: (rows, columns) of pixels that share a sample of chroma, each 1, 2 or 4.
    """

    luma: tuple[int, ...]
    chroma: tuple[int, ...] | None = None
    factor: tuple[int, int] = (1, 1)


def tables_of(image: Image.Image) -> JpegTables | None:
    """Return the tables of an image that Pillow opened; None of one that is no JPEG of luma and chroma."""
    found: Any = getattr(image, "quantization", None)
    layers: Any = getattr(image, "layer", None)
    if image.format not in ("JPEG", "MPO") or not found or not layers or len(layers) not in (1, 3):
        return None
    # (name, columns, rows, table) of each component
    try:
        tables = [tuple(int(step) for step in found[layer[3]]) for layer in layers]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    if any(len(table) != 64 or min(table) < 1 for table in tables):
        return None
    if len(layers) == 1:
        return JpegTables(tables[0])
    names = tuple(layer[0] for layer in layers)
    if names == _COLOURS or image.info.get("adobe_transform") == 0 or tables[1] != tables[2]:
        return None
    shares = {(layers[0][2] / layer[2], layers[0][1] / layer[1]) for layer in layers[1:]}
    if len(shares) != 1 or not set(*shares) <= set(_FACTORS):
        return None
    rows, columns = (int(share) for share in shares.pop())
    return JpegTables(tables[0], tables[1], (rows, columns))


@lru_cache(maxsize=8)
def tables_of_quality(quality: int, channels: int = 3) -> JpegTables:
    """Return the tables by which Pillow, as most programs, writes JPEG files of a quality.

    Args:
        quality: 1..100.
        channels: 1 or 3.

    Raises:
        UsageError: a quality out of range.
    """
    tables = tables_of(_encoded(torch.zeros(channels, 8, 8), quality))
    assert tables is not None, "written as luma and chroma"
    return tables


def through_jpeg(x: Tensor, quality: int) -> Tensor:
    """Return images as they come out of JPEG files.

    Args:
        x: (B, C, H, W) in [-1, 1], C 1 or 3.
        quality: 1..100.

    Raises:
        UsageError: a quality out of range.
    """
    return torch.stack([from_uint8(torch.from_numpy(pixels(_encoded(image, quality)))) for image in x])


def _encoded(x: Tensor, quality: int) -> Image.Image:
    require_whole("quality", quality, 1, 100)
    stream = BytesIO()
    to_pillow(x).save(stream, format="JPEG", quality=quality)
    image = Image.open(stream)
    image.load()
    return image
