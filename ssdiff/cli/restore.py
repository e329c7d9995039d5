"""`ssdiff restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Plugins,
    Precision,
    Quiet,
    Seed,
    Terminal,
    Weights,
    positive,
    raise_failures,
)
from ssdiff.cli.sample import load_pipeline
from ssdiff.sampling.registry import sampler_help

_Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE...", help="Degraded files, or folders of them; clean ones with --degrade."),
]
_Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN|FILE", help="Run, checkpoint or model; default: the newest run, or the bundled model."
    ),
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
    str | None, typer.Option(help=f"The rule of a step; default: the best. {sampler_help()}")
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
_Eta = Annotated[float | None, typer.Option(help="Fresh noise of ddim, 0..1.")]
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
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restore degraded images with a trained model."""
    from ssdiff.data.inputs import expand, plan_outputs
    from ssdiff.devices import pick_device
    from ssdiff.restoration import TASKS, Options, RestoreTask, choose_method, choose_samplers, restore_files

    terminal = Terminal(quiet, json)
    if batch is not None:
        positive(batch, "--batch")
    pipeline = load_pipeline(ckpt, weights, str(pick_device(device)), precision, terminal)
    options = Options(steps, eta, seed, draws)
    method = choose_method(
        pipeline, op, t, options, factor=factor, std=std, mask=mask, noise_std=noise_std / 127.5
    )
    samplers = choose_samplers(pipeline, method, options, sampler, None if op in TASKS else t, compare)
    files = plan_outputs(expand(images), out, "restored.png", overwrite)
    task = RestoreTask(pipeline, method, samplers, batch, degrade, strip or compare, truth, overwrite)
    with terminal.progress_callback("img") as progress:
        result = restore_files(files, task, progress=progress)
    if result.failed and len(files) == 1:
        raise result.failed[0].error
    terminal.result(str(result), result.to_dict())
    raise_failures(result.failed, len(result.done))
