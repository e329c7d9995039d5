"""`ssdiff sample`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Quiet,
    Seed,
    Terminal,
    is_main_process,
    positive,
)
from ssdiff.errors import OutputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.distributed import World
    from ssdiff.pipeline import Pipeline, Plan

_FRAMES = 40  # of an animation, at most
_STRIP = 10  # severities of a film strip
_HOLD = 1500  # milliseconds that an animation rests on its last frame
_ARRAY = ".npz"


def sample(
    n: Annotated[int, typer.Option("-n", "--count", help="How many images.")] = 64,
    ckpt: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|FILE",
            help="Run, checkpoint or exported model; default: the newest run, or the bundled model.",
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option(metavar="x.png|x.gif|x.npz|DIR/", help="Grid, animation, array, or a file an image."),
    ] = "samples.png",
    steps: Annotated[
        int | None,
        typer.Option(
            help="Sampling steps, 1..T; every change of resolution is kept besides. Default: the preset's."
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ancestral, ddim or dpm++. Default: the preset's.")
    ] = None,
    eta: Annotated[float | None, typer.Option(help="Fresh noise of ddim, 0..1.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images drawn at once; changes the memory, not the images.")
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="C[,C...]", help="Class by name or number; several are used in turn."
        ),
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of the class, 1 is plain.")] = None,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Film strip: each row an image on its way from noise.")
    ] = False,
    first: Annotated[int, typer.Option(help="Number of the first image of the seed.")] = 0,
    columns: Annotated[int | None, typer.Option(help="Images in a row of the grid.")] = None,
    weights: Annotated[str, typer.Option(help="ema or raw.")] = "ema",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw images. Image i of a seed is the same whatever -n, --batch or the number of processes."""
    main = is_main_process()
    terminal = Terminal(quiet or not main, json and main)
    positive(n, "-n")
    if batch is not None:
        positive(batch, "--batch")
    if first < 0:
        raise UsageError(f"--first must be at least 0, not {first}")
    target = _target(out, n, first, trajectory, overwrite)
    from ssdiff.distributed import world

    with world(device) as here:
        pipeline = _load(ckpt, weights, str(here.device(_place(device))), precision, terminal)
        plan = pipeline.plan(steps, sampler, eta, guidance)
        job = _Job(
            pipeline,
            plan,
            n,
            first,
            seed,
            batch or pipeline.preset.sampling.batch,
            _classes(class_, pipeline),
        )
        began = time.perf_counter()
        with terminal.progress("img") as bar:
            task = bar.add_task("sampling", total=n * plan.evaluations, rate="-", note="")

            def advance(images: int) -> None:
                bar.update(task, advance=images * here.size)
                done = (bar.tasks[task].completed or 0) / plan.evaluations
                bar.update(task, rate=f"{done / (time.perf_counter() - began):.3g}")

            _WRITERS[target.kind](job, here, target, columns, advance)
        here.wait()
        seconds = time.perf_counter() - began
    values = {
        "out": str(target.path),
        "n": n,
        "steps": plan.evaluations,
        "sampler": sampler or pipeline.preset.sampling.sampler,
        "eta": plan.eta,
        "guidance": plan.guidance,
        "seed": seed,
        "seconds": round(seconds, 3),
        "images_per_second": round(n / seconds, 3),
        "ckpt": pipeline.origin,
        "device": str(pipeline.device),
    }
    if main:
        terminal.result(
            f"{target.path}: {n} images, {plan.evaluations} steps of {values['sampler']}, seed {seed}, "
            f"{seconds:.1f} s, {n / seconds:.3g} images/s",
            values,
        )


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the images go, and as what."""

    kind: str
    path: Path
    overwrite: bool


@dataclass(frozen=True, slots=True)
class _Job:
    """What to draw."""

    pipeline: Pipeline
    plan: Plan
    n: int
    first: int
    seed: int
    batch: int
    classes: list[int] | None

    def draw(self, numbers: range, advance: Any) -> Tensor:
        """(len(numbers), C, R, R): the images of these positions, 0 for the first one asked for."""
        *_, images = self.states(numbers, advance, {0})
        return images[1] if len(numbers) else images

    def labels(self, numbers: range) -> Tensor | None:
        """Classes of these positions: the given ones in turn, or all in turn by image number."""
        import torch

        if self.classes is None:
            return self.pipeline.choose_labels(
                torch.arange(self.first + numbers.start, self.first + numbers.stop)
            )
        return torch.tensor([self.classes[i % len(self.classes)] for i in numbers], dtype=torch.int64)

    def states(self, numbers: range, advance: Any, wanted: set[int]) -> Iterator[tuple[int, Tensor]]:
        """(severity, images at that severity) for the wanted ones, all positions together, on the CPU."""
        import torch

        kept: dict[int, list[Tensor]] = {
            severity: [] for severity in self.plan.severities if severity in wanted
        }
        labels = self.labels(numbers)
        for start in range(0, len(numbers), self.batch):
            part = numbers[start : start + self.batch]
            images = torch.arange(
                self.first + part.start, self.first + part.stop, device=self.pipeline.device
            )
            given = None if labels is None else labels[start : start + self.batch].to(images.device)
            for severity, x in self.pipeline.walk(images, self.plan, self.seed, given):
                if severity < self.plan.severities[0]:
                    advance(len(part))
                if severity in kept:
                    kept[severity].append(x.clamp(-1, 1).cpu())
        state = self.pipeline.process.states
        for severity, parts in kept.items():
            empty = torch.empty(0, self.pipeline.preset.data.channels, *state[severity].size)
            yield severity, torch.cat([empty, *parts])


def _target(out: str, n: int, first: int, trajectory: bool, overwrite: bool) -> _Target:
    """Decide and check the output before anything is computed."""
    from ssdiff.images import SAVE_SUFFIXES, check_output

    path, suffix = Path(out).expanduser(), Path(out).suffix.lower()
    if out.endswith(("/", "\\")) or path.is_dir() or not suffix:
        if trajectory:
            raise UsageError("--trajectory writes one picture", hint="give --out film.png or film.gif")
        there = [path / f"{i:06d}.png" for i in range(first, first + n) if (path / f"{i:06d}.png").exists()]
        if there and not overwrite:
            raise OutputError(f"{there[0]} exists", path=there[0], hint="use --overwrite or another folder")
        return _Target("folder", path, overwrite)
    kind = {".gif": "gif", _ARRAY: "array"}.get(suffix, "strip" if trajectory else "grid")
    if kind == "array" and trajectory:
        raise UsageError(
            "--trajectory writes a picture, not an array", hint="give --out film.png or film.gif"
        )
    check_output(path, overwrite, (*SAVE_SUFFIXES, ".gif", _ARRAY))
    return _Target(kind, path, overwrite)


def _place(device: str) -> Any:
    from ssdiff.devices import pick_device

    return pick_device(device)


def _load(ckpt: Path | None, weights: str, device: str, precision: str, terminal: Terminal) -> Pipeline:
    """The pipeline asked for, of the newest run, or the bundled one."""
    from ssdiff import rundir, storage
    from ssdiff.pipeline import load

    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"unknown precision {precision!r}", hint="choose auto, fp32 or bf16")
    source = ckpt or rundir.newest_run()
    if source is None:
        source = storage.bundled()
        terminal.say("no run yet: using the small model that ships with ssdiff (drawn shapes)")
    elif ckpt is None:
        terminal.say(f"using the newest run, {source}")
    return load(source, weights=weights, device=device, precision=precision)


def _classes(text: str | None, pipeline: Pipeline) -> list[int] | None:
    """Numbers of the classes asked for."""
    if text is None:
        return None
    from difflib import get_close_matches

    count, names = pipeline.preset.model.classes, list(pipeline.class_names)
    if not count:
        raise UsageError("this model has no classes", hint="leave --class out")
    result = []
    for word in (part.strip() for part in text.split(",")):
        if word.isdigit() and int(word) < count:
            result.append(int(word))
        elif word in names:
            result.append(names.index(word))
        else:
            near = get_close_matches(word, names, n=3)
            known = ", ".join(near or names[:20]) or f"0..{count - 1}"
            raise UsageError(
                f"unknown class {word!r}", hint=f"{'did you mean' if near else 'choose from'} {known}"
            )
    return result


def _write_grid(job: _Job, here: World, target: _Target, columns: int | None, advance: Any) -> None:
    from ssdiff import images

    drawn = here.gather(job.draw(here.share(job.n), advance))
    if drawn is not None:
        images.save_image(images.grid(drawn, columns), target.path, overwrite=target.overwrite)


def _write_folder(job: _Job, here: World, target: _Target, columns: int | None, advance: Any) -> None:
    from ssdiff import images

    target.path.mkdir(parents=True, exist_ok=True)
    numbers = here.share(job.n)
    for start in range(numbers.start, numbers.stop, job.batch):
        part = range(start, min(start + job.batch, numbers.stop))
        for i, image in zip(part, job.draw(part, advance), strict=True):
            images.save_image(image, target.path / f"{job.first + i:06d}.png", overwrite=target.overwrite)


def _write_array(job: _Job, here: World, target: _Target, columns: int | None, advance: Any) -> None:
    """`arr_0`: (N, H, W, C) uint8, the layout of guided-diffusion; `labels` of a conditional model."""
    import numpy as np

    from ssdiff import images

    drawn = here.gather(job.draw(here.share(job.n), advance))
    if drawn is None:
        return
    arrays: dict[str, Any] = {
        "arr_0": images.to_uint8(drawn).permute(0, 2, 3, 1).contiguous().numpy(),
        "seed": np.array(job.seed),
    }
    labels = job.labels(range(job.n))
    if labels is not None:
        arrays["labels"] = labels.numpy()
    images.write_atomic(
        target.path, lambda stream: np.savez_compressed(stream, **arrays), overwrite=target.overwrite
    )


def _write_strip(job: _Job, here: World, target: _Target, columns: int | None, advance: Any) -> None:
    """A row an image; from noise at its true size, enlarged, to the result."""
    import torch

    from ssdiff import images

    wanted = _spread(job.plan.severities, min(_STRIP, len(job.plan.severities)))
    states = [here.gather(x) for _, x in job.states(here.share(job.n), advance, wanted)]
    shown = [x for x in states if x is not None]
    if shown:
        size = job.pipeline.process.states[0].size
        large = torch.stack([images.upscale_nearest(x, size) for x in shown], dim=1)  # (n, K, C, R, R)
        picture = images.grid(large.flatten(0, 1), len(shown))
        images.save_image(picture, target.path, overwrite=target.overwrite)


def _write_gif(job: _Job, here: World, target: _Target, columns: int | None, advance: Any) -> None:
    """The whole grid on its way from noise."""
    from ssdiff import images

    wanted = _spread(job.plan.severities, min(_FRAMES, len(job.plan.severities)))
    states = [here.gather(x) for _, x in job.states(here.share(job.n), advance, wanted)]
    size = job.pipeline.process.states[0].size
    frames = [images.grid(images.upscale_nearest(x, size), columns) for x in states if x is not None]
    if frames:
        times = [80] * (len(frames) - 1) + [_HOLD]
        images.save_gif(frames, target.path, times, overwrite=target.overwrite)


def _spread(severities: list[int], count: int) -> set[int]:
    """``count`` severities evenly from the list, both ends among them."""
    last = len(severities) - 1
    return {severities[round(i * last / max(count - 1, 1))] for i in range(count)} | {severities[-1]}


_WRITERS = {
    "grid": _write_grid,
    "folder": _write_folder,
    "array": _write_array,
    "strip": _write_strip,
    "gif": _write_gif,
}
