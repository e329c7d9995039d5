"""Operators whose singular values are known: what exact posteriors and data consistency ask of one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ssdiff.operators.base import Operator

SpectralFunction = Callable[[Tensor], Tensor]
_CHUNK = 2**22  # singular values at once, so that a photograph's take little memory in float64


class Factored(Operator):
    """A = U S V^T on each channel, S a product of singular values for rows and for columns, s_i s_j."""

    row_values: Tensor
    """(p,) float64 singular values of the columns of pixels, none of them 0."""
    column_values: Tensor
    """(q,) likewise of the rows of pixels."""

    @property
    def singular_values(self) -> Tensor:
        """(p, q) float64, the non-zero ones: s_i of the rows times s_j of the columns."""
        return self.row_values[:, None] * self.column_values

    def norm(self) -> float:
        """Return the largest singular value."""
        if not self.row_values.numel() or not self.column_values.numel():
            return 0.0
        return float(self.row_values.max() * self.column_values.max())

    @abstractmethod
    def to_right(self, x: Tensor) -> Tensor:
        """Return V^T x, the part of an input (..., H, W) that the operator sees, (..., p, q)."""

    @abstractmethod
    def from_right(self, coefficients: Tensor) -> Tensor:
        """Return V c: (..., p, q) to (..., H, W)."""

    @abstractmethod
    def to_left(self, y: Tensor) -> Tensor:
        """Return U^T y: (..., h, w) to (..., p, q)."""

    @abstractmethod
    def from_left(self, coefficients: Tensor) -> Tensor:
        """Return U c: (..., p, q) to (..., h, w)."""

    def apply(self, x: Tensor) -> Tensor:
        """Return A x; half precision is computed in float32."""
        wide = x.float() if x.dtype.itemsize < 4 else x
        return self.from_left(self.weigh(lambda s: s, self.to_right(wide))).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y."""
        wide = y.float() if y.dtype.itemsize < 4 else y
        return self.from_right(self.weigh(lambda s: s, self.to_left(wide))).to(y.dtype)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Return A^+ y: (..., h, w) to (..., H, W), the input of smallest norm among the best fits."""
        return self.from_right(self.weigh(lambda s: 1 / s, self.to_left(y)))

    def weigh(self, function: SpectralFunction, coefficients: Tensor) -> Tensor:
        """Return f(s) * c, float64 factors in the type of the coefficients.

        Args:
            function: f, elementwise on singular values.
            coefficients: (..., p, q).
        """
        rows = max(1, _CHUNK // max(1, len(self.column_values)))
        if rows >= len(self.row_values):
            return function(self.singular_values).to(coefficients) * coefficients
        result = torch.empty_like(coefficients)
        for first in range(0, len(self.row_values), rows):
            part = slice(first, first + rows)
            gain = function(self.row_values[part, None] * self.column_values).to(coefficients)
            torch.mul(gain, coefficients[..., part, :], out=result[..., part, :])
        return result

    def spectral(self, function: SpectralFunction, x: Tensor) -> Tensor:
        """Return f(A^T A) x, the null space included.

        Args:
            function: f, elementwise on squared singular values (float64); f(0) acts on the null space.
            x: (..., H, W).
        """
        null = float(function(torch.zeros(1, dtype=torch.float64)))
        seen = self.weigh(lambda s: function(s.square()) - null, self.to_right(x))
        return null * x + self.from_right(seen)
