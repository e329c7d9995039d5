"""One step of a chain of sizes: by matrices, or, of photographs, by what costs no more than the pixels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ssdiff.operators import matrices
from ssdiff.operators.base import Size
from ssdiff.operators.cosines import BlockMean, Reduction, bilinear_reduction
from ssdiff.operators.factored import Factored
from ssdiff.operators.separable import Separable

ResizeMatrix = Callable[[int, int], Tensor]
"""(n_in, n_out) to the matrix of one dimension."""

LARGE = 512
"""Pixels a side above which matrices and their singular values cost more than cosines."""


def is_large(size: Size) -> bool:
    """Return whether images of (H, W) pixels are better off without matrices."""
    return max(size) > LARGE


def resize_step(before: Size, after: Size, resize: ResizeMatrix, *, large: bool) -> Factored:
    """Return the reduction from one size to the next smaller one.

    Args:
        before: (H, W).
        after: (h, w).
        resize: the matrix of one dimension.
        large: without matrices, if the factor is a whole number; at the borders of a bilinear reduction the
            mirror image takes part then.
    """
    factor = before[0] // after[0]
    whole = factor > 1 and before == (factor * after[0], factor * after[1])
    if large and whole and resize is matrices.area:
        return BlockMean(before, factor)
    if large and whole and resize is matrices.resize:
        return bilinear_reduction(before, factor)
    return Separable(resize(before[0], after[0]), resize(before[1], after[1]))


def follow(inner: Factored, outer: Factored) -> Factored:
    """Return ``outer`` after ``inner``, two steps of one chain."""
    if isinstance(inner, BlockMean) and isinstance(outer, BlockMean):
        assert inner.in_size is not None
        return BlockMean(inner.in_size, inner.factor * outer.factor)
    if isinstance(inner, Reduction) and isinstance(outer, Reduction):
        return inner.then(outer)
    composed = outer @ inner
    assert isinstance(composed, Factored), "matrices compose"
    return composed
