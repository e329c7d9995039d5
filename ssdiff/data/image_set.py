"""A prepared set as a training step sees it: squares of one size, or whole pictures of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssdiff.data.sources import Labels
from ssdiff.home import cache_root
from ssdiff.images.resize import middle


@dataclass(frozen=True)
class ImageSet:
    """Images ready for training.

    Attributes:
        whole: (N, C, side, side) uint8, memory-mapped, read-only; side is above size where there is room for
            crops at random.
        size: pixels a side that a model sees.
        labels: (N,) int64 positions in class_names, or None.
        class_names: names of the classes, empty if there are none.
        fingerprint: SHA-256 of images and labels; equal for equal content, wherever it came from.
        source: the folder, file or name that it was made from.
        skipped: (name, reason) of every file that could not be read.
        notes: what was decided that a user may want to know, one line each.
    """

    whole: NDArray[np.uint8]
    size: int
    labels: Labels | None
    class_names: tuple[str, ...]
    fingerprint: str
    source: str
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> NDArray[np.uint8]:
        """(N, C, size, size) uint8, the middle of each; the same memory as :attr:`whole`."""
        start = middle(self.whole.shape[-1], self.size)
        return self.whole[..., start : start + self.size, start : start + self.size]

    def __len__(self) -> int:
        return len(self.whole)

    def __str__(self) -> str:
        lines = [f"{len(self)} images of {self.source}, {self._shape()}"]
        if names := self.class_names:
            lines.append(f"{len(names)} classes: {', '.join(names[:12])}")
        lines += self.notes
        lines += [f"left out {name}: {reason}" for name, reason in self.skipped]
        lines += [f"fingerprint {self.fingerprint[:16]}", f"prepared in {self.folder}"]
        return "\n".join(lines)

    def _shape(self) -> str:
        channels, side = self.whole.shape[1:3]
        room = f" in {side} px for crops" if side > self.size else ""
        return f"{self.size} px{room}, {channels} channels"

    @property
    def folder(self) -> Path:
        """Where its array lies, which a user may want to know or delete."""
        return Path(str(getattr(self.whole, "filename", None) or cache_root())).parent

    def to_dict(self) -> dict[str, object]:
        """Return what ``ssdiff data prepare --json`` prints."""
        return {
            "source": self.source,
            "path": str(self.folder),
            "images": len(self),
            "size": self.size,
            "side": self.whole.shape[-1],
            "classes": list(self.class_names),
            "fingerprint": self.fingerprint,
            "skipped": [list(entry) for entry in self.skipped],
            "notes": list(self.notes),
        }

    def in_order(self, names: Sequence[str]) -> ImageSet:
        """Return the same set with its classes in another order: these names first, then its own others.

        Args:
            names: of classes, whether the set has them or not; a model was trained with their positions.
        """
        if self.labels is None or tuple(names) == self.class_names:
            return self
        order = (*names, *(name for name in self.class_names if name not in names))
        places = np.array([order.index(name) for name in self.class_names], np.int64)
        return replace(self, labels=places[self.labels], class_names=order)

    def batch(self, indices: Tensor) -> Tensor:
        """Return images by number.

        Args:
            indices: (B,) int64, in any order, repeats allowed.

        Returns:
            (B, C, size, size) uint8, a copy in memory.
        """
        return torch.from_numpy(np.asarray(self.images[indices.cpu().numpy()]))


@dataclass(frozen=True)
class PictureSet(ImageSet):
    """Whole pictures of any size; training sees patches of them.

    Attributes:
        whole: (bytes,) uint8, memory-mapped, read-only: (C, H, W) of each picture, one after another.
        size: pixels a side of a patch, which every picture has room for.
        sizes: (N, 2) int64, height and width of each picture.
        channels: 1 or 3.
    """

    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    channels: int = 3

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(N,) where the bytes of each picture begin."""
        lengths = self.channels * self.sizes.prod(axis=1)
        starts: NDArray[np.int64] = np.cumsum(lengths) - lengths
        return starts

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """(N, C, size, size) uint8, the middle of each picture as it is; a copy in memory."""
        middles = np.empty((len(self), self.channels, self.size, self.size), np.uint8)
        for number, (height, width) in enumerate(self.sizes.tolist()):
            top, left = middle(height, self.size), middle(width, self.size)
            picture = self.picture(number)
            middles[number] = picture[:, top : top + self.size, left : left + self.size]
        return middles

    def picture(self, number: int) -> NDArray[np.uint8]:
        """Return one whole picture, (C, H, W) uint8; the same memory as :attr:`whole`."""
        height, width = self.sizes[number].tolist()
        start = int(self.starts[number])
        return self.whole[start : start + self.channels * height * width].reshape(-1, height, width)

    def __len__(self) -> int:
        return len(self.sizes)

    def _shape(self) -> str:
        pixels = self.sizes.prod(axis=1).sum() / 1e6
        return f"whole, {pixels:.1f} megapixels, {self.channels} channels, for patches of {self.size} px"

    def to_dict(self) -> dict[str, object]:
        """Return what ``ssdiff data prepare --json`` prints; ``side`` is the shortest of all pictures."""
        return {**super().to_dict(), "side": int(self.sizes.min()), "sizes": self.sizes.tolist()}
