"""`ssdiff eval fid`, `kid`, `prc`, `is` and `mind`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ssdiff.cli.common import Device, Json, Overwrite, Quiet, Seed, is_main_process, positive
from ssdiff.cli.eval.options import Batch, Checkpoint, Out, Steps, WeightsFile
from ssdiff.errors import UsageError

if TYPE_CHECKING:
    from ssdiff.cli.eval.judging import Question

_Images = Annotated[
    str | None,
    typer.Argument(metavar="[IMAGES]", help="Folder or .zip to judge instead of a model's images."),
]
_Reference = Annotated[
    str | None, typer.Option(metavar="PATH|NAME", help="True images. Default: the run's training data.")
]
_Count = Annotated[int | None, typer.Option("-n", "--count", help="Images to generate. Default: 10000.")]
_Sampler = Annotated[str | None, typer.Option(help="As for `ssdiff sample`. Default: the preset's.")]
_Eta = Annotated[float | None, typer.Option(help="Fresh noise of ddim, 0..1.")]
_Extractor = Annotated[
    str, typer.Option(metavar="inception|module:Class", help="Network whose features are compared.")
]
_Resize = Annotated[int | None, typer.Option(help="Fit both sides to so many pixels first.")]
_Subset = Annotated[int | None, typer.Option(help="Images in a subset of kid. Default: 1000.")]


SUMMARIES = {
    "fid": "Frechet distance of Inception features (FID), or of another extractor's.",
    "kid": "Kernel distance of Inception features (KID), or of another extractor's.",
    "prc": "Precision and recall: how many images lie among the true ones, and the other way round.",
    "is": "Inception score.",
    "mind": "Monge Inception distance: sliced Wasserstein distance, for fewer images than FID needs.",
}
"""What the commands measure, by name."""


def judge(
    ctx: typer.Context,
    images: _Images = None,
    ckpt: Checkpoint = None,
    reference: _Reference = None,
    n: _Count = None,
    steps: Steps = None,
    sampler: _Sampler = None,
    eta: _Eta = None,
    extractor: _Extractor = "inception",
    weights_file: WeightsFile = None,
    resize: _Resize = None,
    subset_size: _Subset = None,
    batch: Batch = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The command of a metric, which its name says."""
    from ssdiff.cli.common import Terminal
    from ssdiff.cli.eval.judging import Question, answer
    from ssdiff.distributed import join_world

    question = Question(
        metric=str(ctx.info_name),
        images=images,
        ckpt=ckpt,
        reference=reference,
        n=n,
        sampling=(steps, sampler, eta),
        extractor=extractor,
        weights=weights_file,
        resize=resize,
        subset=subset_size,
        batch=batch,
        out=out,
        seed=seed,
        overwrite=overwrite,
    )
    _check(question)
    main = is_main_process()
    with join_world(device) as world:
        answer(question, world, device, Terminal(quiet or not main, json and main))


def _check(question: Question) -> None:
    """Refuse options that are out of range or do not go together."""
    counts = {"-n": question.n, "--resize": question.resize, "--batch": question.batch}
    for name, value in {**counts, "--subset-size": question.subset}.items():
        if value is not None:
            positive(value, name)
    if question.subset is not None and question.metric != "kid":
        raise UsageError("--subset-size is for kid", hint="leave it out")
    if question.metric == "is" and question.reference is not None:
        raise UsageError("is compares with nothing", hint="leave --reference out")
    if question.metric == "is" and question.extractor != "inception":
        raise UsageError("is needs the logits of a classifier", hint="use the extractor inception")
    if question.images is None:
        return
    names = ("--ckpt", "-n", "--steps", "--sampler", "--eta")
    for name, given in zip(names, (question.ckpt, question.n, *question.sampling), strict=True):
        if given is not None:
            raise UsageError(
                f"{name} is for a model's images, not for {question.images}", hint="leave it out"
            )
    if question.reference is None and question.metric != "is":
        raise UsageError("there is nothing to compare with", hint="give --reference FOLDER or NAME")
