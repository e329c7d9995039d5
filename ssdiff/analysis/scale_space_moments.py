"""Moments of samples, frequency by frequency: what is known of distributions that have no closed form.

The channels of an image have a covariance at each frequency of the DCT-II, and frequencies count as
independent. That costs a number a pixel instead of a matrix over all pixels, so that it scales to any size; a
stationary distribution on a large grid is nearly so. Of others, by Fischer's inequality, the entropy is an
upper bound, and the Frechet distance is a lower bound [docs/math.md, equation (77)].
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ssdiff.analysis.covariance import entropy_of_blocks, frechet, root_sum_of_blocks
from ssdiff.data.moments import RunningMoments
from ssdiff.images import upscale_nearest
from ssdiff.operators import matrices
from ssdiff.operators.base import Size

Basis = Callable[[Tensor], Tensor]
"""(B, C, h, w) pixels to as many coefficients in an orthonormal basis."""

BYTE_VARIANCE = (2 / 255) ** 2 / 12
"""Of the error of rounding [-1, 1] to bytes: without it an image that does not vary has no entropy."""


def dct_coefficients(x: Tensor) -> Tensor:
    """Return the orthonormal DCT-II coefficients of (..., h, w) pixels, float64."""
    rows, columns = matrices.dct(x.shape[-2]), matrices.dct(x.shape[-1])
    return rows @ x.double() @ columns.mT


class BlockMoments:
    """Mean and covariance over the channels at each coefficient of a basis, without bias.

    Args:
        basis: of the coefficients.
    """

    def __init__(self, basis: Basis = dct_coefficients) -> None:
        self._basis, self._running = basis, RunningMoments()

    @property
    def count(self) -> int:
        """Images that were added."""
        return self._running.count

    def add(self, x: Tensor) -> None:
        """Add (B, C, h, w) images of any type."""
        self._running.add(self._basis(x.double()))

    @property
    def mean(self) -> Tensor:
        """(h, w, C) of the coefficients."""
        return self._running.mean()

    @property
    def covariance(self) -> Tensor:
        """(h, w, C, C) of the coefficients."""
        found = self._running.covariance(correction=1)
        # What rounding leaves of a difference of two large numbers must not be negative.
        found.diagonal(dim1=-2, dim2=-1).clamp_min_(0)
        return found

    @property
    def total(self) -> float:
        """Trace of the whole covariance."""
        return float(self.covariance.diagonal(dim1=-2, dim2=-1).sum())

    def distance(self, other: BlockMoments) -> float:
        """Compute the squared Frechet distance to other moments of the same grid and basis."""
        a, b = self.covariance, other.covariance
        means = (self.mean - other.mean).flatten()
        return frechet(means, self.total, other.total, root_sum_of_blocks(a, b))


class SampleMoments:
    """Moments of x_t at one timestep from samples of it, at its own size and seen at the full grid.

    Small images are seen at the full grid by repeating their pixels, as everywhere in the analysis.

    Args:
        full: (H, W) of the clean images.
    """

    def __init__(self, full: Size) -> None:
        self._full = full
        self._own = BlockMoments()
        self._wide: BlockMoments | None = None
        self._size: Size = full
        self._entropies = 0.0

    @property
    def count(self) -> int:
        """Samples that were added."""
        return self._own.count

    @property
    def seen(self) -> BlockMoments:
        """Moments at the full grid."""
        return self._own if self._wide is None else self._wide

    def add(self, x: Tensor) -> None:
        """Add (B, C, h, w) samples."""
        x = x.detach().cpu().double()
        self._size = (x.shape[-2], x.shape[-1])
        self._own.add(x)
        if self._size != self._full:
            self._wide = self._wide or BlockMoments()
            self._wide.add(upscale_nearest(x, self._full))

    def mean_image(self) -> Tensor:
        """Return the (C, h, w) mean of the samples."""
        rows, columns = (matrices.dct(n) for n in self._size)
        return rows.mT @ self._own.mean.permute(2, 0, 1) @ columns

    def values(self) -> dict[str, float]:
        """Return mean, variance, entropy and structure of the mean image, by the names of their curves."""
        mean, count = self.mean_image(), self.count
        variance = self._own.total / mean.numel()
        # The mean of the pixels is the coefficient of frequency 0; its variance is no contrast.
        common = float(self._own.covariance[0, 0].diagonal().mean()) / math.prod(self._size)
        pixels = mean.shape[0] * math.prod(self._full)
        entropy = entropy_of_blocks(self._own.covariance, count, BYTE_VARIANCE)
        return {
            "mean": float(mean.mean()),
            "variance": variance,
            "sample-entropy": entropy / pixels,
            "mean-structure": structure(mean, (variance - common) / count),
        }


def structure(mean: Tensor, noise: float = 0.0) -> float:
    """Compute the standard deviation of a mean image over its pixels, channel by channel.

    Args:
        mean: (C, h, w).
        noise: variance of its pixels as an estimate, which counts as structure otherwise.
    """
    contrast = mean.flatten(1).var(1, correction=0).mean()
    return math.sqrt(max(0.0, float(contrast) - noise))
