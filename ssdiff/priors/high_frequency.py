"""High-frequency renoising: details that a resolution transition adds, with the spectrum of the training set.

A posterior takes the predicted clean image for the true one, so the details of a finer state vary less than
they should, by what the prediction misses: at a resolution transition nearly all, because the small and noisy
image tells little of them. The best normal step adds what is missed [Bao et al. 2022, section 3, carried over
to resolution transitions]; here it is all of the data's variance in these details, an upper bound that is
near where noise hides them [docs/math.md, equations (28) to (30)]. Related, for the noise instead of the
data: the corrective noise of [Pyramidal Flow Matching].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.data.moments import RunningMoments
from ssdiff.errors import CheckpointError
from ssdiff.operators import matrices
from ssdiff.operators.base import Constants
from ssdiff.process.base import Process


@dataclass(frozen=True, eq=False)
class HighFrequencySpectrum:
    """Power spectra of square images at every resolution that a change leads to.

    Attributes:
        rings: pixels a side to (K, C, C) float64, the covariance of the channels in the DCT-II coefficients
            at a distance of 0, 1, ... from the mean, rounded.
    """

    rings: Mapping[int, Tensor]

    @cached_property
    def _tables(self) -> dict[int, Constants]:
        """By pixels a side: the DCT, and (r, r, C, C) symmetric roots of the covariances."""
        tables = {}
        for side, covariances in self.rings.items():
            values, vectors = torch.linalg.eigh(covariances)
            roots = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT
            tables[side] = Constants(dct=matrices.dct(side), roots=roots[_ring(side)])
        return tables

    def draw(self, process: Process, t: int, s: int, key: int, images: Tensor) -> Tensor:
        """Draw what a transition from timestep t to s adds to x_s: a_s (I - R^+ R) d, R = R_{s:t}.

        d ~ N(0, Sigma_s) has the spectrum of the data [docs/math.md, equations (29) and (30)].

        Args:
            process: with a resolution transition between s and t.
            t: timestep that is left.
            s: timestep that is reached.
            key: from :func:`ssdiff.rng.derive`.
            images: (B,) image numbers, of which each decides its details; sets the device.

        Returns:
            (B, C, r_s, r_s) float32.
        """
        side = process.states[s].resolution
        channels = self.rings[side].shape[-1]
        unit = rng.normal(key, images, s, (channels, side, side))
        table = self._tables[side].like(unit)
        drawn = table["dct"].mT @ torch.einsum("ijcd,bdij->bcij", table["roots"], unit) @ table["dct"]
        return process.states[s].signal * process.high_frequencies(drawn, s, t)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers for a checkpoint."""
        return {str(side): table.tolist() for side, table in self.rings.items()}

    @classmethod
    def from_json(cls, values: Any) -> HighFrequencySpectrum:
        """Build it from what :meth:`to_json` returned.

        Raises:
            CheckpointError: if ``values`` is not what that gives.
        """
        try:
            rings = {int(side): torch.tensor(table, dtype=torch.float64) for side, table in values.items()}
        except (AttributeError, OverflowError, RuntimeError, TypeError, ValueError):
            raise CheckpointError("the checkpoint's spectra of details are damaged") from None
        if not all(_plausible(side, table) for side, table in rings.items()):
            raise CheckpointError("the checkpoint's spectra of details are damaged")
        return cls(rings)

    def check(self, process: Process, channels: int) -> None:
        """Refuse a process that these are no spectra for.

        Args:
            process: says which resolutions.
            channels: of the images.

        Raises:
            CheckpointError: a resolution is missing or more, or the channels are others.
        """
        sides = sorted(changes(process))
        if sorted(self.rings) != sides or any(table.shape[1] != channels for table in self.rings.values()):
            raise CheckpointError(
                f"the checkpoint's spectra of details are not those of {channels} channels at {sides} pixels"
            )


def changes(process: Process) -> dict[int, int]:
    """Return the pixels a side that a resolution transition leads to, with the first timestep of that
    size."""
    sides = [state.resolution for state in process.states]
    return {side: sides.index(side) for side in dict.fromkeys(sides) if side != sides[-1]}


def fit_spectrum(batches: Iterable[Tensor], process: Process) -> HighFrequencySpectrum:
    """Measure the spectra of a data set.

    Args:
        batches: (B, C, R, R) images in [-1, 1]; a single image has no variance, so nothing is added.
        process: for square images, says which resolutions and how images are reduced to them.
    """
    sides = changes(process)
    coefficients = {side: RunningMoments() for side in sides}
    for batch in batches:
        for side, timestep in sides.items():
            reduced = process.degrade(batch, timestep)
            basis = matrices.dct(side).to(reduced)
            coefficients[side].add((basis @ reduced @ basis.mT).double())
    rings = {}
    for side, found in coefficients.items():
        covariance = found.covariance()
        which, channels = _ring(side).flatten(), covariance.shape[-1]
        total = torch.zeros(_count(side), channels, channels, dtype=torch.float64)
        members = which.bincount(minlength=_count(side)).clamp_min(1)
        total.index_add_(0, which, covariance.flatten(0, 1))
        rings[side] = total / members[:, None, None]
    return HighFrequencySpectrum(rings)


def _plausible(side: int, table: Tensor) -> bool:
    """Whether these can be covariances of images in [-1, 1]."""
    if side < 1 or table.ndim != 3 or table.shape[1] != table.shape[2] or len(table) != _count(side):
        return False
    bounded = bool(table.isfinite().all()) and float(table.abs().max()) <= side**2
    return bounded and torch.allclose(table, table.mT) and bool((table.diagonal(dim1=1, dim2=2) >= 0).all())


def _ring(side: int) -> Tensor:
    """(side, side) rounded distance of each coefficient from the mean."""
    place = torch.arange(side, dtype=torch.float64)
    return (place[:, None].square() + place.square()).sqrt().round().long()


def _count(side: int) -> int:
    """Rings of a resolution."""
    return round(math.hypot(side - 1, side - 1)) + 1
