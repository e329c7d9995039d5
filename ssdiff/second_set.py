"""Data sets as a preset wants them, and the second set of animorphosis: images that others turn into."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ssdiff import images as pictures
from ssdiff import rng
from ssdiff.config import DataSettings
from ssdiff.data import ImageSet, open_data
from ssdiff.data.cache import Convert
from ssdiff.data.inputs import expand
from ssdiff.errors import DataError, UsageError
from ssdiff.images import from_uint8
from ssdiff.images.convert import ImagesLike, given, one_batch
from ssdiff.process.base import Other

OtherImages: TypeAlias = "str | os.PathLike[str] | ImagesLike | Other"
"""A data set (folder, zip file or name), images, or a function from (B,) image numbers and (C, H, W)."""


def open_as(
    settings: DataSettings,
    source: str | Path,
    progress: Callable[[int, int], None] | None,
    *,
    convert: Convert = "all",
) -> ImageSet:
    """Return the prepared set of a source as a preset wants it; see :func:`ssdiff.data.open_data`.

    Args:
        settings: of the preset.
        source: folder, archive or name.
        progress: told of images done and in all.
        convert: which images of other channels are taken; a training that begins says what the preset does.
    """
    return open_data(
        source,
        size=settings.size,
        channels=settings.channels,
        background=settings.background,
        corrupt=settings.corrupt,
        convert=convert,
        progress=progress,
        resize=settings.resize,
        margin=settings.margin,
        names=settings.list,
        part=settings.part,
        classes_from=settings.classes_from,
        max_pixels=settings.max_pixels,
        whole=settings.patches,
    )


class SecondSet:
    """A data set as what images are mixed with, opened when the first image is asked for.

    Image number i turns into a fixed image of the set, drawn with ``seed``; the set is cut and resized as a
    preset says.

    Args:
        source: folder, zip file or name.
        settings: size, channels, and what to do with files that are not as they should be.
        seed: decides which image goes with which number.
        remembered: the source was not named now but is what a run or a preset says.
    """

    def __init__(
        self, source: str | os.PathLike[str], settings: DataSettings, seed: int, *, remembered: bool = False
    ) -> None:
        self._source, self._settings, self._seed, self._remembered = source, settings, seed, remembered

    def open(self, progress: Callable[[int, int], None] | None = None) -> ImageSet:
        """Return the prepared set.

        Args:
            progress: told of images done and in all.

        Raises:
            DataError: the set is missing, empty, damaged or unsafe.
        """
        settings, source = self._settings.unlisted, self._source
        try:
            return open_as(settings, source if isinstance(source, str) else Path(source), progress)
        except DataError as error:
            if not self._remembered:
                raise DataError(f"second set: {error.args[0]}", path=error.path, hint=error.hint) from None
            raise DataError(
                f"the second set that the model was trained with, {source}, cannot be used: {error.args[0]}",
                path=error.path,
                hint="say where it is now: --with FOLDER or NAME (other=... from Python)",
            ) from None

    @cached_property
    def _choose(self) -> Other:
        return choose_from(self.open().images, self._seed)

    def __call__(self, numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return (B, C, H, W) images in [-1, 1] of (B,) image numbers."""
        return self._choose(numbers, shape)


def choose_from(data: np.ndarray, seed: int) -> Other:
    """Return what animorphosis turns images into: those of a second set, chosen by image number.

    Args:
        data: (N, C, S, S) uint8.
        seed: decides which image goes with which number.
    """
    key = rng.derive(seed, "degrade/animorph")

    def choose(numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
        which = rng.integers(key, numbers, 0, 0, len(data)).cpu().numpy()
        return from_uint8(torch.tensor(data[which])).to(numbers.device)

    return choose


def find_second_set(
    other: OtherImages,
    settings: DataSettings,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Other:
    """Return a second set that was named as what images are mixed with; what is wrong with it shows now.

    Args:
        other: a data set by path or name, images, or a function from (B,) image numbers and (C, H, W).
        settings: of the model.
        seed: decides which image of a data set goes with which number.
        progress: told of images prepared and in all.

    Raises:
        DataError: a set that is missing, empty or damaged.
        UsageError: images of another size or with other channels.
    """
    if isinstance(other, str | os.PathLike):
        found = SecondSet(other, settings, seed)
        found.open(progress)
        return found
    shape = (settings.channels, settings.size, settings.size)
    chosen = as_other(other)
    first: object = chosen(torch.zeros(1, dtype=torch.int64), shape)
    if not isinstance(first, Tensor) or tuple(first.shape) != (1, *shape):
        what = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise UsageError(f"other gives {what} for one image, needed is {(1, *shape)}")
    return chosen


def as_other(images: ImagesLike | Other) -> Other:
    """Return images as what animorphosis asks for: by number, from the first again after the last.

    Each is cut and resized to what is asked for.

    Args:
        images: as in :func:`ssdiff.degrade`; tensors have to have the size that is asked for.
    """
    if callable(images):
        return images
    if isinstance(images, Tensor):
        batch = one_batch(given(images, name="other"), "other")

        def choose(numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
            if tuple(batch.shape[1:]) != tuple(shape):
                raise UsageError(f"other images have shape {tuple(batch.shape[1:])}, needed is {shape}")
            return batch[numbers.to(batch.device) % len(batch)].to(numbers.device)

        return choose
    several = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    if not several:
        raise UsageError("other is an empty list", hint="give at least one image")

    @lru_cache(maxsize=1)
    def read(which: int, shape: tuple[int, ...]) -> Tensor:
        channels, *size = shape
        one = given(several[which], channels=channels, size=(size[0], size[1]), name="other")
        return one.batches[0][0]

    def draw(numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
        chosen = [read(number % len(several), tuple(shape)) for number in numbers.tolist()]
        return torch.stack(chosen).to(numbers.device)

    return draw


def other_files(argument: str, max_pixels: int) -> Other:
    """Return the images of a file or folder as what animorphosis asks for, as :func:`as_other`.

    Raises:
        DataError: a folder without images, or (when drawn) a file that is none.
    """
    sources = [source for source, _ in expand([argument])]

    @lru_cache(maxsize=1)
    def read(source: str, shape: tuple[int, ...]) -> Tensor:
        channels, *size = shape
        fitting = (size[0], size[1])
        return pictures.read_image(source, channels=channels, max_pixels=max_pixels, size=fitting)

    def draw(numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
        chosen = [sources[number % len(sources)] for number in numbers.tolist()]
        return torch.stack([read(source, shape) for source in chosen])

    return draw
