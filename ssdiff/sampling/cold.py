"""Samplers of cold diffusion: direct, Algorithm 1, Algorithm 2, and Algorithm 2 with estimated noise [CD]."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from ssdiff.process.base import Process

Predict = Callable[[Tensor, int], Tensor]  # x_t, t -> clean image
ALGORITHMS = ("alg1", "alg2", "direct", "ddim")


def restore_stepwise(
    predict: Predict,
    process: Process,
    x: Tensor,
    timesteps: Sequence[int],
    algorithm: str,
    images: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Walk down a chain of timesteps by restoring and degrading again.

    Args:
        predict: the restoration network R.
        process: the degradation D.
        x: (B, C, H, W) at ``timesteps[0]``.
        timesteps: decreasing, down to 0.
        algorithm: ``alg1``: x_s = D(R(x_t), s); ``alg2``: x_s = x_t - D(R(x_t), t) + D(R(x_t), s) [CD,
            section 3.2]; ``ddim``: D(R(x_t), s) with the noise that explains x_t; ``direct``: R(x_t) at once.
        images: (B,) image numbers by which a random D draws, the same along the chain.

    Yields:
        (s, x_s) for each timestep after the first.
    """
    if algorithm == "direct":
        yield 0, predict(x, timesteps[0])
        return
    for t, s in itertools.pairwise(timesteps):
        clean = predict(x, t)
        if algorithm == "ddim":
            x = process.posterior(x, clean, t, s, eta=0.0).mean
        else:
            less = process.degrade(clean, s, images)
            x = less if algorithm == "alg1" else x - process.degrade(clean, t, images) + less
        yield s, x
