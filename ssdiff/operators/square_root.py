"""Square roots of operators without a closed form, by Chebyshev polynomials with a proven error.

See docs/math.md, equations (73) and (74).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ssdiff.operators.base import Operator

_MOST = 2000
"""Products with A^T A at most; then the error is below 4 / (pi (2 n + 1)), 3.2e-4, whatever theta is."""


def square_root(operator: Operator, bound: float, theta: float, x: Tensor) -> Tensor:
    """Return (I - theta A^T A / bound^2)^{1/2} x, with a relative error of 1e-12 (1e-6 in float32).

    Args:
        operator: A.
        bound: at least ||A||, not much more.
        theta: 0..1; the nearer to 1, the more products: 4 for 0.1, 12 for 0.7, 84 for 0.99 in float32.
        x: (B, C, H, W), what A takes; half precision is computed in float32.
    """
    wide = x.float() if x.dtype.itemsize < 4 else x
    tolerance = 1e-12 if wide.dtype == torch.float64 else 1e-6
    coefficients = _coefficients(theta, degree(theta, tolerance))

    def argument(v: Tensor) -> Tensor:  # 2 A^T A / bound^2 - I, with eigenvalues in [-1, 1]
        return operator.adjoint(operator.apply(v)) * (2 / bound**2) - v

    # Clenshaw's recurrence.
    later, latest = torch.zeros_like(wide), torch.zeros_like(wide)
    for c in reversed(coefficients[1:]):
        later, latest = latest, c * wide + 2 * argument(latest) - later
    return (coefficients[0] * wide + argument(latest) - later).to(x.dtype)


def degree(theta: float, tolerance: float) -> int:
    """Return the degree of the interpolating polynomial whose error is proven to be at most ``tolerance``.

    (1 - theta u)^{1/2} is analytic within the ellipse through its branch point 1 / theta, whose sum of
    semi-axes is rho; on it the modulus is at most (2 - theta)^{1/2}, so that the error of degree n is at most
    4 (2 - theta)^{1/2} rho^{-n} / (rho - 1).
    """
    if theta <= 0:
        return 0
    branch = 2 / theta - 1
    rho = branch + math.sqrt(branch**2 - 1)
    if rho <= 1:
        return _MOST
    needed = math.log(4 * math.sqrt(2 - theta) / ((rho - 1) * tolerance)) / math.log(rho)
    return min(_MOST, max(1, math.ceil(needed)))


@lru_cache(maxsize=256)
def _coefficients(theta: float, n: int) -> list[float]:
    """Chebyshev coefficients of the interpolant in the n + 1 roots of degree n + 1."""
    angles = math.pi * (torch.arange(n + 1, dtype=torch.float64) + 0.5) / (n + 1)
    values = (1 - theta * (torch.cos(angles) + 1) / 2).clamp_min(0).sqrt()
    orders = torch.arange(n + 1, dtype=torch.float64)
    found = torch.cos(orders[:, None] * angles) @ values * (2 / (n + 1))
    found[0] /= 2
    return found.tolist()
