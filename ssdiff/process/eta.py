"""The eta family: from the exact posterior to DDIM, one formula for every process.

See docs/math.md, equations (9) to (13).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Gains(NamedTuple):
    """What a step does to one coefficient: x_s = mu_s + gain (x_t - m mu_s) + spread eps."""

    gain: Tensor
    spread: Tensor


def gains(m: Tensor, sigma_s: Tensor, sigma_t: Tensor, eta: float, independent: bool = False) -> Gains:
    """Return gain b and standard deviation c of x_s given x_t and x_0, coefficient by coefficient.

    c^2 = eta^2 (sigma_s^2 - (sigma_s^4 / sigma_t^2) m^2), b = sqrt(sigma_s^2 - c^2) / sigma_t, by which every
    eta keeps the marginal variance b^2 sigma_t^2 + c^2 = sigma_s^2 [docs/math.md, equations (9) to (11)].

    Args:
        m: factor from x_s to x_t, i.e. the singular values of M_{s:t}.
        sigma_s: noise of x_s, positive; broadcasts against ``m``.
        sigma_t: noise of x_t, positive.
        eta: 1 is the exact posterior, 0 keeps all known noise (DDIM). Every eta keeps the marginals.
        independent: the noise of x_s and that of x_t are independent draws, not a chain, so that eta = 1
            forgets the noise of x_t altogether [IHDM, section 2; docs/math.md, equation (13)].
    """
    # (9): the variance of the exact posterior; (13) where noise is independent.
    variance = sigma_s.square()
    if not independent:
        variance = (variance - (variance * m / sigma_t).square()).clamp_min(0)
    kept = eta**2 * variance  # (10)
    gain = (sigma_s.square() - kept).clamp_min(0).sqrt() / sigma_t  # (11)
    return Gains(gain, kept.sqrt())
