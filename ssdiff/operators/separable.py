"""Operators that act on rows and columns by two small dense matrices, and their spectral functions by SVD."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.operators.base import Constants, Operator
from ssdiff.operators.factored import Factored

_RANK_TOLERANCE = 1e-12


class Separable(Factored):
    """Y = L X K^T on each channel: a resize, a blur or a DCT filter [docs/math.md, equations (7) and (8)].

    The SVD of the two 1-D matrices gives the SVD of the whole: singular values s_i s_j, right singular basis
    V (x) V. It is taken once, in float64, on first use.

    Args:
        rows: L, (h, H), acts on columns of pixels.
        columns: K, (w, W), acts on rows of pixels; L where omitted (square images).
    """

    def __init__(self, rows: Tensor, columns: Tensor | None = None) -> None:
        columns = rows if columns is None else columns
        if rows.ndim != 2 or columns.ndim != 2:
            raise ProcessError(
                f"a separable operator needs two matrices, not {rows.ndim}-D and {columns.ndim}-D"
            )
        self.in_size = (rows.shape[1], columns.shape[1])
        self.out_size = (rows.shape[0], columns.shape[0])
        self._matrices = Constants(rows=rows, columns=columns)

    @property
    def constants(self) -> Constants:
        """``rows`` L and ``columns`` K."""
        return self._matrices

    def apply(self, x: Tensor) -> Tensor:
        """Return A x, (..., H, W) to (..., h, w); half precision is computed in float32."""
        return _between(self._matrices, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, (..., h, w) to (..., H, W)."""
        wide = y.float() if y.dtype.itemsize < 4 else y
        m = self._matrices.like(wide)
        return (m["rows"].mT @ wide @ m["columns"]).to(y.dtype)

    def __matmul__(self, inner: Operator) -> Operator:
        """Stays separable when ``inner`` is."""
        if isinstance(inner, Separable) and inner.out_size == self.in_size:
            rows = self._matrices["rows"] @ inner._matrices["rows"]
            return Separable(rows, self._matrices["columns"] @ inner._matrices["columns"])
        return super().__matmul__(inner)

    @cached_property
    def _svd(self) -> Constants:
        """Thin factors, numerically null directions dropped: rows = u diag(s) v^T, likewise for the
        columns."""
        parts: dict[str, Tensor] = {}
        for side in ("rows", "columns"):
            u, s, vh = torch.linalg.svd(self._matrices[side], full_matrices=False)
            rank = int((s > _RANK_TOLERANCE * s[0]).sum())
            parts |= {f"{side}_u": u[:, :rank], f"{side}_s": s[:rank], f"{side}_v": vh[:rank].mT}
        return Constants(**parts)

    @property
    def row_values(self) -> Tensor:  # type: ignore[override]
        """(p,) float64."""
        return self._svd["rows_s"]

    @property
    def column_values(self) -> Tensor:  # type: ignore[override]
        """(q,) float64."""
        return self._svd["columns_s"]

    def to_right(self, x: Tensor) -> Tensor:
        """Return V^T x, the part of an input (..., H, W) that the operator sees, in its singular basis (...,
        p, q)."""
        f = self._svd.like(x)
        return f["rows_v"].mT @ x @ f["columns_v"]

    def from_right(self, coefficients: Tensor) -> Tensor:
        """Return V c: (..., p, q) to (..., H, W)."""
        f = self._svd.like(coefficients)
        return f["rows_v"] @ coefficients @ f["columns_v"].mT

    def to_left(self, y: Tensor) -> Tensor:
        """Return U^T y: (..., h, w) to (..., p, q)."""
        f = self._svd.like(y)
        return f["rows_u"].mT @ y @ f["columns_u"]

    def from_left(self, coefficients: Tensor) -> Tensor:
        """Return U c: (..., p, q) to (..., h, w)."""
        f = self._svd.like(coefficients)
        return f["rows_u"] @ coefficients @ f["columns_u"].mT

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Return A^+ y: (..., h, w) to (..., H, W), the input of smallest norm among the best fits."""
        return _between(self._inverse, y)

    @cached_property
    def _inverse(self) -> Constants:
        """Pseudo-inverses of the two matrices; that of the whole is made of them."""
        f = self._svd
        return Constants(**{s: f[f"{s}_v"] / f[f"{s}_s"] @ f[f"{s}_u"].mT for s in ("rows", "columns")})


def _between(matrices: Constants, x: Tensor) -> Tensor:
    """rows x columns^T of (..., H, W)."""
    wide = x.float() if x.dtype.itemsize < 4 else x
    m = matrices.like(wide)
    return (m["rows"] @ wide @ m["columns"].mT).to(x.dtype)
