"""The reverse process of a trained model as a scale-space, beside the forward process that it reverses.

[GS] shows that the reverse of a noise process has its scale-space properties if it is learned perfectly: the
distributions of x_T, ..., x_0 are those of the forward process, in the other order. Here both are measured
from samples by the same estimators, of as many images [docs/math.md, section 16].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ssdiff.analysis.scale_space_curves import Point
from ssdiff.analysis.scale_space_features import FeatureDistance
from ssdiff.analysis.scale_space_moments import BlockMoments, SampleMoments
from ssdiff.analysis.scale_space_properties import Check
from ssdiff.analysis.scale_space_theory import is_chain
from ssdiff.errors import DataError, UsageError, memory_for
from ssdiff.pipeline import Pipeline
from ssdiff.sampling.plan import Plan
from ssdiff.schedules.respacing import Steps

RESTARTED = "semigroup, restarted at u"
OTHER_STEPS = "semigroup, other steps below u"
IN_DISTRIBUTION = "semigroup, in distribution"
AS_FORWARD = "distributions of the forward process"
ENDS_AT_DATA = "ends at the data"
ENTROPY_FALLS = "entropy falls"

SAMPLES = 64
"""Images of the reverse process unless another number is asked for."""

_LEAST = 8  # images of which there are covariances of three channels, and halves
_FEW = 8  # images of which a walk is compared with another, image by image
_SAME = 1e-4  # relative, of two walks that take the same steps
_OTHER = 0.25  # relative, what the error of two discretisations may be: a sixteenth of the variance
_SLACK = 2.0  # times the distance of two sets of forward samples
_DEVIATIONS = 4.0  # of an estimated entropy, that a step may go the wrong way
_MEMORYLESS = ("ancestral", "ddim", "alg1", "alg2")


@dataclass(frozen=True)
class ReverseOptions:
    """How the reverse process is drawn; None leaves a choice to the model's preset.

    Attributes:
        n: images; SAMPLES, or half of the data where these are fewer.
        steps: of sampling.
        sampler: name.
        eta: share of fresh noise.
        batch: images at once.
    """

    n: int | None = None
    steps: Steps | None = None
    sampler: str | None = None
    eta: float | None = None
    batch: int | None = None


@dataclass
class ReverseProcess:
    """What was measured.

    Attributes:
        points: of the curves, of the reverse process and of samples of the forward process.
        checks: properties of the reverse process.
        states: timestep to (few, C, h, w) of the first images on their way down.
        means: timestep to the (C, h, w) mean of all.
        about: sampler, steps, eta, images, and where the walk begins.
    """

    points: list[Point] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    states: dict[int, Tensor] = field(default_factory=dict)
    means: dict[int, Tensor] = field(default_factory=dict)
    about: dict[str, object] = field(default_factory=dict)


class ReverseAnalysis:
    """Draw the reverse process of a model and measure it.

    Args:
        name: of the model, in points and checks.
        pipeline: process and network.
        images: (N, C, R, R) in [-1, 1]; two disjoint sets of n are compared with n samples.
        options: how to sample.
        points: of a curve, at most as many as steps; resolution transitions are added.
        seed: of all noise.

    Raises:
        UsageError: sampling options out of range.
        DataError: too few images.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        images: Tensor,
        options: ReverseOptions,
        points: int,
        seed: int,
    ) -> None:
        self._name, self._pipeline, self._images, self._seed = name, pipeline, images, seed
        self._process, self._options = pipeline.process, options
        self._plan = pipeline.plan(options.steps, options.sampler, options.eta)
        self._wanted = _spread(self._plan.timesteps, points, pipeline)
        self._n = min(SAMPLES, len(images) // 2) if options.n is None else options.n
        if options.n is not None and options.n < _LEAST:
            raise UsageError(f"n must be at least {_LEAST} for a covariance, not {options.n}")
        if self._n < _LEAST or len(images) < 2 * self._n:
            raise DataError(
                f"a reverse process of {max(self._n, _LEAST)} images is compared with two sets of as many, "
                f"but there are {len(images)} images",
                hint="use more images, or draw fewer (n, --count; at least 8)",
            )
        self._batch = options.batch or pipeline.sampling.batch
        self._labels = pipeline.choose_labels(torch.arange(self._n))
        timesteps = self._plan.timesteps
        self._u = timesteps[len(timesteps) // 2] if len(timesteps) > 2 else None

    @property
    def work(self) -> int:
        """Steps of images, for progress; about."""
        below = self._plan.evaluations - self._plan.evaluations // 2
        distribution = self._n * below if self._distributed() else 0
        few = min(_FEW, self._n)
        return self._n * self._plan.evaluations + distribution + few * (below + 2 * self._plan.evaluations)

    def measure(self, told: Callable[[int], None], features: FeatureDistance | None = None) -> ReverseProcess:
        """Draw, compare and check.

        Args:
            told: of so many images a step further.
            features: adds distances of features.
        """
        found = ReverseProcess()
        full, device = self._process.states[0].size, self._pipeline.device
        reverse = {t: SampleMoments(full) for t in self._wanted}
        errors, seen = dict.fromkeys(self._wanted, 0.0), {t: list[Tensor]() for t in self._wanted}
        middle: list[Tensor] = []
        for part in torch.arange(self._n).split(self._batch):
            x0 = self._images[self._of(part)].to(device)
            for t, x in self._walk(part, self._plan, told):
                if t == self._u:
                    middle.append(x.cpu())
                if t not in reverse:
                    continue
                state = x.clamp(-1, 1) if t == 0 else x
                reverse[t].add(state)
                if not self._draws:
                    forward = self._forward(x0, t, part.to(device))
                    errors[t] += float((x - forward).double().square().sum()) / x[0].numel()
                if features is not None:
                    seen[t].append(state.cpu())
                if len(part) and int(part[0]) == 0:
                    found.states[t] = state[:_FEW].float().cpu()
        one, two = (self._forward_moments(start, features, found) for start in (0, 1))
        data = BlockMoments()
        for images in self._images.split(self._batch):
            data.add(images)
        distances, floors = {}, {}
        for t in self._wanted:
            total = one[t].seen.total
            distances[t] = reverse[t].seen.distance(one[t].seen) / total
            floors[t] = one[t].seen.distance(two[t].seen) / total
            for name, moments, apart in (
                (f"{self._name}, reverse", reverse[t], distances[t]),
                (f"{self._name}, forward samples", one[t], floors[t]),
            ):
                values = moments.values() | {
                    "sample-frechet": moments.seen.distance(data) / data.total,
                    "reverse-to-forward": apart,
                }
                if moments is reverse[t] and not self._draws:
                    values["restored-error"] = math.sqrt(errors[t] / self._n)
                found.points += [
                    Point(name, t, t / self._process.T, quantity, value)
                    for quantity, value in values.items()
                    if math.isfinite(value)
                ]
            found.means[t] = reverse[t].mean_image().float()
            if features is not None:
                found.points.append(features.point(f"{self._name}, reverse", t, t / self._process.T, seen[t]))
        found.checks += self._agreement(distances, floors)
        found.checks.append(self._entropy(reverse))
        found.checks += self._semigroup(told)
        found.checks += self._semigroup_in_distribution(middle, reverse[0], floors[0], told)
        found.about = {
            "sampler": self._plan.sampler,
            "steps": self._plan.evaluations,
            **self._plan.told,
            "samples": self._n,
            "classes": self._pipeline.classes,
            "begins": "terminal prior" if self._draws else "degraded images of the data",
        }
        return found

    @property
    def _draws(self) -> bool:
        """Whether images come from nothing; a restoration model begins at degraded images of the data."""
        return self._pipeline.generates

    def _of(self, part: Tensor, second: bool = False) -> Tensor:
        """Which images of the data belong to image numbers of the walk: evenly, the two sets apart."""
        return (2 * part + int(second)) * len(self._images) // (2 * self._n)

    def _walk(
        self,
        part: Tensor,
        plan: Plan,
        told: Callable[[int], None],
        x: Tensor | None = None,
        seed: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """The states of images by number, from the plan's first timestep down."""
        device, top = self._pipeline.device, plan.timesteps[0]
        numbers = part.to(device)
        labels = None if self._labels is None else self._labels[part].to(device)
        if x is None and not self._draws:
            x = self._forward(self._images[self._of(part)].to(device), top, numbers)
        given = None if x is None else x.to(device)
        with memory_for(f"{len(part)} images at once", "lower the batch (--batch)"):
            seeded = self._seed if seed is None else seed
            for t, state in self._pipeline.walk(numbers, plan, seeded, labels, x=given):
                if t < top:
                    told(len(part))
                yield t, state

    def _forward(self, x0: Tensor, t: int, numbers: Tensor) -> Tensor:
        """x_t of clean images by their numbers, as the network sees it."""
        return self._process.corrupt(x0, t, numbers, self._seed) if t else x0

    def _forward_moments(
        self, which: int, features: FeatureDistance | None, found: ReverseProcess
    ) -> Mapping[int, SampleMoments]:
        """Moments of the forward process from one of two sets of images; distances of the first."""
        result = {t: SampleMoments(self._process.states[0].size) for t in self._wanted}
        device = self._pipeline.device
        for t in self._wanted:
            seen = []
            for part in torch.arange(self._n).split(self._batch):
                x0 = self._images[self._of(part, bool(which))].to(device)
                x = self._forward(x0, t, (part + which * self._n).to(device))
                result[t].add(x)
                seen.append(x.cpu())
            if features is not None and which == 0:
                name = f"{self._name}, forward samples"
                found.points.append(features.point(name, t, t / self._process.T, seen))
        return result

    def _check(self, law: str, deviation: float, tolerance: float, note: str, expected: bool | None) -> Check:
        return Check(f"{self._name}, reverse", law, deviation, tolerance, note, expected)

    def _agreement(self, distances: dict[int, float], floors: dict[int, float]) -> list[Check]:
        """Whether the distributions are those of the forward process, at the worst t, and at t = 0."""
        worst = max(self._wanted, key=lambda t: distances[t] / floors[t] if floors[t] else 0.0)
        # Where noise is drawn anew there is no chain that a reverse chain could follow.
        expected = True if self._process.noisy and is_chain(self._process) else None
        note = (
            "squared Frechet distance relative to the variance; tolerated: {} times that of two forward sets"
        )
        return [
            self._check(
                law,
                distances[t],
                _SLACK * floors[t],
                f"t = {t}; {note.format(f'{_SLACK:g}')}" if law == AS_FORWARD else "t = 0, likewise",
                expected,
            )
            for law, t in ((AS_FORWARD, worst), (ENDS_AT_DATA, 0))
        ]

    def _entropy(self, reverse: Mapping[int, SampleMoments]) -> Check:
        """Whether the entropy of the samples falls on the way down, within each size."""
        states, worst = self._process.states, 0.0
        values = {t: moments.values()["sample-entropy"] for t, moments in reverse.items()}
        order = sorted(values)
        for s, t in itertools.pairwise(order):
            if states[s].size == states[t].size:
                worst = max(worst, values[s] - values[t])
        pixels = self._images[0].numel()
        tolerance = _DEVIATIONS / math.sqrt((self._n - 1) * pixels)
        plain = self._process.isotropic and not self._process.changes_resolution
        unscaled = plain and all(state.signal == 1 for state in states)
        note = "nats a value, within each size" if self._process.changes_resolution else "nats a value"
        expected = True if self._process.noisy and unscaled else None
        return self._check(ENTROPY_FALLS, worst, tolerance, note, expected)

    def _semigroup(self, told: Callable[[int], None]) -> list[Check]:
        """Whether T -> u -> 0 is T -> 0: with the same steps, and with others below u; no fresh noise."""
        laws = (RESTARTED, OTHER_STEPS)
        if self._u is None:
            return [self._check(law, math.nan, _SAME, "needs 2 steps", None) for law in laws]
        part, u = torch.arange(min(_FEW, self._n)), self._u
        states = dict(self._walk(part, self._plan, told))
        tail = replace(self._plan, timesteps=self._plan.timesteps[self._plan.timesteps.index(u) :])
        again = dict(self._walk(part, tail, told, states[u]))[0]
        memoryless = True if self._plan.sampler in _MEMORYLESS else None
        top = self._plan.timesteps[0]
        checks = [
            self._check(
                RESTARTED, _apart(again, states[0]), _SAME, f"timesteps {top}, {u}, 0; same steps", memoryless
            )
        ]
        options = self._options
        if self._process.noisy:
            if "ddim" not in self._process.samplers():
                return [*checks, self._check(OTHER_STEPS, math.nan, _OTHER, "needs the sampler ddim", None)]
            plan = self._pipeline.plan(options.steps, "ddim", 0.0)
            u = plan.timesteps[len(plan.timesteps) // 2]
            states = dict(self._walk(part, plan, told))
        else:
            plan = self._plan
        other = self._below(plan, u)
        if other is None:
            return [*checks, self._check(OTHER_STEPS, math.nan, _OTHER, "no other steps fit", None)]
        apart = _apart(dict(self._walk(part, other, told, states[u]))[0], states[0])
        tail_steps = len(plan.timesteps) - 1 - plan.timesteps.index(u)
        note = (
            f"timesteps {top}, {u}, 0; {plan.sampler}, {tail_steps} and {other.evaluations} steps below {u}; "
            "root mean square, relative to the contrast"
        )
        expected = True if self._process.noisy else None
        return [*checks, self._check(OTHER_STEPS, apart, _OTHER, note, expected)]

    def _below(self, plan: Plan, u: int) -> Plan | None:
        """A plan from u down with more steps than the given one has there, or with fewer, if there is one."""
        tail = plan.timesteps[plan.timesteps.index(u) :]
        for steps in (2 * (len(tail) - 1), (len(tail) - 1) // 2):
            if 1 <= steps <= u:
                eta = plan.eta if plan.sampler == "ddim" else None
                found = self._pipeline.plan(steps, plan.sampler, eta, t=u)
                if found.timesteps != tail:
                    return found
        return None

    def _distributed(self) -> bool:
        """Whether there is fresh noise, so that only distributions can be compared."""
        return self._process.noisy and self._plan.eta > 0 and self._u is not None

    def _semigroup_in_distribution(
        self, middle: list[Tensor], ends: SampleMoments, floor: float, told: Callable[[int], None]
    ) -> list[Check]:
        """Whether x_0 has one distribution by T -> 0, and with other steps and other noise below u."""
        if not self._distributed():
            return []
        assert self._u is not None, "there is a timestep between the ends"
        other = self._below(self._plan, self._u)
        if other is None:
            return []
        found = SampleMoments(self._process.states[0].size)
        starts = torch.cat(middle).split(self._batch)
        for part, x in zip(torch.arange(self._n).split(self._batch), starts, strict=True):
            for t, state in self._walk(part, other, told, x, self._seed + 1):
                if t == 0:
                    found.add(state.clamp(-1, 1))
        apart = found.seen.distance(ends.seen) / ends.seen.total
        note = f"{self._plan.sampler}, {other.evaluations} other steps and other noise below {self._u}"
        return [self._check(IN_DISTRIBUTION, apart, _SLACK * floor, note, True)]


def _apart(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference, relative to the standard deviation of b within its images."""
    spread = float(b.double().flatten(1).std(1).mean())
    return float((a - b).double().square().mean().sqrt()) / max(spread, 1e-12)


def _spread(timesteps: list[int], points: int, pipeline: Pipeline) -> list[int]:
    """Some timesteps of a chain, rising; among them its ends and both sides of resolution transitions."""
    last, states = len(timesteps) - 1, pipeline.process.states
    count = min(points, last + 1)
    chosen = {timesteps[round(i * last / (count - 1))] for i in range(count)}
    for t, s in itertools.pairwise(timesteps):
        if states[t].size != states[s].size:
            chosen |= {t, s}
    return sorted(chosen)
