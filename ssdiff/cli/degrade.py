"""`ssdiff degrade`."""

from __future__ import annotations

from typing import Annotated

import typer

from ssdiff.cli.common import Device, Json, Overwrite, Quiet, Seed, Terminal, positive
from ssdiff.errors import UsageError

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
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Degrade images of any size and see what is left; a smaller result keeps its true size."""
    from ssdiff.cli.common import parse_sets
    from ssdiff.cli.degrading import Task, named, of_preset, run
    from ssdiff.cli.inputs import expand, partners, plan_outputs
    from ssdiff.devices import pick_device
    from ssdiff.images import MAX_PIXELS

    limit = MAX_PIXELS if max_pixels is None else positive(max_pixels, "--max-pixels")
    other = None if with_ is None else partners(with_, limit)
    if preset is None:
        if noise:
            raise UsageError("--noise needs --preset, whose noise it is", hint="or use --op noise")
        options = parse_sets(sets) | ({} if max_std is None else {"max_std": max_std})
        family = named(op or _DEFAULT_OP, top, seed, options, other)
    else:
        taken = {"--op": op, "--T": top, "--max-std": max_std, "--set": sets}
        for option, value in taken.items():
            if value is not None:
                raise UsageError(
                    f"{option} does not go with --preset, which decides it", hint="leave one out"
                )
        family = of_preset(preset, noise, seed, other)
    severities = _severities(t, strip, family.T)
    ending = f"strip{strip}" if strip is not None else f"t{severities[-1]}"
    jobs = plan_outputs(expand(images), out, f"{family.label}-{ending}.png", overwrite)
    task = Task(family, severities, strip is not None, upscale, limit, pick_device(device))
    run(jobs, task, overwrite, Terminal(quiet, json))


def _severities(t: int | None, strip: int | None, T: int) -> list[int]:
    """The severities to compute, the last one the end of the strip."""
    if t is None and strip is None:
        raise UsageError("--t is missing", hint=f"give a severity, 0..{T}, or --strip K for all at a glance")
    end = T if t is None else t
    if not 0 <= end <= T:
        raise UsageError(f"--t {end} is outside 0..{T}", hint="0 is the image itself, T the most degraded")
    if strip is None:
        return [end]
    if not 2 <= strip <= end + 1:
        raise UsageError(f"--strip must be between 2 and {end + 1} (severities 0..{end}), not {strip}")
    return [round(i * end / (strip - 1)) for i in range(strip)]
