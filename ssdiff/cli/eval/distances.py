"""`ssdiff eval fid`, `kid`, `prc`, `is` and `mind`."""

from __future__ import annotations

from typing import Annotated

import typer

from ssdiff.cli.common import Terminal, find_model, positive, publish, torchrun_rank
from ssdiff.cli.options import (
    INPUT,
    MEASUREMENT,
    Batch,
    Checkpoint,
    DataList,
    DataPart,
    Device,
    Eta,
    EvaluatedCount,
    Extractor,
    Json,
    Overwrite,
    Plugins,
    Quiet,
    ResultFile,
    Sampler,
    Seed,
    Steps,
    WeightsFile,
    With,
    option,
)
from ssdiff.errors import UsageError
from ssdiff.files import check_output

_Images = Annotated[
    str | None,
    typer.Argument(metavar="IMAGES", help="Folder or .zip to compare instead of a model's images."),
]
_Reference = Annotated[
    str | None,
    option(INPUT, metavar="PATH|NAME", help="True images.", show_default="the run's training data"),
]
_Resize = Annotated[int | None, option(INPUT, help="Fit both sides to so many pixels first.")]
_Subset = Annotated[int | None, option(MEASUREMENT, help="Images in a subset of kid.", show_default="1000")]


SUMMARIES = {
    "fid": "Frechet distance of Inception features (FID), or of another extractor's.",
    "kid": "Kernel distance of Inception features (KID), or of another extractor's.",
    "prc": "Precision and recall: how many images lie among the true ones, and the other way round.",
    "is": "Inception score.",
    "mind": "Monge Inception distance: sliced Wasserstein distance, for fewer images than FID needs.",
}
"""What the commands measure, by name."""


def evaluate_images(
    ctx: typer.Context,
    images: _Images = None,
    reference: _Reference = None,
    data_list: DataList = None,
    data_part: DataPart = None,
    with_: With = None,
    resize: _Resize = None,
    ckpt: Checkpoint = None,
    plugin: Plugins = None,
    n: EvaluatedCount = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    seed: Seed = 0,
    extractor: Extractor = "inception",
    weights_file: WeightsFile = None,
    subset_size: _Subset = None,
    out: ResultFile = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    batch: Batch = None,
    device: Device = "auto",
) -> None:
    """Run the command of a metric, which its name says."""
    from ssdiff.evaluation.generative import evaluate
    from ssdiff.weights.load import Found

    if images is not None and ckpt is not None:
        raise UsageError(f"--ckpt is for a model's images, not for {images}", hint="leave it out")
    for name, value in (("-n", n), ("--resize", resize), ("--batch", batch), ("--subset-size", subset_size)):
        if value is not None:
            positive(value, name)
    main = torchrun_rank() == 0
    terminal = Terminal(quiet or not main, json and main)
    if out is not None:
        check_output(out, overwrite, (".json",))
    with terminal.progress_callback() as progress:
        found = evaluate(
            images or Found(find_model(ckpt, terminal), "given"),
            reference,
            str(ctx.info_name),
            extractor=extractor,
            weights_file=weights_file,
            n=n,
            steps=steps,
            sampler=sampler,
            eta=eta,
            resize=resize,
            subset_size=subset_size,
            batch=batch,
            seed=seed,
            names=data_list,
            part=data_part,
            other=with_,
            device=device,
            progress=progress,
        )
    if main:
        publish(found.to_dict(), str(found), out, overwrite, terminal)
