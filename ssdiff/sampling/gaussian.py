"""Samplers of Gaussian processes: ancestral, DDIM and DPM-Solver++(2M), each across resolution
transitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from ssdiff.process.base import Process

Predict = Callable[[Tensor, int], Tensor]  # x_t, t -> clean image at the size of timestep t - 1
Noise = Callable[[int, tuple[int, ...]], Tensor]  # timestep, (C, h, w) -> (B, C, h, w) standard normal
Added = Callable[[int, int], Tensor]  # t, s of a resolution transition -> (B, C, h_s, w_s)


def sample(
    predict: Predict,
    process: Process,
    x: Tensor,
    timesteps: Sequence[int],
    noise: Noise,
    *,
    eta: float = 1.0,
    second_order: bool = False,
    added: Added | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Walk down a chain of timesteps, drawing x_s from the eta-family posterior of the predicted clean
    image.

    Args:
        predict: the denoiser.
        process: gives the posteriors.
        x: (B, C, h, w) at ``timesteps[0]``.
        timesteps: decreasing, each resolution transition kept, as from
            :func:`ssdiff.schedules.resolution.respace`.
        noise: fresh noise for a timestep; called only where the step is random.
        eta: 1 is ancestral sampling [Ho et al. 2020], 0 DDIM [Song et al. 2021].
        second_order: extrapolate the predictions as DPM-Solver++(2M) does [Lu et al. 2022, section 4.1],
            carried across resolution transitions. At one size with eta = 0 this is that solver.
        added: what x_s gains at a resolution transition, by which its details vary as those of the data do;
            not
            asked for at s = 0.

    Yields:
        (s, x_s) for each timestep after the first; x_0 is the last prediction.
    """
    solver = _SecondOrder(process) if second_order else None
    for t, s in itertools.pairwise(timesteps):
        clean = predict(x, t)
        if solver and s > 0:
            clean = solver.extrapolate(clean, t, s)
        same_size = process.states[t].size == process.states[s].size
        posterior = process.posterior(x, clean, t, s, eta)
        random = s > 0 and (eta > 0 or not same_size)
        x = posterior.sample(noise(s, tuple(clean.shape[1:]))) if random else posterior.mean
        if added and s > 0 and not same_size:
            x = x + added(t, s)
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
        """The prediction from x_t, at the size of s > 0, for the step to s."""
        noise, states = self._log_noise, self._process.states
        half, last = (noise[t] - noise[s]) / 2, self._last
        self._last = (t, prediction)
        if last is None:
            return prediction
        older, before = last
        if before.shape == prediction.shape:
            moved, length = self._trend = prediction - before, noise[older] - noise[t]
            one_size = states[older].size == states[t].size
            return prediction + (half / length if one_size else _bounded(half / length)) * moved
        # Layers of its own predict a transition, with errors of their own: the trend is that from before.
        trend, self._trend = self._trend, None
        if trend is None:
            return prediction
        return prediction + _bounded(half / trend[1]) * self._process.lift(trend[0], s, t)


def _bounded(share: float) -> float:
    """Across a transition: no more than an even step has, and nothing where noise jumps."""
    return min(share, 0.5) if share <= 1 else 0.0
