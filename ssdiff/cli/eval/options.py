"""Options that several commands of `ssdiff eval` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[
    Path | None, typer.Option(metavar="RUN|FILE", help="Model. Default: the newest run, or the bundled one.")
]
Steps = Annotated[int | None, typer.Option(help="Sampling steps. Default: the preset's.")]
WeightsFile = Annotated[Path | None, typer.Option(help="File of Inception's weights, for work offline.")]
Batch = Annotated[int | None, typer.Option(help="Images at once. Default: the preset's.")]
Out = Annotated[Path | None, typer.Option(metavar="x.json", help="Write the result, for `eval report` too.")]
