"""Operators that are diagonal in a fixed orthonormal basis: blurs and cuts of cosine frequencies."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.operators.base import Constants, Operator, Size
from ssdiff.operators.separable import Separable


class Basis:
    """An orthonormal basis of images that is a product of one for columns of pixels and one for rows.

    Operators share it, so that its matrices are kept once.

    Args:
        rows: (H, H), row k is basis vector k of a column of pixels.
        columns: (W, W), likewise of a row of pixels.

    Raises:
        ProcessError: a matrix is not square, or not orthonormal to 1e-9.
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        for name, matrix in (("rows", rows), ("columns", columns)):
            square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
            eye = torch.eye(len(matrix), dtype=torch.float64)
            if not square or not torch.allclose(matrix.double() @ matrix.double().mT, eye, atol=1e-9):
                raise ProcessError(f"{name} of a basis must be a square orthonormal matrix")
        self.size: Size = (len(rows), len(columns))
        self._matrices = Constants(rows=rows, columns=columns)

    @property
    def constants(self) -> Constants:
        """``rows`` and ``columns``."""
        return self._matrices

    def same(self, other: Basis) -> bool:
        """Return whether two bases are the same, vector by vector."""
        a, b = self._matrices, other._matrices
        return self is other or all(torch.equal(a[name], b[name]) for name in ("rows", "columns"))

    def analysis(self, x: Tensor) -> Tensor:
        """Return the coefficients of (..., H, W) pixels."""
        m = self._matrices.like(x)
        return m["rows"] @ x @ m["columns"].mT

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """Return the pixels of (..., H, W) coefficients."""
        m = self._matrices.like(coefficients)
        return m["rows"].mT @ coefficients @ m["columns"]


@lru_cache(maxsize=16)
def cosines(size: Size) -> Basis:
    """Return the DCT-II basis of images of (H, W) pixels."""
    return Basis(matrices.dct(size[0]), matrices.dct(size[1]))


class Filter(Operator):
    """Each coefficient of a basis times a gain of its own: y = U (g * U^T x) [docs/math.md, equation (71)].

    Args:
        basis: U.
        gain: g, (H, W) of any real values, or a pair (H,) and (W,) whose products it is: then the filter is
            separable as well, which resizes need to stay in closed form.
    """

    def __init__(self, basis: Basis, gain: Tensor | tuple[Tensor, Tensor]) -> None:
        pair = gain if isinstance(gain, tuple) else None
        whole = pair[0].double()[:, None] * pair[1].double() if pair else gain
        if not isinstance(whole, Tensor) or tuple(whole.shape) != basis.size:
            raise ProcessError(f"a filter needs one gain for each of {basis.size} coefficients")
        self.basis, self.in_size, self.out_size = basis, basis.size, basis.size
        self.pair = pair and (pair[0].double(), pair[1].double())
        self._gain = Constants(gain=whole)

    @property
    def constants(self) -> Constants:
        """``gain``, (H, W)."""
        return self._gain

    @property
    def separable(self) -> Separable | None:
        """The same map by two matrices, where the gain is a product; None otherwise."""
        if self.pair is None:
            return None
        sides = zip(self.pair, ("rows", "columns"), strict=True)
        return Separable(*((m := self.basis.constants[name]).mT @ (g[:, None] * m) for g, name in sides))

    def apply(self, x: Tensor) -> Tensor:
        """Filter (..., H, W); half precision is computed in float32."""
        wide = x.float() if x.dtype.itemsize < 4 else x
        return self.basis.synthesis(self._gain.like(wide)["gain"] * self.basis.analysis(wide)).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the same as ``apply``: the filter is symmetric."""
        return self.apply(y)

    def norm(self) -> float:
        """Return the largest |gain|."""
        return float(self._gain["gain"].abs().max())

    def __matmul__(self, inner: Operator) -> Operator:
        """Gains multiply up in one basis; with what is separable, a separable filter stays so."""
        if isinstance(inner, Filter) and self.basis.same(inner.basis):
            if self.pair and inner.pair:
                return Filter(self.basis, (self.pair[0] * inner.pair[0], self.pair[1] * inner.pair[1]))
            return Filter(self.basis, self._gain["gain"] * inner._gain["gain"])
        if isinstance(inner, Separable) and (separable := self.separable) is not None:
            return separable @ inner
        return super().__matmul__(inner)
