"""`ssdiff eval scale-space`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import Json, Overwrite, Plugins, Quiet, Seed, Terminal

_Presets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PRESET ...]",
        help="Presets or TOML files of processes with noise; ve (variance exploding), heat and osmosis "
        "besides. Default: ddpm-celeba64, ve, blurring-celeba64, blurdiff-church64, celeba64, "
        "celeba64-matched, heat, osmosis.",
    ),
]
_Data = Annotated[str, typer.Option(metavar="PATH|NAME", help="Folder, .zip or name; turned grey.")]
_Size = Annotated[int, typer.Option(help="Pixels a side, 8..64; the time grows with its sixth power.")]
_Images = Annotated[int, typer.Option(help="Images that the covariance is taken from, evenly from the set.")]
_Points = Annotated[
    int, typer.Option(help="Points of a curve, at least 2; resolution transitions are added.")
]
_Out = Annotated[Path, typer.Option(metavar="DIR/", help="Folder for tables and pictures.")]


def scale_space(
    presets: _Presets = None,
    data: _Data = "shapes",
    size: _Size = 32,
    images: _Images = 4000,
    points: _Points = 33,
    out: _Out = Path("scale-space"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw curves and check properties of forward processes as scale-spaces, exact for the data's mean and
    covariance.

    Writes curves.csv, properties.csv, scale-space.png, and film strips of heat and osmosis. Needs no model.
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
