"""Homogeneous diffusion, du/dt = Laplace(u) with reflecting borders, exact in time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ssdiff.operators import matrices
from ssdiff.operators.base import Size

Move = Callable[[Tensor], Tensor]


def laplace_eigenvalues(n: int) -> Tensor:
    """(n,) of the negative second difference with reflecting ends, 4 sin^2(pi k / 2n); its basis is the
    DCT."""
    return 4 * torch.sin(math.pi / 2 * torch.arange(n, dtype=torch.float64) / n).square()


def _kernel(basis: Tensor, time: float) -> Tensor:
    """(n, n) exp(time * second difference), symmetric."""
    fade = torch.exp(-time * laplace_eigenvalues(len(basis)))
    # The exponential of a matrix with positive off-diagonals is positive; only rounding can say otherwise.
    return (basis.mT @ (fade[:, None] * basis)).clamp_min(0)


class HomogeneousDiffusion:
    """The heat equation on the pixel grid [Weickert 1998, "Anisotropic diffusion in image processing"].

    Args:
        size: (H, W) of the images.
    """

    def __init__(self, size: Size) -> None:
        self._rows, self._columns = matrices.dct(size[0]), matrices.dct(size[1])

    def advance(self, u: Tensor, begin: float, end: float) -> Tensor:
        """The state at time ``end`` of the state u at time ``begin``, squared pixels; only their difference
        counts.

        Args:
            u: (B, C, H, W) float64.
        """
        rows, columns = (_kernel(basis, end - begin) for basis in (self._rows, self._columns))
        return rows @ u @ columns

    def steady(self, u: Tensor) -> Tensor:
        """Where u ends: its mean, everywhere."""
        return u.mean((-2, -1), keepdim=True).expand_as(u)

    def first(self, count: int) -> HomogeneousDiffusion:
        """The same filter of the first images."""
        return self

    def moved(self, move: Move) -> HomogeneousDiffusion:
        """The same filter of images that a symmetry of the square has moved."""
        return self
