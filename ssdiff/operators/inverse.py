"""Regularised and pseudo-inverses of operators in closed form, from their singular values.

What restoration from a measurement needs [docs/math.md, equation (38); DDNM, section 3; DDRM, section 3].
"""

from __future__ import annotations

import math
from functools import singledispatch

import torch
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.operators.base import Operator, Scale
from ssdiff.operators.convolution import Convolution
from ssdiff.operators.cut import Cut
from ssdiff.operators.factored import Factored
from ssdiff.operators.pixelwise import ChannelMix, Mask

_LEAST = 1e-6  # singular values below this share of the largest count as zero


def regularised_inverse(operator: Operator, y: Tensor, rho: float = 0.0) -> Tensor:
    """Return A^T (A A^T + rho I)^+ y: the x that minimises ||A x - y||^2 + rho ||x||^2.

    With rho = 0 it is the pseudo-inverse A^+ y. Directions that would be amplified by more than
    1 / (least * ||A||) are left at zero; for rho = 0 those are the singular values below ``least`` times the
    largest. ``least`` is 1e-6, and at least the square root of the machine precision where directions mix
    (3e-4 in float32): there what is left out and the rounding that is let in weigh the same.

    Args:
        operator: a :class:`Scale`, :class:`Factored`, :class:`Mask`, :class:`ChannelMix` or
            :class:`Convolution`, or a :class:`Cut` of one.
        y: (B, C', h, w), what the operator returns; half precision is computed in float32.
        rho: 0 or more, in units of ||A||^2.

    Returns:
        (B, C, H, W), what the operator takes.

    Raises:
        ProcessError: for an operator of another kind, or a negative rho.
    """
    if not rho >= 0:
        raise ProcessError(f"a regularised inverse needs rho >= 0, not {rho}")
    wide = y.float() if y.dtype.itemsize < 4 else y
    return _inverse(operator, wide, rho).to(y.dtype)


def check_inverse(operator: Operator) -> None:
    """Refuse an operator of a kind that has no inverse here; nothing is computed.

    Raises:
        ProcessError: then.
    """
    while isinstance(operator, Cut):
        operator = operator.inner
    if _inverse.dispatch(type(operator)) is _inverse.dispatch(Operator):
        raise _no_inverse(operator)


def _no_inverse(operator: Operator) -> ProcessError:
    return ProcessError(
        f"{type(operator).__name__} operators have no inverse in closed form here",
        hint="use a resize or blur by matrices (Separable), a Mask, a ChannelMix or a Scale",
    )


@singledispatch
def _inverse(operator: Operator, y: Tensor, rho: float) -> Tensor:
    raise _no_inverse(operator)


@_inverse.register
def _scale(operator: Scale, y: Tensor, rho: float) -> Tensor:
    factor = torch.tensor(operator.factor, dtype=torch.float64)
    return y * float(_gains(factor, factor.abs(), rho, _LEAST))


@_inverse.register
def _factored(operator: Factored, y: Tensor, rho: float) -> Tensor:
    largest = torch.tensor(operator.norm(), dtype=torch.float64)
    if not largest:  # A = 0
        return operator.adjoint(y)
    return operator.from_right(
        operator.weigh(lambda s: _gains(s, largest, rho, _least(y)), operator.to_left(y))
    )


@_inverse.register
def _cut(operator: Cut, y: Tensor, rho: float) -> Tensor:
    return operator.spread(_inverse(operator.inner, y, rho))


@_inverse.register
def _mask(operator: Mask, y: Tensor, rho: float) -> Tensor:
    mask = operator.constants["mask"]
    # Of one image each: the others of a batch must not matter.
    largest = mask.abs().amax(dim=tuple(range(-min(mask.ndim, 3), 0)), keepdim=True)
    return _gains(mask, largest, rho, _LEAST).to(y) * y


@_inverse.register
def _channel_mix(operator: ChannelMix, y: Tensor, rho: float) -> Tensor:
    u, values, vh = torch.linalg.svd(operator.constants["matrix"], full_matrices=False)
    gains = _gains(values, values.max(), rho, _least(y))
    return ChannelMix(vh.mT @ (gains[:, None] * u.mT)).apply(y)


@_inverse.register
def _convolution(operator: Convolution, y: Tensor, rho: float) -> Tensor:
    return operator.inverse(y, rho, _least(y))


def _least(y: Tensor) -> float:
    """Where rounding spreads over directions, dividing by less would show it."""
    return max(_LEAST, math.sqrt(torch.finfo(y.dtype).eps))


def _gains(values: Tensor, largest: Tensor, rho: float, least: float) -> Tensor:
    """s / (s^2 + rho), 0 where that exceeds 1 / (least * largest) or is 0 / 0."""
    gains = values / (values.square() + rho)
    return torch.where(gains.abs() * (least * largest) <= 1, gains, 0.0)
