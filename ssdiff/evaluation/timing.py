"""Measured times and memory of training and sampling steps, and the matrix peak to hold them against.

Weights and images are random: neither time nor memory depends on what they say.
"""

from __future__ import annotations

import itertools
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

import numpy as np
import torch
from torch import Tensor

from ssdiff.build import build_model, build_process, build_sampling_process, place_model
from ssdiff.config import Preset
from ssdiff.devices import synchronise
from ssdiff.distributed import World
from ssdiff.evaluation.flops import Path, PathCost, paths_along, paths_of
from ssdiff.operators.base import Size
from ssdiff.pipeline import Pipeline
from ssdiff.priors.image_spectrum import fit_spectrum
from ssdiff.priors.linear_lift import fit_lift
from ssdiff.process.base import Process
from ssdiff.process.degradations.base import random_noise
from ssdiff.sampling.plan import Plan
from ssdiff.training.batches import Batches, TimestepSampler
from ssdiff.training.trainer import Trainer

_SMALLEST, _LARGEST = 512, 8192  # sides of the matrices whose product gives the peak
_LONG_ENOUGH = 0.02  # seconds of one product, beside which the clock and the launch do not count
_MOST = 50  # repeats of one measurement
_PASSES = 2  # of each step at least: one to allocate and choose kernels, one to measure
_TOGETHER = 5  # steps between two waits for a GPU, which works on while the host prepares the next one
_USUAL = 0.3  # utilisation that a forecast of the time reckons with


@dataclass(frozen=True, slots=True)
class Timing:
    """One step along one path.

    Attributes:
        seconds: median; on CUDA each measurement is the mean of a few steps in a row.
        repeats: measured steps behind it.
    """

    seconds: float
    repeats: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What the steps of a model take at one batch size.

    Attributes:
        training: per path, a whole step of the optimiser: degrade, forward, backward, AdamW, average.
        sampling: per path, a whole step of the sampler: one evaluation of the network (two with guidance)
            and one draw of the next state; mean over the steps where guidance counts at some of them.
        training_bytes: most memory in use at once, weights included; on a CPU the growth of the process, less
            if it reuses what it had, more by the compiler's if it was at work; None where that is unknown.
        sampling_bytes: likewise.
    """

    training: dict[Path, Timing]
    sampling: dict[Path, Timing]
    training_bytes: int | None
    sampling_bytes: int | None


def matrix_peak(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Return the FLOP/s of the best of many products of two large square matrices.

    In float32 on CUDA the product may use TF32 if convolutions may, as PyTorch lets them by default, so that
    both are held to one measure.

    Args:
        device: to measure.
        dtype: of the matrices.
        seconds: to spend, about.
    """
    precision = torch.get_float32_matmul_precision()
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        torch.set_float32_matmul_precision("high")
    try:
        side = _SMALLEST
        while (best := _product(side, device, dtype)) < _LONG_ENOUGH and side < _LARGEST:
            side *= 2
        limit = time.perf_counter() + seconds
        while time.perf_counter() < limit:
            best = min(best, _product(side, device, dtype))
    finally:
        torch.set_float32_matmul_precision(precision)
    return 2 * side**3 / best


def affordable_batch(costs: Sequence[PathCost], peak: float, seconds: float, most: int) -> int:
    """Return the largest of most, most / 2, ... 1 with which measuring every path should end in time.

    Args:
        costs: of the paths.
        peak: FLOP/s of the device.
        seconds: to spend.
        most: images.
    """
    flops = _PASSES * sum(cost.training_flops + cost.flops for cost in costs)
    batch = most
    while batch > 1 and batch * flops / (_USUAL * peak) > seconds:
        batch //= 2
    return batch


def measure_costs(
    preset: Preset,
    plan: Plan,
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
    seconds: float,
    advance: Callable[[], None],
) -> Measured:
    """Measure time and memory of every path that training and a trajectory take.

    Args:
        preset: of the model, freshly initialised here; with ``training.compile`` the compiler has done its
            work before the clock starts, beyond ``seconds``.
        plan: of the trajectory.
        device: to measure.
        dtype: of the network's mixed precision.
        batch: images a step.
        seconds: to spend, about; more if two passes of each step take longer.
        advance: called after each path of training and of sampling.
    """
    memory = _Memory(device)
    pipeline = untrained(preset, device, dtype)
    linear = preset.sampling.lift == "linear"
    sampled = pipeline.watched(None)
    sampled.process = build_sampling_process(preset, other=random_noise(0))
    walked = _steps_along(sampled.process, plan, linear)
    paths = paths_of(pipeline.process, preset.training.transitions)
    share = seconds / (len(walked) + len(paths))
    sampling = {}
    for path, kinds in walked.items():
        part = share / len(kinds)
        timings = [
            (time_step(_sampling_step(sampled, replace(plan, timesteps=chain), batch), device, part), count)
            for chain, count in kinds
        ]
        sampling[path] = _mean(timings)
        advance()
    sampling_bytes = memory.peak()
    trainer = PathTrainer(pipeline, batch)
    if preset.training.compile:
        for path in paths:
            trainer.choose(path)
            trainer.advance()
    memory.restart()
    training = time_training(trainer, device, share * len(paths), advance)
    return Measured(training, sampling, memory.peak(), sampling_bytes)


def time_training(
    trainer: PathTrainer, device: torch.device, seconds: float, advance: Callable[[], object]
) -> dict[Path, Timing]:
    """Measure a whole step of the optimiser along every path.

    Args:
        trainer: does the steps.
        device: of its network.
        seconds: to spend, about; more if two steps along each path take longer.
        advance: called after each path.
    """
    found, paths = {}, paths_of(trainer.process, trainer.settings.transitions)
    for path in paths:
        trainer.choose(path)
        found[path] = time_step(trainer.advance, device, seconds / len(paths))
        advance()
    return found


def untrained(preset: Preset, device: torch.device, dtype: torch.dtype) -> Pipeline:
    """Make a pipeline with a freshly initialised network, and details as costly as those of real images.

    Args:
        preset: of the model.
        device: where it shall be.
        dtype: of the network's mixed precision.
    """
    process = build_process(preset, other=random_noise(0))
    with torch.random.fork_rng(devices=[]):
        model = build_model(preset)
    place_model(model, device)
    blank = [torch.zeros(1, preset.data.channels, *process.states[0].size)]
    details = fit_spectrum(blank, process) if process.isotropic else None
    lift = fit_lift(blank, process) if preset.sampling.lift == "linear" else None
    return Pipeline(process, model.eval(), preset=preset, precision=dtype, spectrum=details, lift=lift)


def mean_seconds(costs: Sequence[PathCost], timings: Mapping[Path, Timing]) -> float:
    """Return the seconds of a training step, averaged over the batches."""
    return sum(cost.share * timings[cost.path].seconds for cost in costs)


def trajectory_seconds(visits: Mapping[Path, int], timings: Mapping[Path, Timing]) -> float:
    """Return the seconds of a batch of images along a trajectory.

    Args:
        visits: evaluations of each path, from :func:`ssdiff.evaluation.flops.paths_along`.
        timings: of a sampling step along each.
    """
    return sum(count * timings[path].seconds for path, count in visits.items())


def time_step(step: Callable[[], object], device: torch.device, seconds: float, least: int = 1) -> Timing:
    """Measure the seconds of a step, after one that does not count because it allocates and chooses kernels.

    Args:
        step: to measure; on CUDA it need not wait for the device.
        device: on which it works.
        seconds: to spend, about; more if so many measurements take longer.
        least: measurements, 1 or more.
    """
    limit = time.perf_counter() + seconds
    step()
    together = _TOGETHER if device.type == "cuda" else 1
    times: list[float] = []
    while len(times) < least or (time.perf_counter() < limit and len(times) < _MOST):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(together):
            step()
        synchronise(device)
        times.append((time.perf_counter() - start) / together)
    return Timing(statistics.median(times), len(times) * together)


class _Memory:
    """Most memory in use since the start or restart, beyond what was in use when this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = torch.cuda.memory_allocated(device) if device.type == "cuda" else _resident("VmRSS")
        self.restart()

    def restart(self) -> None:
        """Forget the peak."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with suppress(OSError):  # Linux only; without it the earlier peak counts, too
                FilePath("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def peak(self) -> int | None:
        """Bytes; None where the system does not tell."""
        if self._device.type == "cuda":
            most: int | None = torch.cuda.max_memory_allocated(self._device)
        else:
            most = _resident("VmHWM") if self._device.type == "cpu" else None
        return None if most is None or self._before is None else max(0, most - self._before)


class _Chosen(TimestepSampler):
    """Draws the timesteps of one path, evenly from all of them, in place of the training's draw."""

    members: Tensor

    def draw(self, counter: int, positions: Tensor) -> Tensor:
        """(B,) timesteps; the counter plays no part."""
        return self.members[positions * len(self.members) // len(positions)]


class PathTrainer(Trainer):
    """The real training step, along a path of one's choice.

    Args:
        pipeline: its network is trained in place.
        batch: images a step.
    """

    def __init__(self, pipeline: Pipeline, batch: int) -> None:
        preset, process = pipeline.required_preset(), pipeline.process
        alike = {"batch": batch, "grad_accum_steps": 1, "overlap_share": 0.0}
        settings = preset.training.model_copy(update=alike)
        shape = (batch, preset.data.channels, *process.states[0].size)
        numbers = np.random.default_rng(0)
        batches = Batches(
            numbers.integers(0, 256, shape, dtype=np.uint8),
            numbers.integers(0, max(1, preset.model.classes), batch),
            device=pipeline.device,
            world=World(),
            batch=batch,
            seed=settings.seed,
            flip=preset.data.flip,
            classes=preset.model.classes,
            label_dropout=settings.label_dropout,
        )
        super().__init__(
            settings,
            process,
            pipeline.model,
            batches,
            precision=pipeline.precision,
            predict=preset.process.predict,
        )
        sizes: list[Size] = [state.size for state in process.states]
        self._timesteps = self._chosen = _Chosen(sizes, settings.seed)

    def choose(self, path: Path) -> None:
        """Take this path, one of the process's, from now on."""
        states, groups = self.process.states, defaultdict(list)
        for t, (then, now) in enumerate(itertools.pairwise(states), 1):
            if (now.resolution, then.resolution) == path:
                groups[now.size, then.size].append(t)  # a batch has one size, of those with this longer side
        self._chosen.members = torch.tensor(max(groups.values(), key=len))


def _steps_along(process: Process, plan: Plan, linear: bool) -> dict[Path, list[tuple[list[int], int]]]:
    """The first step of a plan along each path, as a chain of two timesteps, and how many there are like it:
    with guidance and without, where both occur."""
    chains: dict[Path, dict[int, tuple[list[int], int]]] = {}
    for place, passes in enumerate(plan.passes):
        chain = plan.timesteps[place : place + 2]
        [path] = paths_along(process, chain[:1], linear=linear)
        first, count = chains.setdefault(path, {}).get(passes, (chain, 0))
        chains[path][passes] = first, count + 1
    return {path: list(kinds.values()) for path, kinds in chains.items()}


def _mean(timings: Sequence[tuple[Timing, int]]) -> Timing:
    """The mean of steps of several kinds, each as often as it occurs."""
    total = sum(count for _, count in timings)
    seconds = sum(timing.seconds * count for timing, count in timings) / total
    return Timing(seconds, sum(timing.repeats for timing, _ in timings))


def _sampling_step(pipeline: Pipeline, plan: Plan, batch: int) -> Callable[[], object]:
    shape = (batch, pipeline.channels, *pipeline.process.states[plan.timesteps[0]].size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(pipeline.device)
    numbers = torch.arange(batch)
    labels = pipeline.choose_labels(numbers)
    images = numbers.to(pipeline.device)
    given = None if labels is None else labels.to(pipeline.device)
    return lambda: [state for _, state in pipeline.walk(images, plan, 0, given, x=x)]


def _product(side: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one product, after another to warm up."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    out = a @ b
    synchronise(device)
    start = time.perf_counter()
    torch.mm(a, b, out=out)
    synchronise(device)
    return time.perf_counter() - start


def _resident(field: str) -> int | None:
    """Bytes of this process's memory by the name that Linux gives it; None elsewhere."""
    try:
        text = FilePath("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
