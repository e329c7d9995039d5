"""`ssdiff eval report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
)
from ssdiff.cli.eval.options import Steps
from ssdiff.display import human_bytes

_Run = Annotated[Path | None, typer.Argument(metavar="RUN", help="Run folder. Default: the newest run.")]
_Out = Annotated[Path, typer.Option(metavar="x.html", help="The report.")]
_Samples = Annotated[int, typer.Option(help="Images to draw; 0 shows the last grid of the training instead.")]
_Timing = Annotated[bool, typer.Option("--timing", help="Measure times for the table of costs, about 20 s.")]


def report(
    run: _Run = None,
    out: _Out = Path("report.html"),
    samples: _Samples = 16,
    steps: Steps = None,
    timing: _Timing = False,
    weights: Weights = "ema",
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML file about a run: settings, loss, samples, trajectory, cost, distances. Needs no
    network.

    Distances are those that `ssdiff eval ... --out RUN/eval/NAME.json` has left in the run folder.
    """
    from ssdiff.reporting.run_report import find_run, write_report

    terminal = Terminal(quiet, json)
    folder = find_run(run).path
    if run is None:
        terminal.say(f"using the newest run, {folder}")
    with terminal.progress_callback("img", measuring="path") as progress:
        written = write_report(
            folder,
            out,
            samples=samples,
            steps=steps,
            timing=timing,
            weights=weights,
            precision=precision,
            seed=seed,
            device=device,
            overwrite=overwrite,
            progress=progress,
        )
    told = f"{out}: {human_bytes(written.bytes)}, step {written.step} of {folder}"
    terminal.result(told, written.to_dict())
