"""`ssdiff eval restore`."""

from __future__ import annotations

from typing import Annotated

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Plugins,
    Quiet,
    Seed,
    Terminal,
    find_model,
    is_main_process,
    positive,
)
from ssdiff.cli.eval.options import Batch, Checkpoint, Out, WeightsFile, publish
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
    typer.Option(
        metavar="PATH",
        help="Folder or .zip of the clean images, of the names of IMAGES, which then are not degraded here.",
    ),
]
_Count = Annotated[int | None, typer.Option("-n", "--count", help="The first images. Default: all.")]
_Timestep = Annotated[int | None, typer.Option(help="Timestep, 1..T. Default: T.")]
_Steps = Annotated[int | None, typer.Option(help="Sampling steps. Default: the preset's, at most T.")]
_Extractor = Annotated[
    str | None,
    typer.Option(
        metavar="inception|module:Class", help="Adds the Frechet distance to the clean images. Default: none."
    ),
]


def restore(
    images: _Images,
    truth: _Truth = None,
    ckpt: Checkpoint = None,
    n: _Count = None,
    t: _Timestep = None,
    steps: _Steps = None,
    extractor: _Extractor = None,
    weights_file: WeightsFile = None,
    batch: Batch = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Degrade held-out images, restore them by every sampler, and compare: PSNR, SSIM, RMSE, distance.

    With --truth the images are degraded already, and are compared with the clean ones of their names.
    """
    from ssdiff.evaluation.restoration import evaluate_restoration

    for name, value in (("-n", n), ("--batch", batch)):
        if value is not None:
            positive(value, name)
    main = is_main_process()
    terminal = Terminal(quiet or not main, json and main)
    if out is not None:
        check_output(out, overwrite, (".json",))
    with terminal.progress_callback() as progress:
        found = evaluate_restoration(
            images,
            find_model(ckpt, terminal),
            truth=truth,
            n=n,
            t=t,
            steps=steps,
            extractor=extractor,
            weights_file=weights_file,
            batch=batch,
            seed=seed,
            device=device,
            progress=progress,
        )
    if main:
        publish(found.to_dict(), str(found), out, overwrite, terminal)
