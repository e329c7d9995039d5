"""Single-file models made from runs, and from the weights that the authors of [SSD] released."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdiff.arguments import as_path
from ssdiff.config import Preset
from ssdiff.config.load import load_preset
from ssdiff.errors import CheckpointError
from ssdiff.files import check_output
from ssdiff.weights import single_file
from ssdiff.weights.load import find_model, import_official
from ssdiff.weights.untrusted import read_weights

_SUFFIX = (".safetensors",)


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model made of the authors' weights.

    Attributes:
        out: the file written.
        layout: the network that the weights were recognised as.
        preset: name of its settings.
        found: weights in the authors' file.
        weights: weights in ours.
        parameters: numbers in them.
    """

    out: Path
    layout: str
    preset: str
    found: int
    weights: int
    parameters: int

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff import --json`` prints."""
        return {
            "out": str(self.out),
            "layout": self.layout,
            "preset": self.preset,
            "weights": self.weights,
            "parameters": self.parameters,
        }

    def __str__(self) -> str:
        return (
            f"recognised a {self.layout} in the authors' layout, {self.found} weights; "
            f"it fits {self.preset}\n"
            f"{self.out}: {self.weights} weights, {self.parameters / 1e6:.2f} M parameters\n"
            f"next  ssdiff sample --ckpt {self.out}"
        )


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A single-file model made of a run: its file, size, training steps, and the name of its settings."""

    out: Path
    bytes: int
    step: int | None
    preset: str

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff export --json`` prints."""
        return {"out": str(self.out), "bytes": self.bytes, "step": self.step, "preset": self.preset}

    def __str__(self) -> str:
        return f"{self.out}: {self.bytes / 1e6:.2f} MB, {self.preset}, step {self.step}"


def import_model(
    file: str | Path,
    preset: Preset | str | Path,
    out: str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> ImportedModel:
    """Write the authors' released weights as a single-file model.

    Args:
        file: their ``.pt`` or ``.safetensors`` file; examined before anything in it is loaded.
        preset: the settings that it was trained with.
        out: ends in ``.safetensors``.
        overrides: settings that differ, by their dotted names.
        overwrite: replace a file that exists.

    Raises:
        CheckpointError: not such weights, or of another architecture; names the settings that differ.
        PresetError: no such preset.
        OutputError: ``out`` exists.
    """
    target, path = check_output(out, overwrite, _SUFFIX), as_path("the file", file)
    settings = preset if isinstance(preset, Preset) else load_preset(preset, overrides)
    state = read_weights(path)
    pipeline = import_official(state, settings, device="cpu", where=path)
    settings, weights = pipeline.required_preset(), pipeline.model.state_dict()
    note = f"imported from {path.name}"
    single_file.export(target, settings, weights, note=note, overwrite=overwrite)
    layout = "Flexi-UNet" if any("adapters_in." in name for name in state) else "plain UNet"
    count = sum(weight.numel() for weight in weights.values())
    return ImportedModel(target, layout, settings.name, len(state), len(weights), count)


def export_model(
    source: str | Path | None,
    out: str | Path,
    *,
    weights: str = "ema",
    half: bool = False,
    note: str = "",
    overwrite: bool = False,
) -> ExportedModel:
    """Write a run's weights as one file that needs nothing beside it.

    Args:
        source: run or checkpoint; the newest run where it is None.
        out: ends in ``.safetensors``.
        weights: ``ema`` (averaged) or ``raw``.
        half: store 16-bit numbers: half the size.
        note: how it was made, kept in the file.
        overwrite: replace a file that exists.

    Raises:
        CheckpointError: no such run, none at all, or a damaged one.
        OutputError: ``out`` exists.
    """
    target = check_output(out, overwrite, _SUFFIX)
    found = find_model(source)
    if found.chosen == "bundled":
        raise CheckpointError("there is no run to export", hint="name one, or train one first")
    stored = single_file.read(found.path, weights)
    single_file.export(
        target,
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
    return ExportedModel(target, target.stat().st_size, stored.step, stored.preset.name)
