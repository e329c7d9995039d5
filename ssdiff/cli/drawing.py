"""What `ssdiff sample` writes: grid, film strip, animation, array, or a file an image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdiff.cli.common import memory_for
from ssdiff.errors import OutputError, ResourceError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.distributed import World
    from ssdiff.pipeline import Pipeline
    from ssdiff.sampling.plan import Plan

Advance = Callable[[int], None]  # told of so many images a step further

_FRAMES = 40  # of an animation, at most
_STRIP = 10  # timesteps of a film strip
_FRAME_TIME, _HOLD = 80, 1500  # milliseconds a frame, and that an animation rests on its last one
_FILES = 8  # written at once: most of the time goes into waiting for the disk
_ARRAY = ".npz"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the images go, and as what."""

    kind: str
    path: Path
    overwrite: bool
    columns: int | None


@dataclass(frozen=True, slots=True)
class Job:
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
        """(len(positions), C, R, R) uint8: these images, 0 for the first one asked for."""
        [(_, images)] = self.states(positions, advance, {0})
        return images

    def labels(self, positions: range) -> Tensor | None:
        """(len(positions),) classes; None for a model without."""
        import torch

        if self.classes is None:
            return self.pipeline.choose_labels(self._numbers(positions))
        numbers = self._numbers(positions)
        return torch.tensor(self.classes)[numbers % len(self.classes)]

    def states(self, positions: range, advance: Advance, wanted: set[int]) -> Iterator[tuple[int, Tensor]]:
        """(timestep, (len(positions), C, r, r) uint8 on the CPU) for the wanted timesteps, noisiest first.

        As bytes, because of many images one state is much.
        """
        import torch

        from ssdiff.images import to_uint8

        pipeline, timesteps = self.pipeline, self.plan.timesteps
        channels, states = pipeline.preset.data.channels, pipeline.process.states
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
                        kept[t].append(to_uint8(x).cpu())
        for t, parts in kept.items():
            yield t, torch.cat(parts)

    def _numbers(self, positions: range) -> Tensor:
        import torch

        return torch.arange(self.first + positions.start, self.first + positions.stop)


def check_target(
    out: str, numbers: range, trajectory: bool, overwrite: bool, columns: int | None = None
) -> Target:
    """Decide what an output is by its name, and check it before anything is computed.

    Args:
        out: as given by the user; a folder ends in a slash, exists, or has no ending.
        numbers: of the images.
        trajectory: a picture becomes a film strip.
        overwrite: whether files there may be replaced.
        columns: of a grid.

    Raises:
        UsageError: an ending that is not supported, or that does not go with ``trajectory``.
        OutputError: something is there already.
        ResourceError: it cannot be written there.
    """
    from ssdiff.files import check_output
    from ssdiff.images import SAVE_SUFFIXES

    path, suffix = Path(out).expanduser(), Path(out).suffix.lower()
    folder = out.endswith(("/", os.sep)) or path.is_dir() or not suffix
    if trajectory and (folder or suffix == _ARRAY):
        raise UsageError("--trajectory writes one picture", hint="give --out film.png or film.gif")
    if folder:
        _check_folder(path, numbers, overwrite)
        return Target("folder", path, overwrite, columns)
    kind = {".gif": "gif", _ARRAY: "array"}.get(suffix, "strip" if trajectory else "grid")
    check_output(path, overwrite, (*SAVE_SUFFIXES, ".gif", _ARRAY))
    return Target(kind, path, overwrite, columns)


def write(target: Target, job: Job, world: World, advance: Advance) -> None:
    """Draw this process's share of the images; all of them end up at the target.

    Args:
        target: from :func:`check_target`.
        job: what to draw.
        here: this process among all.
        advance: called after each step with the number of images.
    """
    _WRITERS[target.kind](target, job, world, advance)


def _check_folder(path: Path, numbers: range, overwrite: bool) -> None:
    there = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if not there.is_dir():
        hint = "end the name in .png, .gif or .npz, or choose another folder"
        raise OutputError(f"{there} is no folder", path=there, hint=hint)
    if not os.access(there, os.W_OK):
        raise ResourceError(f"cannot write in {there}", path=there, hint="choose another folder")
    taken = next((file for i in numbers if (file := _file(path, i)).exists()), None)
    if taken is not None and not overwrite:
        raise OutputError(f"{taken} exists", path=taken, hint="use --overwrite or another folder")


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.png"


def _write_grid(target: Target, job: Job, world: World, advance: Advance) -> None:
    from ssdiff import images

    drawn = world.gather(job.draw(world.shard(job.n), advance))
    if drawn is not None:
        images.save_image(images.grid(drawn, target.columns), target.path, overwrite=target.overwrite)


def _write_folder(target: Target, job: Job, world: World, advance: Advance) -> None:
    """A batch is written while the next one is drawn."""
    from concurrent.futures import Future, ThreadPoolExecutor

    from ssdiff import images

    share = world.shard(job.n)
    pending: list[Future[Path]] = []
    with ThreadPoolExecutor(_FILES) as pool:
        for start in range(share.start, share.stop, job.batch):
            part = range(start, min(start + job.batch, share.stop))
            drawn = job.draw(part, advance)
            for file in pending:
                file.result()
            pending = [
                pool.submit(images.save_image, image, _file(target.path, job.first + i), target.overwrite)
                for i, image in zip(part, drawn, strict=True)
            ]
        for file in pending:
            file.result()


def _write_array(target: Target, job: Job, world: World, advance: Advance) -> None:
    """``arr_0``: (N, H, W, C) uint8, as guided-diffusion names it; ``labels`` of a conditional model."""
    import numpy as np

    from ssdiff.files import write_atomic

    drawn = world.gather(job.draw(world.shard(job.n), advance))
    if drawn is None:
        return
    arrays: dict[str, Any] = {
        "arr_0": drawn.permute(0, 2, 3, 1).contiguous().numpy(),
        "seed": np.array(str(job.seed)),
        "first": np.array(job.first),
        "steps": np.array(job.plan.evaluations),
    }
    labels = job.labels(range(job.n))
    if labels is not None:
        arrays["labels"] = labels.numpy()
    write_atomic(
        target.path, lambda stream: np.savez_compressed(stream, **arrays), overwrite=target.overwrite
    )


def _write_strip(target: Target, job: Job, world: World, advance: Advance) -> None:
    """A row an image: from noise to the result, each state as coarse as it is."""
    import torch

    from ssdiff import images

    shown = _trajectory(job, world, advance, _STRIP)
    if shown:
        picture = images.grid(torch.stack(shown, dim=1).flatten(0, 1), len(shown))
        images.save_image(picture, target.path, overwrite=target.overwrite)


def _write_gif(target: Target, job: Job, world: World, advance: Advance) -> None:
    """The whole grid on its way from noise."""
    from ssdiff import images

    frames = [images.grid(x, target.columns) for x in _trajectory(job, world, advance, _FRAMES)]
    if frames:
        times = [_FRAME_TIME] * (len(frames) - 1) + [_HOLD]
        images.save_gif(frames, target.path, times, overwrite=target.overwrite)


def _trajectory(job: Job, world: World, advance: Advance, count: int) -> list[Tensor]:
    """``count`` states of all images, each (n, C, R, R) uint8 at full size by repeating pixels; [] but on
    process 0."""
    from ssdiff import images

    wanted, size = _spread(job.plan.timesteps, count), job.pipeline.process.states[0].size
    states = [world.gather(x) for _, x in job.states(world.shard(job.n), advance, wanted)]
    return [images.upscale_nearest(x, size) for x in states if x is not None]


def _spread(timesteps: list[int], count: int) -> set[int]:
    """Up to ``count`` timesteps, evenly from the list, both ends among them."""
    last, count = len(timesteps) - 1, min(count, len(timesteps))
    return {timesteps[round(i * last / (count - 1))] for i in range(count)}


_WRITERS = {
    "grid": _write_grid,
    "folder": _write_folder,
    "array": _write_array,
    "strip": _write_strip,
    "gif": _write_gif,
}
