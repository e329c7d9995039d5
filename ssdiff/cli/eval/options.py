"""Options that several commands of `ssdiff eval` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ssdiff.cli.common import Terminal

Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN|FILE", help="Run, checkpoint or model; default: the newest run, or the bundled model."
    ),
]
Steps = Annotated[int | None, typer.Option(help="Sampling steps. Default: the preset's.")]
WeightsFile = Annotated[Path | None, typer.Option(help="File of Inception's weights, for work offline.")]
Batch = Annotated[int | None, typer.Option(help="Images at once. Default: the preset's.")]
Out = Annotated[Path | None, typer.Option(metavar="x.json", help="Write the result, for `eval report` too.")]


def publish(result: dict[str, Any], text: str, out: Path | None, overwrite: bool, terminal: Terminal) -> None:
    """Say a result and its warnings, and write it as JSON where it is asked for.

    Args:
        result: with its ``warnings``, if there are any.
        text: for people.
        out: file, or None.
        overwrite: whether a file there may be replaced.
        terminal: for messages.
    """
    from ssdiff.files import write_atomic

    for warning in result.get("warnings", ()):
        terminal.say(f"warning: {warning}")
    if out is not None:
        write_atomic(out, json.dumps(result, indent=1).encode() + b"\n", overwrite)
    terminal.result(text, result)
