"""Measured properties of image filters as scale-spaces [Weickert 1998; Weickert et al. 2013]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssdiff.analysis.imagewise import Flow, image_entropy, relative_entropy
from ssdiff.analysis.properties import EXACT, MOVES
from ssdiff.analysis.records import Check

_DISCRETE = 0.02  # of a scheme of first order whose steps are 3 % of the time
_STEADY = 1e-6
_FEW = 16  # images for what takes more runs of the filter
_LONG = 4.0  # in units of the squared side, by when even the slowest wave is gone


def check_flow(
    name: str, flow: Flow, times: Sequence[float], states: Sequence[Tensor], exact: bool
) -> list[Check]:
    """Every property of one filter.

    Args:
        name: of the filter.
        flow: the filter.
        times: increasing, squared pixels; the first is 0.
        states: (B, C, H, W) at each time.
        exact: whether the filter is exact in time, or discretised.
    """
    start, steady = states[0], flow.steady(states[0])
    few, begin = flow.first(_FEW), start[:_FEW]
    middle = times[-1] / 64
    whole = few.advance(begin, 0.0, middle)
    half = few.advance(few.advance(begin, 0.0, middle / 9), middle / 9, middle)
    tolerance, note = (EXACT, "") if exact else (_DISCRETE, "error of the time steps")
    checks = [Check(name, "semigroup", _distance(half, whole), tolerance, note)]
    for label, move in MOVES:
        moved = few.moved(move).advance(move(begin), 0.0, middle)
        checks.append(Check(name, label, _distance(moved, move(whole)), EXACT))
    means = torch.stack([u.mean((-2, -1)) for u in states])  # (K, B, C)
    least = min(float(u.min()) for u in states)
    entropies = torch.stack([image_entropy(u) for u in states])
    distances = torch.stack([relative_entropy(u, steady) for u in states])
    end = few.advance(states[-1][:_FEW], times[-1], _LONG * start.shape[-1] ** 2)
    flat = "" if torch.allclose(steady, steady[..., :1, :1]) else "not expected, the steady state is not flat"
    return [
        *checks,
        Check(name, "average grey value", float((means - means[0]).abs().max()), EXACT),
        Check(name, "positivity", max(0.0, -least), 0.0, f"least value {least:.3g}"),
        Check(name, "entropy of the image rises", _worst(-entropies.diff(dim=0)), EXACT, flat),
        Check(name, "relative entropy to the steady state falls", _worst(distances.diff(dim=0)), EXACT),
        Check(name, "ends at the steady state", _distance(end, steady[:_FEW]), _STEADY),
    ]


def _worst(steps: Tensor) -> float:
    """The largest step in the wrong direction, 0 if there is none."""
    return max(0.0, float(steps.max()))


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the largest number of b."""
    return float((a - b).abs().max() / b.abs().max())
