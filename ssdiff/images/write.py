"""Pixels to files: whole or not at all, and never over an existing file unless told to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from torch import Tensor

from ssdiff.errors import OutputError, UsageError
from ssdiff.files import check_output, write_atomic
from ssdiff.images.convert import to_pillow

SAVE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""Endings that :func:`save_image` understands."""

# Files are for looking and for measuring: JPEG as good as it gets, the others without loss.
_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "optimize": True},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
}

_LARGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".gif": 65535}  # pixels a side that a format takes


def save_image(x: Tensor, path: Path | str, overwrite: bool = False) -> Path:
    """Write one image as PNG, TIFF, JPEG (quality 95, full chroma) or lossless WebP, by its ending.

    Args:
        x: (C, H, W), C 1 or 3, in [-1, 1] or uint8.
        path: where the file shall go; its folder is created.
        overwrite: whether a file there may be replaced.

    Returns:
        The path.

    Raises:
        UsageError: the ending is unknown, or x is no image.
        OutputError: something is there already.
        ResourceError: the folder cannot be written or the disk is full.
    """
    path = check_output(path, overwrite, SAVE_SUFFIXES)
    image, options = to_pillow(x), _OPTIONS[path.suffix.lower()]
    if max(image.size) > _LARGEST.get(path.suffix.lower(), math.inf):
        raise _kept_beside(image, path)
    return write_atomic(path, lambda stream: image.save(stream, **options), overwrite)


def file_options(suffix: str) -> dict[str, Any]:
    """Return what Pillow needs to save a file of an ending, in small letters."""
    return dict(_OPTIONS[suffix])


def check_extent(path: Path, height: int, width: int) -> None:
    """Refuse a picture that is too large for its format, before it is computed.

    Args:
        path: where it shall go; its ending is the format.
        height: of the picture, pixels.
        width: likewise.

    Raises:
        OutputError: then.
    """
    most = _LARGEST.get(path.suffix.lower(), math.inf)
    if max(width, height) > most:
        raise OutputError(
            f"{path} would have {width} x {height} pixels, {path.suffix.lower()} takes {most} a side",
            path=path,
            hint="name a .png, or make the picture smaller",
        )


def _kept_beside(image: Image.Image, path: Path) -> OutputError:
    """Write as PNG what is too large for its format; the error that says so."""
    beside = path.with_name(f"{path.name}.png")
    write_atomic(beside, lambda stream: image.save(stream, format="PNG"), overwrite=True)
    (width, height), most = image.size, _LARGEST[path.suffix.lower()]
    return OutputError(
        f"{path} cannot have {width} x {height} pixels, its format takes {most} a side",
        path=path,
        hint=f"the picture is in {beside}; name a .png next time",
    )


def save_gif(
    frames: Tensor | Sequence[Tensor],
    path: Path | str,
    ms: int | Sequence[int] = 80,
    loop: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write an animated GIF.

    Args:
        frames: (C, H, W) each, of one size, C 1 or 3, in [-1, 1] or uint8.
        path: where the file shall go, ending in .gif; its folder is created.
        ms: milliseconds a frame, one number or one a frame; GIF counts in steps of 10.
        loop: repeat for ever.
        overwrite: whether a file there may be replaced.

    Returns:
        The path.

    Raises:
        UsageError: the ending is not .gif, there is no frame, or their sizes differ.
        OutputError: something is there already.
        ResourceError: the folder cannot be written or the disk is full.
    """
    path = check_output(path, overwrite, (".gif",))
    shapes = sorted({tuple(frame.shape) for frame in frames})
    if len(shapes) != 1:
        raise UsageError(f"an animation needs frames of one shape, not {shapes or 'none at all'}", path=path)
    first, *others = [to_pillow(frame) for frame in frames]
    if max(first.size) > _LARGEST[".gif"]:
        raise _kept_beside(first, path)
    options: dict[str, Any] = {"loop": 0} if loop else {}
    duration = ms if isinstance(ms, int) else list(ms)

    def write(stream: BinaryIO) -> None:
        first.save(stream, format="GIF", save_all=True, append_images=others, duration=duration, **options)

    return write_atomic(path, write, overwrite)
