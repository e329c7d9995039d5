"""What the closed forms need to know of a data set: mean, covariance, and DCT spectra at every resolution.

Images become grey by their luma; all is float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdiff.data.moments import RunningMoments
from ssdiff.errors import DataError
from ssdiff.operators import matrices
from ssdiff.operators.colour import luma
from ssdiff.operators.resizing import ResizeMatrix
from ssdiff.operators.separable import Separable

_LEAST = 2  # images
_NO_VARIANCE = 1e-12  # in all pixels together: what rounding leaves of images that are equal
_RANK_TOLERANCE = 1e-12  # relative to the largest eigenvalue


@dataclass(frozen=True, slots=True)
class DataMoments:
    """Second moments of grey images at every resolution of a process, biased (divided by N).

    Attributes:
        side: pixels a side, R.
        count: images seen, N.
        spectra: pixels a side r to the (r, r) variances of the DCT-II coefficients of images resized to it.
        covariance: (R^2, R^2), or None where only the spectra were asked for.
        resize: by which they were resized.
    """

    side: int
    count: int
    spectra: dict[int, Tensor]
    covariance: Tensor | None
    resize: ResizeMatrix = matrices.resize

    @property
    def octaves(self) -> dict[int, float]:
        """Pixels a side r to the variance, per pixel at r, of what the next smaller resolution has not.

        The variances of the frequencies that are too high for it, summed, over r^2: equation (47) of
        docs/math.md.
        """
        return {
            side: float(self.spectra[side].sum() - self.spectra[side][:smaller, :smaller].sum()) / side**2
            for side, smaller in itertools.pairwise(self.spectra)
        }

    @property
    def total(self) -> float:
        """Trace of the covariance."""
        return float(self.spectra[self.side].sum())


def measure_moments(
    batches: Iterable[Tensor],
    sides: Sequence[int],
    *,
    covariance: bool,
    resize: ResizeMatrix = matrices.resize,
) -> DataMoments:
    """Measure a data set in one pass.

    Args:
        batches: (B, C, R, R) images in [-1, 1].
        sides: pixels a side of every resolution, R first, falling.
        covariance: whether to keep the dense one, 8 R^4 bytes.
        resize: (n_in, n_out) to the 1-D matrix of one resolution transition.

    Raises:
        DataError: fewer than two images, or images that are all equal.
    """
    steps = [Separable(resize(a, b)) for a, b in itertools.pairwise(sides)]
    bases = [matrices.dct(side) for side in sides]
    pixels, coefficients = RunningMoments(), [RunningMoments() for _ in sides]
    for batch in batches:
        x = luma(batch.double())  # (B, 1, R, R)
        if covariance:
            pixels.add(x.flatten(1)[..., None, None])
        for level, basis in enumerate(bases):
            coefficients[level].add(basis @ x @ basis.mT)
            if level < len(steps):
                x = steps[level].apply(x)
    count = coefficients[0].count
    _check_count(count)
    spectra = {
        side: part.covariance()[..., 0, 0].clamp_min(0)
        for side, part in zip(sides, coefficients, strict=True)
    }
    found = DataMoments(sides[0], count, spectra, pixels.covariance()[0, 0] if covariance else None, resize)
    check_variance(found.total)
    return found


@dataclass(frozen=True, slots=True)
class GaussianData:
    """Gaussian data: the normal distribution with the mean and the covariance of images of d values.

    Attributes:
        mean: (d,).
        factor: (d, k) with orthogonal columns, factor @ factor.T the covariance; k is its rank.
    """

    mean: Tensor
    factor: Tensor

    @property
    def pixels(self) -> int:
        """d."""
        return len(self.mean)

    @property
    def eigenvalues(self) -> Tensor:
        """(k,) positive ones of the covariance."""
        return self.factor.square().sum(0)

    @property
    def total(self) -> float:
        """Trace of the covariance."""
        return float(self.factor.square().sum())


def gaussian_data(images: Tensor) -> GaussianData:
    """Fit Gaussian data to images, with the unbiased covariance (divided by N - 1).

    Args:
        images: (N, C, H, W), N at least 2, not all equal.

    Raises:
        DataError: there are fewer, or they do not differ.
    """
    _check_count(len(images))
    found = RunningMoments()
    found.add(images.double().flatten(1)[..., None, None])
    values, vectors = torch.linalg.eigh(found.covariance(correction=1)[0, 0])
    check_variance(float(values[-1]))
    kept = values > _RANK_TOLERANCE * values[-1]
    return GaussianData(found.mean()[0, 0], vectors[:, kept] * values[kept].sqrt())


def _check_count(count: int) -> None:
    if count < _LEAST:
        raise DataError(f"a covariance needs at least {_LEAST} images, not {count}", hint="use more images")


def check_variance(total: float) -> None:
    """Refuse images that are all equal, by the trace of their covariance.

    Raises:
        DataError: then.
    """
    if total < _NO_VARIANCE:
        raise DataError("the images are all equal and have no covariance", hint="use others")
