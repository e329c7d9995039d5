"""`ssdiff data prepare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from ssdiff.cli.common import Terminal, positive
from ssdiff.cli.options import INPUT, DataList, DataPart, Json, MaxPixels, Quiet, Size, option
from ssdiff.errors import UsageError

if TYPE_CHECKING:
    from ssdiff.data.cache import Convert

app = typer.Typer(help="Training sets.", no_args_is_help=True)

_Source = Annotated[str, typer.Argument(metavar="PATH|NAME", help="Folder, .zip, or a data set's name.")]
_Channels = Annotated[int, option(INPUT, min=1, max=3, help="1 is grey, 3 is RGB.")]
_Background = Annotated[
    float, option(INPUT, min=0, max=1, help="Grey behind transparent pixels, 1 is white.")
]
_Corrupt = Annotated[str, option(INPUT, help="error or skip: what to do with an unreadable file.")]
_Convert = Annotated[
    str,
    option(
        INPUT,
        help="Images of other channels that are taken: all, none, or some: unless all are such.",
    ),
]
_Resize = Annotated[
    str,
    option(INPUT, "--scaling", help="How images are scaled: antialias, official, bilinear, stretch or none."),
]
_Margin = Annotated[
    float, option(INPUT, min=1, max=4, help="Keep images this much larger, for crops at random; 1.12.")
]
_Patches = Annotated[
    bool, option(INPUT, "--patches", help="Keep pictures whole, for patches of --size pixels.")
]
_ClassesFrom = Annotated[
    str, option(INPUT, help="folder or prefix: what of a name is its class; before the first underscore.")
]


@app.callback()
def _data() -> None:
    """Training sets."""


@app.command("prepare")
def prepare(
    source: _Source,
    data_list: DataList = None,
    data_part: DataPart = None,
    classes_from: _ClassesFrom = "folder",
    size: Size = 64,
    resize: _Resize = "antialias",
    margin: _Margin = 1.0,
    patches: _Patches = False,
    channels: _Channels = 3,
    background: _Background = 1.0,
    corrupt: _Corrupt = "error",
    convert: _Convert = "some",
    max_pixels: MaxPixels = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode a set once into the cache from which training reads."""
    from ssdiff.data import open_data
    from ssdiff.images import MAX_PIXELS
    from ssdiff.progress import stage

    if channels == 2 or corrupt not in ("error", "skip"):
        raise UsageError(f"channels must be 1 or 3 and corrupt error or skip, not {channels} and {corrupt!r}")
    limit = MAX_PIXELS if max_pixels is None else positive(max_pixels, "--max-pixels")
    terminal = Terminal(quiet, json)
    with terminal.progress_callback() as progress:
        images = open_data(
            source,
            size=positive(size, "--size"),
            channels=channels,
            background=background,
            corrupt="skip" if corrupt == "skip" else "error",
            convert=cast("Convert", convert),
            max_pixels=limit,
            resize=resize,
            margin=margin,
            names=data_list,
            part=data_part,
            classes_from=classes_from,
            whole=patches,
            progress=stage(progress, "preparing"),
        )
    terminal.result(str(images), images.to_dict())
