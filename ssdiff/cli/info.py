"""`ssdiff info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import Terminal
from ssdiff.cli.options import Json, Plugins

_Source = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN|FILE",
        help="Run, checkpoint or exported model; default: the newest run, or the bundled model.",
    ),
]


def info(path: _Source = None, plugin: Plugins = None, json: Json = False) -> None:
    """Show what a run or model is: settings, levels, checkpoints, state."""
    from ssdiff.weights.describe import describe_model

    found = describe_model(path)
    Terminal(as_json=json).result(str(found), found.to_dict())
