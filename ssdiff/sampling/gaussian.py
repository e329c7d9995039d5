"""Samplers of noisy processes: the eta family and DPM-Solver++(2M), each across resolution transitions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ssdiff.errors import NonFiniteError
from ssdiff.sampling.registry import register_sampler

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.process.base import Process
    from ssdiff.sampling.walk import Walk


@register_sampler(
    "ancestral",
    aliases=("posterior",),
    eta=1.0,
    corrects=True,
    help="draws from the exact posterior, with as much fresh noise as a step can take",
)
@register_sampler(
    "ddim",
    cold=True,
    needs=lambda process: process.has_posterior,
    takes_eta=True,
    corrects=True,
    help="keeps the known noise, all but the share --eta of it",
)
def eta_family(walk: Walk) -> Iterator[tuple[int, Tensor]]:
    """Draw x_s from p(x_s | x_t, x_0 = prediction), or keep the noise of x_t [docs/math.md, equation (12)].

    eta = 1 is ancestral sampling [Ho et al. 2020], eta = 0 is DDIM [DDIM]. Of a cold process that mixes in
    noise or other images, what is mixed in is estimated [CD, section 5.1]. What a step at one size loses of
    the data's variance is given back if the walk says so [docs/math.md, section 18].

    Args:
        walk: the batch.

    Yields:
        (s, x_s) for each timestep after the first; x_0 is the last prediction.
    """
    x = walk.x
    for t, s in walk.steps:
        x = walk.step(x, walk.predict(x, t), t, s)
        if walk.correct and s > 0 and walk.same_size(t, s):
            x = walk.correct(x, t, s)
        yield s, x


@register_sampler(
    "unsharp",
    kinds=("blur-noise",),
    needs=lambda process: process.coloured,
    eta=1.0,
    help="of blur diffusion's authors: unsharp masking and score; for as many steps as there are timesteps",
)
def unsharp_masking(walk: Walk) -> Iterator[tuple[int, Tensor]]:
    """Undo each blur by unsharp masking, and its noise by the score [BD, equation 19; docs/math.md, section
    13].

    Args:
        walk: the batch.

    Yields:
        (s, x_s) for each timestep after the first; x_0 is the last state, no prediction.

    Raises:
        NonFiniteError: the images have grown beyond all numbers.
    """
    x = walk.x
    for t, s in walk.steps:
        # The published code adds no noise in its last two steps.
        fresh = walk.noise(s, tuple(x.shape[1:])) if s > 1 else None
        x = walk.process.unsharp(x, walk.predict_noise(x, t), t, s, fresh)
        if s == 0 and not bool(x.isfinite().all()):
            raise NonFiniteError(
                "sampler unsharp left the range of numbers: its network does not know these states",
                hint="train longer, or use --sampler ancestral",
            )
        yield s, x


def _noise_rises(process: Process) -> bool:
    """Whether log(sigma / a) changes with t, as that of heat dissipation does not."""
    return process.T == 1 or process.states[1].snr > process.states[-1].snr


@register_sampler(
    "dpm++",
    needs=_noise_rises,
    spacing="log-noise",
    help="DPM-Solver++(2M), second order: for few steps; no fresh noise",
)
def dpm_solver(walk: Walk) -> Iterator[tuple[int, Tensor]]:
    """Take DDIM's step with an extrapolated prediction [Lu et al. 2022; docs/math.md, section 7].

    At one resolution this is DPM-Solver++(2M); the extrapolation is carried across resolution transitions.

    Args:
        walk: the batch, with steps even in log(sigma / a).

    Yields:
        (s, x_s) for each timestep after the first; x_0 is the last prediction.
    """
    solver, x = _SecondOrder(walk.process), walk.x
    for t, s in walk.steps:
        clean = walk.predict(x, t)
        if s > 0:
            clean = solver.extrapolate(clean, t, s)
        x = walk.step(x, clean, t, s)
        yield s, x


class _SecondOrder:
    """Carries each prediction on by half a step, in the direction in which predictions move.

    Args:
        process: of the chain.
    """

    def __init__(self, process: Process) -> None:
        self._process, self._log_noise = process, [-math.inf, *process.log_noise().tolist()]
        self._last: tuple[int, Tensor] | None = None
        self._trend: tuple[Tensor, float] | None = None  # a move, and its length in log noise

    def extrapolate(self, prediction: Tensor, t: int, s: int) -> Tensor:
        """Return the prediction from x_t, at the size of s > 0, for the step to s."""
        noise, states = self._log_noise, self._process.states
        # l_t = log(sigma_t / a_t) - log ||R_t|| [docs/math.md, equation (24)], w = (l_t - l_s) / 2 length
        half, last = (noise[t] - noise[s]) / 2, self._last
        self._last = (t, prediction)
        if last is None:
            return prediction
        older, before = last
        if before.shape == prediction.shape:
            moved, length = self._trend = prediction - before, noise[older] - noise[t]
            one_size = states[older].size == states[t].size
            # D = x^_t + w (x^_t - x^_t') [docs/math.md, equation (25)]
            return prediction + (half / length if one_size else _bounded(half / length)) * moved
        # Layers of its own predict a transition, with errors of their own: the trend is that from before.
        trend, self._trend = self._trend, None
        if trend is None:
            return prediction
        # D = x^_t + w R^T (x^_t' - x^_t'') / ||R||^2 [docs/math.md, equation (26)]
        return prediction + _bounded(half / trend[1]) * self._process.lift(trend[0], s, t)


def _bounded(share: float) -> float:
    """Return w across a transition, no more than an even step has [docs/math.md, equation (27)]."""
    return min(share, 0.5) if share <= 1 else 0.0
