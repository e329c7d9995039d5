"""Power spectra and mean of the training images: the details that a resolution transition adds, and the
variance that a step of finite length loses.

A posterior takes the predicted clean image for the true one, so the details of a finer state vary less than
they should, by what the prediction misses: at a resolution transition nearly all, because the small and noisy
image tells little of them. The best normal step adds what is missed [Bao et al. 2022, section 3, carried over
to resolution transitions]; here it is all of the data's variance in these details, an upper bound that is
near where noise hides them [docs/math.md, equations (28) to (30)]. Related, for the noise instead of the
data: the corrective noise of [Pyramidal Flow Matching].

At one size the same loss adds up over a chain: of the images that 25 steps of DDIM draw, fine details have
three quarters of the variance that the data has. For Gaussian data it is known, frequency by frequency, and a
step can give it back [docs/math.md, equation (91)].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff import rng
from ssdiff.data.moments import RunningMoments
from ssdiff.errors import CheckpointError
from ssdiff.operators import matrices
from ssdiff.operators.base import Constants
from ssdiff.process.base import Process
from ssdiff.process.eta import gains

_MEAN = 16  # pixels a side of a mean image that is kept, at most: averages of photographs are smooth
_MOST = math.sqrt(2)  # of standard deviations, for a full share: what is hardly there is not enlarged


@dataclass(frozen=True, eq=False)
class ImageSpectrum:
    """Power spectra of square images at the resolutions of a process, and their mean.

    Attributes:
        rings: pixels a side to (K, C, C) float64, the covariance of the channels in the DCT-II coefficients
            at a distance of 0, 1, ... from the mean, rounded. Those of older models lack the smallest size.
        mean: (C, m, m) float64, the mean image, reduced to 16 pixels a side where it is larger; None in those
            of older models.
    """

    rings: Mapping[int, Tensor]
    mean: Tensor | None = None
    _placed: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def _tables(self) -> dict[int, Constants]:
        """By pixels a side: the DCT, the principal colours of each ring with their variance, (r, r, C, C)
        symmetric roots of the covariances, and the mean, if it is known."""
        tables = {}
        for side, covariances in self.rings.items():
            variances, vectors = torch.linalg.eigh(covariances)
            variances = variances.clamp_min(0)
            roots = vectors * variances.sqrt()[:, None] @ vectors.mT
            mean = {} if self.mean is None else {"mean": _resized(self.mean, side)}
            tables[side] = Constants(
                dct=matrices.dct(side), variances=variances, vectors=vectors, roots=roots[_ring(side)], **mean
            )
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

    def correct(self, process: Process, x: Tensor, t: int, s: int, eta: float, share: float) -> Tensor:
        """Return x_s with the variance that the step from t lost given back: mean + r (x_s - mean).

        For Gaussian data with these spectra and its MMSE denoiser, V_s / (g^2 V_t + c^2) is what the variance
        of a coefficient at s should be, over what the step (12) makes of it, and r the power share / 2 of
        that ratio, which counts up to 2 [docs/math.md, equation (91)].

        Args:
            process: isotropic; t and s have one size.
            x: (B, C, r, r), x_s as from :meth:`ssdiff.sampling.walk.Walk.step`.
            t: timestep that is left.
            s: timestep that is reached, at least 1.
            eta: of the step.
            share: of the loss that is given back, 0..1; 1 is exact for Gaussian data.
        """
        side = x.shape[-1]
        table, then = self._tables[side].like(x), process.states[s]
        vectors = self._tables[side]["vectors"]
        factors = self._factors(process, side, t, s, eta) ** share
        mixed = ((vectors * factors[:, None]) @ vectors.mT).to(x)  # of the colours of each ring
        place = self._placed.get((side, x.device))
        if place is None:
            place = self._placed[side, x.device] = _ring(side).to(x.device)
        centred = x - then.signal * table["mean"]
        spread = table["dct"] @ centred @ table["dct"].mT
        spread = torch.einsum("ijcd,bdij->bcij", mixed[place], spread)
        return then.signal * table["mean"] + table["dct"].mT @ spread @ table["dct"]

    def _factors(self, process: Process, side: int, t: int, s: int, eta: float) -> Tensor:
        """(K, C) by which a step shrinks each principal colour of a ring, inverted."""
        variance = self._tables[side]["variances"]
        now, then = process.states[t], process.states[s]
        before, wanted = (state.signal**2 * variance + state.sigma**2 for state in (now, then))
        known = now.signal * variance / before  # of x_t the share that the prediction takes for clean
        factor, sigma_s, sigma_t = torch.tensor(
            [now.signal / then.signal, then.sigma, now.sigma], dtype=torch.float64
        )
        step = gains(factor, sigma_s, sigma_t, eta)
        kept = then.signal * known + step.gain * (1 - now.signal * known)
        return (wanted / (kept.square() * before + step.spread**2)).sqrt().clamp(1, _MOST)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers for a checkpoint."""
        rings = {str(side): table.tolist() for side, table in self.rings.items()}
        return rings if self.mean is None else {**rings, "mean": self.mean.tolist()}

    @classmethod
    def from_json(cls, values: Any) -> ImageSpectrum:
        """Build it from what :meth:`to_json` returned.

        Raises:
            CheckpointError: if ``values`` is not what that gives.
        """
        try:
            tables = {side: torch.tensor(table, dtype=torch.float64) for side, table in values.items()}
            mean = tables.pop("mean", None)
            rings = {int(side): table for side, table in tables.items()}
        except (AttributeError, OverflowError, RuntimeError, TypeError, ValueError):
            raise CheckpointError("the checkpoint's spectra of training images are damaged") from None
        if not all(_plausible(side, table) for side, table in rings.items()) or not _is_mean(mean, rings):
            raise CheckpointError("the checkpoint's spectra of training images are damaged")
        return cls(rings, mean)

    def check(self, process: Process, channels: int) -> None:
        """Refuse a process that these are no spectra for.

        Args:
            process: says which resolutions.
            channels: of the images.

        Raises:
            CheckpointError: a resolution is missing or more, or the channels are others.
        """
        sides = sorted(changes(process) if self.mean is None else resolutions(process))
        if sorted(self.rings) != sides or any(table.shape[1] != channels for table in self.rings.values()):
            raise CheckpointError(
                f"the checkpoint's spectra are not those of {channels} channels at {sides} pixels"
            )


def changes(process: Process) -> dict[int, int]:
    """Return the pixels a side that a resolution transition leads to, with the first timestep of that
    size."""
    smallest = process.states[-1].resolution
    return {side: first for side, first in resolutions(process).items() if side != smallest}


def resolutions(process: Process) -> dict[int, int]:
    """Return the pixels a side of every size of a process, with the first timestep of it."""
    sides = [state.resolution for state in process.states]
    return {side: sides.index(side) for side in dict.fromkeys(sides)}


def fit_spectrum(batches: Iterable[Tensor], process: Process) -> ImageSpectrum:
    """Measure the spectra of a data set.

    Args:
        batches: (B, C, R, R) images in [-1, 1]; a single image has no variance, so nothing is added.
        process: for square images, says which resolutions and how images are reduced to them.
    """
    sides = resolutions(process)
    coefficients, summed, count = {side: RunningMoments() for side in sides}, torch.zeros(()), 0
    for batch in batches:
        count += len(batch)
        summed = summed + _resized(batch.double(), min(batch.shape[-1], _MEAN)).sum(0)
        for side, timestep in sides.items():
            reduced = process.degrade(batch, timestep)
            basis = matrices.dct(side).to(reduced)
            coefficients[side].add((basis @ reduced @ basis.mT).double())
    rings, mean = {}, summed / count
    for side, found in coefficients.items():
        covariance = found.covariance()
        which, channels = _ring(side).flatten(), covariance.shape[-1]
        total = torch.zeros(_count(side), channels, channels, dtype=torch.float64)
        members = which.bincount(minlength=_count(side)).clamp_min(1)
        total.index_add_(0, which, covariance.flatten(0, 1))
        rings[side] = total / members[:, None, None]
    return ImageSpectrum(rings, mean)


def _plausible(side: int, table: Tensor) -> bool:
    """Whether these can be covariances of images in [-1, 1]."""
    if side < 1 or table.ndim != 3 or table.shape[1] != table.shape[2] or len(table) != _count(side):
        return False
    bounded = bool(table.isfinite().all()) and float(table.abs().max()) <= side**2
    return bounded and torch.allclose(table, table.mT) and bool((table.diagonal(dim1=1, dim2=2) >= 0).all())


def _is_mean(mean: Tensor | None, rings: Mapping[int, Tensor]) -> bool:
    """Whether this can be the mean of images in [-1, 1] with these spectra."""
    if mean is None:
        return True
    side, channels = min(max(rings, default=0), _MEAN), next(iter(rings.values())).shape[-1] if rings else 0
    return tuple(mean.shape) == (channels, side, side) and bool((mean.abs() <= 1).all())


def _resized(x: Tensor, side: int) -> Tensor:
    """(..., C, r, r) images as (..., C, side, side): areas are averaged, or pixels interpolated."""
    if x.shape[-1] == side:
        return x
    if side < x.shape[-1]:
        return F.adaptive_avg_pool2d(x, side)
    return F.interpolate(x[None], size=side, mode="bilinear")[0]


def _ring(side: int) -> Tensor:
    """(side, side) rounded distance of each coefficient from the mean."""
    place = torch.arange(side, dtype=torch.float64)
    return (place[:, None].square() + place.square()).sqrt().round().long()


def _count(side: int) -> int:
    """Rings of a resolution."""
    return round(math.hypot(side - 1, side - 1)) + 1
