"""Degradations that change the resolution: chains of halvings, down and up again, blocks of one colour, and
the chain of a preset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor

from ssdiff.errors import ProcessError, UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Scale, Size
from ssdiff.operators.fft import Blocks, Interpolated, Mirrored, gaussian_response
from ssdiff.operators.resizing import ResizeMatrix
from ssdiff.operators.separable import Separable
from ssdiff.process.degradations.base import (
    DENSE,
    Degradation,
    LinearDegradation,
    Mixture,
    check_choice,
    check_dense,
    dense_fits,
    positive_pixels,
    random_noise,
)
from ssdiff.process.degradations.registry import register_degradation
from ssdiff.process.gaussian import GaussianProcess
from ssdiff.schedules import resolution

_REDUCTIONS = {"bicubic": matrices.bicubic, "bilinear": matrices.bilinear, "area": matrices.window_mean}
_COARSEST = 8  # pixels of the shorter side below which the published models do not go


@register_degradation("downsample")
def downsample(
    size: Size,
    T: int,
    *,
    full_size: bool = False,
    filter: str | None = None,
    by: str | None = None,
    blur: bool = False,
) -> LinearDegradation:
    """Shrink the image more and more.

    Args:
        size: (H, W).
        T: the highest severity.
        full_size: False: halvings at the published times [SSD, section 4], and the result has its true size.
            True: severity t shrinks t times and returns to the full size each time (nearest), see
            :func:`down_up_sample` for it and the options that go with it.
        filter: that shrinks: bicubic, where omitted, bilinear or area; none of them is anti-aliased.
        by: ``half``, where omitted: step t shrinks to 1 / 2^t of the size; or ``pixel``: to t - 1 pixels a
            side less than the full size.
        blur: blur by 3 x 3 taps, std 0.5 px, before and after each step.
    """
    if full_size:
        return down_up_sample(size, T, filter or "bicubic", by or "half", blur=blur)
    if filter is not None or by is not None or blur:
        raise UsageError("filter, by and blur are for results of the full size", hint="set full_size = true")
    return progressive_downsample(size, T)


@register_degradation("pixelate")
def pixelate(size: Size, T: int, *, largest: float | None = None) -> LinearDegradation:
    """Replace blocks of the full size by one colour each.

    The side of a block rises geometrically from 1 px at t = 0.

    Args:
        size: (H, W).
        T: the highest severity.
        largest: side of a block at T, pixels; a quarter of the shorter side where omitted.
    """
    top = max(1.0, positive_pixels("largest", largest, min(size) / 4))

    def operator(t: int) -> Operator:
        side = top ** (t / T)
        blocks = max(1, round(size[0] / side)), max(1, round(size[1] / side))
        if max(size) <= DENSE:
            return Separable(*(matrices.blocks(n, k) for n, k in zip(size, blocks, strict=True)))
        return Blocks(size, blocks)

    return LinearDegradation(size, T, operator)


def progressive_downsample(size: Size, T: int) -> LinearDegradation:
    """Shrink the image by the published schedule: halvings at convex-decay times, gamma 0.5 [SSD, section 4].

    Bilinear antialiased halvings follow one another while the shorter side keeps 8 pixels (at least one
    halving, if there are two pixels). The result has its true size.
    """
    count = max((min(size) // _COARSEST).bit_length() - 1, 1 if min(size) > 1 else 0)
    sizes = [(max(1, round(size[0] / 2**k)), max(1, round(size[1] / 2**k))) for k in range(count + 1)]
    return _pyramid(sizes, [0, *resolution.convex_decay(T, len(sizes)).tolist()], matrices.resize)


def down_up_sample(
    size: Size, T: int, filter: str = "bicubic", by: str = "half", *, blur: bool = False
) -> LinearDegradation:
    """Shrink and enlarge again, by the nearest pixel, in steps that follow one another [CD, section 5.2].

    Step i resizes to 1 / 2^i of the size, or to i - 1 pixels a side less than it; severity t is steps 1..t.
    Of the published routines, those by a pixel have T up to the side of the image, and their first step
    leaves it as it is.

    Args:
        size: (H, W); by a pixel, at most 1024 pixels a side.
        T: the highest severity.
        filter: bicubic, bilinear or area, the one of PyTorch's ``interpolate`` without anti-aliasing.
        by: half or pixel.
        blur: blur by 3 x 3 taps, std 0.5 px, borders reflected, before and after each step.

    Raises:
        UsageError: an unknown filter or step, or an image that is too large for dense products.
        ProcessError: if T steps leave no pixel, or there are too few to be blurred.
    """
    check_choice("filter", filter, tuple(_REDUCTIONS))
    check_choice("by", by, ("half", "pixel"))
    check_choice("blur", blur, (True, False))
    most = min(size).bit_length() - 1 if by == "half" else min(size)
    if most < T:
        what = "halved" if by == "half" else "made smaller by a pixel, at first by none,"
        raise ProcessError(
            f"images of {size[0]} x {size[1]} pixels can be {what} {most} times, not {T}",
            hint=f"choose T of at most {most}",
        )
    if by == "pixel":
        check_dense(size, T, "by = 'half' takes a few steps for any size")
    if by == "half" and not dense_fits(size, T):
        rows, columns = (gaussian_response(n, 0.5, 3) for n in size)
        soften = Mirrored(rows, columns, repeat_edge=False) if blur else None
        smaller = [(size[0] >> i, size[1] >> i) for i in range(1, T + 1)]
        return LinearDegradation(size, T, lambda t: Interpolated(size, smaller[:t], filter, soften))
    products = {n: _Steps(n, filter, by, blur) for n in set(size)}
    return LinearDegradation(size, T, lambda t: Separable(*(products[n].first(t) for n in size)))


class _Steps:
    """The (n, n) matrices of steps 1..t together; made up to the highest t that was asked for."""

    def __init__(self, n: int, filter: str, by: str, blur: bool) -> None:
        self._n, self._reduce, self._by = n, _REDUCTIONS[filter], by
        if by == "pixel" and filter == "bicubic":
            # Dozens of these in a row overshoot so much that the rounding of published weights shows.
            self._reduce = partial(matrices.bicubic, dtype=torch.float32)
        self._soften = matrices.gaussian_blur(n, 0.5, 3) if blur else None
        self._products: list[Tensor] = []

    def first(self, t: int) -> Tensor:
        while len(self._products) < t:
            step = self._step(len(self._products) + 1)
            self._products.append(step @ self._products[-1] if self._products else step)
        return self._products[t - 1]

    def _step(self, t: int) -> Tensor:
        small = self._n // 2**t if self._by == "half" else self._n - (t - 1)
        step = matrices.nearest(small, self._n) @ self._reduce(self._n, small)
        return step if self._soften is None else self._soften @ step @ self._soften


def resize_process(
    process: GaussianProcess, size: Size, *, noisy: bool = False, seed: int = 0
) -> Degradation:
    """Carry a process of square images over to images of any size: the same ratios of its sizes, the same
    timesteps of their transitions, the same signal and noise.

    Unlike a process built for the size, this takes no SVD, so photographs cost no minutes.

    Args:
        process: from a preset, at its own size.
        size: (H, W) of the clean images.
        noisy: x_t with the process's signal scale and noise instead of R_t x_0.
        seed: of the noise.
    """
    full = process.states[0].size
    chain = list(dict.fromkeys(state.size for state in process.states))
    sizes = [(max(1, round(size[0] * h / full[0])), max(1, round(size[1] * w / full[1]))) for h, w in chain]
    levels = [chain.index(state.size) for state in process.states]
    clean = _pyramid(sizes, levels, process.resize_matrix)
    if not noisy:
        return clean
    states = process.states
    signal, sigma = ([getattr(state, name) for state in states] for name in ("signal", "sigma"))
    return Mixture(clean, signal, sigma, random_noise(seed))


def _pyramid(sizes: Sequence[Size], levels: Sequence[int], resize: ResizeMatrix) -> LinearDegradation:
    """Resizes down to ``sizes[levels[t]]``, each the product of the single resolution transitions on the
    way."""

    @cache
    def composed(level: int) -> Operator:
        (h_in, w_in), (h_out, w_out) = sizes[level - 1], sizes[level]
        step = Separable(resize(h_in, h_out), resize(w_in, w_out))
        return step @ composed(level - 1) if level > 1 else step

    return LinearDegradation(
        sizes[0], len(levels) - 1, lambda t: composed(levels[t]) if levels[t] else Scale()
    )
