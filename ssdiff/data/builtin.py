"""Sets known by name: drawn shapes, and the public ones that torchvision downloads or finds."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import sys
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ssdiff.data.lists import read_list
from ssdiff.data.shapes import SHAPES, draw
from ssdiff.data.sources import Decoded, FileSource, Fit, FolderSource, Labels, Pixels, Source, stamp
from ssdiff.errors import DataError, ResourceError, one_line
from ssdiff.files import open_input

SHAPES_COUNT = 16_384
"""Images of the set "shapes"."""

_FASHION = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_DIGITS = tuple("0123456789")
_IDX_LIMIT = 2**32  # bytes of pixels; a header may claim more than the machine has
_IDX_IMAGES = re.compile(r"(?P<split>.*?)images[-.]idx3[-.]ubyte(?P<gz>\.gz)?$")


class ShapesSource(Source):
    """The first images that `ssdiff.data.shapes` draws for seed 0."""

    name = "shapes"
    class_names = SHAPES

    def __len__(self) -> int:
        return SHAPES_COUNT

    @cached_property
    def labels(self) -> Labels:
        """(N,) positions in class_names."""
        labels: Labels = draw(SHAPES_COUNT, 1)[1].numpy()
        return labels

    def identity(self) -> Iterator[str]:
        """Return the version of the drawing, which has no other input."""
        yield f"shapes 1 {SHAPES_COUNT}"

    def load(self, start: int, stop: int, fit: Fit) -> Sequence[Decoded | DataError]:
        """Draw images start..stop-1."""
        drawn = draw(stop - start, fit.side, fit.channels, start=start)[0].numpy()
        mode, grey = ("L", True) if fit.channels == 1 else ("RGB", False)
        return [Decoded(image, mode, grey) for image in drawn]


class ArraySource(Source):
    """Images already decoded; subclasses say where (N, H, W) or (N, H, W, 3) pixels come from.

    Args:
        name: what to call it in messages.
        files: what it is read from.
        class_names: names of the classes.
    """

    def __init__(self, name: str, files: Sequence[Path], class_names: tuple[str, ...]) -> None:
        self.name, self.files, self.class_names = name, files, class_names

    @property
    @abstractmethod
    def arrays(self) -> tuple[Pixels, Labels | None]:
        """Pixels and labels; read when first used."""

    def __len__(self) -> int:
        return len(self.arrays[0])

    @property
    def labels(self) -> Labels | None:
        """(N,) positions in class_names, or None."""
        return self.arrays[1]

    def identity(self) -> Iterator[str]:
        """Return path, size and time of the files.

        Raises:
            DataError: one of them is gone, or a link to nothing.
        """
        for path in self.files:
            try:
                yield f"{path.resolve()}\0{stamp(path)}"
            except OSError as error:
                raise DataError(f"cannot read {path}: {error.strerror or error}", path=path) from error

    def load(self, start: int, stop: int, fit: Fit) -> Sequence[Decoded | DataError]:
        """Return images start..stop-1."""
        grey = self.arrays[0].ndim == 3
        mode = "L" if grey else "RGB"
        return [Decoded(fit.convert(image), mode, grey) for image in self.arrays[0][start:stop]]


class IdxSource(ArraySource):
    """Images and labels in the idx files of MNIST and its relatives, plain or gzipped."""

    @cached_property
    def arrays(self) -> tuple[Pixels, Labels | None]:
        """Pixels (N, H, W) and labels, or None without a label file."""
        images = _read_idx(self.files[0], 3)
        if len(self.files) < 2:
            return images, None
        labels = _read_idx(self.files[1], 1).astype(np.int64)
        if len(labels) != len(images) or labels.max(initial=0) >= len(self.class_names):
            raise DataError(
                f"{self.files[1]} has {len(labels)} labels, up to {labels.max(initial=0)}, "
                f"for {len(images)} images of {len(self.class_names)} classes",
                path=self.files[1],
            )
        return images, labels


class Cifar10Source(ArraySource):
    """The training images of CIFAR-10, by torchvision, which checks their hashes."""

    @cached_property
    def arrays(self) -> tuple[Pixels, Labels | None]:
        """Pixels (50000, 32, 32, 3) and labels."""
        data = _torchvision("CIFAR10", self.files[0].parent.parent, train=True, download=True)
        return np.asarray(data.data, np.uint8), np.asarray(data.targets, np.int64)


class LmdbSource(FileSource):
    """A category of LSUN: an LMDB database of encoded images."""

    def __init__(self, name: str, folder: Path) -> None:
        # torchvision's reader unpickles a list of keys from the working folder, so ours reads the database.
        lmdb = _package(name, "lmdb")
        self._folder = folder
        try:
            self._stamp = stamp(folder / "data.mdb")
            self._environment = lmdb.open(
                str(folder), readonly=True, lock=False, readahead=False, create=False
            )
            with self._environment.begin() as transaction:
                self._keys = list(transaction.cursor().iternext(keys=True, values=False))
        except (OSError, lmdb.Error) as error:
            raise DataError(f"cannot read {folder}: {error}", path=folder) from error
        super().__init__(name, [key.decode("ascii", "backslashreplace") for key in self._keys])

    def identity(self) -> Iterator[str]:
        """Return path, size and time of the database."""
        yield f"{self._folder.resolve()}\0{self._stamp}"

    def open(self, index: int) -> AbstractContextManager[BinaryIO]:
        """Return the bytes of one image."""
        with self._environment.begin() as transaction:
            return io.BytesIO(transaction.get(self._keys[index]))

    def close(self) -> None:
        """Close the database."""
        self._environment.close()


def find_idx(folder: Path, name: str, class_names: tuple[str, ...] = _DIGITS) -> IdxSource | None:
    """Return the idx images directly in a folder, those for training first; None if there are none.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        entries = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}", path=folder) from error
    named = [match for entry in entries if (match := _IDX_IMAGES.match(entry))]
    found = [match for match in named if (folder / match[0]).is_file()]
    if not found:
        return None
    chosen = min(found, key=lambda match: not match["split"].startswith("train"))
    files = [folder / chosen[0]]
    plain = chosen[0].removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    files += [folder / label for label in (plain, f"{plain}.gz") if label in entries][:1]
    return IdxSource(name, files, class_names)


def named_source(name: str, root: Path) -> Source:
    """Return a set by name, downloaded to root first if that is needed and possible.

    Raises:
        DataError: files that have to be placed by hand are missing.
        ResourceError: the download failed, or a package is missing or does not work.
    """
    if name == "shapes":
        return ShapesSource()
    if name in _IDX_SETS:
        dataset, class_names = _IDX_SETS[name]
        raw = root / dataset / "raw"
        if not all((raw / f"train-{kind}-ubyte").is_file() for kind in ("images-idx3", "labels-idx1")):
            _torchvision(dataset, root, train=True, download=True)
        source = find_idx(raw, name, class_names)
        assert source is not None, "torchvision changed its layout"
        return source
    if name == "cifar10":
        batches = root / "cifar-10-batches-py"
        files = [batches / f"data_batch_{k}" for k in range(1, 6)]
        if not all(path.is_file() for path in files):
            _torchvision("CIFAR10", root, train=True, download=True)
        return Cifar10Source(name, files, _CIFAR10)
    if name == "celeba":
        return _celeba(root)
    folder = root / f"{_LSUN[name]}_train_lmdb"
    if not (folder / "data.mdb").is_file():
        raise DataError(
            f"{name} is not in {folder}",
            path=folder,
            hint=f"unpack {folder.name} of LSUN there, or pass a folder or zip of images as --data",
        )
    return LmdbSource(name, folder)


def require_package(name: str, root: Path) -> None:
    """Refuse a set by name whose reading or download needs a package that is not installed.

    Args:
        name: of the set.
        root: where it is, or would be downloaded to.

    Raises:
        ResourceError: names the package, and how to install it.
    """
    if name in _LSUN:
        _package(name, "lmdb")
    if name == "celeba" and not all(path.exists() for path in _celeba_files(root)):
        _package(name, "gdown")


def _package(name: str, package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ResourceError(
            f"{name} needs the package {package}",
            hint="install it with: pip install 'scale-space-diffusion[data]'",
        ) from error


def _celeba_files(root: Path) -> tuple[Path, Path]:
    """Return the folder of images and the table of splits, as torchvision lays them out."""
    return root / "celeba" / "img_align_celeba", root / "celeba" / "list_eval_partition.txt"


def _celeba(root: Path) -> Source:
    """The images of the training split, aligned and cropped to 178 x 218 by the authors of CelebA."""
    folder, splits = _celeba_files(root)
    if not folder.is_dir() or not splits.is_file():
        require_package("celeba", root)
        _torchvision("CelebA", root, split="train", download=True)
    source = FolderSource(folder, read_list(splits, part=0))
    source.name = "celeba"
    return source


def _torchvision(dataset: str, root: Path, **options: object) -> Any:
    """Construct a data set of torchvision, which downloads it."""
    try:
        from torchvision import datasets
    except Exception as error:  # a build for another torch fails in many ways
        raise ResourceError(
            f"torchvision {_version('torchvision')} does not work with torch {torch.__version__}: "
            f"{one_line(error)}",
            hint="reinstall both together: pip install --force-reinstall torch torchvision",
        ) from error
    # Its progress bar is for people only.
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        root.mkdir(parents=True, exist_ok=True)
        with quiet, contextlib.redirect_stdout(sys.stderr):
            return getattr(datasets, dataset)(root=str(root), **options)
    except (OSError, RuntimeError, ImportError, ValueError) as error:
        raise ResourceError(
            f"cannot download {dataset} to {root}: {one_line(error)}",
            path=root,
            hint="place the files there by hand, or pass a folder or zip of images as --data",
        ) from error


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _read_idx(path: Path, dimensions: int) -> Pixels:
    """An idx file of bytes: two zeros, type 8, the number of dimensions, their sizes, the data."""
    try:
        with open_input(path) as file, gzip.open(file) if path.suffix == ".gz" else file as stream:
            header = stream.read(4 + 4 * dimensions)
            shape = tuple(int(n) for n in np.frombuffer(header[4:], ">u4"))
            count = int(np.prod(shape, dtype=object))
            if header[:4] != bytes((0, 0, 8, dimensions)) or len(shape) != dimensions:
                raise DataError(f"{path} is not an idx file of {dimensions}-dimensional bytes", path=path)
            if not 0 < count <= _IDX_LIMIT:
                raise DataError(f"{path} claims {count:,} bytes, the limit is {_IDX_LIMIT:,}", path=path)
            content = stream.read(count)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}", path=path) from error
    if len(content) < count:
        raise DataError(f"{path} ends after {len(content):,} of {count:,} bytes", path=path)
    return np.frombuffer(content, np.uint8).reshape(shape)


_CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_IDX_SETS = {"mnist": ("MNIST", _DIGITS), "fashion-mnist": ("FashionMNIST", _FASHION)}
_LSUN = {"lsun-bedroom": "bedroom", "lsun-church": "church_outdoor"}

DATA_NAMES = ("shapes", "cifar10", *_IDX_SETS, "celeba", *_LSUN)
"""Names that :func:`named_source` knows."""
