"""An operator on the upper left part of a larger image, of which it does not see the rest."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.operators.base import Operator, Size


class Cut(Operator):
    """``inner`` of the first (H, W) pixels of an image that is larger below and on the right.

    A cut has orthonormal rows: the singular values of the whole are those of ``inner``, and its inverse is
    zero where nothing is seen.

    Args:
        inner: of (H, W) images; of any size where ``size`` says which.
        full: (H', W') of the larger image.
        size: (H, W); that of ``inner`` where omitted.

    Raises:
        ProcessError: the image is no larger, or its size is not known.
    """

    def __init__(self, inner: Operator, full: Size, size: Size | None = None) -> None:
        seen = inner.in_size or size
        if seen is None or seen[0] > full[0] or seen[1] > full[1]:
            raise ProcessError(f"{seen} pixels cannot be cut from {full}")
        self.inner, self.in_size, self.size = inner, full, seen
        self.out_size, self.in_channels = inner.out_size or seen, inner.in_channels

    def apply(self, x: Tensor) -> Tensor:
        """Return inner(cut x)."""
        return self.inner.apply(x[..., : self.size[0], : self.size[1]])

    def adjoint(self, y: Tensor) -> Tensor:
        """Return inner^T y, with zeros below and on the right."""
        return self.spread(self.inner.adjoint(y))

    def spread(self, x: Tensor) -> Tensor:
        """Return (..., H, W) as the upper left part of zeros, (..., H', W')."""
        full = self.in_size
        assert full is not None, "given"
        return F.pad(x, (0, full[1] - x.shape[-1], 0, full[0] - x.shape[-2]))

    def norm(self) -> float:
        """Return that of ``inner``."""
        return self.inner.norm()
