"""`ssdiff sample`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from ssdiff.cli.common import Terminal, load_pipeline, parse_sets, split_classes, torchrun_rank
from ssdiff.cli.options import (
    OUTPUT,
    SAMPLING,
    Batch,
    Beginning,
    Checkpoint,
    Class,
    Count,
    Device,
    Eta,
    Guidance,
    Json,
    Overwrite,
    Plugins,
    Precision,
    Quiet,
    Sampler,
    Seed,
    Sets,
    Steps,
    Weights,
    With,
    option,
)
from ssdiff.errors import UsageError
from ssdiff.importing import quick_imports
from ssdiff.progress import Progress

if TYPE_CHECKING:
    from ssdiff.pipeline import Pipeline

_PATIENCE = 20.0  # seconds before it is said that there is a quicker way

_Out = Annotated[
    str,
    option(OUTPUT, metavar="x.png|x.gif|x.npz|DIR/", help="Grid, animation, array, or a file an image."),
]
_First = Annotated[int, option(SAMPLING, help="Number of the first image of the seed.")]
_Trajectory = Annotated[
    bool, option(OUTPUT, "--trajectory", help="Film strip: each row an image on its way from noise.")
]
_Columns = Annotated[int | None, option(OUTPUT, help="Images in a row of the grid.")]


def sample(
    with_: With = None,
    ckpt: Checkpoint = None,
    weights: Weights = "ema",
    sets: Sets = None,
    plugin: Plugins = None,
    n: Count = 64,
    first: _First = 0,
    t: Beginning = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    class_: Class = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    out: _Out = "samples.png",
    trajectory: _Trajectory = False,
    columns: _Columns = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    batch: Batch = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Draw images. Image i of a seed is the same whatever -n, --batch or the number of processes.

    A DIR/ that was left half full, by a kill or for more images now, is filled up by the same command.

    Of a model's settings --set changes those of sampling, e.g. sampling.terminal_prior.noise=0 for
    perfect symmetry, or sampling.variance=fixed_large for the larger noise of plain diffusion.
    """
    main = torchrun_rank() == 0
    terminal = Terminal(quiet or not main, json and main)
    for name, value, least in (
        ("-n", n, 1),
        ("--batch", batch, 1),
        ("--columns", columns, 1),
        ("--first", first, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")
    with quick_imports():
        from ssdiff.devices import pick_device
        from ssdiff.distributed import join_world
        from ssdiff.generation import check_destination, generate, override_sampling

    target = check_destination(out, range(first, first + n), trajectory, overwrite, columns)
    with join_world(device) as world:
        place = str(world.device(pick_device(device)))
        pipeline = load_pipeline(ckpt, weights, place, precision, terminal, with_)
        override_sampling(pipeline, parse_sets(sets))
        with terminal.progress_callback("img") as progress:
            if steps is None and sampler is None and eta is None:
                progress = _telling_of_fewer_steps(progress, pipeline, t, terminal)
            result = generate(
                pipeline,
                n,
                target,
                steps=steps,
                sampler=sampler,
                eta=eta,
                guidance=guidance,
                t=t,
                seed=seed,
                first=first,
                batch=batch,
                classes=split_classes(class_),
                world=world,
                progress=progress,
            )
    if main:
        terminal.result(str(result), result.to_dict())


def _telling_of_fewer_steps(
    progress: Progress, pipeline: Pipeline, t: int | None, terminal: Terminal
) -> Progress:
    """Say once of a long wait, before half of it is over, how far fewer steps would do."""
    from ssdiff.sampling.plan import few_steps

    plan = pipeline.plan(t=t)
    fewer = few_steps(pipeline.process, plan)
    if fewer is None:
        return progress
    began, told = time.monotonic(), False

    def show(stage: str, done: float, total: int | None) -> None:
        nonlocal told
        if not told and done < (total or 0) / 2 and time.monotonic() - began > _PATIENCE:
            told = True
            terminal.say(
                f"{plan.evaluations} steps of {plan.sampler} by this model's settings; --sampler "
                f"{fewer.sampler} --steps {fewer.steps} would draw other images of the seed in about 1/"
                f"{plan.evaluations / fewer.evaluations:.0f} of the time"
            )
        progress(stage, done, total)

    return show
