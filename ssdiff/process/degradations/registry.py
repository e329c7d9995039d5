"""Degradations D(x, t) of images of any size, by name: t = 0 is the image itself, t = T the most degraded.

To add one: write a builder that takes (size, T) and its own keyword options and returns a
:class:`ssdiff.process.degradations.base.Degradation` (for a linear one a ``LinearDegradation`` around a
function from
t to an operator), and give it a name in :data:`DEGRADATIONS`. A builder with a ``seed`` option is random: it
draws by image number, so that one image keeps one draw at every severity. The name and the options, with
their checks, are then what `--op`, and ``process.degradation`` in a preset, take.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch

from ssdiff.errors import UsageError, did_you_mean
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Scale, Size
from ssdiff.operators.fft import Blocks, Mirrored, gaussian_response, heat_response
from ssdiff.operators.pixelwise import ChannelMix
from ssdiff.operators.separable import Separable
from ssdiff.process.degradations import mask as masks
from ssdiff.process.degradations import snow
from ssdiff.process.degradations.base import (
    Degradation,
    FixedNoise,
    LinearDegradation,
    Mixture,
    Other,
    random_noise,
)
from ssdiff.process.degradations.blur import kernel_blur
from ssdiff.process.degradations.resize import down_up_sample, progressive_downsample
from ssdiff.process.diagonal import DiagonalProcess
from ssdiff.process.spectra import BlurNoise
from ssdiff.schedules import noise

_DENSE = 256  # pixels a side up to which dense matrices are as quick as an FFT, and stack in a batch
_BUMPS, _BUMP_GROWTH = 50, 1 / 320  # the official masks of CIFAR-10: 50 bumps, 0.1 px at 32 px


def downsample(size: Size, T: int, *, full_size: bool = False) -> LinearDegradation:
    """Smaller and smaller.

    Args:
        size: (H, W).
        T: the highest severity.
        full_size: False: progressive_downsample at the published times [SSD, section 4], and the result has
        its true size.
            True: severity t halves t times (bicubic) and returns to the full size each time (nearest)
            [CD, section 5.2]; T is at most the number of progressive_downsample that there are.
    """
    return down_up_sample(size, T) if full_size else progressive_downsample(size, T)


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
    """Gaussian blur: one of a size, or kernels applied one after the other as cold diffusion does.

    Without ``kernel``: reflect padding, and a std that rises geometrically from 0.3 px at t = 1; the kernel
    reaches 4 standard deviations, at most the image's side less one each way.

    Args:
        size: (H, W).
        T: the highest severity.
        max_std: std at T in pixels; a quarter of the shorter side where omitted.
        kernel: taps of the kernels applied in sequence, odd; see
            :func:`ssdiff.process.degradations.blur.kernel_blur` for
            it and the options that go with it.
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
    stds = _geometric(0.3, _positive("max_std", max_std, min(size) / 4), T)

    def operator(t: int) -> Operator:
        if max(size) <= _DENSE:
            return Separable(*(matrices.gaussian_blur(n, stds[t]) for n in size))
        rows, columns = (gaussian_response(n, stds[t]) for n in size)
        return Mirrored(rows, columns, repeat_edge=False)

    return LinearDegradation(size, T, operator)


def dct_blur(size: Size, T: int, *, max_std: float | None = None) -> LinearDegradation:
    """Heat dissipation: DCT-II coefficients times exp(-(pi k / n)^2 std^2 / 2) [IHDM, section 2].

    The std rises geometrically from 0.5 px at t = 1, as published; so does its end, half the longer side.

    Args:
        size: (H, W).
        T: the highest severity.
        max_std: std at T in pixels; half the longer side where omitted.
    """
    stds = _geometric(0.5, _positive("max_std", max_std, max(size) / 2), T)

    def operator(t: int) -> Operator:
        if max(size) <= _DENSE:
            return Separable(*(matrices.heat(n, stds[t]) for n in size))
        rows, columns = (heat_response(n, stds[t]) for n in size)
        return Mirrored(rows, columns, repeat_edge=True)

    return LinearDegradation(size, T, operator)


def fixed_noise(size: Size, T: int, *, seed: int = 0) -> Mixture:
    """Variance-preserving noise with linear betas, one draw an image [CD, section 5.1; Ho et al. 2020]."""
    return _mixed(size, T, random_noise(seed))


def animorph(size: Size, T: int, *, other: Other | None = None) -> Mixture:
    """The image turns into another one along the noise schedule [CD, section 5.2, animorphosis].

    Args:
        size: (H, W).
        T: the highest severity.
        other: image numbers and (C, H, W) to the images that they turn into.
    """
    if other is None:
        raise UsageError("animorph turns an image into another one", hint="name that one with --with")
    return _mixed(size, T, other)


def pixelate(size: Size, T: int) -> LinearDegradation:
    """Blocks of one colour at the full size.

    The side of a block rises geometrically from 1 px at t = 0 to a quarter of the shorter side at T.
    """
    largest = max(1.0, min(size) / 4)

    def operator(t: int) -> Operator:
        side = largest ** (t / T)
        blocks = max(1, round(size[0] / side)), max(1, round(size[1] / side))
        if max(size) <= _DENSE:
            return Separable(*(matrices.blocks(n, k) for n, k in zip(size, blocks, strict=True)))
        return Blocks(size, blocks)

    return LinearDegradation(size, T, operator)


def mask(
    size: Size,
    T: int,
    *,
    kernel_std: float | None = None,
    initial: int = 1,
    bumps: int | None = None,
    centre: str = "middle",
    seed: int = 0,
) -> Degradation:
    """A hole with a soft edge grows [CD, section 5.3].

    Args:
        size: (H, W).
        T: the highest severity.
        kernel_std: pixels by which each bump is wider than the one before; 1/320 of the shorter side where
            omitted, which is the official 0.1 at 32 px.
        initial: width of the first bump in units of ``kernel_std``.
        bumps: how many there are at T; 50 where omitted, as for CIFAR-10.
        centre: ``middle``, or ``random``: a pixel of each image's own.
        seed: decides the random centres.
    """
    growth = _positive("kernel_std", kernel_std, min(size) * _BUMP_GROWTH)
    count = _BUMPS if bumps is None else bumps
    if count < 1 or initial < 1 or centre not in ("middle", "random"):
        raise UsageError(
            f"a mask needs bumps and initial of at least 1, not {count} and {initial}, and a known centre, "
            f"not {centre!r}",
            hint="centre is 'middle' or 'random'",
        )
    family = masks.GaussianMaskSchedule(count, T, growth, initial)
    return masks.centred(size, T, family) if centre == "middle" else masks.RandomMask(size, T, family, seed)


def snowfall(size: Size, T: int, *, level: int = 3, seed: int = 0) -> snow.Snow:
    """It begins to snow, one layer of flakes an image [CD, section 5.4]; level 1 to 4."""
    if level not in snow.LEVELS:
        raise UsageError(
            f"snow has no level {level}", hint=f"choose one of {', '.join(map(str, snow.LEVELS))}"
        )
    return snow.Snow(size, T, snow.LEVELS[level], seed)


def desaturate(size: Size, T: int) -> LinearDegradation:
    """Colours fade linearly to the mean of the three channels [CD, appendix]; grey at T."""
    grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    return LinearDegradation(size, T, lambda t: ChannelMix(torch.lerp(eye, grey, t / T)))


def blur_noise(size: Size, T: int, *, rate: str = "quartic", seed: int = 0) -> FixedNoise:
    """Blur diffusion: coloured noise over an image that blurs, one draw an image [BD, section 3]."""
    process = DiagonalProcess(BlurNoise(size, noise.linear(T), rate), checked=False)
    return FixedNoise(process, size, random_noise(seed))


Builder: TypeAlias = Callable[..., Degradation]

DEGRADATIONS: Mapping[str, Builder] = MappingProxyType(
    {
        "downsample": downsample,
        "blur": blur,
        "dct-blur": dct_blur,
        "noise": fixed_noise,
        "pixelate": pixelate,
        "mask": mask,
        "snow": snowfall,
        "desaturate": desaturate,
        "blur-noise": blur_noise,
        "animorph": animorph,
    }
)
"""Name to builder(size, T, **options)."""


def build_degradation(
    name: str, size: Size, T: int = 1000, *, seed: int = 0, **options: object
) -> Degradation:
    """The degradation of a name for images of one size.

    Args:
        name: one of :data:`DEGRADATIONS`.
        size: (H, W) of the clean images, pixels.
        T: the highest severity, at least 1.
        seed: for the random ones; the others ignore it.
        options: keyword options of the builder, e.g. ``max_std`` of blur.

    Raises:
        UsageError: for an unknown name (it gives the nearest ones), a size or T below 1, or an option that
            this degradation has not or that is out of range.
    """
    builder = DEGRADATIONS.get(name)
    if builder is None:
        raise UsageError(f"unknown degradation {name!r}", hint=did_you_mean(name, DEGRADATIONS))
    if T < 1 or min(size) < 1:
        raise UsageError(f"a degradation needs T >= 1 and pixels, not T = {T} and size {tuple(size)}")
    known = list(inspect.signature(builder).parameters)[2:]
    for option in options:
        if option not in known:
            own = ", ".join(key for key in known if key not in ("seed", "other")) or "none"
            raise UsageError(f"{name} has no option {option!r}", hint=f"its options are: {own}")
    try:
        return builder(size, T, **options, **({"seed": seed} if "seed" in known else {}))
    except TypeError:
        shown = ", ".join(f"{key} = {value!r}" for key, value in options.items())
        raise UsageError(f"{name}: an option has a value of the wrong kind: {shown}") from None


def _mixed(size: Size, T: int, other: Other) -> Mixture:
    nu = noise.linear(T)
    signal = (1 + nu.square()).rsqrt()
    clean = LinearDegradation(size, T, lambda t: Scale())
    return Mixture(clean, [1.0, *signal.tolist()], [0.0, *(signal * nu).tolist()], other)


def _geometric(first: float, last: float, T: int) -> list[float]:
    """T + 1 numbers, index 0 unused: from ``first`` at 1 (or ``last`` if smaller) to ``last`` at T."""
    ratio = last / min(first, last)
    return [0.0, *(last * ratio ** ((t - T) / max(1, T - 1)) for t in range(1, T + 1))]


def _positive(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not 0 < value < math.inf:
        raise UsageError(f"{name} must be a positive number of pixels, not {value}")
    return value
