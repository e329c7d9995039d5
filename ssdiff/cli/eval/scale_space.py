"""`ssdiff eval scale-space`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import Terminal, positive
from ssdiff.cli.options import (
    INPUT,
    MEASUREMENT,
    MODEL,
    OUTPUT,
    SAMPLING,
    Batch,
    DataList,
    DataPart,
    Device,
    Eta,
    Json,
    OptionalExtractor,
    Overwrite,
    Plugins,
    Quiet,
    Sampler,
    Seed,
    Steps,
    WeightsFile,
    option,
)

_Presets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PRESET",
        help="Presets or TOML files of processes, cold ones too; ve (variance exploding), heat and osmosis "
        "besides. Default: ddpm-celeba64, ve, blurring-celeba64, blurdiff-church64, celeba64, "
        "celeba64-matched, heat, osmosis; nothing beside --ckpt.",
    ),
]
_Data = Annotated[
    str | None,
    option(
        INPUT,
        metavar="PATH|NAME",
        help="Folder, .zip, or a data set's name.",
        show_default="the model's training data, or shapes",
    ),
]
_Size = Annotated[int | None, option(INPUT, help="Pixels a side.", show_default="the model's, or 32")]
_Channels = Annotated[
    int | None,
    option(INPUT, min=1, max=3, help="1 is grey, 3 is RGB.", show_default="the model's, or 1"),
]
_Images = Annotated[
    int | None,
    option(
        INPUT, help="Images to look at, evenly from the set.", show_default="4000, and fewer of large ones"
    ),
]
_Checkpoint = Annotated[
    Path | None,
    option(MODEL, "--ckpt", metavar="RUN|FILE", help="Run, checkpoint or model.", show_default="no model"),
]
_Count = Annotated[
    int | None, option(SAMPLING, "-n", "--count", help="Images to draw.", show_default="64, with --ckpt")
]
_Points = Annotated[
    int, option(MEASUREMENT, help="Points of a curve, at least 2; resolution transitions are added.")
]
_Covariance = Annotated[
    str,
    option(
        MEASUREMENT,
        metavar="auto|full|frequency",
        help="full: exact, up to 4096 values of an image; frequency: of channels at each frequency, any "
        "size, with bounds; auto: full up to 1024 values.",
    ),
]
_Out = Annotated[Path, option(OUTPUT, metavar="DIR/", help="Folder for tables, pictures and a report.")]


def scale_space(
    presets: _Presets = None,
    data: _Data = None,
    data_list: DataList = None,
    data_part: DataPart = None,
    size: _Size = None,
    channels: _Channels = None,
    images: _Images = None,
    ckpt: _Checkpoint = None,
    plugin: Plugins = None,
    n: _Count = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    seed: Seed = 0,
    points: _Points = 33,
    covariance: _Covariance = "auto",
    extractor: OptionalExtractor = None,
    weights_file: WeightsFile = None,
    out: _Out = Path("scale-space"),
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    batch: Batch = None,
    device: Device = "auto",
) -> None:
    """Draw curves, pictures and properties of processes as scale-spaces; with --ckpt of a model's reverse
    process too, beside its forward process.

    A ! marks a result against theory. --size is 8..512. Writes curves.csv, properties.csv, scale-space.png,
    film.png, mean-images.png, scale-space.json, report.html and a film strip of each process. `ssdiff eval
    report RUN` shows what lies in RUN/eval/NAME/.
    """
    from ssdiff.analysis import scale_space as library

    for name, value in (("-n", n), ("--batch", batch)):
        if value is not None:
            positive(value, name)
    terminal = Terminal(quiet, json)
    library.check_scale_space_files(out, presets, ckpt, overwrite)
    with terminal.progress_callback("point", preparing="img", sampling="step") as progress:
        found = library.scale_space(
            data,
            presets,
            model=ckpt,
            size=size,
            channels=channels,
            images=images,
            covariance=covariance,
            points=points,
            extractor=extractor,
            weights_file=weights_file,
            n=n,
            steps=steps,
            sampler=sampler,
            eta=eta,
            batch=batch,
            seed=seed,
            names=data_list,
            part=data_part,
            device=device,
            progress=progress,
        )
    files = found.save(out, overwrite)
    for warning in found.warnings:
        terminal.say(f"warning: {warning}")
    terminal.result(
        f"{found.table()}\n{out}: {found}",
        {"out": str(out), "files": [str(path) for path in files], **found.to_dict()},
    )
