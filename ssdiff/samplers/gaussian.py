"""Samplers of Gaussian processes: ancestral, DDIM and DPM-Solver++(2M), each across changes of resolution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from ssdiff.process.gaussian import State
from ssdiff.process.kinds import NoisyProcess

Predict = Callable[[Tensor, int], Tensor]  # x_t, t -> clean image at the size of severity t - 1
Noise = Callable[[int, tuple[int, ...]], Tensor]  # severity, (C, h, w) -> (B, C, h, w) standard normal
Added = Callable[[int, int], Tensor]  # t, s of a change of size -> (B, C, h_s, w_s)


def sample(
    predict: Predict,
    process: NoisyProcess,
    x: Tensor,
    severities: Sequence[int],
    noise: Noise,
    *,
    eta: float = 1.0,
    second_order: bool = False,
    added: Added | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Walk down a chain of severities, drawing x_s from the eta-family posterior of the predicted clean
    image.

    Args:
        predict: the denoiser.
        process: gives the posteriors.
        x: (B, C, h, w) at ``severities[0]``.
        severities: decreasing, each change of size kept, as from :func:`ssdiff.schedules.resolution.respace`.
        noise: fresh noise for a severity; called only where the step is random.
        eta: 1 is ancestral sampling [Ho et al. 2020], 0 DDIM [Song et al. 2021].
        second_order: extrapolate the predictions as DPM-Solver++(2M) does [Lu et al. 2022, section 4.1];
            restarted at each change of size. With eta = 0 this is that solver exactly.
        added: what x_s gains at a change of size, by which its details vary as those of the data do; not
            asked for at s = 0.

    Yields:
        (s, x_s) for each severity after the first; x_0 is the last prediction.
    """
    previous: tuple[int, Tensor] | None = None
    for t, s in itertools.pairwise(severities):
        clean = prediction = predict(x, t)
        if second_order and s > 0 and previous is not None and previous[1].shape == prediction.shape:
            clean = _extrapolate(process.states, previous, (t, prediction), s)
        same_size = process.states[t].size == process.states[s].size
        previous = (t, prediction) if same_size else None
        posterior = process.posterior(x, clean, t, s, eta)
        random = s > 0 and (eta > 0 or not same_size)
        x = posterior.sample(noise(s, tuple(clean.shape[1:]))) if random else posterior.mean
        if added and s > 0 and not same_size:
            x = x + added(t, s)
        yield s, x


def _extrapolate(
    states: Sequence[State], older: tuple[int, Tensor], newer: tuple[int, Tensor], s: int
) -> Tensor:
    """The prediction carried on by half a step in log(a / sigma)."""
    (t_older, x_older), (t, x) = older, newer
    last = _half_log_snr(states[t]) - _half_log_snr(states[t_older])
    now = _half_log_snr(states[s]) - _half_log_snr(states[t])
    return x + (x - x_older) * (now / (2 * last))


def _half_log_snr(state: State) -> float:
    return math.log(state.signal / state.sigma)
