"""Second moments of a data set in one pass: covariance, cosine spectra of every resolution, octaves."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdiff.errors import DataError
from ssdiff.operators import matrices
from ssdiff.operators.colour import luma
from ssdiff.operators.separable import Separable
from ssdiff.process.gaussian import ResizeMatrix

_LEAST = 2  # images


@dataclass(frozen=True, slots=True)
class DataModel:
    """Grey images as a normal distribution.

    Attributes:
        side: pixels a side, R.
        count: images seen.
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
        """r to the variance, per pixel at r, of the frequencies that the next smaller resolution has not."""
        return {
            side: float(self.spectra[side].sum() - self.spectra[side][:smaller, :smaller].sum()) / side**2
            for side, smaller in itertools.pairwise(self.spectra)
        }

    @property
    def total(self) -> float:
        """Trace of the covariance."""
        return float(self.spectra[self.side].sum())


def measure(
    batches: Iterable[Tensor],
    sides: Sequence[int],
    *,
    covariance: bool,
    resize: ResizeMatrix = matrices.resize,
) -> DataModel:
    """Statistics of a data set.

    Args:
        batches: (B, C, R, R) images in [-1, 1]; colour becomes its Rec. 601 luma.
        sides: pixels a side of every resolution, R first, falling.
        covariance: whether to keep the dense one, 8 R^4 bytes.
        resize: (n_in, n_out) to the 1-D matrix of one resolution transition.

    Raises:
        DataError: fewer than two images, or images that are all equal.
    """
    steps = [Separable(resize(a, b)) for a, b in itertools.pairwise(sides)]
    bases = [matrices.dct(side) for side in sides]
    spectra = [_Spread() for _ in sides]
    product, total, count = torch.zeros(0), torch.zeros(0), 0
    for batch in batches:
        x = luma(batch.double())[:, 0]
        if covariance:
            flat = x.flatten(1)
            product, total = flat.mT @ flat + (product if count else 0), flat.sum(0) + (total if count else 0)
        count += len(x)
        for level, basis in enumerate(bases):
            spectra[level].add(basis @ x @ basis.mT)
            if level < len(steps):
                x = steps[level].apply(x)
    if count < _LEAST:
        raise DataError(f"a covariance needs at least {_LEAST} images, not {count}")
    model = DataModel(
        sides[0],
        count,
        {side: part.variance() for side, part in zip(sides, spectra, strict=True)},
        product / count - torch.outer(total, total) / count**2 if covariance else None,
        resize,
    )
    if model.total <= 0:
        raise DataError("the images are all equal", hint="use others")
    return model


class _Spread:
    """Running mean and mean square."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """(B, r, r) more values."""
        self._count += len(values)
        self._sum = self._sum + values.sum(0)
        self._squares = self._squares + values.square().sum(0)

    def variance(self) -> Tensor:
        """(r, r) of all values so far."""
        mean = self._sum / self._count
        return (self._squares / self._count - mean.square()).clamp_min(0)
