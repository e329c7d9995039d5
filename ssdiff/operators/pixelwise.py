"""Operators that act on each pixel by itself: masks and mixtures of channels."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdiff.errors import ChannelError, ProcessError
from ssdiff.operators.base import Constants, Operator


class Mask(Operator):
    """Multiplication by a mask of any real values; 0 hides a pixel, 1 keeps it.

    Args:
        mask: (H, W), or anything that broadcasts against (B, C, H, W), e.g. (B, 1, H, W) for one mask an
            image.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.ndim < 2:
            raise ProcessError(f"a mask needs a height and a width, not shape {tuple(mask.shape)}")
        self.in_size = self.out_size = (mask.shape[-2], mask.shape[-1])
        self._mask = Constants(mask=mask)

    @property
    def constants(self) -> Constants:
        """``mask``, as given."""
        return self._mask

    def apply(self, x: Tensor) -> Tensor:
        """Return mask * x."""
        return self._mask.like(x)["mask"] * x

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the same as ``apply``: the operator is diagonal."""
        return self.apply(y)

    def norm(self) -> float:
        """Return the largest |mask|."""
        return float(self._mask["mask"].abs().max())

    def __matmul__(self, inner: Operator) -> Operator:
        """Masks multiply up."""
        if isinstance(inner, Mask) and inner.out_size == self.in_size:
            return Mask(self._mask["mask"] * inner._mask["mask"])
        return super().__matmul__(inner)


class ChannelMix(Operator):
    """Each pixel's channels times one matrix: desaturation, colour transforms.

    Args:
        matrix: (C', C).
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2:
            raise ProcessError(f"a channel mix needs one matrix, not shape {tuple(matrix.shape)}")
        self.in_channels = matrix.shape[1]
        self._matrix = Constants(matrix=matrix)

    @property
    def constants(self) -> Constants:
        """``matrix``, (C', C)."""
        return self._matrix

    def apply(self, x: Tensor) -> Tensor:
        """Mix the channels: (B, C, H, W) to (B, C', H, W)."""
        return self._mix(self._matrix.like(x)["matrix"], x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Mix them by the transpose: (B, C', H, W) to (B, C, H, W)."""
        return self._mix(self._matrix.like(y)["matrix"].mT, y)

    def norm(self) -> float:
        """Return the largest singular value of the matrix."""
        return float(torch.linalg.matrix_norm(self._matrix["matrix"], 2))

    def __matmul__(self, inner: Operator) -> Operator:
        """Matrices multiply up."""
        if isinstance(inner, ChannelMix):
            return ChannelMix(self._matrix["matrix"] @ inner._matrix["matrix"])
        return super().__matmul__(inner)

    @staticmethod
    def _mix(matrix: Tensor, x: Tensor) -> Tensor:
        if x.shape[-3] != matrix.shape[1]:
            raise ChannelError(f"the operator mixes {matrix.shape[1]} channels, the image has {x.shape[-3]}")
        return torch.einsum("dc,...chw->...dhw", matrix, x)
