"""`ssdiff eval fid`, `kid`, `prc`, `is` and `mind`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import Device, Json, Overwrite, Quiet, Seed, is_main_process, positive
from ssdiff.errors import UsageError

_SUBSET = 1000
_Images = Annotated[
    str | None,
    typer.Argument(metavar="[IMAGES]", help="Folder or .zip to judge instead of a model's images."),
]
_Checkpoint = Annotated[
    Path | None, typer.Option(metavar="RUN|FILE", help="Model. Default: the newest run, or the bundled one.")
]
_Reference = Annotated[
    str | None, typer.Option(metavar="PATH|NAME", help="True images. Default: the run's training data.")
]
_Count = Annotated[int | None, typer.Option("-n", "--count", help="Images to generate. Default: 10000.")]
_Steps = Annotated[int | None, typer.Option(help="Sampling steps. Default: the preset's.")]
_Sampler = Annotated[str | None, typer.Option(help="As for `ssdiff sample`. Default: the preset's.")]
_Eta = Annotated[float | None, typer.Option(help="Fresh noise of ddim, 0..1.")]
_Extractor = Annotated[
    str, typer.Option(metavar="inception|module:Class", help="Network whose features are compared.")
]
_Weights = Annotated[Path | None, typer.Option(help="File of Inception's weights, for work offline.")]
_Resize = Annotated[int | None, typer.Option(help="Fit both sides to so many pixels first.")]
_Subset = Annotated[int | None, typer.Option(help=f"Images in a subset of kid. Default: {_SUBSET}.")]
_Batch = Annotated[int | None, typer.Option(help="Images at once. Default: the preset's.")]
_Out = Annotated[Path | None, typer.Option(metavar="x.json", help="Write the result, for `eval report` too.")]


def command(metric: str) -> Callable[..., None]:
    """The command of a metric."""

    def judge(
        images: _Images = None,
        ckpt: _Checkpoint = None,
        reference: _Reference = None,
        n: _Count = None,
        steps: _Steps = None,
        sampler: _Sampler = None,
        eta: _Eta = None,
        extractor: _Extractor = "inception",
        weights_file: _Weights = None,
        resize: _Resize = None,
        subset_size: _Subset = None,
        batch: _Batch = None,
        out: _Out = None,
        seed: Seed = 0,
        device: Device = "auto",
        overwrite: Overwrite = False,
        json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        from ssdiff.cli.common import Terminal
        from ssdiff.cli.eval.judging import Question, answer
        from ssdiff.distributed import world

        for name, value in (("-n", n), ("--resize", resize), ("--batch", batch)):
            if value is not None:
                positive(value, name)
        if subset_size is not None and metric != "kid":
            raise UsageError("--subset-size is for kid", hint="leave it out")
        if reference is not None and metric == "is":
            raise UsageError("is compares with nothing", hint="leave --reference out")
        sampling: dict[str, object] = {
            "--ckpt": ckpt,
            "-n": n,
            "--steps": steps,
            "--sampler": sampler,
            "--eta": eta,
        }
        for option, given in sampling.items():
            if images is not None and given is not None:
                raise UsageError(f"{option} is for a model's images, not for {images}", hint="leave it out")
        if images is not None and reference is None and metric != "is":
            raise UsageError("there is nothing to compare with", hint="give --reference FOLDER or NAME")
        main = is_main_process()
        question = Question(
            metric,
            images,
            ckpt,
            reference,
            n,
            (steps, sampler, eta),
            extractor,
            weights_file,
            resize,
            _SUBSET if subset_size is None else positive(subset_size, "--subset-size"),
            batch,
            out,
            seed,
            overwrite,
        )
        with world(device) as here:
            answer(question, here, device, Terminal(quiet or not main, json and main))

    judge.__doc__ = {
        "fid": "Frechet distance of Inception features (FID), or of another extractor's.",
        "kid": "Kernel distance of Inception features (KID), or of another extractor's.",
        "prc": "Precision and recall: how many images lie among the true ones, and the other way round.",
        "is": "Inception score.",
        "mind": "Monge Inception distance: sliced Wasserstein distance, for fewer images than FID needs.",
    }[metric]
    return judge
