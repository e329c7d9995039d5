"""Training sets: where images come from, and the prepared array that a training step reads.

`open_data` takes a folder, a zip file or a name; the result is prepared once and memory-mapped ever after.
"""

from ssdiff.data.opening import DATA_NAMES, holds_jpeg, image_sizes, native_sizes, open_data
from ssdiff.data.prepared import ImageSet, cache_root, evenly

__all__ = [
    "DATA_NAMES",
    "ImageSet",
    "cache_root",
    "evenly",
    "holds_jpeg",
    "image_sizes",
    "native_sizes",
    "open_data",
]
