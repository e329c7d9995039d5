"""Sources of images: a folder, a zip file read in place, arrays. Nothing is ever extracted to the disk."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import stat
import struct
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssdiff.data.listing import EDM_LABELS, Chosen, edm_classes, is_image, pick_images
from ssdiff.data.lists import NameList
from ssdiff.errors import DataError
from ssdiff.files import MOST, open_input, read_input
from ssdiff.images.read import IMAGE_SUFFIXES, MAX_PIXELS, open_with_form, pixels
from ssdiff.images.resize import square

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
ClassesFrom = Literal["folder", "prefix"]

# No honest image needs more bytes a pixel (16 bits, 4 channels), apart from a header.
_BYTES_A_PIXEL, _HEADER = 8, 2**20
# Deflate reaches 1000 : 1 on constant bytes. Small flat drawings may; a large member at this ratio is a bomb.
_BOMB_RATIO, _BOMB_SIZE = 200, 2**25


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as training reads it, and what it was.

    Attributes:
        pixels: (channels, H, W).
        mode: what it was before, in Pillow's words.
        grey: whether it had no colours.
    """

    pixels: Pixels
    mode: str
    grey: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """How any image becomes (channels, side, side) bytes: see `ssdiff.images.read`.

    Attributes:
        size: pixels a side that training sees.
        channels: 1 or 3.
        background: grey behind transparent pixels.
        max_pixels: an image with more is not decoded.
        resize: how it is scaled, see :func:`ssdiff.images.resize.scale`.
        margin: how much larger it is kept, for crops.
        whole: keep it as it is, (channels, H, W), whatever shape it has; ``size`` is that of patches.
    """

    size: int
    channels: int
    background: float = 1.0
    max_pixels: int = MAX_PIXELS
    resize: str = "antialias"
    margin: float = 1.0
    whole: bool = False

    @property
    def side(self) -> int:
        """Pixels a side that are kept: the whole part of margin times size."""
        return int(self.margin * self.size)

    def decode(self, stream: BinaryIO, name: str) -> Decoded:
        """Decode the image in a file; `name` is for messages."""
        image, mode, grey = open_with_form(
            stream,
            name,
            channels=1 if self.channels == 1 else None,  # grey is repeated when it is small
            background=self.background,
            max_pixels=self.max_pixels,
            # Published code never decodes a JPEG at a fraction of its size.
            at_least=self.side if self.resize == "antialias" and not self.whole else None,
        )
        small = self._keep(image, name)
        return Decoded(pixels(small if self.channels == 1 else small.convert("RGB")), mode, grey)

    def convert(self, array: Pixels) -> Pixels:
        """Convert an image already decoded, (H, W) grey or (H, W, 3) RGB."""
        image = Image.fromarray(array).convert("L" if self.channels == 1 else "RGB")
        return pixels(self._keep(image, "the image"))

    def _keep(self, image: Image.Image, name: str) -> Image.Image:
        """The square or the whole that training reads.

        Raises:
            DataError: it has no room for a square that may not be enlarged.
        """
        if not self.whole:
            return square(image, self.side, self.resize, name)
        if min(image.size) < self.size:
            raise DataError(
                f"{name} has {image.width} x {image.height} pixels, patches have {self.size} a side",
                path=name,
                hint="leave it out, or set a smaller data.size",
            )
        return image


class Source(ABC):
    """Images in a fixed order.

    Attributes:
        name: what to call it in messages.
        class_names: names of the classes, empty if there are none.
        classes_from: what of a file's name is its class, see :func:`classes`.
        notes: what was decided that a user may want to know, one line each.
    """

    name: str
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    classes_from: ClassesFrom = "folder"

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def labels(self) -> Labels | None:
        """(N,) positions in class_names, or None."""
        return None

    @abstractmethod
    def identity(self) -> Iterator[str]:
        """Return lines that differ when the images may differ; cheap, no image is read."""

    @abstractmethod
    def load(self, start: int, stop: int, fit: Fit) -> Sequence[Decoded | DataError]:
        """Return images start..stop-1, or what is wrong with them. Several threads may call it at once."""

    def name_of(self, number: int) -> str:
        """Return what to call an image in messages."""
        return f"image {number}"

    def close(self) -> None:
        """Release what loading opened."""
        return


class FileSource(Source):
    """Encoded images with names, which also say their classes."""

    def __init__(
        self,
        name: str,
        members: Sequence[str],
        classes_from: ClassesFrom = "folder",
        notes: Sequence[str] = (),
        edm_labels: bytes | None = None,
    ) -> None:
        self.name = name
        self.members = members
        self.classes_from = classes_from
        self.notes = tuple(notes)
        self._edm_labels = edm_labels
        self._labels: Labels | None
        if edm_labels is not None and classes_from == "folder":
            self.class_names, labels = edm_classes(edm_labels, members, name)
            self._labels = labels if self.class_names else None
            self.notes += (f"classes are those of {EDM_LABELS}",)
        else:
            self.class_names, self._labels = classes(members, classes_from)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def labels(self) -> Labels | None:
        """(N,) positions in class_names, or None."""
        return self._labels

    def name_of(self, number: int) -> str:
        """Return its path under the folder, or in the archive."""
        return self.members[number]

    def _labelling(self) -> Iterator[str]:
        if self._edm_labels is not None:
            yield f"labels {hashlib.sha256(self._edm_labels).hexdigest()}"

    @abstractmethod
    def open(self, index: int) -> AbstractContextManager[BinaryIO]:
        """Open the file of one image."""

    def load(self, start: int, stop: int, fit: Fit) -> Sequence[Decoded | DataError]:
        """Return images start..stop-1, or what is wrong with them. Several threads may call it at once."""
        return [self._load(index, fit) for index in range(start, stop)]

    def _load(self, index: int, fit: Fit) -> Decoded | DataError:
        name = f"{self.name}: {self.members[index]}"
        try:
            with self.open(index) as stream:
                return fit.decode(stream, name)
        except DataError as error:
            return error
        except Exception as error:  # an archive can raise anything on hostile bytes
            return DataError(f"cannot read {name}: {str(error) or type(error).__name__}", path=name)


class FolderSource(FileSource):
    """Image files under a folder, by name; hidden files are left out.

    Args:
        folder: searched with all its sub-folders.
        only: names relative to the folder; other files are left out. None takes every image file.
        classes_from: see :func:`classes`.

    Raises:
        DataError: the folder cannot be read, holds no image file, or lacks one that is listed.
    """

    def __init__(
        self, folder: Path, only: NameList | None = None, classes_from: ClassesFrom = "folder"
    ) -> None:
        notes: list[str] = []
        try:
            self.folder = folder.resolve()
            found = dict(_walk(self.folder, notes))
            edm = self.folder / EDM_LABELS
            labels = read_input(edm, MOST) if edm.is_file() else None
        except (OSError, RuntimeError) as error:
            said = getattr(error, "strerror", None) or error
            raise DataError(f"cannot read {folder}: {said}", path=folder) from error
        chosen = _chosen(found, folder, "file", only)
        self._stamps = [found[name] for name in chosen.names]
        super().__init__(str(folder), chosen.names, classes_from, (*chosen.notes, *notes), labels)

    def identity(self) -> Iterator[str]:
        """Return the path of the folder; name, size and time of every file."""
        yield f"folder {self.folder}"
        yield from self._labelling()
        yield from (f"{name}\0{stamp}" for name, stamp in zip(self.members, self._stamps, strict=True))

    def open(self, index: int) -> AbstractContextManager[BinaryIO]:
        """Open the file of one image."""
        return open_input(self.folder / self.members[index])


class ZipSource(FileSource):
    """Image files in a zip, stored or deflated, by name; one handle a thread.

    Args:
        path: the zip file.
        max_pixels: limit for an image, which also bounds the declared size of a member.
        only: names of members; others are left out. None takes every image.
        classes_from: see :func:`classes`.

    Raises:
        DataError: the file is no zip, has no image or lacks a listed one, or has a member that is encrypted,
            leads outside, or claims to be far larger than an image can be.
    """

    def __init__(
        self,
        path: Path,
        max_pixels: int = MAX_PIXELS,
        only: NameList | None = None,
        classes_from: ClassesFrom = "folder",
    ) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise DataError(f"cannot read {path} as a zip file: {error}", path=path) from error
        for info in entries:
            _check_member(path, info, max_pixels)
        members = {_plain(info): info for info in entries if not info.is_dir()}
        chosen = _chosen(members, path, "member", only)
        self._infos = [members[name] for name in chosen.names]
        self._local = threading.local()
        self._handles: list[zipfile.ZipFile] = []
        labels = self._edm_file(members[EDM_LABELS]) if EDM_LABELS in members else None
        super().__init__(str(path), chosen.names, classes_from, chosen.notes, labels)

    def identity(self) -> Iterator[str]:
        """Name, size and checksum of every member."""
        yield "zip"
        yield from self._labelling()
        yield from (f"{info.filename}\0{info.file_size}\0{info.CRC}" for info in self._infos)

    def open(self, index: int) -> AbstractContextManager[BinaryIO]:
        """Open the bytes of one image."""
        return BytesIO(self._read(self._infos[index]))

    def _edm_file(self, info: zipfile.ZipInfo) -> bytes:
        try:
            return self._read(info)
        except Exception as error:  # an archive can raise anything on hostile bytes
            what = f"cannot read {self.path}: {EDM_LABELS}: {str(error) or type(error).__name__}"
            raise DataError(what, path=self.path) from error

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        handle: zipfile.ZipFile | None = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = zipfile.ZipFile(self.path)
            self._handles.append(handle)
        # Python stops at the declared size, checked above, and compares the checksum.
        return handle.read(info)

    def close(self) -> None:
        """Close the handle of every thread."""
        for handle in self._handles:
            handle.close()
        self._local, self._handles = threading.local(), []


def classes(
    members: Sequence[str], classes_from: ClassesFrom = "folder"
) -> tuple[tuple[str, ...], Labels | None]:
    """Return class names and labels that the names of files say.

    Args:
        members: names with their folders.
        classes_from: ``folder``: all images lie in two or more folders side by side, which are the classes,
            or there are none; a folder around all of them does not count, and sub-folders of a class belong
            to the class. ``prefix``: the part of a file's name before its first underscore, in whatever
            folder, as guided-diffusion has it.

    Raises:
        DataError: a prefix is asked for, and a name has no underscore, or nothing before it.
    """
    if classes_from == "prefix":
        prefixes = [_prefix(member) for member in members]
        names, labels = np.unique(prefixes, return_inverse=True)
        return tuple(names.tolist()), labels.astype(np.int64)
    folders = [member.split("/")[:-1] for member in members]
    ends = zip(min(folders), max(folders), strict=False)
    depth = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    if any(len(folder) == depth for folder in folders):
        return (), None
    names, labels = np.unique([folder[depth] for folder in folders], return_inverse=True)
    return tuple(names.tolist()), labels.astype(np.int64)


def _prefix(member: str) -> str:
    prefix, underscore, _ = member.rpartition("/")[2].partition("_")
    if not prefix or not underscore:
        raise DataError(
            f"{member} has no class before an underscore in its name",
            path=member,
            hint='name files CLASS_NUMBER.png, or leave data.classes_from = "folder"',
        )
    return prefix


def stamp(path: Path | os.DirEntry[str]) -> str:
    """Return the size and time of change of a file, which stand for its content."""
    status = path.stat()
    return f"{status.st_size}\0{status.st_mtime_ns}"


def _chosen(found: Collection[str], where: Path, kind: str, only: NameList | None) -> Chosen:
    """The images among files, of a list if there is one.

    Raises:
        DataError: there are none, or one that is listed is not there.
    """
    chosen = pick_images(found, splits=only is None)
    if not chosen.names:
        raise no_images(where, len(found), kind, chosen.notes)
    if only is None:
        return chosen
    only.check(chosen.names)
    return replace(chosen, names=tuple(name for name in chosen.names if name in only.names))


def no_images(where: Path, found: int, kind: str, notes: Sequence[str] = ()) -> DataError:
    """Return the error for a source without images."""
    others = f"none of its {found} {kind}s ends in" if found else f"it has no {kind}; searched for"
    said = "; ".join((f"no images in {where}: {others} {' '.join(IMAGE_SUFFIXES)}", *notes))
    return DataError(said, path=where)


def _plain(info: zipfile.ZipInfo) -> str:
    """The name of a member; some programs of Windows write its folders with backslashes."""
    return info.filename.replace("\\", "/")


def _walk(root: Path, notes: list[str]) -> Iterator[tuple[str, str]]:
    """Name and stamp of every regular file, links followed; no folder is visited twice, so loops end.

    Runs of ssdiff are left out, with a note: their pictures are no data.
    """
    pending, seen = [("", root)], set()
    while pending:
        prefix, folder = pending.pop()
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            listing = sorted(entries, key=lambda entry: entry.name, reverse=True)
        if prefix and {"preset.toml", "checkpoints"} <= {entry.name for entry in listing}:
            notes.append(f"left out {prefix}, a run of ssdiff")
            continue
        for entry in listing:
            name = prefix + entry.name
            try:
                if entry.is_dir():
                    pending.append((name + "/", Path(entry.path)))
                elif entry.is_file():
                    yield name, stamp(entry)
            except OSError as error:  # a link that leads to itself
                if error.errno != errno.ELOOP:
                    raise
                notes.append(f"left out {name}, a link that leads to itself")


def _check_member(path: Path, info: zipfile.ZipInfo, max_pixels: int) -> None:
    """Raise DataError for a member that no honest image archive has."""
    name = info.filename
    parts = name.replace("\\", "/").split("/")
    limit = _BYTES_A_PIXEL * max_pixels + _HEADER
    problem = None
    if ".." in parts or not parts[0] or re.match("[A-Za-z]:", name):
        problem = "leads outside the archive"
    elif not is_image("/".join(parts)) and name != EDM_LABELS:
        return  # never opened
    elif stat.S_ISLNK(info.external_attr >> 16):
        problem = "is a symbolic link"
    elif info.flag_bits & 1:
        problem = "is encrypted"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = f"is compressed by method {info.compress_type}, not stored or deflated"
    elif info.file_size > limit:
        problem = f"claims {info.file_size:,} bytes, the limit is {limit:,}"
    elif info.file_size > max(_BOMB_SIZE, _BOMB_RATIO * info.compress_size):
        problem = f"claims to expand from {info.compress_size:,} to {info.file_size:,} bytes"
    if problem:
        raise DataError(
            f"{path}: member {name!r} {problem}",
            path=path,
            hint="nothing was extracted; make a plain zip of the images",
        )
