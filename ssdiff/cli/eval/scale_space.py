"""`ssdiff eval scale-space`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import Terminal
from ssdiff.cli.options import (
    MEASUREMENT,
    OUTPUT,
    DataName,
    Images,
    Json,
    Overwrite,
    Plugins,
    Quiet,
    Seed,
    Size,
    option,
)

_Presets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PRESET",
        help="Presets or TOML files of processes with noise; ve (variance exploding), heat and osmosis "
        "besides. Default: ddpm-celeba64, ve, blurring-celeba64, blurdiff-church64, celeba64, "
        "celeba64-matched, heat, osmosis.",
    ),
]
_Points = Annotated[
    int, option(MEASUREMENT, help="Points of a curve, at least 2; resolution transitions are added.")
]
_Out = Annotated[Path, option(OUTPUT, metavar="DIR/", help="Folder for tables and pictures.")]


def scale_space(
    presets: _Presets = None,
    data: DataName = "shapes",
    size: Size = 32,
    images: Images = 4000,
    plugin: Plugins = None,
    seed: Seed = 0,
    points: _Points = 33,
    out: _Out = Path("scale-space"),
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw curves and check properties of forward processes as scale-spaces, exact for the data's mean and
    covariance.

    The data are turned grey; --size is 8..64, and the time grows with its sixth power. Writes
    curves.csv, properties.csv, scale-space.png, and film strips of heat and osmosis. Needs no model.
    """
    from ssdiff.analysis import scale_space as library

    terminal = Terminal(quiet, json)
    chosen = presets or list(library.DEFAULT_PROCESSES)
    library.check_scale_space_files(out, [name for name in library.FILTERS if name in chosen], overwrite)
    with terminal.progress_callback("point", preparing="img") as progress:
        found = library.scale_space(
            data, chosen, size=size, images=images, points=points, seed=seed, progress=progress
        )
    files = found.save(out, overwrite)
    passed = sum(check.passed for check in found.checks)
    told = (
        f"{out}: {passed} of {len(found.checks)} properties hold; {found.images} images, {found.size} px, "
        f"{found.seconds:.3f} s"
    )
    values = {"out": str(out), "files": [str(path) for path in files], **found.to_dict()}
    terminal.result(f"{found.table()}\n{told}", values)
