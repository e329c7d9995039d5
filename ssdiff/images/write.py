"""Pixels to files: whole or not at all, and never over an existing file unless told to."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from torch import Tensor

from ssdiff.errors import OutputError, ResourceError, UsageError
from ssdiff.images.layout import to_uint8

SAVE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Endings that :func:`save_image` understands."""

# Files are for looking and for measuring: JPEG as good as it gets, the others without loss.
_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "optimize": True},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
}


def check_output(path: Path | str, overwrite: bool = False, suffixes: Sequence[str] | None = None) -> Path:
    """Refuse a bad output before the work that would fill it.

    Args:
        path: where the file shall go; its folder is created.
        overwrite: whether a file there may be replaced.
        suffixes: allowed endings, lower case; None allows any.

    Returns:
        The path.

    Raises:
        UsageError: the ending is not one of suffixes.
        OutputError: something is there already.
        ResourceError: the folder cannot be made or written.
    """
    path = Path(path)
    if suffixes is not None and path.suffix.lower() not in suffixes:
        ending = f"ending {path.suffix!r}" if path.suffix else "no ending"
        raise UsageError(f"{path} has {ending}", path=path, hint=f"supported are {', '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"{path} is a folder", path=path, hint="name a file")
    if not overwrite and os.path.lexists(path):
        raise OutputError(f"{path} exists", path=path, hint="choose another name or pass --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    if not os.access(path.parent, os.W_OK):
        raise ResourceError(f"cannot write in {path.parent}: permission denied", path=path)
    return path


def write_atomic(
    path: Path | str, content: bytes | Callable[[BinaryIO], object], overwrite: bool = False
) -> Path:
    """Write a file that is complete or not there, even if the power fails.

    The content goes to a temporary file in the same folder, is flushed to the disk and renamed; if anything
    fails the temporary file is removed.

    Args:
        path: where the file shall go; its folder is created.
        content: the bytes, or a function that writes them to a binary stream.
        overwrite: whether a file there may be replaced.

    Returns:
        The path.

    Raises:
        OutputError: something is there already.
        ResourceError: the folder cannot be written or the disk is full.
    """
    path = check_output(path, overwrite)
    temporary = path.with_name(f".ssdiff-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if not overwrite and os.path.lexists(path):
            raise OutputError(f"{path} exists", path=path, hint="it appeared in the meantime")
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def save_image(x: Tensor, path: Path | str, overwrite: bool = False) -> Path:
    """Write one image as PNG, JPEG (quality 95, full chroma) or lossless WebP, by the ending of the path.

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
    image, options = _to_pillow(x), _OPTIONS[path.suffix.lower()]
    return write_atomic(path, lambda stream: image.save(stream, **options), overwrite)


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
    first, *others = [_to_pillow(frame) for frame in frames]
    options: dict[str, Any] = {"loop": 0} if loop else {}
    duration = ms if isinstance(ms, int) else list(ms)

    def write(stream: BinaryIO) -> None:
        first.save(stream, format="GIF", save_all=True, append_images=others, duration=duration, **options)

    return write_atomic(path, write, overwrite)


def _to_pillow(x: Tensor) -> Image.Image:
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise UsageError(f"an image to save must be (1 or 3, height, width), not {tuple(x.shape)}")
    array = to_uint8(x.detach()).cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _cannot_write(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"cannot write {path}: {error.strerror or error}", path=path)


def _sync_folder(folder: Path) -> None:
    # Without this the new name can be lost with the power. Not every system lets a folder be opened.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
