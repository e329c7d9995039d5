"""`ssdiff import` and `ssdiff export`: single-file models from the authors' weights and from runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdiff.cli.common import Json, Overwrite, Plugins, Quiet, Sets, Terminal, Weights, parse_sets
from ssdiff.errors import CheckpointError

_SUFFIX = (".safetensors",)


def import_weights(
    file: Annotated[Path, typer.Argument(help="The authors' .pt or .safetensors file.")],
    preset: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml", help="The settings that it was trained with.")
    ],
    out: Annotated[Path, typer.Option(metavar="x.safetensors", help="The model to write.")],
    set_: Sets = None,
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn the authors' released weights into a model that `ssdiff sample --ckpt` takes.

    A .pt file is examined before anything in it is loaded, and only tensors are ever loaded.
    """
    from ssdiff.config.load import load_preset
    from ssdiff.files import check_output
    from ssdiff.weights import single_file
    from ssdiff.weights.load import import_official
    from ssdiff.weights.untrusted import read_weights

    check_output(out, overwrite, _SUFFIX)
    settings = load_preset(preset, parse_sets(set_))
    state = read_weights(file)
    pipeline = import_official(state, settings, device="cpu", where=file)
    settings, weights = pipeline.required_preset(), pipeline.model.state_dict()
    kind = "Flexi-UNet" if any("adapters_in." in name for name in state) else "plain UNet"
    note = f"imported from {file.name}"
    single_file.export(out, settings, weights, note=note, overwrite=overwrite)
    count = sum(weight.numel() for weight in weights.values())
    values = {
        "out": str(out),
        "layout": kind,
        "preset": settings.name,
        "weights": len(weights),
        "parameters": count,
    }
    Terminal(quiet, json).result(
        f"recognised a {kind} in the authors' layout, {len(state)} weights; it fits {settings.name}\n"
        f"{out}: {len(weights)} weights, {count / 1e6:.2f} M parameters\n"
        f"next  ssdiff sample --ckpt {out}",
        values,
    )


def export(
    out: Annotated[Path, typer.Option(metavar="x.safetensors", help="The model to write.")],
    run: Annotated[Path | None, typer.Argument(help="Run or checkpoint; default: the newest run.")] = None,
    weights: Weights = "ema",
    half: Annotated[bool, typer.Option("--half", help="Store 16-bit numbers: half the size.")] = False,
    note: Annotated[str, typer.Option(help="How it was made, kept in the file.")] = "",
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's weights as one file that needs nothing beside it."""
    from ssdiff.files import check_output
    from ssdiff.weights import single_file
    from ssdiff.weights.load import find_model

    check_output(out, overwrite, _SUFFIX)
    found = find_model(run)
    if found.chosen == "bundled":
        raise CheckpointError("there is no run to export", hint="name one, or train one first")
    stored = single_file.read(found.path, weights)
    single_file.export(
        out,
        stored.preset,
        stored.weights,
        class_names=stored.class_names,
        start=stored.start,
        details=stored.details,
        step=stored.step,
        note=note,
        half=half,
        overwrite=overwrite,
    )
    size = out.stat().st_size
    values = {"out": str(out), "bytes": size, "step": stored.step, "preset": stored.preset.name}
    Terminal(quiet, json).result(
        f"{out}: {size / 1e6:.2f} MB, {stored.preset.name}, step {stored.step}", values
    )
