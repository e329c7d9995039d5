"""Images that an analysis looks at: some of a data set, spread evenly, or a tensor's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssdiff.arguments import require_whole
from ssdiff.config import DataSettings
from ssdiff.data import evenly
from ssdiff.errors import DataError, UsageError
from ssdiff.images import from_uint8
from ssdiff.progress import Progress, stage
from ssdiff.second_set import open_as

_PART = 500  # images at once
_BEYOND = 1e-3  # what a pixel may lie outside [-1, 1], as after resampling


@dataclass(frozen=True, slots=True)
class InputImages:
    """Images that were chosen, read as they are needed.

    Attributes:
        source: of which data set, by name or path; ``"tensor"`` for a tensor.
        numbers: (N,) which images.
        read: from numbers to (B, C, R, R) float32 in [-1, 1].
    """

    source: str
    numbers: np.ndarray
    read: Callable[[np.ndarray], Tensor]

    @property
    def parts(self) -> int:
        """How many batches there are."""
        return -(-len(self.numbers) // _PART)

    def batches(self) -> Iterator[Tensor]:
        """Yield all images, 500 or fewer at once."""
        for part in np.array_split(self.numbers, self.parts):
            yield self.read(part)


def choose_images(
    data: str | Path | Tensor,
    count: int,
    size: int,
    channels: int,
    *,
    settings: DataSettings | None = None,
    progress: Progress | None = None,
) -> InputImages:
    """Choose images spread evenly over a data set.

    Args:
        data: folder, zip file or name, see :func:`ssdiff.data.open_data`; or (N, C, R, R) in [-1, 1], C 1 or
            3.
        count: how many, at least 2; a smaller set is used whole.
        size: R, pixels a side.
        channels: of images that are read; a tensor keeps its own.
        settings: how images are cut and read and which of the files count, but for size and channels.
        progress: told of a set that is prepared.

    Raises:
        UsageError: count is below 2, or a tensor has another shape, type or range.
        DataError: the data cannot be used.
    """
    require_whole("images", count, 2)
    if isinstance(data, Tensor):
        checked = check_images(data, "data", size).detach().cpu()
        return InputImages("tensor", evenly(len(data), count), lambda part: checked[torch.from_numpy(part)])
    if not isinstance(data, str | Path):
        raise UsageError(
            f"data cannot be {type(data).__name__}",
            hint="give a folder, zip file or name, or a tensor (N, C, R, R) of images in [-1, 1]",
        )
    wanted = (settings or DataSettings()).model_copy(update={"size": size, "channels": channels})
    prepared = open_as(wanted, data, stage(progress, "preparing"))
    return InputImages(
        prepared.source,
        evenly(len(prepared), count),
        lambda part: from_uint8(torch.from_numpy(np.asarray(prepared.images[part]))),
    )


def check_images(x: Tensor, name: str, size: int) -> Tensor:
    """Return the images as float32, if they are square images of a size in [-1, 1].

    Args:
        x: to check.
        name: of the argument, for the message.
        size: pixels a side.

    Raises:
        UsageError: they have another shape or type.
        DataError: a pixel is not finite, or outside [-1, 1].
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape[2] != x.shape[3]:
        raise UsageError(
            f"{name} must be a tensor (N, C, R, R) of square images with C 1 or 3, not {tuple(x.shape)}"
        )
    if x.shape[-1] != size:
        raise UsageError(
            f"{name} has images of {x.shape[-1]} px, but {size} px are asked for",
            hint="resize the images, or ask for their size",
        )
    if not x.is_floating_point():
        raise UsageError(
            f"{name} must hold floating-point numbers in [-1, 1], not {x.dtype}",
            hint="bytes become pixels by x / 127.5 - 1",
        )
    if not bool(x.isfinite().all()):
        raise DataError(f"{name} holds numbers that are not finite")
    low, high = float(x.min()), float(x.max())
    if low < -1 - _BEYOND or high > 1 + _BEYOND:
        raise DataError(
            f"{name} must lie in [-1, 1], not {low:.4g}..{high:.4g}",
            hint="images in [0, 1] become that by 2 x - 1",
        )
    return x.float()
