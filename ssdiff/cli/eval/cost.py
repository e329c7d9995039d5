"""`ssdiff eval cost`."""

from __future__ import annotations

from typing import Annotated

import typer

from ssdiff.cli.common import Terminal, find_model, parse_sets, publish
from ssdiff.cli.options import (
    MACHINE,
    MEASUREMENT,
    Device,
    Json,
    Overwrite,
    Plugins,
    Precision,
    Quiet,
    ResultFile,
    Sets,
    Steps,
    option,
)
from ssdiff.errors import UsageError
from ssdiff.files import check_output

_Source = Annotated[
    str | None,
    typer.Argument(
        metavar="PRESET|RUN|FILE",
        help="Preset by name or file, run, checkpoint or model; default: the newest run, or the bundled one.",
    ),
]
_Seconds = Annotated[
    float | None, option(MEASUREMENT, help="Time to spend on measuring, about.", show_default="20")
]
_NoTiming = Annotated[bool, option(MEASUREMENT, "--no-timing", help="Count only; measure nothing.")]
_Batch = Annotated[
    int | None,
    option(
        MACHINE,
        help="Images a step.",
        show_default="the preset's, halved until measuring fits into --seconds",
    ),
]


def cost(
    source: _Source = None,
    set_: Sets = None,
    plugin: Plugins = None,
    steps: Steps = None,
    seconds: _Seconds = None,
    no_timing: _NoTiming = False,
    out: ResultFile = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    batch: _Batch = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Count what a step costs at each resolution: parameters, FLOPs, time, memory, utilisation."""
    from ssdiff.evaluation import cost as measuring
    from ssdiff.weights.load import find_preset

    if no_timing:
        for name, given in (
            ("--seconds", seconds is not None),
            ("--batch", batch is not None),
            ("--precision", precision != "auto"),
        ):
            if given:
                raise UsageError(f"{name} is for measuring", hint="leave it out, or --no-timing")
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
            seconds=20.0 if seconds is None else seconds,
            device=device,
            precision=precision,
            progress=progress,
        )
    publish(found.to_dict(), str(found), out, overwrite, terminal)
