"""Samplers of cold diffusion: Algorithms 1 and 2, and one prediction [CD]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ssdiff.sampling.registry import register_sampler

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.sampling.walk import Walk


@register_sampler("alg1", noisy=False, cold=True, help="restores, and degrades a little less")
def algorithm_1(walk: Walk) -> Iterator[tuple[int, Tensor]]:
    """Restore, and degrade a little less [CD, algorithm 1; docs/math.md, equation (49)].

    Args:
        walk: the batch; its image numbers keep a random D the same along the chain.

    Yields:
        (s, x_s) for each severity after the first.
    """
    x = walk.x
    for t, s in walk.steps:
        # x_s = D(R(x_t, t), s)
        x = walk.process.degrade(walk.predict(x, t), s, walk.images)
        yield s, x


@register_sampler("alg2", noisy=False, cold=True, help="as alg1, but errors of the network cancel")
def algorithm_2(walk: Walk) -> Iterator[tuple[int, Tensor]]:
    """Add the difference that a step makes to a restored image.

    See [CD, algorithm 2] and docs/math.md, equation (50).

    To first order in the severity it does not matter what the network restores [CD, section 3.3].

    Args:
        walk: the batch; its image numbers keep a random D the same along the chain.

    Yields:
        (s, x_s) for each severity after the first.
    """
    x, degrade = walk.x, walk.process.degrade
    for t, s in walk.steps:
        clean = walk.predict(x, t)
        less = degrade(clean, s, walk.images)
        # x_s = x_t - D(R(x_t, t), t) + D(R(x_t, t), s)
        x = x - degrade(clean, t, walk.images) + less
        yield s, x


@register_sampler("direct", cold=True, spacing="once", help="one prediction from where it begins")
def direct(walk: Walk) -> Iterator[tuple[int, Tensor]]:
    """Predict the clean image at once, x_0 = R(x_t, t).

    Args:
        walk: the batch, at a timestep from which the network predicts full size.

    Yields:
        (0, x_0).
    """
    yield 0, walk.predict(walk.x, walk.timesteps[0])
