"""`ssdiff eval report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import Terminal
from ssdiff.cli.options import (
    MEASUREMENT,
    OUTPUT,
    SAMPLING,
    Device,
    Json,
    Overwrite,
    Plugins,
    Precision,
    Quiet,
    Seed,
    Steps,
    Weights,
    With,
    option,
)
from ssdiff.display import human_bytes

_Run = Annotated[Path | None, typer.Argument(metavar="RUN", help="Run folder. Default: the newest run.")]
_Samples = Annotated[
    int, option(SAMPLING, help="Images to draw; 0 shows the last grid of the training instead.")
]
_Timing = Annotated[
    bool, option(MEASUREMENT, "--timing", help="Measure times for the table of costs, about 20 s.")
]
_Out = Annotated[Path, option(OUTPUT, metavar="x.html", help="The report.")]


def report(
    run: _Run = None,
    with_: With = None,
    weights: Weights = "ema",
    plugin: Plugins = None,
    samples: _Samples = 16,
    steps: Steps = None,
    seed: Seed = 0,
    timing: _Timing = False,
    out: _Out = Path("report.html"),
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    precision: Precision = "auto",
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
            other=with_,
            device=device,
            overwrite=overwrite,
            progress=progress,
        )
    told = f"{out}: {human_bytes(written.bytes)}, step {written.step} of {folder}"
    terminal.result(told, written.to_dict())
