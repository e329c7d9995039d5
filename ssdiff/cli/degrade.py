"""`ssdiff degrade`."""

from __future__ import annotations

from typing import Annotated

import typer

from ssdiff.cli.common import Terminal, parse_sets, positive, raise_failures
from ssdiff.cli.options import (
    DEGRADATION,
    OUTPUT,
    Device,
    Json,
    MaxPixels,
    Overwrite,
    Plugins,
    Preset,
    Quiet,
    Seed,
    SkipExisting,
    Timestep,
    option,
)
from ssdiff.importing import quick_imports

_DEFAULT_OP = "downsample"

_Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE", help="Files, or folders that are searched with their sub-folders."),
]
_Op = Annotated[
    str | None,
    option(
        DEGRADATION,
        help="downsample, blur, dct-blur, noise, pixelate, mask, snow, desaturate, blur-noise or animorph.",
        show_default="downsample, or what the preset says",
    ),
]
_Top = Annotated[
    int | None,
    option(DEGRADATION, "--T", help="Highest severity.", show_default="1000, or the preset's"),
]
_Noise = Annotated[
    bool, option(DEGRADATION, "--noise", help="With --preset: add its noise, as its model sees images.")
]
_With = Annotated[
    str | None,
    option(
        DEGRADATION,
        "--with",
        metavar="IMAGE|DIR",
        help="What animorph turns images into, one after the other.",
    ),
]
_Set = Annotated[
    list[str] | None,
    option(
        DEGRADATION,
        "--set",
        metavar="OPTION=VALUE",
        help="Option of the degradation, e.g. level=4 for snow; repeatable.",
    ),
]
_MaxStd = Annotated[
    float | None,
    option(DEGRADATION, help="Std of blur or dct-blur at T, in pixels.", show_default="by the size"),
]
_Out = Annotated[
    str | None,
    option(
        OUTPUT,
        metavar="x.png|DIR/",
        help="Picture, or folder of pictures.",
        show_default="NAME-OP-tT.png in the current folder",
    ),
]
_Strip = Annotated[
    int | None, option(OUTPUT, metavar="K", help="Film strip of K severities, evenly from 0 to --t.")
]
_Upscale = Annotated[
    bool, option(OUTPUT, "--upscale", help="Show a smaller result at the original size, pixels repeated.")
]


def degrade(
    images: _Images,
    max_pixels: MaxPixels = None,
    preset: Preset = None,
    plugin: Plugins = None,
    op: _Op = None,
    t: Timestep = None,
    top: _Top = None,
    noise: _Noise = False,
    with_: _With = None,
    sets: _Set = None,
    max_std: _MaxStd = None,
    seed: Seed = 0,
    out: _Out = None,
    strip: _Strip = None,
    upscale: _Upscale = False,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Degrade images of any size and see what is left; a smaller result keeps its true size.

    By a degradation (--op), or as the process of a preset does at the image's size. One of --t and
    --strip is needed.
    """
    with quick_imports():
        from ssdiff.data.inputs import expand, plan_outputs
        from ssdiff.degradation import DegradeTask, degrade_files, family_of, severities
        from ssdiff.devices import pick_device
        from ssdiff.images import MAX_PIXELS
        from ssdiff.second_set import other_files

    limit = MAX_PIXELS if max_pixels is None else positive(max_pixels, "--max-pixels")
    other = None if with_ is None else other_files(with_, limit)
    options = parse_sets(sets) | ({} if max_std is None else {"max_std": max_std})
    chosen = op or (_DEFAULT_OP if preset is None else None)
    family = family_of(chosen, top, noise, seed, preset, other, options)
    wanted = severities(t, strip, family.T)
    ending = f"strip{strip}" if strip is not None else f"t{wanted[-1]}"
    outputs = plan_outputs(expand(images), out, f"{family.label}-{ending}.png", overwrite, skip_existing)
    task = DegradeTask(family, wanted, strip is not None, upscale, limit, pick_device(device), overwrite)
    terminal = Terminal(quiet, json)
    for note in outputs.notes:
        terminal.say(note)
    with terminal.progress_callback("img") as progress:
        result = degrade_files(outputs.files, task, progress=progress)
    if result.failed and len(outputs.files) == 1 and not outputs.kept:
        raise result.failed[0].error
    terminal.result("\n".join(str(one) for one in result.done), result.to_dict() | outputs.to_dict())
    raise_failures(result.failed, len(result.done) + len(outputs.kept))
