"""Distance of the states of a process to the data in the features of a network, over t."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.analysis.scale_space_curves import Point
from ssdiff.evaluation.distances import collect, compute_metric
from ssdiff.evaluation.features import Extractor
from ssdiff.images import to_uint8, upscale_nearest
from ssdiff.process.base import Process

_AT_ONCE = 64  # images through the extractor
_ROUNDING = 1e-10  # of the distance of features to themselves


class FeatureDistance:
    """Frechet distances of features to those of the clean images.

    States are seen as bytes, clipped to [-1, 1], and small ones at the full grid by repeating pixels.

    Args:
        extractor: the network.
        images: (N, C, H, W) clean images in [-1, 1], at least 2.
        seed: of the noise.
    """

    def __init__(self, extractor: Extractor, images: Tensor, seed: int) -> None:
        self._extractor, self._images, self._key = extractor, images, rng.derive(seed, "scale-space/noise")
        self._full = (images.shape[-2], images.shape[-1])
        self._reference = collect(extractor, self._seen(images.split(_AT_ONCE)))

    @property
    def label(self) -> str:
        """What the distance is called."""
        return self._extractor.label("F")

    def point(self, name: str, t: float, time: float, states: Iterable[Tensor]) -> Point:
        """Compute the distance of states to the clean images.

        Args:
            name: of the process.
            t: timestep.
            time: position along the process, 0..1.
            states: batches (B, C, h, w), at least 2 images in all.
        """
        batches = (part for batch in states for part in batch.split(_AT_ONCE))
        found = collect(self._extractor, self._seen(batches))
        value = compute_metric("fid", found, self._reference)["distance"]
        return Point(name, t, time, "feature-distance", value if value > _ROUNDING else 0.0)

    def states(self, process: Process, t: int) -> Iterator[Tensor]:
        """Draw x_t of all images, batch by batch: with noise, or D(x_0, t) of a cold process."""
        for numbers in torch.arange(len(self._images)).split(_AT_ONCE):
            yield draw_state(process, self._images[numbers], t, numbers, self._key)

    def _seen(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        return (to_uint8(upscale_nearest(batch, self._full)).cpu() for batch in batches)


def draw_state(process: Process, x0: Tensor, t: int, numbers: Tensor, key: int) -> Tensor:
    """Draw x_t of clean images: x_0 at t = 0, D(x_0, t) of a cold process.

    Args:
        process: noisy or cold.
        x0: (B, C, H, W) in [-1, 1].
        t: timestep, 0..T.
        numbers: (B,) of the images, by which noise and a random degradation are drawn.
        key: of the noise, from :func:`ssdiff.rng.derive`.
    """
    if t == 0:
        return x0
    if not process.noisy:
        return process.degrade(x0, t, numbers)
    # One draw for all timesteps of a size, so that a film shows the same grains.
    noise = rng.normal(key, numbers, 0, (x0.shape[1], *process.states[t].size), x0.dtype)
    return process.marginal(x0, t, noise)
