"""The eta family: from the exact posterior to DDIM, one formula for every process [MATH.md, section 2]."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Gains(NamedTuple):
    """What a step does to one coefficient: x_s = mu_s + gain (x_t - m mu_s) + spread eps."""

    gain: Tensor
    spread: Tensor


def gains(m: Tensor, sigma_s: Tensor, sigma_t: Tensor, eta: float, independent: bool = False) -> Gains:
    """Gain and standard deviation of x_s given x_t and x_0, coefficient by coefficient.

    Args:
        m: factor from x_s to x_t, i.e. the singular values of M_{s:t}.
        sigma_s: noise of x_s, positive; broadcasts against ``m``.
        sigma_t: noise of x_t, positive.
        eta: 1 is the exact posterior, 0 keeps all known noise (DDIM). Every eta keeps the marginals.
        independent: the noise of x_s and that of x_t are independent draws, not a chain, so that eta = 1
            forgets the noise of x_t altogether [IHDM, section 2].
    """
    variance = sigma_s.square()
    if not independent:
        variance = (variance - (variance * m / sigma_t).square()).clamp_min(0)
    kept = eta**2 * variance
    return Gains((sigma_s.square() - kept).clamp_min(0).sqrt() / sigma_t, kept.sqrt())
