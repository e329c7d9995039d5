"""From what the user asked for to a prepared set."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

from ssdiff.arguments import as_path
from ssdiff.data.builtin import DATA_NAMES, ArraySource, find_idx, named_source, require_package
from ssdiff.data.cache import Convert, Corrupt, Progress, prepare
from ssdiff.data.image_set import ImageSet
from ssdiff.data.lists import NameList, read_list
from ssdiff.data.sources import ClassesFrom, FileSource, Fit, FolderSource, Source, ZipSource
from ssdiff.errors import DataError, UsageError, did_you_mean
from ssdiff.home import cache_root
from ssdiff.images.read import MAX_PIXELS, image_size
from ssdiff.images.resize import SCALINGS

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")

__all__ = [
    "DATA_NAMES",
    "check_source",
    "holds_jpeg",
    "image_sizes",
    "native_sizes",
    "open_data",
    "require_packages",
]


def open_data(
    source: str | Path,
    *,
    size: int,
    channels: int,
    background: float = 1.0,
    corrupt: Corrupt = "error",
    convert: Convert = "all",
    max_pixels: int = MAX_PIXELS,
    cache: Path | None = None,
    progress: Progress | None = None,
    resize: str = "antialias",
    margin: float = 1.0,
    names: str | Path | None = None,
    part: int | None = None,
    classes_from: str = "folder",
    whole: bool = False,
) -> ImageSet:
    """Open a training set, preparing it on first use.

    Images are cut to the central square and resized; see `ssdiff.images.read` for what happens to depth,
    orientation, transparency and colour. Two or more sub-folders that hold all images are classes.

    Args:
        source: a folder (with all its sub-folders; or one with the idx files of MNIST), a zip file, or one of
            DATA_NAMES. A folder called like a name is written with a path, as in "./shapes".
        size: pixels a side.
        channels: 1 (grey) or 3 (RGB).
        background: grey behind transparent pixels, from 0 (black) to 1 (white).
        corrupt: "error" stops at an unreadable file; "skip" leaves out up to 1 % (or one) and lists them.
        convert: which images of other channels are taken, as grey of their luma or as RGB of three equal
            channels: "all"; "some", unless all are such; or "none".
        max_pixels: an image with more is not decoded and counts as unreadable.
        cache: root of the cache; by default `cache_root()`.
        progress: called with (done, total) while the set is prepared.
        resize: how images are scaled, see :func:`ssdiff.images.resize.scale`.
        margin: at least 1; images are prepared with int(margin * size) pixels a side, for crops at random;
            `.images` is the middle.
        names: text file with the names of the images that count, one a line, see
            :func:`ssdiff.data.lists.read_list`; for a folder or a zip file.
        part: lines of that file end in a number, and those with this one count.
        classes_from: what of a name is the class, see :func:`ssdiff.data.sources.classes`.
        whole: pictures are kept at their own size, for patches of ``size`` pixels a side; one that is smaller
            counts as unreadable.

    Returns:
        The set; `.images` is memory-mapped. A :class:`ssdiff.data.PictureSet` of whole pictures.

    Raises:
        DataError: the source is missing, empty, damaged or unsafe, or has images of other channels that are
            not to be converted.
        ResourceError: the cache cannot be written, or a download or a package is not available.
        UsageError: a setting is out of range.
    """
    if size < 1 or channels not in (1, 3) or not 0 <= background <= 1 or corrupt not in ("error", "skip"):
        raise UsageError(
            "data need size >= 1, channels 1 or 3, background 0..1 and corrupt 'error' or 'skip', "
            f"not {size}, {channels}, {background} and {corrupt!r}"
        )
    if convert not in ("some", "all", "none"):
        raise UsageError(f"convert must be some, all or none, not {convert!r}")
    if resize not in SCALINGS or not 1 <= margin < math.inf or classes_from not in ("folder", "prefix"):
        raise UsageError(
            f"data need resize {' or '.join(SCALINGS)}, margin >= 1 and classes_from folder or prefix, "
            f"not {resize!r}, {margin} and {classes_from!r}"
        )
    if part is not None and names is None:
        raise UsageError("a part is chosen by a list of images", hint="give the list, too: --data-list FILE")
    root = cache_root() if cache is None else cache
    only = None if names is None else read_list(as_path("names", names), part)
    rule: ClassesFrom = "prefix" if classes_from == "prefix" else "folder"
    images = _find(source, root, max_pixels, only, rule)
    if whole and (resize, margin) != ("antialias", 1.0):
        raise UsageError("whole pictures are kept as they are", hint="leave resize and margin out")
    fit = Fit(size, channels, background, max_pixels, resize, margin, whole)
    return prepare(images, fit, corrupt=corrupt, convert=convert, cache=root, progress=progress)


def require_packages(source: str | Path | None) -> None:
    """Refuse a set that needs a package which is not installed, before anything is made for it.

    Raises:
        ResourceError: names the package, and how to install it.
    """
    if isinstance(source, str) and source in DATA_NAMES:
        require_package(source, cache_root() / "torchvision")


def check_source(source: str | Path, *, names: str | Path | None = None, part: int | None = None) -> None:
    """Refuse a set that is missing, empty or no archive; nothing is decoded, and a name is not downloaded.

    Args:
        source: as for :func:`open_data`, likewise ``names`` and ``part``.

    Raises:
        DataError: then.
        UsageError: a list for a set whose images have no names.
    """
    only = None if names is None else read_list(as_path("names", names), part)
    if isinstance(source, str) and source in DATA_NAMES:
        _require_names(source, only, "folder")
    else:
        _find(source, cache_root(), MAX_PIXELS, only).close()


def _find(
    source: str | Path,
    root: Path,
    max_pixels: int,
    only: NameList | None = None,
    classes_from: ClassesFrom = "folder",
) -> Source:
    if isinstance(source, str) and source in DATA_NAMES:
        _require_names(source, only, classes_from)
        return named_source(source, root / "torchvision")
    path = as_path("data", source)
    if path.is_dir():
        if (arrays := find_idx(path, str(path))) is not None:
            _require_names(str(path), only, classes_from)
            return arrays
        return FolderSource(path, only, classes_from)
    if path.is_file():
        if zipfile.is_zipfile(path):
            return ZipSource(path, max_pixels, only, classes_from)
        raise DataError(f"{path} is a file but no zip", path=path, hint="pass a folder, a zip file or a name")
    raise DataError(
        f"there is no data set, folder or zip file {str(source)!r}",
        path=path,
        hint=did_you_mean(str(source), DATA_NAMES),
    )


def _require_names(source: str, only: NameList | None, classes_from: ClassesFrom) -> None:
    """Refuse a list of names, or classes by name, for a set whose images have no names of the user's."""
    what = "data.list (--data-list)" if only is not None else 'data.classes_from = "prefix"'
    if only is not None or classes_from != "folder":
        raise UsageError(
            f"{what} goes by the names of files, {source} has none",
            hint="give --data a folder or a zip file of images, or leave it out",
        )


def native_sizes(
    source: str | Path, names: str | Path | None = None, part: int | None = None
) -> set[tuple[int, int]]:
    """Return the (width, height) of the images of a source as they are, unprepared.

    Args:
        source: as for :func:`open_data`.
        names: likewise.
        part: likewise.

    Returns:
        One size if all images agree, the first two met if they do not, none for images that are drawn at any
        size.

    Raises:
        DataError: the source or the header of an image cannot be used.
        ResourceError: a download or a package is not available.
    """
    only = None if names is None else read_list(Path(names), part)
    found, sizes = _find(source, cache_root(), MAX_PIXELS, only), set[tuple[int, int]]()
    try:
        if isinstance(found, ArraySource):
            height, width = found.arrays[0].shape[1:3]
            return {(width, height)}
        if not isinstance(found, FileSource):
            return sizes
        for index in range(len(found)):
            sizes.add(_stated_size(found, index))
            if len(sizes) > 1:
                break
        return sizes
    finally:
        found.close()


def image_sizes(source: str | Path) -> dict[str, tuple[int, int]]:
    """Return the (width, height) of every image file as it is, unprepared.

    Args:
        source: as for :func:`open_data`, but with names: a folder or a zip file.

    Returns:
        By name relative to the folder, or in the zip file; in the order of the prepared set.

    Raises:
        DataError: the source or the header of an image cannot be used, or the images have no names.
        ResourceError: a download or a package is not available.
    """
    found = _find(source, cache_root(), MAX_PIXELS)
    try:
        if not isinstance(found, FileSource):
            message = f"the images of {source} are no files with names"
            raise DataError(message, path=source, hint="give a folder or a zip file of images")
        return {member: _stated_size(found, index) for index, member in enumerate(found.members)}
    finally:
        found.close()


def _stated_size(source: FileSource, index: int) -> tuple[int, int]:
    """(width, height) in the header of one image."""
    name = f"{source.name}: {source.members[index]}"
    try:
        with source.open(index) as stream:
            return image_size(stream, name)
    except DataError:
        raise
    except Exception as error:  # an archive can raise anything on hostile bytes
        reason = str(error) or type(error).__name__
        raise DataError(f"cannot read {name}: {reason}", path=name) from error


def holds_jpeg(source: str | Path) -> bool:
    """Return whether a file of the source is called JPEG, whose artefacts count in any distance.

    Raises:
        DataError: the source is missing, empty, damaged or unsafe.
    """
    found = _find(source, cache_root(), MAX_PIXELS)
    try:
        return isinstance(found, FileSource) and any(m.lower().endswith(_JPEG) for m in found.members)
    finally:
        found.close()
