"""Singular values of operators in closed form, by kind: what an exact posterior needs of M.

See docs/math.md, equation (71).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdiff.operators.algebra import Kronecker
from ssdiff.operators.base import Operator, Scale
from ssdiff.operators.filters import Filter
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable

_Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class SingularSystem:
    """A = U diag(values) V^T of an operator.

    Attributes:
        values: float64, 0 or more; broadcasts against coefficients.
        to_right: V^T, of images (B, C, H, W) to coefficients.
        from_right: V.
        to_left: U^T, of images (B, C', h, w) to coefficients.
    """

    values: Tensor
    to_right: _Map
    from_right: _Map
    to_left: _Map


def singular_system(operator: Operator) -> SingularSystem | None:
    """Return the singular value decomposition of an operator of this package; None where there is no closed
    form.

    Args:
        operator: simplified, as by :func:`ssdiff.operators.algebra.simplify`.
    """
    match operator:
        case Scale(factor=factor):
            value = torch.tensor(factor, dtype=torch.float64)
            return _symmetric(value, lambda x: x, lambda c: c)
        case Mask(constants=c) if c["mask"].ndim < 4:
            return _symmetric(c["mask"], lambda x: x, lambda c: c)
        case Filter(basis=basis, constants=c):
            return _symmetric(c["gain"], basis.analysis, basis.synthesis)
        case Separable() as s:
            return SingularSystem(s.singular_values, s.to_right, s.from_right, s.to_left)
        case ChannelMix(constants=c):
            return _mixture(c["matrix"])
        case Kronecker(channels=channels, pixels=pixels):
            outer, inner = singular_system(channels), singular_system(pixels)
            return _both(outer, inner) if outer and inner else None
    return None


def _symmetric(values: Tensor, analysis: _Map, synthesis: _Map) -> SingularSystem:
    """Of what is diagonal in an orthonormal basis: a negative value is a sign of U."""
    signs = torch.where(values < 0, -1.0, 1.0)
    if bool((signs > 0).all()):
        return SingularSystem(values.abs(), analysis, synthesis, analysis)
    return SingularSystem(values.abs(), analysis, synthesis, lambda y: signs.to(y) * analysis(y))


def _mixture(matrix: Tensor) -> SingularSystem:
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    right = ChannelMix(vh)
    return SingularSystem(values[:, None, None], right.apply, right.adjoint, ChannelMix(u.mT).apply)


def _both(channels: SingularSystem, pixels: SingularSystem) -> SingularSystem:
    return SingularSystem(
        channels.values * pixels.values,
        lambda x: channels.to_right(pixels.to_right(x)),
        lambda c: pixels.from_right(channels.from_right(c)),
        lambda y: channels.to_left(pixels.to_left(y)),
    )
