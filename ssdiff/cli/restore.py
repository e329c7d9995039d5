"""`ssdiff restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Precision,
    Quiet,
    Seed,
    Terminal,
    Weights,
    positive,
)
from ssdiff.cli.restoring import Work, restore_all
from ssdiff.cli.sample import load_pipeline
from ssdiff.errors import UsageError

if TYPE_CHECKING:
    from ssdiff.pipeline import Pipeline
    from ssdiff.restoration import Method, Options

_Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE...", help="Degraded files, or folders of them; clean ones with --degrade."),
]
_Checkpoint = Annotated[
    Path | None, typer.Option(metavar="RUN|FILE", help="Model to use. Default: the newest run.")
]
_Op = Annotated[
    str | None,
    typer.Option(
        help="What happened to the images. Default: what the model was trained for. Without training: "
        "super-resolve, deblur, inpaint or colourise, with an unconditional ssd or ddpm model."
    ),
]
_Timestep = Annotated[int | None, typer.Option(help="Timestep of the images, 1..T. Default: T.")]
_Sampler = Annotated[
    str | None, typer.Option(help="alg1, alg2, direct; with noise: posterior, ddim, dpm++. Default: best.")
]
_Degrade = Annotated[
    bool, typer.Option("--degrade", help="The images are clean: degrade, restore, and compare with them.")
]
_Compare = Annotated[
    bool, typer.Option("--compare", help="Every sampler of the model, side by side in one picture.")
]
_Strip = Annotated[
    bool, typer.Option("--strip", help="Write clean (if known), degraded and restored side by side.")
]
_Truth = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Clean images of the same names, to compare with.")
]
_Steps = Annotated[int | None, typer.Option(help="Sampling steps. Default: the preset's, at most T.")]
_Eta = Annotated[float | None, typer.Option(help="Share of fresh noise of ddim, 0..1.")]
_Factor = Annotated[int, typer.Option(help="Of super-resolve.")]
_Std = Annotated[float, typer.Option(help="Of deblur: std of the Gaussian blur, pixels of the full image.")]
_Mask = Annotated[
    Path | None, typer.Option(metavar="IMAGE", help="Of inpaint: black is known, white is missing.")
]
_NoiseStd = Annotated[
    float, typer.Option(help="Std of noise on the degraded images, pixels in 0..255. With --op.")
]
_Draws = Annotated[
    int, typer.Option(help="Restorations of each image, of which the mean is taken; for models with noise.")
]
_Batch = Annotated[int | None, typer.Option(help="Images at once. Default: the preset's.")]
_Out = Annotated[
    str | None, typer.Option(metavar="x.png|DIR/", help="Default: NAME-restored.png in the current folder.")
]


def restore(
    images: _Images,
    ckpt: _Checkpoint = None,
    op: _Op = None,
    t: _Timestep = None,
    sampler: _Sampler = None,
    degrade: _Degrade = False,
    compare: _Compare = False,
    strip: _Strip = False,
    truth: _Truth = None,
    steps: _Steps = None,
    eta: _Eta = None,
    factor: _Factor = 4,
    std: _Std = 2.0,
    mask: _Mask = None,
    noise_std: _NoiseStd = 0.0,
    draws: _Draws = 1,
    batch: _Batch = None,
    out: _Out = None,
    weights: Weights = "ema",
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restore degraded images with a trained model."""
    from ssdiff.devices import pick_device
    from ssdiff.restoration import Options

    terminal = Terminal(quiet, json)
    if degrade and truth is not None:
        raise UsageError(
            "--truth does not go with --degrade, whose images are the truth", hint="leave one out"
        )
    if compare and sampler is not None:
        raise UsageError("--compare tries every sampler", hint="leave --sampler or --compare out")
    if batch is not None:
        positive(batch, "--batch")
    pipeline = load_pipeline(ckpt, weights, str(pick_device(device)), precision, terminal)
    options = Options(steps, eta, seed, positive(draws, "--draws"))
    method = _method(pipeline, op, t, options, factor, std, mask, noise_std)
    samplers = list(method.samplers) if compare else [sampler or method.samplers[0]]
    work = Work(method, samplers, pipeline.preset, batch, degrade, strip or compare, truth)
    # A wrong sampler, step or eta is found before any image is read.
    for name in samplers:
        pipeline.plan(steps, name, eta if name == "ddim" or not compare else None, t=None if op else t)
    restore_all(work, images, out, overwrite, terminal)


def _method(
    pipeline: Pipeline,
    op: str | None,
    t: int | None,
    options: Options,
    factor: int,
    std: float,
    mask: Path | None,
    noise_std: float,
) -> Method:
    """The model's own degradation, or a task that it was not trained for."""
    from ssdiff import images
    from ssdiff.restoration import TASKS, Trained, zero_shot

    if op not in TASKS:
        for name, given in (("--mask", mask is not None), ("--noise-std", noise_std != 0)):
            if given:
                raise UsageError(f"{name} needs --op", hint=f"one of {', '.join(TASKS)}")
        own = _own(pipeline)
        if op not in (None, own):
            raise UsageError(
                f"the model was trained for {own}, not for {op}",
                hint=f"leave --op out, use another model, or choose one of {', '.join(TASKS)}",
            )
        return Trained(pipeline, t, options)
    if t is not None:
        raise UsageError(f"--t does not go with --op {op}, which begins at noise", hint="leave --t out")
    if mask is not None and op != "inpaint":
        raise UsageError("--mask goes with --op inpaint only", hint="leave it out")
    known = None
    if mask is not None:
        side = pipeline.process.states[0].resolution
        known = (images.read_image(mask, channels=1, size=(side, side))[0] < 0).float()
    return zero_shot(pipeline, op, options, factor=factor, std=std, mask=known, noise_std=noise_std / 127.5)


def _own(pipeline: Pipeline) -> str:
    """The name of what a model was trained for."""
    process = pipeline.preset.process
    return process.degradation.kind if process.degradation else process.kind
