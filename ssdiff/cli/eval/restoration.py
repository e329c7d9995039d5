"""`ssdiff eval restore`."""

from __future__ import annotations

from typing import Annotated

import typer

from ssdiff.cli.common import Terminal, find_model, positive, publish, torchrun_rank
from ssdiff.cli.options import (
    INPUT,
    Batch,
    Checkpoint,
    DataList,
    DataPart,
    Device,
    Json,
    LastTimestep,
    OptionalExtractor,
    Overwrite,
    Plugins,
    Quiet,
    ResultFile,
    Seed,
    Steps,
    WeightsFile,
    With,
    option,
)
from ssdiff.files import check_output

_Images = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="Clean held-out images: a folder, .zip or the name of a set. With --truth: degraded ones.",
    ),
]
_Truth = Annotated[
    str | None,
    option(
        INPUT,
        metavar="FOLDER|.zip",
        help="Clean images of the same names, to compare with; IMAGES are then not degraded here.",
    ),
]
_Count = Annotated[int | None, option(INPUT, "-n", "--count", help="The first images.", show_default="all")]


def restore(
    images: _Images,
    truth: _Truth = None,
    data_list: DataList = None,
    data_part: DataPart = None,
    with_: With = None,
    n: _Count = None,
    ckpt: Checkpoint = None,
    plugin: Plugins = None,
    t: LastTimestep = None,
    steps: Steps = None,
    seed: Seed = 0,
    extractor: OptionalExtractor = None,
    weights_file: WeightsFile = None,
    out: ResultFile = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    batch: Batch = None,
    device: Device = "auto",
) -> None:
    """Degrade held-out images, restore them by every sampler, and compare: PSNR, SSIM, RMSE, distance.

    With --truth the images are degraded already, and are compared with the clean ones of their names.
    """
    from ssdiff.evaluation.restoration import evaluate_restoration

    for name, value in (("-n", n), ("--batch", batch)):
        if value is not None:
            positive(value, name)
    main = torchrun_rank() == 0
    terminal = Terminal(quiet or not main, json and main)
    if out is not None:
        check_output(out, overwrite, (".json",))
    with terminal.progress_callback() as progress:
        found = evaluate_restoration(
            images,
            find_model(ckpt, terminal),
            truth=truth,
            other=with_,
            n=n,
            t=t,
            steps=steps,
            extractor=extractor,
            weights_file=weights_file,
            batch=batch,
            seed=seed,
            names=data_list,
            part=data_part,
            device=device,
            progress=progress,
        )
    if main:
        publish(found.to_dict(), str(found), out, overwrite, terminal)
