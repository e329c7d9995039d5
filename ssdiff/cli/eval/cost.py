"""`ssdiff eval cost`."""

from __future__ import annotations

from typing import Annotated

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Plugins,
    Precision,
    Quiet,
    Sets,
    Terminal,
    find_model,
    parse_sets,
)
from ssdiff.cli.eval.options import Out, Steps, publish
from ssdiff.files import check_output

_Source = Annotated[
    str | None,
    typer.Argument(
        metavar="PRESET|RUN|FILE",
        help="Preset by name or file, run, checkpoint or model; default: the newest run, or the bundled one.",
    ),
]
_Batch = Annotated[
    int | None,
    typer.Option(help="Images a step. Default: the preset's, halved until measuring fits into --seconds."),
]
_Seconds = Annotated[float, typer.Option(help="Time to spend on measuring, about.")]
_NoTiming = Annotated[bool, typer.Option("--no-timing", help="Count only; measure nothing.")]


def cost(
    source: _Source = None,
    batch: _Batch = None,
    steps: Steps = None,
    set_: Sets = None,
    seconds: _Seconds = 20.0,
    no_timing: _NoTiming = False,
    precision: Precision = "auto",
    out: Out = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count what a step costs at each resolution: parameters, FLOPs, time, memory, utilisation."""
    from ssdiff.evaluation import cost as measuring
    from ssdiff.weights.load import find_preset

    terminal = Terminal(quiet, json)
    if out is not None:
        check_output(out, overwrite, (".json",))
    settings = find_preset(source or find_model(None, terminal), parse_sets(set_))
    with terminal.progress_callback("path") as progress:
        found = measuring.cost(
            settings,
            steps=steps,
            batch=batch,
            measure=not no_timing,
            seconds=seconds,
            device=device,
            precision=precision,
            progress=progress,
        )
    publish(found.to_dict(), str(found), out, overwrite, terminal)
