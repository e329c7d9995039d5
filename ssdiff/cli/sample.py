"""`ssdiff sample`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Precision,
    Quiet,
    Seed,
    Terminal,
    Weights,
    check_precision,
    find_model,
    is_main_process,
    parse_sets,
)
from ssdiff.cli.drawing import Job, check_target, write
from ssdiff.errors import UsageError

if TYPE_CHECKING:
    from ssdiff.cli.drawing import Target
    from ssdiff.distributed import World
    from ssdiff.pipeline import Pipeline


_Count = Annotated[int, typer.Option("-n", "--count", help="How many images.")]
_Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN|FILE", help="Run, checkpoint or model; default: the newest run, or the bundled model."
    ),
]
_Out = Annotated[
    str, typer.Option(metavar="x.png|x.gif|x.npz|DIR/", help="Grid, animation, array, or a file an image.")
]
_Steps = Annotated[
    int | None, typer.Option(help="1..T; every resolution transition is kept besides. Default: the preset's.")
]
_Sampler = Annotated[
    str | None, typer.Option(help="ancestral, ddim, dpm++; cold: alg1, alg2. Default: the preset's.")
]
_Eta = Annotated[float | None, typer.Option(help="Fresh noise of ddim, 0..1.")]
_Batch = Annotated[int | None, typer.Option(help="Images drawn at once; changes the memory, not the images.")]
_Class = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="C[,C...]", help="Class by name or number; several are used in turn."),
]
_Guidance = Annotated[float | None, typer.Option(help="Weight of the class, 1 is plain.")]
_Trajectory = Annotated[
    bool, typer.Option("--trajectory", help="Film strip: each row an image on its way from noise.")
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="sampling.a=c",
        help="Change a setting of sampling, e.g. sampling.terminal_prior.noise=0 for perfect symmetry; "
        "repeatable.",
    ),
]
_First = Annotated[int, typer.Option(help="Number of the first image of the seed.")]
_Columns = Annotated[int | None, typer.Option(help="Images in a row of the grid.")]


def sample(
    n: _Count = 64,
    ckpt: _Checkpoint = None,
    out: _Out = "samples.png",
    steps: _Steps = None,
    sampler: _Sampler = None,
    eta: _Eta = None,
    batch: _Batch = None,
    class_: _Class = None,
    guidance: _Guidance = None,
    sets: _Set = None,
    trajectory: _Trajectory = False,
    first: _First = 0,
    columns: _Columns = None,
    weights: Weights = "ema",
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw images. Image i of a seed is the same whatever -n, --batch or the number of processes."""
    main = is_main_process()
    terminal = Terminal(quiet or not main, json and main)
    for name, value, least in (
        ("-n", n, 1),
        ("--batch", batch, 1),
        ("--columns", columns, 1),
        ("--first", first, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")
    target = check_target(out, range(first, first + n), trajectory, overwrite, columns)
    from ssdiff.devices import pick_device
    from ssdiff.distributed import join_world

    with join_world(device) as world:
        pipeline = load_pipeline(ckpt, weights, str(world.device(pick_device(device))), precision, terminal)
        _adjust(pipeline, sets)
        plan = pipeline.plan(steps, sampler, eta, guidance)
        size = batch or pipeline.preset.sampling.batch
        job = Job(pipeline, plan, n, first, seed, size, _classes(class_, pipeline))
        seconds = _draw(job, world, target, terminal)
    if main:
        _report(job, target, sampler or pipeline.preset.sampling.sampler, seconds, terminal)


def _adjust(pipeline: Pipeline, sets: list[str] | None) -> None:
    """Settings of sampling that differ from those of the training."""
    from ssdiff.config.load import override

    changes, before = parse_sets(sets), pipeline.preset.sampling.terminal_prior
    for name in changes:
        if not name.startswith("sampling."):
            hint = "only settings of sampling can change"
            raise UsageError(f"--set {name}: the model is trained", hint=hint)
    pipeline.preset = override(pipeline.preset, changes)
    after = pipeline.preset.sampling.terminal_prior
    fitted = [part and part.model_copy(update={"noise": 0.0}) for part in (before, after)]
    if fitted[0] != fitted[1]:
        raise UsageError(
            "the start was fitted in training", hint="only sampling.terminal_prior.noise can change"
        )


def _draw(job: Job, world: World, target: Target, terminal: Terminal) -> float:
    """Draw and write; returns the seconds that it took."""
    began, walked = time.perf_counter(), 0
    with terminal.progress("img") as bar:
        task = bar.add_task("sampling", total=job.n, rate="-", note="")

        def advance(images: int) -> None:
            nonlocal walked
            walked += images * world.size
            done = walked / job.plan.evaluations
            bar.update(task, completed=done, rate=f"{done / (time.perf_counter() - began):.3g}")

        write(target, job, world, advance)
    world.barrier()
    return time.perf_counter() - began


def _report(job: Job, target: Target, sampler: str, seconds: float, terminal: Terminal) -> None:
    plan = job.plan
    values = {
        "out": str(target.path),
        "n": job.n,
        "steps": plan.evaluations,
        "network_evaluations": plan.evaluations * (1 if plan.guidance == 1 else 2),
        "sampler": sampler,
        "eta": plan.eta,
        "guidance": plan.guidance,
        "seed": job.seed,
        "seconds": round(seconds, 3),
        "images_per_second": round(job.n / seconds, 3),
        "ckpt": job.pipeline.origin,
        "device": str(job.pipeline.device),
    }
    terminal.result(
        f"{target.path}: {job.n} images, {plan.evaluations} steps of {sampler}, seed {job.seed}, "
        f"{seconds:.1f} s, {job.n / seconds:.3g} images/s",
        values,
    )


def load_pipeline(
    ckpt: Path | None, weights: str, device: str, precision: str, terminal: Terminal
) -> Pipeline:
    """The pipeline asked for, of the newest run, or the bundled one."""
    from ssdiff.weights.load import load

    check_precision(precision)
    return load(find_model(ckpt, terminal), weights=weights, device=device, precision=precision)


def _classes(given: list[str] | None, pipeline: Pipeline) -> list[int] | None:
    """Numbers of the classes asked for."""
    if not given:
        return None
    from difflib import get_close_matches

    count, names = pipeline.preset.model.classes, list(pipeline.class_names)
    if not count:
        raise UsageError("this model has no classes", hint="leave --class out")
    result = []
    for word in (part.strip() for part in ",".join(given).split(",")):
        if word.isdecimal() and int(word) < count:
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
