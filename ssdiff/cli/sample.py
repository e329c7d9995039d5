"""`ssdiff sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Plugins,
    Precision,
    Quiet,
    Seed,
    Terminal,
    Weights,
    find_model,
    is_main_process,
    parse_sets,
)
from ssdiff.errors import UsageError
from ssdiff.sampling.registry import sampler_help

if TYPE_CHECKING:
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
    str | None, typer.Option(help=f"The rule of a step; default: the preset's. {sampler_help()}")
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
    plugin: Plugins = None,
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
    from ssdiff.devices import pick_device
    from ssdiff.distributed import join_world
    from ssdiff.generation import check_destination, generate, override_sampling

    target = check_destination(out, range(first, first + n), trajectory, overwrite, columns)
    with join_world(device) as world:
        place = str(world.device(pick_device(device)))
        pipeline = load_pipeline(ckpt, weights, place, precision, terminal)
        override_sampling(pipeline, parse_sets(sets))
        with terminal.progress_callback("img") as progress:
            result = generate(
                pipeline,
                n,
                target,
                steps=steps,
                sampler=sampler,
                eta=eta,
                guidance=guidance,
                seed=seed,
                first=first,
                batch=batch,
                classes=",".join(class_).split(",") if class_ else None,
                world=world,
                progress=progress,
            )
    if main:
        terminal.result(str(result), result.to_dict())


def load_pipeline(
    ckpt: Path | None, weights: str, device: str, precision: str, terminal: Terminal
) -> Pipeline:
    """Load the pipeline asked for, of the newest run, or the bundled one."""
    from ssdiff.weights.load import load

    return load(find_model(ckpt, terminal), weights=weights, device=device, precision=precision)
