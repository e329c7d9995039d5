"""Image filters beside the noisy processes: homogeneous diffusion and osmosis, partial differential equations
that simplify an image in time.

Images are (B, C, H, W) float64 in [0, 1], time is in squared pixels: t blurs like a Gaussian of sqrt(2 t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.errors import ProcessError, UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Size

Move = Callable[[Tensor], Tensor]
"""A symmetry of the square, (..., H, W) to (..., H', W')."""

_FIRST_BLUR, _LAST_BLUR = 0.1, 0.75  # pixels; share of the image's side, as [IHDM] blurs
_NOISE = 0.5  # standard deviation of the logarithm of osmosis's noise
_FIRST_STEP, _GROWTH = 0.002, 0.03  # time step: squared pixels at least, and share of the time so far


class Flow(Protocol):
    """What the analysis asks of a filter."""

    def advance(self, u: Tensor, begin: float, end: float) -> Tensor:
        """Return the state at time ``end`` of the state u at time ``begin``."""

    def steady(self, u: Tensor) -> Tensor:
        """Return where u ends."""

    def first(self, count: int) -> Flow:
        """Return the same filter of the first images."""

    def moved(self, move: Move) -> Flow:
        """Return the same filter of images that a symmetry of the square has moved."""


def diffusion_times(side: int, points: int) -> list[float]:
    """Return times sigma^2 / 2 of blurs sigma from 0.1 pixels to 3/4 of the side, geometrically; first 0.

    Raises:
        UsageError: fewer than 2 points.
    """
    if points < 2:
        raise UsageError(f"a curve needs at least 2 points, not {points}")
    ratio = _LAST_BLUR * side / _FIRST_BLUR
    shares = [i / (points - 1) for i in range(points)]
    return [0.0, *(0.5 * (_FIRST_BLUR * ratio**share) ** 2 for share in shares[1:])]


def evolve(flow: Flow, u: Tensor, at: Sequence[float]) -> Iterator[Tensor]:
    """Yield the states at increasing times, the first of which is that of u."""
    now = at[0]
    for time in at:
        u, now = flow.advance(u, now, time), time
        yield u


def laplace_eigenvalues(n: int) -> Tensor:
    """Return the (n,) eigenvalues 4 sin^2(pi k / 2n) of the negative second difference with reflecting ends.

    Its eigenvectors are the DCT-II.
    """
    return 4 * torch.sin(math.pi / 2 * torch.arange(n, dtype=torch.float64) / n).square()


def _heat_kernel(basis: Tensor, time: float) -> Tensor:
    """(n, n) exp(time * second difference), symmetric."""
    fade = torch.exp(-time * laplace_eigenvalues(len(basis)))
    # The exponential of a matrix with positive off-diagonals is positive; only rounding can say otherwise.
    return (basis.mT @ (fade[:, None] * basis)).clamp_min(0)


class HomogeneousDiffusion:
    """The heat equation on the pixel grid with reflecting borders, exact in time.

        du/dt = Laplace(u),    u(t) = exp(t D_H) u(0) exp(t D_W)

    with D_n the (n, n) second difference [Weickert 1998], equation (67) of docs/math.md.

    Args:
        size: (H, W) of the images.
    """

    def __init__(self, size: Size) -> None:
        self._rows, self._columns = matrices.dct(size[0]), matrices.dct(size[1])

    def advance(self, u: Tensor, begin: float, end: float) -> Tensor:
        """Return the state at time ``end`` of the state u at time ``begin``; only their difference counts.

        Args:
            u: (B, C, H, W) float64.
        """
        rows, columns = (_heat_kernel(basis, end - begin) for basis in (self._rows, self._columns))
        return rows @ u @ columns

    def steady(self, u: Tensor) -> Tensor:
        """Return where u ends: its mean, everywhere."""
        return u.mean((-2, -1), keepdim=True).expand_as(u)

    def first(self, count: int) -> HomogeneousDiffusion:
        """Return the same filter of the first images."""
        return self

    def moved(self, move: Move) -> HomogeneousDiffusion:
        """Return the same filter of images that a symmetry of the square has moved."""
        return self


def noise_guidance(count: int, channels: int, side: int, seed: int) -> Tensor:
    """Draw (count, channels, side, side) positive white noise exp(0.5 eps), for osmosis to end at.

    Osmosis with noise as its guidance is the image filter that comes closest to a noise diffusion process
    [GS].
    """
    numbers = torch.arange(count)
    shape = (channels, side, side)
    noise = rng.normal(rng.derive(seed, "scale-space/guidance"), numbers, 0, shape, torch.float64)
    return (_NOISE * noise).exp()


class _Exchange(NamedTuple):
    """Rates between neighbours along the first axis, (n - 1, ...): what i takes from i + 1, and back."""

    down: Tensor
    up: Tensor


class Osmosis:
    """Linear osmosis towards guidance images v, each image with its own.

        du/dt = Laplace(u) - div(d u),    d = grad(ln v)

    [Weickert et al. 2013; Vogel et al. 2013], equation (68) of docs/math.md. It keeps the mean, keeps pixels
    positive and ends at v, scaled to the mean of the start.

    The drift is taken at half-points, d = 2 (v_{i+1} - v_i) / (v_{i+1} + v_i), for which v is steady exactly.
    Time is discretised by additive operator splitting: the mean of an implicit step of double length along
    rows and one along columns, tridiagonal systems whose inverses are positive with columns of sum 1. So
    mean and positivity hold for any step [Vogel et al. 2013]. The error in time is of first order.

    Args:
        guidance: (B, C, H, W) v, positive.

    Raises:
        ProcessError: v is not positive and finite everywhere.
    """

    def __init__(self, guidance: Tensor) -> None:
        if not bool((guidance > 0).all()) or not bool(guidance.isfinite().all()):
            raise ProcessError(
                f"osmosis needs positive guidance images, the least value is {float(guidance.min()):g}",
                hint="add a small number to every pixel",
            )
        self._guidance = guidance.double()
        self._exchanges = {axis: _exchange(_lines(self._guidance, axis)) for axis in (-2, -1)}

    def rate(self, u: Tensor, axis: int) -> Tensor:
        """Compute the part of du/dt along one axis, -2 or -1: (B, C, H, W), as u, float64."""
        line, (down, up) = u.movedim(axis, 0), self._exchanges[axis]
        flow = down * line[1:] - up * line[:-1]  # into i from i + 1
        rate = torch.zeros_like(line)
        rate[:-1] += flow
        rate[1:] -= flow
        return rate.movedim(0, axis)

    def implicit(self, u: Tensor, tau: float, axis: int) -> Tensor:
        """Solve w - tau * rate(w, axis) = u for w, by the Thomas algorithm on all lines at once.

        Args:
            u: (B, C, H, W) float64.
            tau: time step, squared pixels; any size.
            axis: -2 or -1.
        """
        line, (down, up) = _lines(u, axis), self._exchanges[axis]
        length = len(line)
        diagonal = torch.ones_like(line)
        diagonal[:-1] += tau * up
        diagonal[1:] += tau * down
        # Columns are diagonally dominant with negative off-diagonals, so that elimination needs no pivots.
        right, pivots = [line[0]], [diagonal[0]]
        for i in range(1, length):
            factor = tau * up[i - 1] / pivots[-1]
            pivots.append(diagonal[i] - factor * tau * down[i - 1])
            right.append(line[i] + factor * right[-1])
        solution = [right[-1] / pivots[-1]]
        for i in range(length - 2, -1, -1):
            solution.append((right[i] + tau * down[i] * solution[-1]) / pivots[i])
        return torch.stack(solution[::-1]).movedim(0, axis)

    def step(self, u: Tensor, tau: float) -> Tensor:
        """Make one step of additive operator splitting, of time tau."""
        return (self.implicit(u, 2 * tau, -2) + self.implicit(u, 2 * tau, -1)) / 2

    def advance(self, u: Tensor, begin: float, end: float) -> Tensor:
        """Return the state at time ``end`` of the state u at time ``begin``, squared pixels.

        Steps are 3 % of the time so far: the flow slows down as it smooths.

        Args:
            u: (B, C, H, W) float64, of the guidance's shape, not negative.
        """
        time = begin
        while time < end:
            tau = min(max(_FIRST_STEP, _GROWTH * time), end - time)
            u = self.step(u, tau)
            time = end if time + tau >= end else time + tau
        return u

    def steady(self, u: Tensor) -> Tensor:
        """Return where u ends: the guidance, scaled to u's mean."""
        now, wanted = (x.mean((-2, -1), keepdim=True) for x in (u, self._guidance))
        return self._guidance * (now / wanted)

    def first(self, count: int) -> Osmosis:
        """Return the same filter of the first images."""
        return Osmosis(self._guidance[:count])

    def moved(self, move: Move) -> Osmosis:
        """Return the same filter of images that a symmetry of the square has moved, guidance included."""
        return Osmosis(move(self._guidance))


def _lines(x: Tensor, axis: int) -> Tensor:
    """One axis first and each of its slices contiguous, which makes the Thomas algorithm several times
    faster."""
    return x.movedim(axis, 0).contiguous()


def _exchange(v: Tensor) -> _Exchange:
    """Rates along the first axis: 1 - d/2 and 1 + d/2 with the drift d at half-points."""
    both = v[1:] + v[:-1]
    return _Exchange(2 * v[:-1] / both, 2 * v[1:] / both)
