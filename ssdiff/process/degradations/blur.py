"""Blurs of cold diffusion: small kernels applied one after the other, as one operator a severity [CD]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Size
from ssdiff.operators.matrices import PADDINGS, Padding
from ssdiff.operators.separable import Separable
from ssdiff.process.degradations.base import LinearDegradation

STDS: Mapping[str, Callable[[int, float, float], float]] = MappingProxyType(
    {
        "constant": lambda i, first, growth: first,
        "incremental": lambda i, first, growth: first * (i + 1),
        "exponential": lambda i, first, growth: math.exp(growth * i),
        "affine": lambda i, first, growth: first + growth * i,
    }
)
"""How the std of kernel i = 0, 1, ... depends on its number, in pixels [MATH.md, section 5]."""

_DENSE_LIMIT = 1024  # pixels a side: the products of T matrices are computed and kept
_KEPT = 2**27  # numbers in the products that are kept, 1 GB in float64


def kernel_blur(
    size: Size, T: int, kernel: int, std: str, first: float, growth: float, padding: str, to_mean: bool
) -> LinearDegradation:
    """t kernels of a few taps, one after the other; constant time, because their product is kept.

    Args:
        size: (H, W), at most 1024 pixels a side.
        T: the highest severity.
        kernel: taps, odd.
        std: name of a rule in :data:`STDS`.
        first: std of the first kernel, pixels.
        growth: of the rules that grow.
        padding: circular, reflect or zero.
        to_mean: the last severity is the mean colour instead.

    Raises:
        UsageError: an option that is out of range, or an image that is too large for dense products.
        ProcessError: a kernel wider than the image.
    """
    if std not in STDS or padding not in PADDINGS:
        rules, paddings = ", ".join(STDS), ", ".join(PADDINGS)
        raise UsageError(
            f"unknown std {std!r} or padding {padding!r}", hint=f"choose from {rules} and from {paddings}"
        )
    if kernel < 1 or kernel % 2 == 0:
        raise UsageError(f"kernel must be an odd number of taps, not {kernel}")
    if max(size) > _DENSE_LIMIT or T * (size[0] ** 2 + size[1] ** 2) > _KEPT:
        raise UsageError(
            f"{T} kernels one after the other at {size[0]} x {size[1]} pixels are too much",
            hint="leave out kernel for one blur of any size",
        )
    stds = [STDS[std](i, first, growth) for i in range(T)]
    if not all(0 < value < math.inf for value in stds):
        raise UsageError(f"std must stay positive and finite, not {stds[0]:g} to {stds[-1]:g} pixels")
    beyond = PADDINGS[padding]
    products = {n: _products(n, stds, kernel, beyond) for n in set(size)}

    def operator(t: int) -> Separable:
        if to_mean and t == T:
            return Separable(*(torch.full((n, n), 1 / n, dtype=torch.float64) for n in size))
        return Separable(products[size[0]][t - 1], products[size[1]][t - 1])

    return LinearDegradation(size, T, operator)


def _products(n: int, stds: list[float], kernel: int, padding: Padding) -> list[Tensor]:
    """The (n, n) matrices of the first 1, 2, ... kernels together."""
    result: list[Tensor] = []
    for std in stds:
        step = matrices.gaussian_blur(n, std, kernel, padding)
        result.append(step @ result[-1] if result else step)
    return result
