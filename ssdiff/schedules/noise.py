"""Noise schedules: nu_t = sigma_t / a_t for t = 1..T, float64, increasing.

A process needs only nu, the noise relative to the signal: a = 1 / sqrt(1 + nu^2), sigma = nu a. The
full-resolution log-SNR of a timestep is -2 log nu.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """Return nu from the cumulative products abar_t = a_t^2 of DDPM."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def linear(steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Return (T,) noise levels nu, the variances beta_t on a line whose ends are scaled by 1000 / T [Ho et
    al. 2020, section 4]."""
    scale = 1000 / steps
    beta = torch.linspace(scale * beta_start, scale * beta_end, steps, dtype=torch.float64).clamp(max=0.999)
    return from_alpha_bar(torch.cumprod(1 - beta, dim=0))


def cosine(steps: int, offset: float = 0.008) -> Tensor:
    """Return (T,) noise levels nu, abar_t a squared cosine, betas below 0.999 [Nichol & Dhariwal 2021,
    section 3.2]."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    curve = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    beta = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    return from_alpha_bar(torch.cumprod(1 - beta, dim=0))


def log_snr(steps: int, first: float = 9.2, last: float = -12.0) -> Tensor:
    """Return (T,) noise levels nu, the log-SNR on a line from ``first`` at t = 1 to ``last`` at t = T [Kingma
    et al. 2021]."""
    return torch.exp(-torch.linspace(first, last, steps, dtype=torch.float64) / 2)


def snr_preserving(nu: Tensor, gain: Tensor, match: float, final_snr: float) -> Tensor:
    """Return SNR-preserving noise nu_t g_t^m: what shrinks the image shrinks the noise.

    See docs/math.md, equations (19) to (22).

    Args:
        nu: (T,) schedule of the full-resolution process.
        gain: (T,) g_t = ||R_{1:t}||_2, 1 at full resolution, decreasing.
        match: m in [0, 1]; 0 is the published process, 1 keeps the SNR of the coarse content.
        final_snr: where the last state keeps a larger SNR than this, the noise at the smallest resolution is
            raised along t, log-linearly from the last resolution transition on, to end at it.

    Returns:
        (T,) matched schedule; ``nu`` itself for m = 0.
    """
    if match == 0:
        return nu
    result = nu * gain**match
    excess = math.log(result[-1] ** -2 / final_snr) / 2
    if excess > 0:
        tail = gain == gain[-1]
        ramp = torch.linspace(0, excess, int(tail.sum()) + 1, dtype=torch.float64)[1:]
        result[tail] *= ramp.exp()
    return result
