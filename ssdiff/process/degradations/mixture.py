"""Degradations that mix the image with noise, or with another image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from ssdiff.errors import UsageError
from ssdiff.operators.base import Scale, Size
from ssdiff.process.base import Other
from ssdiff.process.degradations.base import (
    FixedNoise,
    LinearDegradation,
    Mixture,
    positive_pixels,
    random_noise,
)
from ssdiff.process.degradations.registry import register_degradation
from ssdiff.process.diagonal import DiagonalProcess
from ssdiff.process.spectra import BlurNoise
from ssdiff.schedules.noise import nu_of

Schedule: TypeAlias = "str | Mapping[str, Any]"
"""A noise schedule by its name, or a table of ``kind`` and options: ``process.noise`` of a preset."""


@register_degradation("noise")
def fixed_noise(size: Size, T: int, *, schedule: Schedule = "linear", seed: int = 0) -> Mixture:
    """Add variance-preserving noise, one draw an image [CD, section 5.1; docs/math.md, equation (51)].

    Args:
        size: (H, W).
        T: the highest severity.
        schedule: of the noise; ``cosine`` is the published one.
        seed: of the draws.
    """
    return _mixed(size, T, random_noise(seed), schedule)


@register_degradation("animorph")
def animorph(size: Size, T: int, *, schedule: Schedule = "linear", other: Other | None = None) -> Mixture:
    """Turn the image into another one along a noise schedule [CD, section 5.2, animorphosis].

    Args:
        size: (H, W).
        T: the highest severity.
        schedule: of the mixing; ``cosine`` is the published one.
        other: image numbers and (C, H, W) to the images that they turn into.
    """
    if other is None:
        raise UsageError("animorph turns an image into another one", hint="name that one by other (--with)")
    return _mixed(size, T, other, schedule, morphs=True)


@register_degradation("blur-noise")
def blur_noise(
    size: Size,
    T: int,
    *,
    rate: str = "quartic",
    kernel_std: float = 0.4,
    sigma_min: float = 0.0,
    sigma_max: float = 0.15,
    unit_range: bool = True,
    former_rates: bool = False,
    schedule: Schedule = "linear",
    seed: int = 0,
) -> FixedNoise:
    """Blur diffusion: coloured noise over an image that blurs, one draw an image [BD, section 3].

    Args:
        size: (H, W).
        T: the highest severity.
        rate: how the blur of a step grows, a name of :data:`ssdiff.process.spectra.RATES`.
        kernel_std: of the blur whose powers are taken, pixels.
        sigma_min: std of the blur of the first step, pixels.
        sigma_max: std of the blur of the last step, pixels.
        unit_range: noise of std 1 for images in [0, 1], as published, which is 2 in units of [-1, 1].
        former_rates: the rates of ssdiff 0.1 and 0.2.
        schedule: of the noise.
        seed: of the noise.
    """
    positive_pixels("kernel_std", kernel_std, 0.4)
    if not 0 <= sigma_min <= sigma_max < math.inf:
        raise UsageError(
            f"sigma_min and sigma_max must be 0 <= sigma_min <= sigma_max, not {sigma_min} and {sigma_max}"
        )
    spectrum = BlurNoise(
        size,
        nu_of(T, schedule),
        rate,
        kernel_std,
        sigma_min,
        sigma_max,
        unit_range=unit_range,
        former_rates=former_rates,
    )
    return FixedNoise(DiagonalProcess(spectrum, checked=False), size, random_noise(seed))


def _mixed(size: Size, T: int, other: Other, schedule: Schedule, morphs: bool = False) -> Mixture:
    nu = nu_of(T, schedule)
    signal = (1 + nu.square()).rsqrt()
    clean = LinearDegradation(size, T, lambda t: Scale())
    return Mixture(clean, [1.0, *signal.tolist()], [0.0, *(signal * nu).tolist()], other, morphs=morphs)
