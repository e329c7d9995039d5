"""Files to pixels: one guarded way in, whatever the format, bit depth, orientation or transparency.

Policies, the same everywhere:

- Only PNG, JPEG, WebP, GIF, BMP, TIFF and PPM are opened, and the number of pixels is checked on the header.
- EXIF orientation is applied; what else the metadata say, and whether they are sound, does not matter.
- Of an animation the first frame counts.
- Colours of another profile than sRGB are converted to sRGB; a profile that cannot be read is ignored.
- Grey of 12 or 16 bits, also signed or with white as zero, is scaled to 8 bits, never clipped.
- Transparent pixels are composited on a grey background; a BMP whose alpha is zero throughout is opaque.
- A grey file read as colour is repeated; a colour file read as grey becomes its Rec. 601 luma.
"""

from __future__ import annotations

import ctypes
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from ssdiff.errors import DataError, SsdiffError, UsageError
from ssdiff.files import open_input
from ssdiff.images.layout import from_uint8

MAX_PIXELS = 100_000_000
"""Default limit on width times height of a file."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""File name endings that are taken for images, in lower case."""

# What people take for images under any name, by its first bytes.
_ISO_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"jxl ": "JPEG XL",
    b"crx ": "a raw photograph",
}
_FOREIGN = {b"\xff\x0a": "JPEG XL", b"8bps": "Photoshop's", b"%pdf": "PDF", b"<svg": "SVG", b"<?xml": "XML"}
# TIFF and EXIF tags.
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 258, 262, 274, 339
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BLOCK = 2**22  # values scaled at a time
GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_lock = threading.Lock()


def read_image(
    source: Path | str | bytes,
    *,
    channels: int | None = None,
    background: float = 1.0,
    max_pixels: int = MAX_PIXELS,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Read an image as a tensor.

    Args:
        source: a path, or the bytes of a file.
        channels: 1 (grey; a colour file becomes its luma), 3 (colour; a grey file is repeated) or None (1 for
            a grey file, else 3).
        background: grey behind transparent pixels, from 0 (black) to 1 (white).
        max_pixels: refuse files with more, before decoding them.
        size: (H, W) to which the largest part of that shape in the middle is resized, as training data are.

    Returns:
        (C, H, W) float32 in [-1, 1], upright.

    Raises:
        DataError: the file is missing, damaged, too large or no image of a supported format.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        with BytesIO(source) if isinstance(source, bytes) else open_input(Path(source)) as stream:
            image = open_image(
                stream,
                name,
                channels=channels,
                background=background,
                max_pixels=max_pixels,
                at_least=max(size) if size else None,
            )
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}", path=name) from error
    return from_uint8(torch.from_numpy(pixels(fit(image, size) if size else image)))


def open_image(
    stream: BinaryIO,
    name: str,
    *,
    channels: int | None,
    background: float = 1.0,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
) -> Image.Image:
    """Decode a file by the policies of this module.

    Args:
        stream: the file, readable and seekable.
        name: what to call it in messages.
        channels: 1, 3 or None, as in :func:`read_image`.
        background: grey behind transparent pixels, from 0 to 1.
        max_pixels: refuse files with more.
        at_least: pixels a side that are wanted in the end; JPEG may then be decoded at a fraction of its
            size, not below three times that, which is several times faster.

    Returns:
        An image of mode L or RGB.

    Raises:
        DataError: the file is damaged, too large or no image of a supported format.
        UsageError: channels or background is out of range.
    """
    return open_with_form(
        stream, name, channels=channels, background=background, max_pixels=max_pixels, at_least=at_least
    )[0]


def open_with_form(
    stream: BinaryIO,
    name: str,
    *,
    channels: int | None,
    background: float = 1.0,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
) -> tuple[Image.Image, str, bool]:
    """Decode a file as :func:`open_image` does; also return its mode in Pillow's words, and if it is grey.

    A palette is grey where the colours in use are.
    """
    if channels not in (None, 1, 3) or not 0 <= background <= 1:
        raise UsageError(f"channels must be 1 or 3 and background 0..1, not {channels} and {background}")
    try:
        image = load(stream, name, max_pixels, at_least=at_least)
        mode, grey = image.mode, _is_grey(image)
        return _normalise(_upright(image), name, channels, background), mode, grey
    except (SsdiffError, MemoryError):
        raise
    except Exception as error:  # a decoder can raise anything on hostile bytes
        raise undecodable(name, error) from error


def load(
    stream: BinaryIO, name: str, max_pixels: int, *, at_least: int | None = None, layout: str | None = None
) -> Image.Image:
    """Decode a file as it is; whatever its decoder raises comes out.

    Args:
        stream: the file, readable and seekable.
        name: what to call it in messages.
        max_pixels: refuse files with more.
        at_least: as in :func:`open_image`.
        layout: of the bytes of a pixel, in place of the file's own, in Pillow's names.

    Returns:
        The image; how its pixels lay in the file is its attribute ``raw_layout``, None where nobody says.

    Raises:
        DataError: the file is too large or no image of a supported format.
    """
    stream.seek(0)
    image = _open_header(stream, name, max_pixels)
    if at_least is not None:
        image.draft(None, (3 * at_least, 3 * at_least))
    tiles = getattr(image, "tile", None)  # gone once it is loaded
    found = tiles[0][3] if tiles else None
    if layout is not None and tiles:
        image.tile = [  # type: ignore[attr-defined]
            tile._replace(args=layout if isinstance(tile[3], str) else (layout, *tile[3][1:]))
            for tile in tiles
        ]
    if image.format == "TIFF":
        _hush_libtiff()
    image.load()
    _scale_transparency(image, found)
    first = found[0] if isinstance(found, tuple) and found else found
    image.raw_layout = first  # type: ignore[attr-defined]
    return image


def undecodable(name: str, error: Exception) -> DataError:
    """Return what to say of a file that a decoder gave up."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"cannot decode {name}: {reason}", path=name, hint="is the file complete?")


def alpha_of(source: Image.Image | Path) -> Tensor | None:
    """Return the (H, W) opacity in 0..1 of an image, upright; None where it has none.

    Args:
        source: an image, or a path.

    Raises:
        DataError: a file that cannot be read.
    """
    if isinstance(source, Image.Image):
        image = _upright(source)
    else:
        try:
            with open_input(source) as stream:
                image = _upright(load(stream, str(source), MAX_PIXELS))
        except (SsdiffError, MemoryError):
            raise
        except OSError as error:
            raise DataError(f"cannot read {source}: {error.strerror or error}", path=source) from error
        except Exception as error:  # a decoder can raise anything on hostile bytes
            raise undecodable(str(source), error) from error
    if not image.has_transparency_data or is_void(image):
        return None
    alpha = np.array(image.convert("RGBA").getchannel("A"), np.float32)
    return torch.from_numpy(alpha / 255)


def from_pillow(
    image: Image.Image,
    *,
    channels: int | None = None,
    background: float = 1.0,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """Return a Pillow image of any mode as one of mode L or RGB, by the policies of this module.

    Args:
        image: is left as it is.
        channels: 1, 3 or None, as in :func:`read_image`.
        background: grey behind transparent pixels, from 0 to 1.
        size: (H, W) to which the largest part of that shape in the middle is resized.

    Raises:
        DataError: its pixels cannot be had.
    """
    name = getattr(image, "filename", "") or "the image"
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        raise DataError(f"cannot decode {name}: {error}", path=name, hint="is the file complete?") from error
    plain = _normalise(_upright(image), name, channels, background)
    return fit(plain, size) if size else plain


def image_size(stream: BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) that a file's header states; nothing is decoded.

    Args:
        stream: the file, readable and seekable.
        name: what to call it in messages.
        max_pixels: refuse files with more.

    Raises:
        DataError: the header is damaged, states too many pixels or is of no supported format.
    """
    try:
        return _open_header(stream, name, max_pixels).size
    except (SsdiffError, MemoryError):
        raise
    except Exception as error:  # a parser can raise anything on hostile bytes
        raise undecodable(name, error) from error


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut the largest part of a shape from the middle, and resize it to (height, width).

    Lanczos with antialiasing when it shrinks (from far above after a box average, which is as good and
    faster), bicubic when it grows. An image of the right size is returned unchanged.
    """
    height, width = size
    if image.size == (width, height):
        return image
    ratio = min(image.width / width, image.height / height)
    part = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    if part != image.size:
        left, top = (image.width - part[0]) // 2, (image.height - part[1]) // 2
        # Not the box of resize, whose filter would reach beyond it.
        with _pixel_limit(part[0] * part[1]):
            image = image.crop((left, top, left + part[0], top + part[1]))
    kernel = Image.Resampling.LANCZOS if ratio > 1 else Image.Resampling.BICUBIC
    return image.resize((width, height), kernel, reducing_gap=3.0)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return the (C, H, W) bytes of an image of mode L or RGB."""
    array = np.array(image)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def _open_header(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Parse the header only; raise DataError for foreign formats and too many pixels."""
    try:
        with _pixel_limit(max_pixels):
            image = Image.open(stream, formats=FORMATS)
        count = image.width * image.height
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name} is not an image{_guess(stream)}", path=name, hint=f"supported are {', '.join(FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels", str(error))
        count = int(found[1]) if found else 2 * max_pixels
    if count > max_pixels:
        raise DataError(
            f"{name} has {count:,} pixels, the limit is {max_pixels:,}",
            path=name,
            hint="shrink it, or raise the limit (max_pixels, in a preset data.max_pixels) if you trust it",
        )
    return image


@lru_cache(maxsize=1)
def _hush_libtiff() -> None:
    """Keep Pillow's libtiff from telling of damage on stderr, past Python; the error tells of it."""
    found = set(Path(Image.__file__).parent.glob(".dylibs/libtiff*"))
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        found |= {Path(line.split(maxsplit=5)[5]) for line in lines if "libtiff" in line}
    for library in found:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)


@contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    # Pillow keeps its limit in a global, warns above it and raises above twice its value. It is set for the
    # moment of parsing a header or cropping, so that ours holds, higher or lower, and others keep theirs. The
    # lock also keeps threads apart when Pillow meets its first WebP or TIFF and loads the plugin.
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _guess(stream: BinaryIO) -> str:
    stream.seek(0)
    head = stream.read(64).lstrip().lower()
    if not head:
        return ", it is empty"
    if head.startswith((b"<!doctype", b"<html")):
        return " but a web page, so its download failed"
    if head.startswith(b"version https://git-lfs"):
        return " but a Git LFS pointer, so fetch it with git lfs pull"
    if head[4:8] == b"ftyp" and (kind := _ISO_BRANDS.get(head[8:12])):
        return f" that is read but {kind}, whatever its name; convert it to PNG or JPEG"
    return next(
        (f" that is read but {kind}" for start, kind in _FOREIGN.items() if head.startswith(start)), ""
    )


def _is_grey(image: Image.Image) -> bool:
    """Whether an image has no colours."""
    if image.mode != "P":
        return image.mode in GREY_MODES or image.mode.startswith("I;16")
    palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    used = palette[np.flatnonzero(image.histogram()[: len(palette)])]
    return bool((used == used[:, :1]).all())


def _normalise(image: Image.Image, name: str, channels: int | None, background: float) -> Image.Image:
    """Mode L or RGB, opaque, 8 bits."""
    if channels is None:
        channels = 1 if image.mode in GREY_MODES or image.mode.startswith("I;16") else 3
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image, name)
    image = to_srgb(image)
    if image.has_transparency_data and not is_void(image):
        grey = round(background * 255)
        base = Image.new("RGBA", image.size, (grey, grey, grey, 255))
        image = Image.alpha_composite(base, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return the turn that the EXIF orientation asks for; metadata that cannot be read ask for none."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a parser of metadata can raise anything, and the pixels are there
        return None


def _upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF orientation says."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def _scale_transparency(image: Image.Image, layout: object) -> None:
    """Scale the transparent grey of a PNG of 1, 2 or 4 bits as Pillow scales its pixels.

    From 13 on Pillow does so itself with that of 1 bit.
    """
    depth = re.fullmatch(r"L;([24])", layout) if isinstance(layout, str) else None
    clear = image.info.get("transparency")
    if image.format == "PNG" and depth and isinstance(clear, int):
        image.info["transparency"] = clear * 255 // (2 ** int(depth[1]) - 1)
    elif image.format == "PNG" and image.mode == "1" and clear == 1:
        image.info["transparency"] = 255


def is_void(image: Image.Image) -> bool:
    """Tell whether the alpha of a BMP is zero throughout, which its writers leave so where there is none."""
    return image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def readable_profile(image: Image.Image) -> tuple[bytes | None, bool]:
    """Return the profile that an image brings, if it can be read, and whether it could, if it brings one."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return None, True
    try:
        ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None, False
    return profile, True


def to_srgb(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits in the colours of sRGB, if it brings another profile that can be read."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    bands = {"RGBA": "RGB", "LA": "L", "P": "RGB"}.get(image.mode, image.mode)
    try:
        if (transform := _transform(profile, bands)) is None:
            return image
        plain = image if bands == image.mode else image.convert(bands)
        converted = ImageCms.applyTransform(plain, transform)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    assert converted is not None, "only a transform in place returns nothing"
    converted.format = image.format
    if alpha is not None:
        converted.info.pop("transparency", None)
        converted.putalpha(alpha)
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB, for images of a mode; None where nothing is to be done."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(source).lower() or mode not in ("L", "RGB", "CMYK"):
        return None
    target = ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(source, target, mode, "RGB")


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey of 12, 16 or 32 bits, or floating point, as mode L (LA if one grey value stands for transparency).

    Row by row, so that a large picture does not need many times its memory.
    """
    top, inverted = _checked_range(image, name)
    grey = np.empty((image.height, image.width), np.uint8)
    clear = image.info.get("transparency")
    opaque = np.full_like(grey, 255) if isinstance(clear, int) else None
    rows = max(1, _BLOCK // image.width)
    for first in range(0, image.height, rows):
        last = min(first + rows, image.height)
        values = np.asarray(image.crop((0, first, image.width, last)))
        if opaque is not None:
            opaque[first:last][values == clear] = 0
        scaled = np.rint(values * np.float64(255 / top))
        grey[first:last] = 255 - scaled if inverted else scaled
    result = Image.fromarray(grey)
    if opaque is not None:
        result.putalpha(Image.fromarray(opaque))
    result.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    return result


def grey_values(image: Image.Image, name: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return grey of more than 8 bits as (H, W) in 0..1, black to white, and opacity if one value is clear.

    Raises:
        DataError: nobody knows which values are black and white.
    """
    top, inverted = _checked_range(image, name)
    values = np.asarray(image)
    clear = image.info.get("transparency")
    opaque = (values != clear).astype(np.float32) if isinstance(clear, int) else None
    scaled = values.astype(np.float32) / np.float32(top)
    return (1 - scaled if inverted else scaled), opaque


def _checked_range(image: Image.Image, name: str) -> tuple[float, bool]:
    """As :func:`_grey_range`, of an image whose values lie within it."""
    top, inverted = _grey_range(image)
    extrema: Any = image.getextrema() if image.mode in ("I", "F") else (0, 0)
    low, high = extrema
    if not (low >= 0 and high <= top):
        raise DataError(
            f"{name} has values from {low} to {high}, so its black and white are unknown",
            path=name,
            hint="save it with 8 or 16 bits, or as floating point from 0 to 1",
        )
    return top, inverted


def _grey_range(image: Image.Image) -> tuple[float, bool]:
    """The value of white, or of black where white is zero, and whether it is."""
    if image.mode == "F":
        return 1.0, False
    # Old Pillow reads 16-bit PNG as 32-bit integers, and 16-bit PPM still is: so mode I holds 0..65535 or a
    # range that nobody knows.
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(_BITS, (16,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    top = 4095 if bits == 12 else 32767 if bits == 16 and signed else 65535
    return top, tags.get(_PHOTOMETRIC) == 0
