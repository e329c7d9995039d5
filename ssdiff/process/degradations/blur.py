"""Blurs: one Gaussian of any size, heat dissipation, and the small kernels of cold diffusion [CD; IHDM].

Each severity is one operator, also where kernels follow one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Size
from ssdiff.operators.fft import Mirrored, gaussian_response, heat_response
from ssdiff.operators.matrices import PADDINGS, Padding
from ssdiff.operators.separable import Separable
from ssdiff.process.degradations.base import DENSE, LinearDegradation, positive_pixels
from ssdiff.process.degradations.registry import register_degradation

STDS: Mapping[str, Callable[[int, float, float], float]] = MappingProxyType(
    {
        "constant": lambda i, first, growth: first,
        "incremental": lambda i, first, growth: first * (i + 1),
        "exponential": lambda i, first, growth: math.exp(growth * i),
        "affine": lambda i, first, growth: first + growth * i,
    }
)
"""How the std of kernel i = 0, 1, ... depends on its number, in pixels [docs/math.md, equation (52)]."""

_KERNELS_LIMIT = 1024  # pixels a side: the products of T matrices are computed and kept
_KEPT = 2**27  # numbers in the products that are kept, 1 GB in float64


@register_degradation("blur")
def blur(
    size: Size,
    T: int,
    *,
    max_std: float | None = None,
    kernel: int | None = None,
    std: str = "constant",
    first: float = 1.0,
    growth: float = 0.01,
    padding: str = "reflect",
    to_mean: bool = False,
) -> LinearDegradation:
    """Blur by a Gaussian: one of a size, or kernels applied one after the other as cold diffusion does.

    Without ``kernel``: reflect padding, and a std that rises geometrically from 0.3 px at t = 1; the kernel
    reaches 4 standard deviations, at most the image's side less one each way.

    Args:
        size: (H, W).
        T: the highest severity.
        max_std: std at T in pixels; a quarter of the shorter side where omitted.
        kernel: taps of the kernels applied in sequence, odd; see
            :func:`kernel_blur` for it and the options that go with
            it.
        std: how the std of kernel i = 0, 1, ... grows: constant, incremental, exponential or affine.
        first: std of the first kernel (times i + 1 for incremental, no part in exponential), pixels.
        growth: of exponential (std = exp(growth i)) and affine (std = first + growth i).
        padding: circular, reflect or zero.
        to_mean: the last severity is the mean colour.
    """
    if kernel is not None:
        if max_std is not None:
            raise UsageError("max_std does not go with kernel", hint="leave one of them out")
        return kernel_blur(size, T, kernel, std, first, growth, padding, to_mean)
    stds = _geometric(0.3, positive_pixels("max_std", max_std, min(size) / 4), T)

    def operator(t: int) -> Operator:
        if max(size) <= DENSE:
            return Separable(*(matrices.gaussian_blur(n, stds[t]) for n in size))
        rows, columns = (gaussian_response(n, stds[t]) for n in size)
        return Mirrored(rows, columns, repeat_edge=False)

    return LinearDegradation(size, T, operator)


@register_degradation("dct-blur")
def dct_blur(size: Size, T: int, *, max_std: float | None = None) -> LinearDegradation:
    """Dissipate heat: DCT-II coefficients times exp(-(pi k / n)^2 std^2 / 2) [IHDM, section 2].

    The std rises geometrically from 0.5 px at t = 1, as published; so does its end, half the longer side.

    Args:
        size: (H, W).
        T: the highest severity.
        max_std: std at T in pixels; half the longer side where omitted.
    """
    stds = _geometric(0.5, positive_pixels("max_std", max_std, max(size) / 2), T)

    def operator(t: int) -> Operator:
        if max(size) <= DENSE:
            return Separable(*(matrices.heat(n, stds[t]) for n in size))
        rows, columns = (heat_response(n, stds[t]) for n in size)
        return Mirrored(rows, columns, repeat_edge=True)

    return LinearDegradation(size, T, operator)


def kernel_blur(
    size: Size, T: int, kernel: int, std: str, first: float, growth: float, padding: str, to_mean: bool
) -> LinearDegradation:
    """Blur by t kernels of a few taps, one after the other; constant time, because their product is kept.

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
    if max(size) > _KERNELS_LIMIT or T * (size[0] ** 2 + size[1] ** 2) > _KEPT:
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


def _geometric(first: float, last: float, T: int) -> list[float]:
    """T + 1 numbers, index 0 unused: from ``first`` at 1 (or ``last`` if smaller) to ``last`` at T."""
    ratio = last / min(first, last)
    return [0.0, *(last * ratio ** ((t - T) / max(1, T - 1)) for t in range(1, T + 1))]
