"""`ssdiff restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import Terminal, load_pipeline, parse_sets, positive, raise_failures
from ssdiff.cli.options import (
    DEGRADATION,
    INPUT,
    OUTPUT,
    SAMPLING,
    Batch,
    BestSampler,
    Checkpoint,
    Device,
    Eta,
    Json,
    LastTimestep,
    Overwrite,
    Plugins,
    Precision,
    Quiet,
    Seed,
    Sets,
    SkipExisting,
    Steps,
    Weights,
    With,
    option,
)

_Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE", help="Degraded files, or folders of them; clean ones with --degrade."),
]
_Degrade = Annotated[
    bool,
    option(INPUT, "--degrade", help="The images are clean: degrade, restore, and compare with them."),
]
_Truth = Annotated[
    Path | None,
    option(INPUT, metavar="FOLDER", help="Clean images of the same names, to compare with."),
]
_Op = Annotated[
    str | None,
    option(
        DEGRADATION,
        help="What happened to the images. Without training: super-resolve, deblur, inpaint or colourise, "
        "with an unconditional ssd or ddpm model.",
        show_default="what the model was trained for",
    ),
]
_Factor = Annotated[int, option(DEGRADATION, help="Of super-resolve.")]
_Std = Annotated[
    float, option(DEGRADATION, help="Of deblur: std of the Gaussian blur, pixels of the full image.")
]
_Mask = Annotated[
    Path | None,
    option(DEGRADATION, metavar="IMAGE", help="Of inpaint: black is known, white is missing."),
]
_NoiseStd = Annotated[
    float, option(DEGRADATION, help="Std of noise on the degraded images, pixels in 0..255. With --op.")
]
_Draws = Annotated[
    int,
    option(SAMPLING, help="Restorations of each image, of which the mean is taken; for models with noise."),
]
_Out = Annotated[
    str | None,
    option(
        OUTPUT,
        metavar="x.png|DIR/",
        help="Picture, or folder of pictures.",
        show_default="NAME-restored.png in the current folder",
    ),
]
_Compare = Annotated[
    bool, option(OUTPUT, "--compare", help="Every sampler of the model, side by side in one picture.")
]
_Strip = Annotated[
    bool, option(OUTPUT, "--strip", help="Write clean (if known), degraded and restored side by side.")
]


def restore(
    images: _Images,
    degrade: _Degrade = False,
    truth: _Truth = None,
    with_: With = None,
    ckpt: Checkpoint = None,
    weights: Weights = "ema",
    sets: Sets = None,
    plugin: Plugins = None,
    op: _Op = None,
    t: LastTimestep = None,
    factor: _Factor = 4,
    std: _Std = 2.0,
    mask: _Mask = None,
    noise_std: _NoiseStd = 0.0,
    steps: Steps = None,
    sampler: BestSampler = None,
    eta: Eta = None,
    draws: _Draws = 1,
    seed: Seed = 0,
    out: _Out = None,
    compare: _Compare = False,
    strip: _Strip = False,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    json: Json = False,
    quiet: Quiet = False,
    batch: Batch = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Restore degraded images with a trained model.

    A model of animorphosis turns an image of its second set into one of those it was trained on.
    """
    from ssdiff.data.inputs import expand, plan_outputs
    from ssdiff.devices import pick_device
    from ssdiff.generation import override_sampling
    from ssdiff.restoration import TASKS, Options, RestoreTask, choose_method, choose_samplers, restore_files

    terminal = Terminal(quiet, json)
    if batch is not None:
        positive(batch, "--batch")
    pipeline = load_pipeline(ckpt, weights, str(pick_device(device)), precision, terminal, with_)
    if sets:
        override_sampling(pipeline, parse_sets(sets))
    options = Options(steps, eta, seed, draws)
    method = choose_method(
        pipeline,
        op,
        t,
        options,
        factor=factor,
        std=std,
        mask=mask,
        noise_std=noise_std / 127.5,
        given=not degrade,
    )
    samplers = choose_samplers(pipeline, method, options, sampler, None if op in TASKS else t, compare)
    outputs = plan_outputs(expand(images), out, "restored.png", overwrite, skip_existing)
    task = RestoreTask(pipeline, method, samplers, batch, degrade, strip or compare, truth, overwrite)
    for note in outputs.notes:
        terminal.say(note)
    with terminal.progress_callback("img") as progress:
        result = restore_files(outputs.files, task, progress=progress)
    if result.failed and len(outputs.files) == 1 and not outputs.kept:
        raise result.failed[0].error
    terminal.result(str(result), result.to_dict() | outputs.to_dict())
    raise_failures(result.failed, len(result.done) + len(outputs.kept))
