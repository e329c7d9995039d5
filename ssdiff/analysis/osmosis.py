"""Linear osmosis, du/dt = Laplace(u) - div(d u) with d = grad(ln v) [Weickert et al. 2013, "Linear osmosis
models for visual computing"; Vogel et al. 2013, "A fully discrete theory for linear osmosis filtering"].

The flow keeps the mean, keeps pixels positive and ends at v, scaled to the mean of the start.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssdiff.analysis.diffusion import Move
from ssdiff.errors import ProcessError

_FIRST_STEP, _GROWTH = 0.002, 0.03  # time step: squared pixels at least, and share of the time so far


class _Exchange(NamedTuple):
    """Rates between neighbours along the first axis, (n - 1, ...): what pixel i takes from i + 1, and
    back."""

    down: Tensor
    up: Tensor


class Osmosis:
    """Osmosis towards guidance images, each image with its own.

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
        """The part of du/dt along one axis, -2 or -1: (B, C, H, W) of float64 images of that shape."""
        line, (down, up) = u.movedim(axis, 0), self._exchanges[axis]
        flow = down * line[1:] - up * line[:-1]  # into i from i + 1
        rate = torch.zeros_like(line)
        rate[:-1] += flow
        rate[1:] -= flow
        return rate.movedim(0, axis)

    def implicit(self, u: Tensor, tau: float, axis: int) -> Tensor:
        """w with w - tau * rate(w, axis) = u, by the Thomas algorithm on all lines at once.

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
        """One step of additive operator splitting, of time tau."""
        return (self.implicit(u, 2 * tau, -2) + self.implicit(u, 2 * tau, -1)) / 2

    def advance(self, u: Tensor, begin: float, end: float) -> Tensor:
        """The state at time ``end`` of the state u at time ``begin``, squared pixels.

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
        """Where u ends: the guidance, scaled to u's mean."""
        means = (x.mean((-2, -1), keepdim=True) for x in (u, self._guidance))
        now, wanted = means
        return self._guidance * (now / wanted)

    def first(self, count: int) -> Osmosis:
        """The same filter of the first images."""
        return Osmosis(self._guidance[:count])

    def moved(self, move: Move) -> Osmosis:
        """The same filter of images that a symmetry of the square has moved, guidance included."""
        return Osmosis(move(self._guidance))


def _lines(x: Tensor, axis: int) -> Tensor:
    """One axis first and each of its slices contiguous, which makes the Thomas algorithm several times
    faster."""
    return x.movedim(axis, 0).contiguous()


def _exchange(v: Tensor) -> _Exchange:
    """Rates along the first axis: 1 - d/2 and 1 + d/2 with the drift d at half-points."""
    both = v[1:] + v[:-1]
    return _Exchange(2 * v[:-1] / both, 2 * v[1:] / both)
