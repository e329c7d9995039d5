"""Restoration by a denoiser alone, without a draw: plug and play, by half-quadratic splitting.

From a guess of the clean image, data and denoiser take turns at ever fainter noise [DRUNet, section 3]. The
data's turn is the exact mean of the clean image given the measurement, as in sampling; the denoiser's is the
network at a timestep whose noise is as large as the guess is taken to be wrong. See docs/math.md, section 17.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.process.base import Process
from ssdiff.sampling.walk import Predict


class Evidence(Protocol):
    """What is known of clean images, such as :class:`ssdiff.sampling.data_consistency.Measurement`."""

    @property
    def process(self) -> Process:
        """Return the process that the model was trained for."""

    def correct(self, clean: Tensor, t: int) -> Tensor:
        """Return the mean of the clean images given what is known, taken to be N(clean, r_t^2 I) without."""


def noise_timestep(process: Process, noise_std: float) -> int:
    """Return the timestep of full size whose noise-to-signal ratio sigma_t / a_t is nearest in its logarithm.

    Args:
        process: with isotropic noise.
        noise_std: above 0, in units of the [-1, 1] image.
    """
    wanted = math.log(noise_std)
    return min(_full_size(process), key=lambda t: abs(math.log(_ratio(process, t)) - wanted))


def falling_timesteps(process: Process, first: float, last: float, steps: int) -> list[int]:
    """Return timesteps of full size whose noise falls evenly in its logarithm.

    Args:
        process: with isotropic noise.
        first: sigma_t / a_t to begin at.
        last: that to end at; below ``first``.
        steps: 1 or more; fewer timesteps are given where two would fall together.

    Raises:
        UsageError: no step is asked for.
    """
    if steps < 1:
        raise UsageError(f"plug and play takes 1 step or more, not {steps}")
    share = [k / max(steps - 1, 1) for k in range(steps)]
    ratios = [first ** (1 - part) * min(last, first) ** part for part in share]
    return list(dict.fromkeys(noise_timestep(process, ratio) for ratio in ratios))


MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-1, -2), (-2,))
"""Dimensions along which images are mirrored before and after the network: none, across, both, down."""


def seen_mirrored(predict: Predict, dims: tuple[int, ...]) -> Predict:
    """Return a network's prediction of the mirror image, mirrored back.

    Args:
        predict: the network.
        dims: one of :data:`MIRRORS`.
    """
    return (lambda x_t, t: predict(x_t.flip(dims), t).flip(dims)) if dims else predict


def plug_and_play(
    predict: Predict,
    measurement: Evidence,
    guess: Tensor,
    timesteps: Sequence[int],
    *,
    mirrors: Sequence[tuple[int, ...]] = ((),),
) -> Iterator[tuple[int, Tensor]]:
    """Yield (t, clean image) after each turn [DRUNet, equation (6); docs/math.md, equation (85)].

    z_k = E[x_0 | y, x_0 ~ N(x_{k-1}, r_t^2)], then x_k = D(a_t z_k, t); the last image is the mean given the
    measurement once more.

    Args:
        predict: the network, (x_t, t) to the clean image at full size.
        measurement: what is known.
        guess: (B, C, H, W) clean images to begin with.
        timesteps: decreasing, of full size, as from :func:`falling_timesteps`.
        mirrors: ways in which the network sees the images, one turn after the other, over and over: what it
            prefers in one of them does not add up then, at no cost [DRUNet, section 4].
    """
    states, clean = measurement.process.states, guess
    for t, dims in zip(timesteps, itertools.cycle(mirrors), strict=False):
        clean = seen_mirrored(predict, dims)(states[t].signal * measurement.correct(clean, t), t)
        if t == timesteps[-1]:
            clean = measurement.correct(clean, t)
        yield t, clean


def _full_size(process: Process) -> list[int]:
    """Timesteps from which the network predicts a clean image at full size, but for transitions."""
    full = process.states[0].size
    return [t for t, state in enumerate(process.states) if t and state.size == full]


def _ratio(process: Process, t: int) -> float:
    return process.states[t].sigma / process.states[t].signal
