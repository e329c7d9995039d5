"""`ssdiff restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import (
    Terminal,
    load_pipeline,
    parse_sets,
    positive,
    raise_failures,
    split_classes,
    with_options,
)
from ssdiff.cli.options import (
    DEGRADATION,
    INPUT,
    MACHINE,
    OUTPUT,
    SAMPLING,
    Batch,
    BestSampler,
    Checkpoint,
    Class,
    Device,
    Eta,
    Guidance,
    Json,
    LastTimestep,
    MaxPixels,
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
from ssdiff.importing import quick_imports

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
        help="What happened to the images. Without training: denoise, super-resolve, deblur, inpaint, "
        "colourise or jpeg, with an ssd or ddpm model; that of photographs where no run fits.",
        show_default="what the model was trained for",
    ),
]
_Factor = Annotated[int | None, option(DEGRADATION, help="Of super-resolve.", show_default="4")]
_Reduction = Annotated[
    str | None,
    option(
        DEGRADATION,
        help="Of super-resolve, how small pictures came about: area or bilinear.",
        show_default="area for a model of photographs",
    ),
]
_Std = Annotated[
    float | None,
    option(
        DEGRADATION,
        help="Of deblur: std of the Gaussian blur, pixels of the full image.",
        show_default="2 where no blur is given",
    ),
]
_Length = Annotated[
    float | None, option(DEGRADATION, help="Of deblur: pixels of an even motion, instead of --std.")
]
_Angle = Annotated[
    float | None,
    option(DEGRADATION, help="Of the motion: degrees counter-clockwise from the horizontal."),
]
_Kernel = Annotated[
    Path | None,
    option(
        DEGRADATION,
        metavar="FILE",
        help="Of deblur: the blur as a picture, or as numbers (.txt, .csv), instead of --std.",
    ),
]
_Mask = Annotated[
    Path | None,
    option(
        DEGRADATION,
        metavar="IMAGE",
        help="Of inpaint: black is known, white is missing; if it has transparent parts, what is opaque is.",
    ),
]
_InvertMask = Annotated[
    bool,
    option(DEGRADATION, "--invert-mask", help="What the mask calls known and missing change places."),
]
_NoiseStd = Annotated[
    float | None,
    option(
        DEGRADATION,
        help="Std of noise on the degraded images, pixels in 0..255. With --op; denoise estimates it if it "
        "is omitted or 0.",
    ),
]
_Quality = Annotated[
    int | None,
    option(
        DEGRADATION,
        help="Of jpeg, 1..100: with --degrade, or of a picture that was a JPEG file; such files say it "
        "themselves.",
    ),
]
_Draws = Annotated[
    int,
    option(SAMPLING, help="Restorations of each image, of which the mean is taken; for models with noise."),
]
_Whole = Annotated[
    bool | None,
    option(
        INPUT,
        "--whole/--fit",
        help="With --degrade: pictures at their own size, or cut and resized to the model's.",
        show_default="whole where the model was trained on patches",
    ),
]
_Tile = Annotated[
    int | None,
    option(
        MACHINE,
        help="Pixels a side of the tiles of a picture that is not of the model's size.",
        show_default="by model and memory",
    ),
]
_Overlap = Annotated[
    int | None,
    option(MACHINE, help="Pixels that tiles share.", show_default="a quarter of a tile, at most 64"),
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
    whole: _Whole = None,
    max_pixels: MaxPixels = None,
    with_: With = None,
    ckpt: Checkpoint = None,
    weights: Weights = "ema",
    sets: Sets = None,
    plugin: Plugins = None,
    op: _Op = None,
    t: LastTimestep = None,
    factor: _Factor = None,
    reduction: _Reduction = None,
    std: _Std = None,
    length: _Length = None,
    angle: _Angle = None,
    kernel: _Kernel = None,
    mask: _Mask = None,
    invert_mask: _InvertMask = False,
    noise_std: _NoiseStd = None,
    quality: _Quality = None,
    steps: Steps = None,
    sampler: BestSampler = None,
    eta: Eta = None,
    draws: _Draws = 1,
    class_: Class = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    out: _Out = None,
    compare: _Compare = False,
    strip: _Strip = False,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    json: Json = False,
    quiet: Quiet = False,
    batch: Batch = None,
    tile: _Tile = None,
    overlap: _Overlap = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Restore degraded images of any size with a trained model.

    Pictures keep their profile, transparency, 16 bits and metadata. Of another size than the model's
    they are restored by overlapping tiles that agree after each step.

    A model of animorphosis turns an image of its second set into one of those it was trained on.
    """
    with quick_imports():
        from ssdiff.data.inputs import expand, plan_outputs
        from ssdiff.devices import pick_device
        from ssdiff.generation import override_sampling
        from ssdiff.images import MAX_PIXELS
        from ssdiff.restoration import (
            TASKS,
            Options,
            RestoreTask,
            choose_fit,
            choose_method,
            choose_samplers,
            restore_files,
            task_name,
        )

    terminal = Terminal(quiet, json)
    if batch is not None:
        positive(batch, "--batch")
    zero_shot = task_name(op) in TASKS
    pipeline = load_pipeline(
        ckpt, weights, str(pick_device(device)), precision, terminal, with_, zero_shot=zero_shot
    )
    changes = with_options(parse_sets(sets), {"--guidance": ("sampling.guidance", guidance)})
    if changes:
        override_sampling(pipeline, changes)
    weighed = pipeline.sampling.guidance if "sampling.guidance" in changes else None
    limit = MAX_PIXELS if max_pixels is None else positive(max_pixels, "--max-pixels")
    options = Options(steps, eta, seed, draws, tile, overlap, split_classes(class_), weighed)
    method = choose_method(
        pipeline,
        op,
        t,
        options,
        factor=factor,
        reduction=reduction,
        std=std,
        length=length,
        angle=angle,
        kernel=kernel,
        mask=mask,
        invert_mask=invert_mask,
        noise_std=None if noise_std is None else noise_std / 127.5,
        quality=quality,
        given=not degrade,
    )
    while method.notes:
        terminal.say(method.notes.pop(0))
    samplers = choose_samplers(pipeline, method, options, sampler, None if zero_shot else t, compare)
    outputs = plan_outputs(expand(images), out, "restored.png", overwrite, skip_existing)
    fit = choose_fit(pipeline, degrade, whole, options)
    task = RestoreTask(
        pipeline, method, samplers, batch, degrade, strip or compare, truth, overwrite, fit, limit
    )
    for note in outputs.notes:
        terminal.say(note)
    with terminal.progress_callback("img") as progress:
        result = restore_files(outputs.files, task, progress=progress)
    if result.failed and len(outputs.files) == 1 and not outputs.kept:
        raise result.failed[0].error
    for note in result.notes:
        terminal.say(note)
    terminal.result(str(result), result.to_dict() | outputs.to_dict())
    raise_failures(result.failed, len(result.done) + len(outputs.kept))
