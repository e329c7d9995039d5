"""The best linear enlargement of clean images at a resolution transition, fitted to the training set.

A network that predicts R_t x_0 from x_t needs no layers for the step to a finer size if what the finer image
has besides follows linearly. In Gaussian data E[x_s | x_t] = E[x_s | E[x_small | x_t]] is such a map exactly.
Photographs of one kind, e.g. faces at one place, have details that depend on where they are, so the map is
fitted anew at every pixel of the small image, as others who cross resolutions without a network do not
[Subspace Diffusion] [Pyramidal Flow Matching].
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import CheckpointError
from ssdiff.process.base import Process

_NEIGHBOURS = 5  # pixels a side of what a map sees
_RIDGE = 0.01  # of the mean variance of what it sees
_LARGEST = 64  # pixels a side of small images with a map at every pixel; larger ones have one for all


@dataclass(frozen=True, eq=False)
class LinearLift:
    """Maps from a pixel's neighbours to the four that take its place, by the small image's pixels a side.

    Attributes:
        maps: (P, 4 C, 25 C + 1) float32, of the r^2 pixels row by row, or of all alike (P = 1); the last
            number is a constant. They give what is to be added to the pixel itself.
    """

    maps: Mapping[int, Tensor]
    _placed: dict[torch.device, dict[int, Tensor]] = field(default_factory=dict, repr=False)

    def enlarge(self, x: Tensor, side: int | None = None) -> Tensor:
        """Return (B, C, h, w) images at twice the size, (B, C, 2 h, 2 w) float32.

        Args:
            x: clean images, or predictions of some, about [-1, 1].
            side: pixels a side of the small images that the maps were fitted to, where ``x`` are pictures of
                another size: these are enlarged by the mean of the maps of all pixels, because where
                something lies tells nothing of them. Omitted, ``x`` are such images.
        """
        x, native = x.float(), x.shape[-1] if side is None else side
        placed = self._placed.setdefault(x.device, {})
        if native not in placed:
            placed[native] = self.maps[native].to(x.device)
        maps = placed[native]
        if side is None:
            seen = _features(x)
            added = torch.einsum("pof,bpf->bpo", maps.expand(native**2, -1, -1), seen)
            fine = added.mT.reshape(len(x), -1, native, native)
        else:
            mean = maps.mean(0)
            taps = mean[:, :-1].reshape(len(mean), -1, _NEIGHBOURS, _NEIGHBOURS)
            fine = F.conv2d(_bordered(x), taps, mean[:, -1])
        return F.pixel_shuffle(fine, 2) + _repeated(x)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the maps by name, for a checkpoint."""
        return {str(side): table for side, table in self.maps.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], process: Process, channels: int) -> LinearLift:
        """Build it from what :meth:`to_tensors` returned.

        Args:
            tensors: by name.
            process: says which sizes.
            channels: of the images.

        Raises:
            CheckpointError: if they are not the maps of this process.
        """
        sides = [small for _, small in steps(process)]
        found = {int(name): value.float() for name, value in tensors.items() if name.isdecimal()}
        shape = (4 * channels, _NEIGHBOURS**2 * channels + 1)
        for side in sides:
            table = found.get(side, torch.empty(0))
            places = 1 if side > _LARGEST else side**2
            if tuple(table.shape) != (places, *shape) or not bool(table.isfinite().all()):
                raise CheckpointError(f"the checkpoint's maps of the transition from {side} px are damaged")
        return cls({side: found[side].clone() for side in sides})


def steps(process: Process) -> list[tuple[int, int]]:
    """Return the pixels a side of each size and the next smaller one."""
    sides = dict.fromkeys(state.resolution for state in process.states)
    return list(itertools.pairwise(sides))


def fit_lift(batches: Iterable[Tensor], process: Process) -> LinearLift:
    """Fit the maps by least squares, with a ridge of a hundredth of the mean variance.

    Args:
        batches: (B, C, R, R) images in [-1, 1].
        process: for square images, says which sizes, each half the one before, and how images are reduced.
    """
    first = {state.resolution: t for t, state in reversed(list(enumerate(process.states)))}
    sums: dict[int, tuple[Tensor, Tensor, int]] = {}
    for batch in batches:
        for side, small in steps(process):
            fine, coarse = (process.degrade(batch.double(), first[pixels]) for pixels in (side, small))
            seen = _features(coarse).transpose(0, 1)  # (places, B, numbers)
            wanted = F.pixel_unshuffle(fine - _repeated(coarse), 2).flatten(2).permute(2, 0, 1)
            if small > _LARGEST:
                seen, wanted = seen.flatten(0, 1)[None], wanted.flatten(0, 1)[None]
            products, targets, count = seen.mT @ seen, seen.mT @ wanted, seen.shape[1]
            if small in sums:
                before = sums[small]
                products, targets, count = before[0] + products, before[1] + targets, before[2] + count
            sums[small] = products, targets, count
    return LinearLift({small: _solved(*found) for small, found in sums.items()})


def _solved(products: Tensor, targets: Tensor, count: int) -> Tensor:
    """(places, out, numbers + 1) of the moments of what is seen, with a constant, and of what is wanted."""
    second, cross = products / count, targets / count
    mean, wanted = second[:, :-1, -1], cross[:, -1]
    covariance = second[:, :-1, :-1] - mean[:, :, None] * mean[:, None]
    spread = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    ridge = _RIDGE * spread[:, None, None] * torch.eye(mean.shape[1], dtype=torch.float64)
    linear = torch.linalg.solve(covariance + ridge, cross[:, :-1] - mean[:, :, None] * wanted[:, None])
    constant = wanted - (mean[:, None] @ linear)[:, 0]
    return torch.cat([linear, constant[:, None]], dim=1).mT.float().contiguous()


def _features(x: Tensor) -> Tensor:
    """(B, r^2, 25 C + 1) neighbours of each pixel, those at the border repeated, and a constant."""
    return F.pad(F.unfold(_bordered(x), _NEIGHBOURS).mT, (0, 1), value=1.0)


def _bordered(x: Tensor) -> Tensor:
    return F.pad(x, (_NEIGHBOURS // 2,) * 4, mode="replicate")


def _repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)
