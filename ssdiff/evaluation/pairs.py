"""Images to restore and compare: clean ones that are degraded here, or degraded ones and their partners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ssdiff.config import DataSettings, Preset
from ssdiff.data import ImageSet, image_sizes
from ssdiff.distributed import World
from ssdiff.errors import DataError, UsageError
from ssdiff.evaluation.sets import ImageSource
from ssdiff.images import from_uint8
from ssdiff.operators.base import Size
from ssdiff.progress import Progress
from ssdiff.restoration import Trained

_NAMED = 3  # files, in a message
_KEYS = ("source", "count", "sha256", "size", "skipped")


@dataclass(frozen=True, slots=True)
class PreparedImages:
    """A set, and where it comes from."""

    source: ImageSource
    data: ImageSet

    def describe(self, warnings: list[str]) -> dict[str, Any]:
        """Return what a result says about it; add warnings of what makes numbers worse."""
        about = self.source.describe(self.data, False, False, warnings)
        return {key: about[key] for key in _KEYS}


@dataclass(frozen=True, slots=True)
class Simulated:
    """Clean images, which the model's own process degrades."""

    clean: PreparedImages

    def __len__(self) -> int:
        return len(self.clean.data)

    def batch(self, method: Trained, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, C, R, R) clean images in [-1, 1], and (B, C, r, r) degraded ones for the samplers."""
        clean = from_uint8(self.clean.data.batch(numbers))
        return clean, method.degrade(clean, numbers)

    def describe(self, warnings: list[str]) -> dict[str, Any]:
        """Return the part of the result that says what was restored."""
        return {"images": self.clean.describe(warnings), "truth": None}


@dataclass(frozen=True, slots=True)
class Paired:
    """Images that are degraded already.

    Attributes:
        given: as they are.
        clean: as many.
        partners: (N,) int64, the number of each one's clean image.
    """

    given: PreparedImages
    clean: PreparedImages
    partners: Tensor

    def __len__(self) -> int:
        return len(self.given.data)

    def batch(self, method: Trained, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as that of :class:`Simulated`."""
        given = from_uint8(self.given.data.batch(numbers))
        return from_uint8(self.clean.data.batch(self.partners[numbers])), method.admit(given, numbers)

    def describe(self, warnings: list[str]) -> dict[str, Any]:
        """Return the part of the result that says what was restored."""
        return {"images": self.given.describe(warnings), "truth": self.clean.describe(warnings)}


def open_images(
    source: str,
    truth: str | None,
    preset: Preset,
    method: Trained,
    world: World,
    progress: Progress | None,
    names: Path | None = None,
    part: int | None = None,
) -> Simulated | Paired:
    """Return the images to restore.

    Args:
        source: clean images, or degraded ones if there is a truth.
        truth: folder or zip of the clean partners.
        names: list of those images of ``source`` that count, see :func:`ssdiff.data.open_data`.
        part: likewise.
        preset: of the model.
        method: knows the size of degraded images.
        world: this process's place.
        progress: is told of preparing.

    Raises:
        DataError: they cannot be used or do not go together; said before any is prepared.
        UsageError: a list for pairs.
    """
    if part is not None and names is None:
        raise UsageError("a part is chosen by a list of images", hint="give the list, too: --data-list FILE")
    if truth is not None and names is not None:
        raise UsageError("a list chooses among clean images", hint="leave it out, or leave the truth out")
    settings = preset.data
    side, (height, width) = settings.size, method.size
    partners = None if truth is None else _partners(source, truth, (width, height), (side, side))

    # Pairs are used as they are; and a file left out would shift the numbers of all after it.
    reading = DataSettings(background=settings.background) if truth else _held_out(settings, names, part)

    def read(name: str, size: int) -> PreparedImages:
        images = ImageSource(name, None, reading)
        return PreparedImages(images, images.open(size, world, progress, settings.channels))

    if truth is None or partners is None:
        return Simulated(read(source, side))
    return Paired(read(source, width), read(truth, side), torch.tensor(partners))


def _held_out(settings: DataSettings, names: Path | None, part: int | None) -> DataSettings:
    """How a model's training cut and read images, for others than those that it saw."""
    return settings.unlisted.model_copy(update={"list": None if names is None else str(names), "part": part})


def _partners(source: str, truth: str, size: Size, full: Size) -> list[int]:
    """The number of the clean image of each degraded one, which has its name, endings apart.

    Args:
        source: degraded images.
        truth: clean ones.
        size: (width, height) of the degraded ones.
        full: (width, height) of the clean ones.

    Raises:
        DataError: one without the other, two of a name, or another size.
    """
    sizes, true_sizes = image_sizes(source), image_sizes(truth)
    given, clean = _numbers(source, list(sizes)), _numbers(truth, list(true_sizes))
    if unmatched := [name for name in sizes if _stem(name) not in clean]:
        raise _refusal(source, unmatched, len(sizes), f"have no clean image of their name in {truth}")
    if unmatched := [name for name in true_sizes if _stem(name) not in given]:
        raise _refusal(truth, unmatched, len(true_sizes), f"have no degraded image of their name in {source}")
    for where, found, wanted in ((source, sizes, size), (truth, true_sizes, full)):
        if wrong := [f"{name} ({w} x {h})" for name, (w, h) in found.items() if (w, h) != wanted]:
            need = f"do not have the {wanted[0]} x {wanted[1]} pixels of this model and timestep"
            raise _refusal(where, wrong, len(found), need)
    return [clean[stem] for stem in given]


def _numbers(source: str, names: Sequence[str]) -> dict[str, int]:
    """Number of each image by its name without the ending, in their order."""
    numbers = {_stem(name): number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        duplicates = [name for number, name in enumerate(names) if numbers[_stem(name)] != number]
        raise _refusal(source, duplicates, len(names), "share their name, endings apart, with another")
    return numbers


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _refusal(source: str, names: Sequence[str], count: int, what: str) -> DataError:
    """The error for some images of a source; names the first."""
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return DataError(
        f"{len(names)} of {count} images of {source} {what}: {shown}",
        path=source,
        hint="nothing was restored",
    )
