"""Patches of whole pictures, drawn at random places and scales."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.data import PictureSet
from ssdiff.images import from_uint8

_AS_LARGE_AS_ALLOWED = 0.25  # share of patches with the largest factor exactly
_REACH = 2.0  # pixels of the result that the kernel looks at to each side


class Patches:
    """Square patches as a function of (seed, picture, position, micro-batch).

    A factor f is drawn log-uniformly from the range, the largest one for a quarter of the patches, and raised
    where a picture is too small for it. The patch is a square of size / f pixels at a uniform place, reduced
    by the cubic kernel of a = -1/2 stretched by 1 / f [Keys 1981; docs/math.md, section 17]; at f = 1 it is a
    cut of the picture, bit for bit.

    Args:
        pictures: the set.
        scales: least and largest factor, 0 < low <= high <= 1.
        seed: of the run.
    """

    def __init__(self, pictures: PictureSet, scales: tuple[float, float], seed: int) -> None:
        self._bytes, self._size, self._channels = pictures.whole, pictures.size, pictures.channels
        self._starts = torch.from_numpy(pictures.starts)
        self._sizes = torch.from_numpy(pictures.sizes)
        self._low, self._high = scales
        self._keys = [rng.derive(seed, f"train/patch/{what}") for what in ("scale", "top", "left")]

    def __len__(self) -> int:
        return len(self._sizes)

    def __call__(self, numbers: Tensor, positions: Tensor, counter: int) -> Tensor:
        """Return (B, C, size, size) float32 in [-1, 1].

        Args:
            numbers: (B,) of pictures.
            positions: (B,) in the global micro-batch.
            counter: of micro-batches.
        """
        size, pixels = self._size, self._sizes[numbers]  # (B, 2)
        draws = [rng.uniform(key, positions, counter, (), torch.float64) for key in self._keys]
        along = (draws[0] / (1 - _AS_LARGE_AS_ALLOWED)).clamp(max=1)
        drawn = self._low * (self._high / self._low) ** along
        factor = torch.maximum(drawn, size / pixels.amin(dim=1).double())  # (B,)
        room = pixels - (size / factor)[:, None]  # (B, 2)
        corner = torch.stack(draws[1:], dim=1) * room
        whole = torch.floor(torch.stack(draws[1:], dim=1) * (room.round() + 1)).clamp(max=room.round())
        corner = torch.where((factor == 1)[:, None], whole, corner).clamp(min=0)
        rows, down = _taps(corner[:, 0], factor, size, pixels[:, 0])
        columns, across = _taps(corner[:, 1], factor, size, pixels[:, 1])
        areas, widths = pixels.prod(dim=1), pixels[:, 1]
        planes = self._starts[numbers][:, None] + torch.arange(self._channels) * areas[:, None]  # (B, C)
        inside = rows[:, :, None] * widths[:, None, None] + columns[:, None, :]  # (B, m, m)
        places = planes[:, :, None, None] + inside[:, None]
        found = from_uint8(torch.from_numpy(np.asarray(self._bytes[places.numpy()])))
        return (down[:, None] @ found @ across.mT[:, None]).clamp(-1, 1)


def _taps(corner: Tensor, factor: Tensor, size: int, length: Tensor) -> tuple[Tensor, Tensor]:
    """(B, m) source pixels of each patch along one axis, and (B, size, m) their weights."""
    reach = int(np.ceil(_REACH / float(factor.min()))) + 1
    first = corner.floor().long() - reach
    count = int(np.ceil(size / float(factor.min()))) + 2 * reach + 1
    pixels = first[:, None] + torch.arange(count)  # (B, m)
    centres = corner[:, None] + (torch.arange(size) + 0.5) / factor[:, None]  # (B, size)
    apart = (pixels[:, None, :] + 0.5 - centres[:, :, None]).abs() * factor[:, None, None]
    weights = _cubic(apart)
    weights = (weights / weights.sum(dim=2, keepdim=True)).float()
    return torch.minimum(pixels.clamp(min=0), length[:, None] - 1), weights


def _cubic(x: Tensor) -> Tensor:
    """The kernel of cubic interpolation with a = -1/2, of distances of 0 and more."""
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < _REACH, far, 0.0))
