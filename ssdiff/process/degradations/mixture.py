"""Degradations that mix the image with noise, or with another image."""

from __future__ import annotations

from ssdiff.errors import UsageError
from ssdiff.operators.base import Scale, Size
from ssdiff.process.degradations.base import FixedNoise, LinearDegradation, Mixture, Other, random_noise
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
def blur_noise(size: Size, T: int, *, rate: str = "quartic", seed: int = 0) -> FixedNoise:
    """Blur diffusion: coloured noise over an image that blurs, one draw an image [BD, section 3]."""
    process = DiagonalProcess(BlurNoise(size, noise.linear(T), rate), checked=False)
    return FixedNoise(process, size, random_noise(seed))


def _mixed(size: Size, T: int, other: Other) -> Mixture:
    nu = noise.linear(T)
    signal = (1 + nu.square()).rsqrt()
    clean = LinearDegradation(size, T, lambda t: Scale())
    return Mixture(clean, [1.0, *signal.tolist()], [0.0, *(signal * nu).tolist()], other)
