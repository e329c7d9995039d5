"""Sixteen bits a channel, of which Pillow reads the upper half of colours, and writes grey alone."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssdiff.images import read

DEEP_SUFFIXES = (".png", ".tif", ".tiff")
"""Endings of formats that hold 16 bits a channel."""

SAID = (270, 271, 272, 305, 306, 315, 33432)
"""EXIF and TIFF tags that say what a picture is, not how its file is laid out."""

_PROFILE = 34675  # TIFF tag of an ICC profile
_ROWS = 2**22  # bytes of rows that are compressed at once


def deep_values(
    image: Image.Image, stream: BinaryIO, name: str
) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
    """Return the pixels of a file of more than 8 bits a channel.

    Args:
        image: as Pillow opened it.
        stream: of the file, of which the half that Pillow drops is read again.
        name: of the file, for messages.

    Returns:
        (C, H, W) float32 in 0..1, and (1, H, W) opacity where there is one; None of other files.

    Raises:
        DataError: the pixels cannot be read.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey, alpha = read.grey_values(image, name)
        return grey[None], None if alpha is None else alpha[None]
    layout = getattr(image, "raw_layout", None)
    low = _LOW_BYTES.get(layout) if isinstance(layout, str) else None
    if low is None:
        return None
    high = np.asarray(image, np.float32)
    below = np.asarray(read.load(stream, name, image.width * image.height, layout=low), np.float32)
    values = high.transpose(2, 0, 1) * (256 / 65535) + below.transpose(2, 0, 1)[: high.shape[2]] / 65535
    values = np.ascontiguousarray(values, np.float32)
    return values[:3], (values[3:] if len(values) == 4 else None)


_LOW_BYTES = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGB;16N": "RGB;16B",
    "RGBA;16N": "RGBA;16B",
}
"""The layout that takes the other byte of each pair, by that which Pillow takes the high byte with."""


def deep_writer(
    suffix: str,
    values: NDArray[np.uint16],
    profile: bytes | None,
    exif: Image.Exif | None,
    info: dict[str, Any],
) -> Callable[[BinaryIO], object]:
    """Return what writes pixels of 16 bits a channel to a stream.

    Args:
        suffix: one of :data:`DEEP_SUFFIXES`.
        values: (H, W, C); C is 1 or 3, and one more with opacity.
        profile: ICC profile to embed.
        exif: metadata; for a TIFF those tags of :data:`SAID` that are text.
        info: dpi, as :class:`ssdiff.images.picture.Form` has it.
    """
    if suffix == ".png":
        return _png_writer(values, profile, exif_bytes(exif), info)
    return _tiff_writer(values, profile, exif, info)


def exif_bytes(exif: Image.Exif | None) -> bytes | None:
    """Return metadata as files hold them; None where they cannot be written."""
    try:
        return None if exif is None else exif.tobytes()
    except Exception:  # tags of types that nobody knows
        return None


def _tiff_writer(
    values: NDArray[np.uint16], profile: bytes | None, exif: Image.Exif | None, info: dict[str, Any]
) -> Callable[[BinaryIO], object]:
    """A TIFF of 16 bits a channel, which Pillow writes of grey only."""
    opacity = values.shape[2] in (2, 4)
    if values.shape[2] == 2:  # grey with opacity, which few programs read
        values = values[..., [0, 0, 0, 1]]
    colours = values.shape[2] > 1
    pixels = values if colours else values[..., 0]
    said = {tag: text.encode("latin-1", "replace") for tag, text in (exif or {}).items()}
    tags: list[tuple[int, str, int, bytes, bool]] = [(tag, "s", 0, text, True) for tag, text in said.items()]
    if profile is not None:
        tags.append((_PROFILE, "B", len(profile), profile, True))
    options: dict[str, Any] = {
        "photometric": "rgb" if colours else "minisblack",
        "planarconfig": "contig" if colours else None,
        "extrasamples": ["unassalpha"] if opacity else None,
        "compression": "zlib",
        "rowsperstrip": max(1, _ROWS // (values.shape[1] * values.shape[2] * 2)),
        "metadata": None,
        "software": False,
        "resolution": info.get("dpi"),
        "resolutionunit": "INCH" if "dpi" in info else None,
        "extratags": tags,
    }

    def write(stream: BinaryIO) -> None:
        import tifffile  # of use to few, and slow to import

        tifffile.imwrite(stream, pixels, **options)

    return write


def _png_writer(
    values: NDArray[np.uint16], profile: bytes | None, exif: bytes | None, info: dict[str, Any]
) -> Callable[[BinaryIO], object]:
    """A PNG of 16 bits a channel, which Pillow writes of grey only; each row as its difference from the one
    above."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def write(stream: BinaryIO) -> None:
        def chunk(name: bytes, data: bytes) -> None:
            stream.write(struct.pack(">I", len(data)) + name + data)
            stream.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))

        stream.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        if profile is not None:
            chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
        if "dpi" in info:
            chunk(b"pHYs", struct.pack(">IIB", *(round(n / 0.0254) for n in info["dpi"]), 1))
        if exif is not None:
            chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
        packer, above = zlib.compressobj(6), np.zeros((1, width * channels * 2), np.uint8)
        rows = max(1, _ROWS // above.size)
        for first in range(0, height, rows):
            part = values[first : first + rows].astype(">u2").reshape(-1, width * channels)
            line = np.frombuffer(part.tobytes(), np.uint8).reshape(len(part), -1)
            filtered = np.full((len(line), line.shape[1] + 1), 2, np.uint8)
            filtered[:, 1:] = line - np.concatenate([above, line[:-1]])
            above = line[-1:]
            if data := packer.compress(filtered.tobytes()):
                chunk(b"IDAT", data)
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")

    return write
