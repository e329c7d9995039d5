"""From an image to a square of pixels: the way of this project, and those of published training code.

Pixels are 8 bits before and after, as Pillow resizes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from PIL import Image

from ssdiff.errors import DataError
from ssdiff.images.read import fit

_Scale = Callable[[Image.Image, int], Image.Image]


def scale(image: Image.Image, side: int, resize: str) -> Image.Image:
    """Scale an image, of which :func:`square` keeps the middle.

    ``antialias``
        The central square, by Lanczos where it shrinks (after a box average from far above) and bicubic where
        it grows.
    ``official``
        Halved by box averages while the shorter side is at least twice the wanted one, then bicubic until the
        shorter side is the wanted one [SSD].
    ``bilinear``
        Bilinear until the shorter side is the wanted one.
    ``stretch``
        Bilinear to a square, whatever shape it had [CD; BD].
    ``none``
        As it is.

    Args:
        image: of mode L or RGB.
        side: wanted pixels of the shorter side.
        resize: one of SCALINGS.
    """
    return _SCALES[resize](image, side)


def crop(image: Image.Image, side: int, top: int, left: int) -> Image.Image:
    """Cut a square of ``side`` pixels whose corner is at (top, left)."""
    return image.crop((left, top, left + side, top + side))


def square(image: Image.Image, side: int, resize: str, name: str = "the image") -> Image.Image:
    """Return the middle square of an image that :func:`scale` has scaled.

    Where the rest is odd, ``official`` leaves less above and to the left, the others an even number of
    pixels, each as its published code does.

    Args:
        image: of mode L or RGB.
        side: of the square, pixels.
        resize: one of SCALINGS.
        name: of the image, for the message.

    Raises:
        DataError: the image is not to be scaled, and is smaller than the square.
    """
    found = scale(image, side, resize)
    width, height = found.size
    if min(width, height) < side:
        raise DataError(
            f"{name} has {width} x {height} pixels, fewer than the {side} that are cut from its middle",
            path=name,
            hint='leave it out, or let data.resize = "antialias" enlarge it',
        )
    if (width, height) == (side, side):
        return found
    top, left = (
        (length - side) // 2 if resize == "official" else middle(length, side) for length in (height, width)
    )
    return crop(found, side, top, left)


def middle(length: int, side: int) -> int:
    """Return where the middle ``side`` of ``length`` pixels begins; a half goes to the even number."""
    return round((length - side) / 2)


def _antialias(image: Image.Image, side: int) -> Image.Image:
    return fit(image, (side, side))


def _official(image: Image.Image, side: int) -> Image.Image:
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    ratio = side / min(image.size)
    wanted = (round(image.width * ratio), round(image.height * ratio))
    return image if wanted == image.size else image.resize(wanted, Image.Resampling.BICUBIC)


def _bilinear(image: Image.Image, side: int) -> Image.Image:
    shorter = min(image.size)
    wanted = (image.width * side // shorter, image.height * side // shorter)
    return image if wanted == image.size else image.resize(wanted, Image.Resampling.BILINEAR)


def _stretch(image: Image.Image, side: int) -> Image.Image:
    return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BILINEAR)


def _as_it_is(image: Image.Image, side: int) -> Image.Image:
    return image


_SCALES: Mapping[str, _Scale] = {
    "antialias": _antialias,
    "official": _official,
    "bilinear": _bilinear,
    "stretch": _stretch,
    "none": _as_it_is,
}
SCALINGS = tuple(_SCALES)
"""Names of the ways, the project's own first."""
