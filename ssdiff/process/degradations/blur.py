"""Blurs: one Gaussian of any size, heat dissipation, and the small kernels of cold diffusion [CD; IHDM].

Each severity is one operator, also where kernels follow one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor

from ssdiff.errors import ProcessError, UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Size
from ssdiff.operators.fft import Blocks, Mirrored, gaussian_response, heat_response
from ssdiff.operators.matrices import PADDINGS, Padding
from ssdiff.operators.separable import Separable
from ssdiff.process.degradations.base import (
    DENSE,
    LinearDegradation,
    check_dense,
    dense_fits,
    positive_pixels,
)
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

_RESPONSES = 2**14  # severities whose responses are computed and kept

OWN_TAPS = ("individual", "accumulated", "falling")
"""Rules by which kernels have as many taps as their std asks for."""


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
    last: float | None = None,
) -> LinearDegradation:
    """Blur by a Gaussian: one of a size, or kernels applied one after the other as cold diffusion does.

    With neither ``kernel`` nor a rule that chooses the taps: reflect padding, and a std that rises
    geometrically from 0.3 px at t = 1; the kernel reaches 4 standard deviations, at most the image's side
    less one each way.

    Args:
        size: (H, W).
        T: the highest severity.
        max_std: std at T in pixels; a quarter of the shorter side where omitted.
        kernel: taps of the kernels applied in sequence, odd; see :func:`kernel_blur` for it and the options
            that go with it.
        std: how the std of kernel i = 0, 1, ... grows: constant, incremental, exponential or affine, all with
            ``kernel``. Without it: accumulated (all kernels up to t together have a std on a line from
            ``first`` to ``last``), falling (that of one kernel falls on a line, the last one ``first`` times
            the first one, all together have ``last``), both of 2 floor(2 std) + 3 taps; or individual, one
            kernel of 2 t - 1 taps and a std of twice that, not applied in sequence. These three are published
            with ``padding = "circular"``.
        first: std of the first kernel (times i + 1 for incremental, no part in exponential and individual),
            pixels.
        growth: of exponential (std = exp(growth i)) and affine (std = first + growth i).
        padding: circular, reflect or zero.
        to_mean: the last severity is the mean colour.
        last: std of all kernels together, pixels; of accumulated and falling.
    """
    if kernel is not None or std in OWN_TAPS or last is not None:
        if max_std is not None:
            raise UsageError("max_std does not go with kernel", hint="leave one of them out")
        if (kernel is None) != (std in OWN_TAPS):
            needed = (
                "chooses its own taps; leave kernel out" if kernel else "needs kernel, an odd number of taps"
            )
            raise UsageError(f"std = {std!r} {needed}")
        return kernel_blur(size, T, kernel, std, first, growth, padding, to_mean, last)
    if (std, first, growth, padding, to_mean) != ("constant", 1.0, 0.01, "reflect", False):
        raise UsageError(
            "std, first, growth, padding and to_mean are for kernels that follow one another",
            hint="give kernel, or leave them out",
        )
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
    size: Size,
    T: int,
    kernel: int | None,
    std: str,
    first: float,
    growth: float,
    padding: str,
    to_mean: bool,
    last: float | None = None,
) -> LinearDegradation:
    """Blur by t kernels of a few taps, one after the other; constant time, because their product is kept.

    Args:
        size: (H, W), at most 1024 pixels a side but with reflect padding.
        T: the highest severity.
        kernel: taps, odd; None for the rules of :data:`OWN_TAPS`.
        std: name of a rule in :data:`STDS` or :data:`OWN_TAPS`.
        first: std of the first kernel, pixels.
        growth: of the rules that grow.
        padding: circular, reflect or zero.
        to_mean: the last severity is the mean colour instead.
        last: std of all kernels together, pixels; of accumulated and falling alone.

    Raises:
        UsageError: an option that is out of range, or an image that is too large for dense products.
        ProcessError: a kernel wider than the image.
    """
    if std not in (*STDS, *OWN_TAPS) or padding not in PADDINGS:
        rules, paddings = ", ".join((*STDS, *OWN_TAPS)), ", ".join(PADDINGS)
        raise UsageError(
            f"unknown std {std!r} or padding {padding!r}", hint=f"choose from {rules} and from {paddings}"
        )
    if kernel is not None and (kernel < 1 or kernel % 2 == 0):
        raise UsageError(f"kernel must be an odd number of taps, not {kernel}")
    if (last is None) == (std in ("accumulated", "falling")):
        raise UsageError(f"std = {std!r} {'needs last' if last is None else 'has no last'}, in pixels")
    by_fft = padding == "reflect" and not dense_fits(size, T) and T <= _RESPONSES
    if not by_fft:
        check_dense(
            size, T, 'choose padding = "reflect", or leave out kernel and std, for images of any size'
        )
    kernels = _kernels(T, kernel, std, first, growth, last or 0.0)
    if not all(0 < value < math.inf for value, _ in kernels):
        raise UsageError(
            f"std must stay positive and finite, not {kernels[0][0]:g} to {kernels[-1][0]:g} pixels"
        )
    if by_fft:
        return _by_fft(size, T, kernels, individual=std == "individual", to_mean=to_mean)
    together = _blurs if std == "individual" else _products
    matrices_of = {n: together(n, kernels, PADDINGS[padding]) for n in set(size)}

    def operator(t: int) -> Separable:
        if to_mean and t == T:
            return Separable(*(torch.full((n, n), 1 / n, dtype=torch.float64) for n in size))
        return Separable(matrices_of[size[0]][t - 1], matrices_of[size[1]][t - 1])

    return LinearDegradation(size, T, operator)


def _by_fft(
    size: Size, T: int, kernels: Sequence[tuple[float, int]], *, individual: bool, to_mean: bool
) -> LinearDegradation:
    """The same blurs without matrices: with reflect padding the responses of kernels multiply up."""
    widest = max(taps for _, taps in kernels)
    if widest // 2 > min(size) - 1:
        raise ProcessError(
            f"a kernel of {widest} taps is too wide for {min(size)} pixels with reflect padding",
            hint="use a larger image or a smaller kernel",
        )
    responses = {}
    for n in set(size):
        each = torch.stack([gaussian_response(n, std, taps) for std, taps in kernels])
        responses[n] = each if individual else each.cumprod(0)

    def operator(t: int) -> Operator:
        if to_mean and t == T:
            return Blocks(size, (1, 1))
        return Mirrored(responses[size[0]][t - 1], responses[size[1]][t - 1], repeat_edge=False)

    return LinearDegradation(size, T, operator)


def _kernels(
    T: int, kernel: int | None, std: str, first: float, growth: float, last: float
) -> list[tuple[float, int]]:
    """Std and taps of kernels 0..T-1."""
    if std in STDS:
        assert kernel is not None, "checked"
        return [(STDS[std](i, first, growth), kernel) for i in range(T)]
    if std == "individual":
        return [(2.0 * taps, taps) for taps in range(1, 2 * T, 2)]
    steps = [i / max(T - 1, 1) for i in range(T)]
    if std == "accumulated":
        totals = [0.0, *(first + (last - first) * step for step in steps)]
        squares = [b * b - a * a for a, b in pairwise(totals)]
        stds = [math.sqrt(square) if square > 0 else math.nan for square in squares]
    else:
        shares = [1 + (first - 1) * step for step in steps]
        ratio = last / math.hypot(*shares)
        stds = [ratio * share for share in shares]
    return [(value, 2 * int(2 * value) + 3 if 0 < value < math.inf else 1) for value in stds]


def _products(n: int, kernels: Sequence[tuple[float, int]], padding: Padding) -> list[Tensor]:
    """The (n, n) matrices of the first 1, 2, ... kernels together."""
    result: list[Tensor] = []
    for step in _blurs(n, kernels, padding):
        result.append(step @ result[-1] if result else step)
    return result


def _blurs(n: int, kernels: Sequence[tuple[float, int]], padding: Padding) -> list[Tensor]:
    """The (n, n) matrix of each kernel alone."""
    return [matrices.gaussian_blur(n, std, taps, padding) for std, taps in kernels]


def _geometric(first: float, last: float, T: int) -> list[float]:
    """T + 1 numbers, index 0 unused: from ``first`` at 1 (or ``last`` if smaller) to ``last`` at T."""
    ratio = last / min(first, last)
    return [0.0, *(last * ratio ** ((t - T) / max(1, T - 1)) for t in range(1, T + 1))]
