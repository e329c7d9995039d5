"""`ssdiff degrade`."""

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
    parse_sets,
    positive,
    raise_failures,
)

_DEFAULT_OP = "downsample"

_Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE...", help="Files, or folders that are searched with their sub-folders."),
]
_Op = Annotated[
    str | None,
    typer.Option(
        help="downsample, blur, dct-blur, noise, pixelate, mask, snow, desaturate, blur-noise or animorph. "
        "Default: downsample."
    ),
]
_Severity = Annotated[
    int | None, typer.Option(help="Timestep, 0 (the image itself) to T. With --strip: its end.")
]
_Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.toml", help="Degrade as this preset's process does, at the image's size."
    ),
]
_Noise = Annotated[
    bool, typer.Option("--noise", help="With --preset: add its noise, as its model sees images.")
]
_Strip = Annotated[int | None, typer.Option(metavar="K", help="Film strip of K severities, evenly from 0.")]
_Out = Annotated[
    str | None, typer.Option(metavar="x.png|DIR/", help="Default: NAME-OP-tT.png in the current folder.")
]
_Top = Annotated[int | None, typer.Option("--T", help="Highest severity. Default: 1000, or the preset's.")]
_Upscale = Annotated[
    bool, typer.Option("--upscale", help="Show a smaller result at the original size, pixels repeated.")
]
_With = Annotated[
    str | None,
    typer.Option("--with", metavar="IMAGE|DIR", help="What animorph turns images into, one after the other."),
]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="Option of the operator, e.g. level=4 for snow."),
]
_MaxStd = Annotated[
    float | None, typer.Option(help="Std of blur or dct-blur at T, in pixels. Default: by the size.")
]
_MaxPixels = Annotated[int | None, typer.Option(help="Largest image that is decoded.")]


def degrade(
    images: _Images,
    op: _Op = None,
    t: _Severity = None,
    preset: _Preset = None,
    noise: _Noise = False,
    strip: _Strip = None,
    out: _Out = None,
    top: _Top = None,
    upscale: _Upscale = False,
    with_: _With = None,
    sets: _Set = None,
    max_std: _MaxStd = None,
    max_pixels: _MaxPixels = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Degrade images of any size and see what is left; a smaller result keeps its true size."""
    from ssdiff.data.inputs import expand, plan_outputs
    from ssdiff.degradation import DegradeTask, degrade_files, family_of, other_files, severities
    from ssdiff.devices import pick_device
    from ssdiff.images import MAX_PIXELS

    limit = MAX_PIXELS if max_pixels is None else positive(max_pixels, "--max-pixels")
    other = None if with_ is None else other_files(with_, limit)
    options = parse_sets(sets) | ({} if max_std is None else {"max_std": max_std})
    chosen = op or (_DEFAULT_OP if preset is None else None)
    family = family_of(chosen, top, noise, seed, preset, other, options)
    wanted = severities(t, strip, family.T)
    ending = f"strip{strip}" if strip is not None else f"t{wanted[-1]}"
    files = plan_outputs(expand(images), out, f"{family.label}-{ending}.png", overwrite)
    task = DegradeTask(family, wanted, strip is not None, upscale, limit, pick_device(device), overwrite)
    terminal = Terminal(quiet, json)
    with terminal.progress_callback("img") as progress:
        result = degrade_files(files, task, progress=progress)
    if result.failed and len(files) == 1:
        raise result.failed[0].error
    terminal.result("\n".join(str(one) for one in result.done), result.to_dict())
    raise_failures(result.failed, len(result.done))
