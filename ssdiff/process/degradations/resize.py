"""Degradations that change the resolution: chains of halvings, down and up again, blocks of one colour, and
the chain of a preset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Scale, Size
from ssdiff.operators.fft import Blocks
from ssdiff.operators.separable import Separable
from ssdiff.process.degradations.base import (
    DENSE,
    Degradation,
    LinearDegradation,
    Mixture,
    random_noise,
)
from ssdiff.process.degradations.registry import register_degradation
from ssdiff.process.gaussian import GaussianProcess, ResizeMatrix
from ssdiff.schedules import resolution

_COARSEST = 8  # pixels of the shorter side below which the published models do not go


@register_degradation("downsample")
def downsample(size: Size, T: int, *, full_size: bool = False) -> LinearDegradation:
    """Shrink the image more and more.

    Args:
        size: (H, W).
        T: the highest severity.
        full_size: False: halvings at the published times [SSD, section 4], and the result has its true size.
            True: severity t halves t times (bicubic) and returns to the full size each time (nearest)
            [CD, section 5.2]; T is at most the number of halvings that there are.
    """
    return down_up_sample(size, T) if full_size else progressive_downsample(size, T)


@register_degradation("pixelate")
def pixelate(size: Size, T: int) -> LinearDegradation:
    """Replace blocks of the full size by one colour each.

    The side of a block rises geometrically from 1 px at t = 0 to a quarter of the shorter side at T.
    """
    largest = max(1.0, min(size) / 4)

    def operator(t: int) -> Operator:
        side = largest ** (t / T)
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


def down_up_sample(size: Size, T: int) -> LinearDegradation:
    """Step i resizes to 1 / 2^i of the size (bicubic) and back (nearest); severity t is steps 1..t
    [CD, section 5.2].

    Raises:
        ProcessError: if T halvings leave no pixel.
    """
    most = min(size).bit_length() - 1
    if most < T:
        raise ProcessError(
            f"images of {size[0]} x {size[1]} pixels can be halved {most} times, not {T}",
            hint=f"choose T of at most {most}",
        )

    @cache
    def composed(t: int) -> Separable:
        rows, columns = (matrices.nearest(n // 2**t, n) @ matrices.bicubic(n, n // 2**t) for n in size)
        step = Separable(rows, columns)
        if t == 1:
            return step
        result = step @ composed(t - 1)
        assert isinstance(result, Separable)
        return result

    return LinearDegradation(size, T, composed)


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
