"""Image files and tensors in [-1, 1]: reading, laying out, writing."""

from ssdiff.images.convert import Pictures, to_array, to_output, to_pillow
from ssdiff.images.layout import (
    film_strip,
    from_uint8,
    grid,
    grid_extent,
    strip_extent,
    to_uint8,
    upscale_nearest,
)
from ssdiff.images.read import IMAGE_SUFFIXES, MAX_PIXELS, fit, image_size, open_image, read_image
from ssdiff.images.write import SAVE_SUFFIXES, check_extent, save_gif, save_image

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "SAVE_SUFFIXES",
    "Pictures",
    "check_extent",
    "film_strip",
    "fit",
    "from_uint8",
    "grid",
    "grid_extent",
    "image_size",
    "open_image",
    "read_image",
    "save_gif",
    "save_image",
    "strip_extent",
    "to_array",
    "to_output",
    "to_pillow",
    "to_uint8",
    "upscale_nearest",
]
