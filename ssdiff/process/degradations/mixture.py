"""Degradations that mix the image with noise, or with another image."""

from __future__ import annotations

import math

from ssdiff.errors import UsageError
from ssdiff.operators.base import Scale, Size
from ssdiff.process.degradations.base import (
    FixedNoise,
    LinearDegradation,
    Mixture,
    Other,
    positive_pixels,
    random_noise,
)
from ssdiff.process.degradations.registry import register_degradation
from ssdiff.process.diagonal import DiagonalProcess
from ssdiff.process.spectra import BlurNoise
from ssdiff.schedules import noise


@register_degradation("noise")
def fixed_noise(size: Size, T: int, *, seed: int = 0) -> Mixture:
    """Add variance-preserving noise with linear betas, one draw an image [CD, section 5.1; Ho et al.
    2020]."""
    return _mixed(size, T, random_noise(seed))


@register_degradation("animorph")
def animorph(size: Size, T: int, *, other: Other | None = None) -> Mixture:
    """Turn the image into another one along the noise schedule [CD, section 5.2, animorphosis].

    Args:
        size: (H, W).
        T: the highest severity.
        other: image numbers and (C, H, W) to the images that they turn into.
    """
    if other is None:
        raise UsageError("animorph turns an image into another one", hint="name that one by other (--with)")
    return _mixed(size, T, other)


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
        seed: of the noise.
    """
    positive_pixels("kernel_std", kernel_std, 0.4)
    if not 0 <= sigma_min <= sigma_max < math.inf:
        raise UsageError(
            f"sigma_min and sigma_max must be 0 <= sigma_min <= sigma_max, not {sigma_min} and {sigma_max}"
        )
    spectrum = BlurNoise(
        size,
        noise.linear(T),
        rate,
        kernel_std,
        sigma_min,
        sigma_max,
        unit_range=unit_range,
        former_rates=former_rates,
    )
    return FixedNoise(DiagonalProcess(spectrum, checked=False), size, random_noise(seed))


def _mixed(size: Size, T: int, other: Other) -> Mixture:
    nu = noise.linear(T)
    signal = (1 + nu.square()).rsqrt()
    clean = LinearDegradation(size, T, lambda t: Scale())
    return Mixture(clean, [1.0, *signal.tolist()], [0.0, *(signal * nu).tolist()], other)
