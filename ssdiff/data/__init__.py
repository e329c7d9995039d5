"""Training sets: where images come from, and the prepared array that a training step reads.

`open_data` takes a folder, a zip file or a name; the result is prepared once and memory-mapped ever after.
"""

from ssdiff.data.cache import evenly
from ssdiff.data.image_set import ImageSet, PictureSet
from ssdiff.data.open import (
    DATA_NAMES,
    check_source,
    holds_jpeg,
    image_sizes,
    native_sizes,
    open_data,
    require_packages,
)

__all__ = [
    "DATA_NAMES",
    "ImageSet",
    "PictureSet",
    "check_source",
    "evenly",
    "holds_jpeg",
    "image_sizes",
    "native_sizes",
    "open_data",
    "require_packages",
]
