"""Generating images to a file: grid, film strip, animation, array, or a folder with a file an image.

Several processes share the work; an image is the same whatever their number. A folder that was left half full
is filled up: see :mod:`ssdiff.image_folder`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssdiff import images
from ssdiff.arguments import as_path
from ssdiff.build import build_sampling_process
from ssdiff.config.load import override
from ssdiff.distributed import World
from ssdiff.errors import UsageError, memory_for
from ssdiff.files import check_output, write_atomic
from ssdiff.image_folder import (
    check_image_folder,
    finished_images,
    forget_jobs,
    image_file,
    record_job,
)
from ssdiff.pipeline import Pipeline, check_counts
from ssdiff.progress import Counter, Progress
from ssdiff.sampling.plan import Plan, refuse_useless_steps
from ssdiff.schedules.respacing import Steps

Advance = Callable[[int], None]  # told of so many images a step further

_FRAMES = 40  # of an animation, at most
_STRIP = 10  # timesteps of a film strip
_FRAME_TIME, _HOLD = 80, 1500  # milliseconds a frame, and that an animation rests on its last one
_FILES = 8  # written at once: most of the time goes into waiting for the disk
_ARRAY = ".npz"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the images go, and as what."""

    kind: str
    path: Path
    overwrite: bool
    columns: int | None


@dataclass(frozen=True, slots=True)
class Generation:
    """What to draw.

    Attributes:
        pipeline: the model.
        plan: steps and their rule.
        n: how many images.
        first: number of the first one.
        seed: decides them.
        batch: images drawn at once.
        classes: used in turn by image number; None: all of them.
    """

    pipeline: Pipeline
    plan: Plan
    n: int
    first: int
    seed: int
    batch: int
    classes: list[int] | None

    def draw(self, positions: range, advance: Advance) -> Tensor:
        """Return (len(positions), C, R, R) uint8: these images, 0 for the first one asked for."""
        [(_, drawn)] = self.states(positions, advance, {0})
        return drawn

    def labels(self, positions: range) -> Tensor | None:
        """Return (len(positions),) classes; None for a model without."""
        if self.classes is None:
            return self.pipeline.choose_labels(self._numbers(positions))
        numbers = self._numbers(positions)
        return torch.tensor(self.classes)[numbers % len(self.classes)]

    def states(self, positions: range, advance: Advance, wanted: set[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield (timestep, (len(positions), C, r, r) uint8 on the CPU), of the wanted ones, noisiest first.

        As bytes, because of many images one state is much.
        """
        pipeline, timesteps = self.pipeline, self.plan.timesteps
        channels, states = pipeline.channels, pipeline.process.states
        kept: dict[int, list[Tensor]] = {
            t: [torch.empty(0, channels, *states[t].size, dtype=torch.uint8)]
            for t in timesteps
            if t in wanted
        }
        labels, device = self.labels(positions), pipeline.device
        for start in range(0, len(positions), self.batch):
            part = positions[start : start + self.batch]
            given = None if labels is None else labels[start : start + self.batch].to(device)
            size = states[0].resolution
            with memory_for(f"{len(part)} images of {size} px at once", "lower --batch"):
                for t, x in pipeline.walk(self._numbers(part).to(device), self.plan, self.seed, given):
                    if t < timesteps[0]:
                        advance(len(part))
                    if t in kept:
                        kept[t].append(images.to_uint8(x).cpu())
        for t, parts in kept.items():
            yield t, torch.cat(parts)

    @property
    def numbers(self) -> range:
        """Of the images."""
        return range(self.first, self.first + self.n)

    def recipe(self) -> dict[str, object]:
        """Return all that decides an image but its number, in plain values; weights by their SHA-256."""
        pipeline, plan = self.pipeline, self.plan
        preset, sampling = pipeline.preset, pipeline.sampling
        process = repr(pipeline.process.states) if preset is None else preset.process.model_dump_json()
        drawn = pipeline.terminal_prior is not None or pipeline.process.morphs
        classes = pipeline.classes and (self.classes or list(range(pipeline.classes)))
        return {
            "model": pipeline.name,
            "step": pipeline.step,
            "weights": _weights_digest(pipeline),
            "process": _digest(process.encode()),
            "begins": _begins(pipeline, plan, self.seed) if drawn else "noise",
            "seed": self.seed,
            "steps": plan.evaluations,
            "timesteps": _digest(repr(plan.timesteps).encode()),
            "sampler": plan.sampler,
            **plan.told,
            "classes": classes,
            "clip_denoised": sampling.clip_denoised,
            "renoise": sampling.renoise,
            **_changes(pipeline),
            "start_noise": sampling.start_noise,
            "prior_noise": sampling.terminal_prior.noise if sampling.terminal_prior else 0.0,
            "precision": str(pipeline.precision).removeprefix("torch."),
        }

    def _numbers(self, positions: range) -> Tensor:
        return torch.arange(self.first + positions.start, self.first + positions.stop)


def check_destination(
    out: str,
    numbers: range,
    trajectory: bool = False,
    overwrite: bool = False,
    columns: int | None = None,
) -> Destination:
    """Decide what an output is by its name, and check it before anything is computed.

    Args:
        out: as given by the user; a folder ends in a slash, exists, or has no ending.
        numbers: of the images.
        trajectory: a picture becomes a film strip.
        overwrite: whether files there may be replaced.
        columns: of a grid.

    Raises:
        UsageError: an ending that is not supported, or that does not go with ``trajectory`` or ``columns``.
        OutputError: something is there already.
        ResourceError: it cannot be written there.
    """
    path, suffix = as_path("out", out), Path(out).suffix.lower()
    folder = out.endswith(("/", os.sep)) or path.is_dir() or not suffix
    if trajectory and (folder or suffix == _ARRAY):
        raise UsageError("--trajectory writes one picture", hint="give --out film.png or film.gif")
    if columns is not None and (folder or suffix == _ARRAY or (trajectory and suffix != ".gif")):
        raise UsageError("--columns is for a grid", hint="leave it out, or give --out grid.png")
    if folder:
        check_image_folder(path, numbers, overwrite)
        return Destination("folder", path, overwrite, columns)
    kind = {".gif": "gif", _ARRAY: "array"}.get(suffix, "strip" if trajectory else "grid")
    check_output(path, overwrite, (*images.SAVE_SUFFIXES, ".gif", _ARRAY))
    return Destination(kind, path, overwrite, columns)


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """Images that were generated, and how.

    Attributes:
        out: the file or folder.
        generation: what was drawn.
        sampler: as it was asked for.
        seconds: that drawing and writing took.
        kept: how many of a folder's images were there already, made with the same.
        added: steps beyond the number that was asked for, which resolution transitions need.
    """

    out: Path
    generation: Generation
    sampler: str
    seconds: float
    kept: int = 0
    added: int = 0

    def __str__(self) -> str:
        """Return one line for people."""
        made = self.generation
        if self.kept == made.n:
            return f"{self.out}: all {made.n} images are there already, of the same model, seed and options"
        kept = f", {self.kept} of them there already" if self.kept else ""
        added = f" ({self.added} of them for resolution transitions)" if self.added else ""
        return (
            f"{self.out}: {made.n} images{kept}, {made.plan.evaluations} steps of {self.sampler}{added}, "
            f"seed {made.seed}, {self.seconds:.1f} s, {self._rate:.3g} images/s"
        )

    @property
    def _rate(self) -> float:
        return (self.generation.n - self.kept) / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        made, plan = self.generation, self.generation.plan
        return {
            "out": str(self.out),
            "n": made.n,
            "kept": self.kept,
            "steps": plan.evaluations,
            "network_evaluations": plan.network_evaluations,
            "sampler": self.sampler,
            **plan.told,
            "seed": made.seed,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self._rate, 3),
            "ckpt": made.pipeline.origin,
            "device": str(made.pipeline.device),
        }


def generate(
    pipeline: Pipeline,
    n: int,
    out: str | Path | Destination,
    *,
    steps: Steps | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    guidance: float | None = None,
    t: int | None = None,
    seed: int = 0,
    first: int = 0,
    batch: int | None = None,
    classes: Sequence[str | int] | None = None,
    world: World | None = None,
    progress: Progress | None = None,
) -> GenerationResult:
    """Draw images number ``first`` to ``first + n - 1`` of a seed and write them.

    Args:
        pipeline: the model.
        n: how many images.
        out: a file that must not be there, a folder, or from :func:`check_destination`: x.png (grid), x.gif
            (all on their way from noise), x.npz (``arr_0``, (N, H, W, C) uint8), or a folder. Images that a
            folder has of a stopped job with the same model, seed and options are kept, not drawn anew.
        steps: see :meth:`ssdiff.Pipeline.plan`, likewise ``sampler``, ``eta`` and ``guidance``.
        sampler: rule of a step.
        eta: share of fresh noise.
        guidance: weight of the class.
        t: timestep to begin at, with what generation begins with at T, where it is omitted.
        seed: decides every random number.
        first: number of the first image.
        batch: images drawn at once; changes the memory, not the images.
        classes: by name or number, used in turn by image number; all of them where omitted.
        world: the processes that share the work, each of which calls this.
        progress: called as progress("sampling", done, n).

    Raises:
        UsageError: an option out of range, or an unknown class.
        OutputError: something is there already, in a folder images of another model, seed or options.
    """
    check_counts(n, first, batch)
    numbers = range(first, first + n)
    target = out if isinstance(out, Destination) else check_destination(str(out), numbers)
    world = world or World()
    plan = pipeline.plan(steps, sampler, eta, guidance, t)
    refuse_useless_steps(steps, sampler or pipeline.sampling.sampler)
    size = batch or pipeline.sampling.batch
    chosen = pipeline.class_numbers(classes)
    pipeline.check_other()
    generation = Generation(pipeline, plan, n, first, seed, size, chosen)
    began = time.perf_counter()
    advance = Counter(progress, "sampling", n, steps=plan.evaluations, ranks=world.size)
    kept = _WRITERS[target.kind](target, generation, world, advance) or 0
    world.barrier()
    name = sampler or pipeline.sampling.sampler
    seconds = time.perf_counter() - began
    added = max(0, plan.evaluations - steps) if isinstance(steps, int) else 0
    return GenerationResult(target.path, generation, name, seconds, kept, added)


def override_sampling(pipeline: Pipeline, changes: Mapping[str, object]) -> None:
    """Change settings of sampling of a trained model, e.g. ``{"sampling.terminal_prior.noise": 0}``.

    Raises:
        UsageError: another setting, or one that was fitted in training.
    """
    before = pipeline.sampling.terminal_prior
    for name in changes:
        if not name.startswith("sampling."):
            hint = "only settings of sampling can change"
            raise UsageError(f"--set {name}: the model is trained", hint=hint)
    then = pipeline.sampling.transitions
    pipeline.preset = override(pipeline.required_preset(), changes)
    if pipeline.sampling.transitions != then:
        pipeline.process = build_sampling_process(pipeline.required_preset())
    after = pipeline.sampling.terminal_prior
    fitted = [part and part.model_copy(update={"noise": 0.0}) for part in (before, after)]
    if fitted[0] != fitted[1]:
        raise UsageError(
            "the terminal prior was fitted in training", hint="only sampling.terminal_prior.noise can change"
        )


def _digest(*parts: bytes) -> str:
    """SHA-256 of the parts one after the other, as much of it as tells recipes apart."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def _changes(pipeline: Pipeline) -> dict[str, object]:
    """How transitions are made if otherwise than by the network where it was trained."""
    sampling = pipeline.sampling
    made: dict[str, object] = {}
    if sampling.lift == "linear" and pipeline.lift is not None:
        tables = (table.numpy().tobytes() for _, table in sorted(pipeline.lift.to_tensors().items()))
        made["lift"] = _digest(*tables)
    if sampling.transitions is not None:
        made["transitions"] = repr(sampling.transitions)
    return made


def _weights_digest(pipeline: Pipeline) -> str:
    found = hashlib.sha256(json.dumps(pipeline.spectrum and pipeline.spectrum.to_json()).encode())
    for name, value in sorted(pipeline.model.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:32]


def _begins(pipeline: Pipeline, plan: Plan, seed: int) -> str:
    """The first states of a few images, which come from a fitted prior or a second set."""
    _, x = next(pipeline.walk(torch.arange(4, device=pipeline.device), plan, seed))
    return _digest(images.to_uint8(x).cpu().numpy().tobytes())


def _write_grid(target: Destination, generation: Generation, world: World, advance: Advance) -> None:
    size = generation.pipeline.process.states[0].size
    images.check_extent(target.path, *images.grid_extent(generation.n, size, target.columns))
    drawn = world.gather(generation.draw(world.shard(generation.n), advance))
    if drawn is not None:
        images.save_image(images.grid(drawn, target.columns), target.path, overwrite=target.overwrite)


def _write_folder(target: Destination, generation: Generation, world: World, advance: Advance) -> int:
    """A batch is written while the next one is drawn; one of which all is there already is left out.

    Batches are those of a job that was never stopped, because kernels add in another order in another batch.
    """
    folder, numbers = target.path, generation.numbers
    recipe, replaces = generation.recipe(), False
    kept = set() if target.overwrite else finished_images(folder, numbers, recipe)
    world.barrier()
    if world.rank == 0:
        replaces = target.overwrite and forget_jobs(folder, numbers)
        if not replaces:
            record_job(folder, numbers, recipe)
    share = world.shard(generation.n)
    pending: list[Future[Path]] = []
    with ThreadPoolExecutor(_FILES) as pool:
        for start in range(share.start, share.stop, generation.batch):
            part = range(start, min(start + generation.batch, share.stop))
            if kept and all(numbers[i] in kept for i in part):
                advance(len(part) * generation.plan.evaluations)
                continue
            drawn = generation.draw(part, advance)
            for file in pending:
                file.result()
            pending = [
                pool.submit(images.save_image, image, image_file(folder, numbers[i]), target.overwrite)
                for i, image in zip(part, drawn, strict=True)
                if numbers[i] not in kept
            ]
        for file in pending:
            file.result()
    world.barrier()
    if replaces:
        record_job(folder, numbers, recipe)
    return len(kept)


def _write_array(target: Destination, generation: Generation, world: World, advance: Advance) -> None:
    """``arr_0``: (N, H, W, C) uint8, as guided-diffusion names it; ``labels`` of a conditional model."""
    drawn = world.gather(generation.draw(world.shard(generation.n), advance))
    if drawn is None:
        return
    arrays: dict[str, Any] = {
        "arr_0": drawn.permute(0, 2, 3, 1).contiguous().numpy(),
        "seed": np.array(str(generation.seed)),
        "first": np.array(generation.first),
        "steps": np.array(generation.plan.evaluations),
    }
    labels = generation.labels(range(generation.n))
    if labels is not None:
        arrays["labels"] = labels.numpy()
    write_atomic(
        target.path, lambda stream: np.savez_compressed(stream, **arrays), overwrite=target.overwrite
    )


def _write_strip(target: Destination, generation: Generation, world: World, advance: Advance) -> None:
    """A row an image: from noise to the result, each state as coarse as it is."""
    shown = _trajectory(generation, world, advance, _STRIP)
    if shown:
        picture = images.grid(torch.stack(shown, dim=1).flatten(0, 1), len(shown))
        images.save_image(picture, target.path, overwrite=target.overwrite)


def _write_gif(target: Destination, generation: Generation, world: World, advance: Advance) -> None:
    """The whole grid on its way from noise."""
    frames = [images.grid(x, target.columns) for x in _trajectory(generation, world, advance, _FRAMES)]
    if frames:
        times = [_FRAME_TIME] * (len(frames) - 1) + [_HOLD]
        images.save_gif(frames, target.path, times, overwrite=target.overwrite)


def _trajectory(generation: Generation, world: World, advance: Advance, count: int) -> list[Tensor]:
    """``count`` states of all images, each (n, C, R, R) uint8 at full size by repeating pixels; [] but on
    process 0."""
    wanted, size = _spread(generation.plan.timesteps, count), generation.pipeline.process.states[0].size
    states = [world.gather(x) for _, x in generation.states(world.shard(generation.n), advance, wanted)]
    return [images.upscale_nearest(x, size) for x in states if x is not None]


def _spread(timesteps: list[int], count: int) -> set[int]:
    """Up to ``count`` timesteps, evenly from the list, both ends among them."""
    last, count = len(timesteps) - 1, min(count, len(timesteps))
    return {timesteps[round(i * last / (count - 1))] for i in range(count)}


_WRITERS: dict[str, Callable[[Destination, Generation, World, Advance], int | None]] = {
    "grid": _write_grid,
    "folder": _write_folder,
    "array": _write_array,
    "strip": _write_strip,
    "gif": _write_gif,
}
