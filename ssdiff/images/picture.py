"""A picture as a whole: pixels to work on, and all that shall be as before when they are written again.

Colours are worked on in sRGB and go back to the profile of the file; grey stays grey; transparency is kept
beside the colours; 16 bits stay 16 bits; metadata stay, but for the orientation, which is applied.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageCms
from torch import Tensor

from ssdiff.errors import DataError, SsdiffError
from ssdiff.files import check_output, open_input, write_atomic
from ssdiff.images import read
from ssdiff.images.convert import to_pillow
from ssdiff.images.deep import DEEP_SUFFIXES, SAID, deep_values, deep_writer, exif_bytes
from ssdiff.images.jpeg import JpegTables, tables_of
from ssdiff.images.layout import from_uint8
from ssdiff.images.orientation import turned
from ssdiff.images.write import SAVE_SUFFIXES, check_extent, file_options

_LUMA = (0.299, 0.587, 0.114)  # Rec. 601
_TIFF = (".tif", ".tiff")
_ALPHA_FORMATS = (".png", ".webp", *_TIFF)
_OPTIMISED = 4_000_000  # pixels up to which a smaller file is worth the time
_ORIENTATION, _EXIF_IFD, _WIDTH, _HEIGHT = 274, 0x8769, 0xA002, 0xA003


@dataclass(frozen=True, slots=True)
class Form:
    """What a file was like, apart from its colours.

    Attributes:
        grey: whether it has no colours.
        depth: bits of a channel, 8 or 16.
        profile: ICC profile to embed; None for sRGB that is not said.
        converted: whether the pixels were converted from the profile to sRGB.
        alpha: (1, H, W) float32 opacity in 0..1, None where there is none.
        exif: metadata, without the orientation.
        info: what else is said: dpi, XMP.
        notes: what the user should hear.
        stored: the pixels are as the file stores them: neither upright nor in sRGB.
        turn: which then makes them upright.
        tables: of a JPEG file that is read so.
    """

    grey: bool = False
    depth: int = 8
    profile: bytes | None = None
    converted: bool = False
    alpha: Tensor | None = None
    exif: Image.Exif | None = None
    info: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stored: bool = False
    turn: Image.Transpose | None = None
    tables: JpegTables | None = None


def read_picture(
    source: Path | str, *, channels: int, max_pixels: int = read.MAX_PIXELS, as_stored: bool = False
) -> tuple[Tensor, Form]:
    """Read an image file as pixels and form.

    Args:
        source: the path.
        channels: 1 or 3, what the pixels are wanted as: a colour file as grey is its luma, a grey file as
            colour is repeated.
        max_pixels: refuse files with more, before decoding them.
        as_stored: leave the pixels as the file stores them, which is not upright, nor in sRGB, if the form
            says so.

    Returns:
        (channels, H, W) float32 in [-1, 1], upright, in sRGB if the form says so; and the form.

    Raises:
        DataError: the file is missing, damaged, too large or no image of a supported format.
    """
    name = str(source)
    try:
        with open_input(Path(source)) as stream:
            return _read(stream, name, channels, max_pixels, as_stored)
    except (SsdiffError, MemoryError):
        raise
    except OSError as error:
        if error.errno is None:
            raise read.undecodable(name, error) from error
        raise DataError(f"cannot read {name}: {error.strerror or error}", path=name) from error
    except Exception as error:  # a decoder can raise anything on hostile bytes
        raise read.undecodable(name, error) from error


def write_picture(x: Tensor, form: Form, path: Path | str, *, overwrite: bool = False) -> list[str]:
    """Write pixels in the form that a file had.

    Args:
        x: (C, H, W) in [-1, 1], C 1 or 3, of the size of the file or larger; transparency is enlarged along.
        form: from :func:`read_picture`.
        path: where it shall go, with an ending of :data:`ssdiff.images.SAVE_SUFFIXES`; its folder is created.
        overwrite: whether a file there may be replaced.

    Returns:
        What the format cannot hold, in words.

    Raises:
        UsageError: the ending is unknown, or x is no image.
        OutputError: something is there already, or the picture is too large for the format.
        ResourceError: the folder cannot be written or the disk is full.
    """
    path = check_output(path, overwrite, SAVE_SUFFIXES)
    if form.turn is not None:
        opacity = None if form.alpha is None else turned(form.alpha, form.turn)
        x, form = turned(x, form.turn), replace(form, turn=None, alpha=opacity)
    suffix, size = path.suffix.lower(), (x.shape[-2], x.shape[-1])
    check_extent(path, *size)
    notes = []
    x = x.detach().cpu()
    if form.grey and x.shape[0] == 3:
        x = _luma(x)
    alpha = form.alpha
    if alpha is not None and alpha.shape[-2:] != size:
        alpha = F.interpolate(alpha[None], size, mode="bilinear", align_corners=False)[0]
    if alpha is not None and suffix not in _ALPHA_FORMATS:
        notes.append(f"{suffix} holds no transparency: what is transparent is white")
        x, alpha = 1 + (x - 1) * alpha, None
    exif = form.exif
    if exif is not None:
        exif = _of_tiff(exif) if suffix in _TIFF else _of_size(exif, *size)
    if form.depth == 16 and suffix not in DEEP_SUFFIXES:
        notes.append(f"{suffix} holds 8 of the 16 bits; name a .png or a .tif to keep them")
    elif form.depth == 16:
        deep = x if alpha is None else torch.cat([x, alpha.mul(2).sub(1)])
        values = deep.permute(1, 2, 0).clamp(-1, 1).add(1).mul_(32767.5).round_().numpy()
        write = deep_writer(suffix, values.astype(np.uint16), form.profile, exif, form.info)
        write_atomic(path, write, overwrite)
        return notes
    image = to_pillow(x)
    if form.converted and form.profile is not None and image.mode == "RGB":
        image = _from_srgb(image, form.profile)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha[0].mul(255).round().clamp(0, 255).byte().numpy()))
    options = file_options(suffix) | form.info
    if form.profile is not None:
        options["icc_profile"] = form.profile
    if (said := exif_bytes(exif)) is not None:
        options["exif"] = said
    if size[0] * size[1] > _OPTIMISED:
        options.pop("optimize", None)
    write_atomic(path, lambda stream: image.save(stream, **options), overwrite)
    return notes


def _read(
    stream: BinaryIO, name: str, channels: int, max_pixels: int, as_stored: bool
) -> tuple[Tensor, Form]:
    image = read.load(stream, name, max_pixels)
    turn, deep = read.turn_of(image), deep_values(image, stream, name)
    form = Form(exif=_metadata(image), info=_info(image))  # which has no turn any more
    if as_stored and deep is None:
        form, turn = replace(form, stored=True, turn=turn, tables=tables_of(image)), None
    if deep is not None:
        values, opacity = (None if part is None else turned(torch.from_numpy(part), turn) for part in deep)
        assert values is not None, "a picture has pixels"
        profile, readable = read.readable_profile(image)
        notes = () if readable else (_UNREADABLE,)
        if profile is not None and len(values) == 3:
            notes = ("16 bits stay in the colours of their own profile, without a conversion to sRGB",)
        grey = len(values) == 1
        form = replace(form, grey=grey, depth=16, profile=profile, alpha=opacity, notes=notes)
        return _as_channels(values, channels).mul(2).sub(1), form
    image = image if turn is None else image.transpose(turn)
    alpha: NDArray[Any] | None = None
    if image.has_transparency_data and not read.is_void(image):
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"), np.float32)[None] / np.float32(255)
    grey, fourth = image.mode in read.GREY_MODES, image.mode == "CMYK"
    image, profile, converted, readable = _working_colours(image, grey or form.stored)
    notes = () if readable else (_UNREADABLE,)
    if fourth:
        profile, converted = None, False
        notes = (*notes, "CMYK was converted to RGB, which is what is written")
    wanted = "L" if channels == 1 else "RGB"
    plain = image if image.mode == wanted else _opaque(image, wanted)
    x = from_uint8(torch.from_numpy(read.pixels(plain)))
    return x, replace(
        form, grey=grey, profile=profile, converted=converted, alpha=_tensor(alpha), notes=notes
    )


_UNREADABLE = "the colour profile cannot be read, and is left out: the colours are taken for sRGB"


def _tensor(values: NDArray[Any] | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _working_colours(image: Image.Image, grey: bool) -> tuple[Image.Image, bytes | None, bool, bool]:
    """The image in sRGB, the profile to embed, whether it was converted, and whether it could be read."""
    profile, readable = read.readable_profile(image)
    if profile is None or grey:
        return image, profile, False, readable
    converted = read.to_srgb(image)
    return converted, profile, converted is not image, readable


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    """L or RGB, the colours of transparent pixels as they are."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA").convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _from_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Back to the colours of a profile that was read."""
    target = ImageCms.ImageCmsProfile(BytesIO(profile))
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), target, "RGB", "RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None, "only a transform in place returns nothing"
    return converted


def _luma(x: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, dtype=x.dtype)
    grey: Tensor = torch.tensordot(weights, x, 1)
    return grey[None]


def _as_channels(x: Tensor, channels: int) -> Tensor:
    if len(x) == channels:
        return x
    return _luma(x) if channels == 1 else x.expand(channels, -1, -1).clone()


# Metadata.


def _metadata(image: Image.Image) -> Image.Exif | None:
    """What the file says of its picture, without the orientation; None where nothing can be read."""
    try:
        found = image.getexif()
        if image.format == "TIFF":  # its tags say how the file is laid out, too
            found = _of_tiff(found)
        found.pop(_ORIENTATION, None)
        return found if len(found) else None
    except Exception:  # a parser of metadata can raise anything, and the pixels are there
        return None


def _of_tiff(exif: Image.Exif) -> Image.Exif:
    """What a TIFF says of its picture; its other tags say how the file is laid out, and those of cameras
    stand in a part that Pillow cannot write."""
    kept = Image.Exif()
    kept.update({tag: exif[tag] for tag in SAID if isinstance(exif.get(tag), str)})
    return kept


def _of_size(exif: Image.Exif, height: int, width: int) -> Image.Exif | None:
    """Metadata of a picture of (H, W) pixels; None where they cannot be read."""
    try:
        details = exif.get_ifd(_EXIF_IFD)
        for tag, length in ((_WIDTH, width), (_HEIGHT, height)):
            if tag in details:
                details[tag] = length
        return exif
    except Exception:  # a parser of metadata can raise anything
        return None


def _info(image: Image.Image) -> dict[str, Any]:
    """Resolution and XMP, which every format takes under the same names, or ignores."""
    info: dict[str, Any] = {}
    dpi, xmp = image.info.get("dpi"), image.info.get("xmp")
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(1 < float(n) < 1e6 for n in dpi):
        info["dpi"] = (float(dpi[0]), float(dpi[1]))
    if isinstance(xmp, bytes):
        info["xmp"] = xmp
    return info
