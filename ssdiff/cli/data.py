"""`ssdiff data prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdiff.cli.common import Json, Quiet, Terminal

if TYPE_CHECKING:
    from ssdiff.data import ImageSet

app = typer.Typer(help="Training sets.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Training sets."""


@app.command("prepare")
def prepare(
    source: Annotated[str, typer.Argument(metavar="PATH|NAME", help="Folder, .zip, or a data set's name.")],
    size: Annotated[int, typer.Option(min=1, help="Pixels a side.")] = 64,
    channels: Annotated[int, typer.Option(min=1, max=3, help="1 is grey, 3 is RGB.")] = 3,
    background: Annotated[
        float, typer.Option(min=0, max=1, help="Grey behind transparent pixels, 1 is white.")
    ] = 1.0,
    corrupt: Annotated[
        str, typer.Option(help="error or skip: what to do with an unreadable file.")
    ] = "error",
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Largest image that is decoded.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode a set once into the cache from which training reads."""
    from ssdiff.data import open_data
    from ssdiff.errors import UsageError
    from ssdiff.images import MAX_PIXELS
    from ssdiff.progress import stage

    if channels == 2 or corrupt not in ("error", "skip"):
        raise UsageError(f"channels must be 1 or 3 and corrupt error or skip, not {channels} and {corrupt!r}")
    terminal = Terminal(quiet, json)
    with terminal.progress_callback() as progress:
        images = open_data(
            source,
            size=size,
            channels=channels,
            background=background,
            corrupt="skip" if corrupt == "skip" else "error",
            max_pixels=max_pixels or MAX_PIXELS,
            progress=stage(progress, "preparing"),
        )
    _report(images, size, channels, terminal)


def _report(images: ImageSet, size: int, channels: int, terminal: Terminal) -> None:
    from ssdiff.data import cache_root

    # The array is mapped from its file; where that lies is what the user may want to know or delete.
    folder = Path(str(getattr(images.images, "filename", None) or cache_root())).parent
    values = {
        "source": images.source,
        "path": str(folder),
        "images": len(images),
        "classes": list(images.class_names),
        "fingerprint": images.fingerprint,
        "skipped": [list(entry) for entry in images.skipped],
    }
    lines = [f"{len(images)} images of {images.source}, {size} px, {channels} channels"]
    lines += (
        [f"{len(images.class_names)} classes: {', '.join(images.class_names[:12])}"]
        if images.class_names
        else []
    )
    lines += [f"left out {name}: {reason}" for name, reason in images.skipped]
    lines += [f"fingerprint {images.fingerprint[:16]}", f"prepared in {folder}"]
    terminal.result("\n".join(lines), values)
