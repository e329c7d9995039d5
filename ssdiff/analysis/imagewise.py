"""Curves of image filters along time: what they do to each image, and to the moments of all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.analysis.covariance import frechet_of_samples
from ssdiff.analysis.diffusion import Move
from ssdiff.analysis.records import Point
from ssdiff.errors import UsageError

_FIRST_BLUR, _LAST_BLUR = 0.1, 0.75  # pixels; share of the image's side, as [IHDM] blurs
_NOISE = 0.5  # standard deviation of the logarithm of osmosis's noise


class Flow(Protocol):
    """A partial differential equation that filters images, (B, C, H, W) float64 in [0, 1]."""

    def advance(self, u: Tensor, begin: float, end: float) -> Tensor:
        """The state at time ``end`` of the state u at time ``begin``, squared pixels."""

    def steady(self, u: Tensor) -> Tensor:
        """Where u ends."""

    def first(self, count: int) -> Flow:
        """The same filter of the first images."""

    def moved(self, move: Move) -> Flow:
        """The same filter of images that a symmetry of the square has moved."""


def times(side: int, points: int) -> list[float]:
    """Diffusion times sigma^2 / 2 of blurs from 0.1 pixels to 3/4 of the side, growing geometrically; first
    0.

    Raises:
        UsageError: fewer than 2 points.
    """
    if points < 2:
        raise UsageError(f"a curve needs at least 2 points, not {points}")
    ratio = _LAST_BLUR * side / _FIRST_BLUR
    shares = [i / (points - 1) for i in range(points)]
    return [0.0, *(0.5 * (_FIRST_BLUR * ratio**share) ** 2 for share in shares[1:])]


def noise_guidance(count: int, channels: int, side: int, seed: int) -> Tensor:
    """(count, channels, side, side) positive white noise exp(0.5 eps), towards which osmosis destroys images.

    Osmosis with noise as its guidance is the image filter that comes closest to a noise diffusion process
    [GS].
    """
    numbers = torch.arange(count)
    shape = (channels, side, side)
    noise = rng.normal(rng.derive(seed, "scale-space/guidance"), numbers, 0, shape, torch.float64)
    return (_NOISE * noise).exp()


def evolve(flow: Flow, u: Tensor, at: Sequence[float]) -> Iterator[Tensor]:
    """States at increasing times, the first of which is that of u."""
    now = at[0]
    for time in at:
        u, now = flow.advance(u, now, time), time
        yield u


def image_entropy(u: Tensor) -> Tensor:
    """(B, C) entropy of each plane as a distribution of grey over n pixels, nats; log n where it is flat
    [Weickert 1998].

    Args:
        u: (B, C, H, W), not negative, with a positive mean.
    """
    p = u / u.sum((-2, -1), keepdim=True)
    return -torch.xlogy(p, p).sum((-2, -1))


def relative_entropy(u: Tensor, steady: Tensor) -> Tensor:
    """(B, C) Kullback-Leibler divergence of each plane from the steady state, both as distributions, nats."""
    p, q = (x / x.sum((-2, -1), keepdim=True) for x in (u, steady))
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum((-2, -1))


def flow_points(name: str, u: Tensor, start: Tensor, steady: Tensor, t: float, time: float) -> list[Point]:
    """The quantities of a filter at one time.

    Args:
        name: of the filter, in the points.
        u: (B, 1, H, W) in [0, 1] at this time.
        start: the same images at time 0.
        steady: where they end.
        t: diffusion time, squared pixels.
        time: position along the process, 0..1.
    """
    now, first = (2 * x.flatten(1) - 1 for x in (u, start))  # grey in [-1, 1], as everywhere else
    total = float(first.var(0).sum())
    values = {
        "mean": float(now.mean()),
        "variance": float(now.var(0).mean()),
        "frechet": frechet_of_samples(now, first) / total,
        "image-entropy": float(image_entropy(u).mean()),
        "relative-entropy": float(relative_entropy(u, steady).mean()),
    }
    return [
        Point(name, t, time, quantity, value) for quantity, value in values.items() if math.isfinite(value)
    ]
