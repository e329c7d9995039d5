"""Which transition points a schedule should have: distance against cost, before anything is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ssdiff.analysis.data_moments import DataMoments
from ssdiff.analysis.sampler_error import spectral_distance
from ssdiff.errors import PresetError, ProcessError
from ssdiff.process.base import State
from ssdiff.schedules.resolution import respace
from ssdiff.schedules.respacing import Crossing

Thresholds = tuple[float, ...]
"""Full-resolution log-SNRs at which the resolution changes, falling."""

_HIGHEST, _LOWEST = 2.0, -9.0  # of the thresholds that are tried
_COARSE, _FINE = 1.0, (0.5, 0.25)  # steps of the search


@dataclass(frozen=True, slots=True)
class Setting:
    """How a schedule is sampled: steps (every resolution transition adds at most one) and eta."""

    steps: int
    eta: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a schedule comes to.

    Attributes:
        at: its thresholds; empty for one without.
        distance: geometric mean over the settings of the spectral distance.
        flops: forward FLOPs of a step, mean over the timesteps 1..T: the cost of training, and about that of
            sampling.
    """

    at: Thresholds
    distance: float
    flops: float


def chain_of(states: Sequence[State], steps: int, crossing: Crossing = "step") -> list[int]:
    """Return the timesteps that a sampler visits, T first, 0 last."""
    sizes = torch.tensor([state.resolution for state in states[1:]])
    return respace(sizes, min(steps, len(states) - 1), crossing=crossing)


def mean_step_flops(states: Sequence[State], paths: Mapping[tuple[int, int], int]) -> float:
    """Compute the forward FLOPs of a step, mean over the timesteps 1..T.

    Args:
        states: t = 0..T.
        paths: FLOPs by pixels a side of the network's input and output; those of a change of resolution are
            of an evaluation at the smaller one for ``sampling.lift = "linear"``.
    """
    return sum(paths[b.resolution, a.resolution] for a, b in itertools.pairwise(states)) / (len(states) - 1)


def chain_flops(
    states: Sequence[State], timesteps: Sequence[int], paths: Mapping[tuple[int, int], int]
) -> int:
    """Compute the forward FLOPs of one image along a chain."""
    return sum(paths[states[t].resolution, states[t - 1].resolution] for t in timesteps[:-1])


class Search:
    """Try thresholds, and remember what each came to.

    Schedules are evaluated without high-frequency renoising: with it Gaussian data would favour any
    threshold, where images allow it only as long as noise hides what is redrawn.

    Args:
        data: with spectra of every resolution.
        states: from thresholds to states; raises :class:`ssdiff.errors.ProcessError` (or a
            :class:`ssdiff.errors.PresetError`) where they make none.
        settings: that a schedule is evaluated by.
        paths: as in :func:`mean_step_flops`.
        crossing: of a resolution transition in sampling.
    """

    def __init__(
        self,
        data: DataMoments,
        states: Callable[[Thresholds], Sequence[State]],
        settings: Sequence[Setting],
        paths: Mapping[tuple[int, int], int],
        crossing: Crossing = "step",
    ) -> None:
        self._crossing: Crossing = crossing
        self._data, self._states, self._settings, self._paths = data, states, settings, paths
        self._known: dict[Thresholds, Outcome | None] = {}

    @property
    def tried(self) -> list[Outcome]:
        """Everything that made a schedule, the cheapest first."""
        return sorted((found for found in self._known.values() if found), key=lambda found: found.flops)

    def evaluate(self, at: Thresholds, states: Sequence[State]) -> Outcome:
        """Evaluate one schedule."""
        chains = [(chain_of(states, one.steps, self._crossing), one.eta) for one in self._settings]
        logs = [math.log(spectral_distance(self._data, states, chain, eta)) for chain, eta in chains]
        return Outcome(at, math.exp(sum(logs) / len(logs)), mean_step_flops(states, self._paths))

    def best(self, changes: int, budget: float, tell: Callable[[int], None] = lambda tried: None) -> Outcome:
        """Find the smallest distance among the schedules that cost at most the budget.

        A grid of whole log-SNRs first, then ever finer moves of single thresholds.

        Args:
            changes: how many, at least 1.
            budget: FLOPs of a step.
            tell: told of the number of schedules tried.

        Raises:
            ProcessError: none costs so little.
        """
        grid = [_HIGHEST - i * _COARSE for i in range(round((_HIGHEST - _LOWEST) / _COARSE) + 1)]
        for at in itertools.combinations(grid, changes):
            self._try(at)
            tell(len(self._known))
        for width in _FINE:
            best = None
            while best != (best := self._affordable(budget)):
                for at in _moves(best.at, width):
                    self._try(at)
                    tell(len(self._known))
        return self._affordable(budget)

    def _affordable(self, budget: float) -> Outcome:
        found = [outcome for outcome in self.tried if outcome.flops <= budget]
        if not found:
            least = f", the least is {self.tried[0].flops / 1e9:.3g} GFLOPs a step" if self.tried else ""
            raise ProcessError(
                f"no schedule costs {budget / 1e9:.3g} GFLOPs a step or less{least}",
                hint="raise the budget or use a preset of more levels",
            )
        return min(found, key=lambda outcome: (outcome.distance, outcome.flops))

    def _try(self, at: Thresholds) -> None:
        if at in self._known:
            return
        try:
            states = self._states(at)
        except (PresetError, ProcessError):
            self._known[at] = None
        else:
            self._known[at] = self.evaluate(at, states)


def front(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return those that nothing cheaper beats, the cheapest first."""
    result: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda found: (found.flops, found.distance)):
        if not result or outcome.distance < result[-1].distance:
            result.append(outcome)
    return result


def _moves(at: Thresholds, width: float) -> Iterator[Thresholds]:
    """Neighbours with some thresholds moved up or down by a width, still falling."""
    for steps in itertools.product((-width, 0.0, width), repeat=len(at)):
        moved = tuple(value + step for value, step in zip(at, steps, strict=True))
        if any(steps) and all(a > b for a, b in itertools.pairwise(moved)):
            yield moved
