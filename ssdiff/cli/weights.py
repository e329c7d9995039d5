"""`ssdiff import` and `ssdiff export`: single-file models from weights of others and from runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import Terminal, parse_sets
from ssdiff.cli.options import (
    MODEL,
    OUTPUT,
    PRESET,
    FittedData,
    Json,
    ModelFile,
    Overwrite,
    Plugins,
    Quiet,
    Sets,
    Weights,
    option,
)

_File = Annotated[Path, typer.Argument(help="A .pt or .safetensors file, or a folder of diffusers.")]
_Preset = Annotated[str | None, option(MODEL, **PRESET, show_default="what the file says")]
_Averaged = Annotated[
    bool,
    option(
        MODEL,
        "--averaged-adapters",
        help="Of adapters stored with two values take the averaged one, not what the authors' loader takes.",
    ),
]
_Run = Annotated[Path | None, typer.Argument(help="Run or checkpoint; default: the newest run.")]
_Half = Annotated[bool, option(OUTPUT, "--half", help="Store 16-bit numbers: half the size.")]
_Note = Annotated[str, option(OUTPUT, help="How it was made, kept in the file.")]


def import_weights(
    file: _File,
    *,
    data: FittedData = None,
    preset: _Preset = None,
    set_: Sets = None,
    weights: Weights = "ema",
    averaged: _Averaged = False,
    plugin: Plugins = None,
    out: ModelFile,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn weights that others trained into a model that `ssdiff sample --ckpt` takes.

    The preset is the one that they were trained with. Files of Scale Space Diffusion say it by their
    name, e.g. ssd_64res_celeba_2levels_ema_0.9999_1000000.pt; those of guided-diffusion by their weights,
    UNet2DModel folders of diffusers by their config.json; what nothing says is told. A .pt file is
    examined before anything in it is loaded, and only tensors are ever loaded. Generation of cold
    diffusion begins at the colours of images that --data names.
    """
    from ssdiff.weights.convert import import_model

    terminal = Terminal(quiet, json)
    with terminal.progress_callback() as progress:
        made = import_model(
            file,
            preset,
            out,
            overrides=parse_sets(set_),
            averaged_adapters=averaged,
            weights=weights,
            data=data,
            overwrite=overwrite,
            progress=progress,
        )
    for warning in made.warnings:
        terminal.say(f"warning: {warning}")
    terminal.result(str(made), made.to_dict())


def export(
    run: _Run = None,
    *,
    weights: Weights = "ema",
    plugin: Plugins = None,
    out: ModelFile,
    half: _Half = False,
    note: _Note = "",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's weights as one file that needs nothing beside it."""
    from ssdiff.weights.convert import export_model

    made = export_model(run, out, weights=weights, half=half, note=note, overwrite=overwrite)
    Terminal(quiet, json).result(str(made), made.to_dict())
