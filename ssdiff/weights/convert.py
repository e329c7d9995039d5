"""Single-file models made from runs, and from weights that others trained."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssdiff.arguments import as_path
from ssdiff.build import outline_model
from ssdiff.config import Preset
from ssdiff.config.load import differences, load_preset
from ssdiff.errors import CheckpointError
from ssdiff.files import check_output
from ssdiff.models import official, official_cold
from ssdiff.models.adm_unet import AdmUNet
from ssdiff.models.diffusers_layout import recognise_diffusers
from ssdiff.models.flexi_unet import FlexiUNet
from ssdiff.models.registry import ADM_UNET, CONVNEXT_UNET, DDPM_UNET
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Progress
from ssdiff.weights import process_tables, single_file
from ssdiff.weights.foreign import SETS, open_foreign, preset_named, said_by_name
from ssdiff.weights.load import find_model, import_official

_SUFFIX = (".safetensors",)
_CLASS_TABLES = ("label_emb.weight", "class_embedding.weight")
_LAYOUTS = {
    CONVNEXT_UNET: "ConvNeXt U-Net",
    DDPM_UNET: "DDPM U-Net",
    ADM_UNET: "U-Net of guided-diffusion",
}


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
        notes: what to know of it.
        warnings: what looks wrong.
        following: the command that uses it first.
    """

    out: Path
    layout: str
    preset: str
    found: int
    weights: int
    parameters: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    following: str = "ssdiff sample"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff import --json`` prints."""
        return {
            "out": str(self.out),
            "layout": self.layout,
            "preset": self.preset,
            "weights": self.weights,
            "parameters": self.parameters,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        return (
            f"recognised a {self.layout}, {self.found} weights; settings of {self.preset}\n"
            f"{self.out}: {self.weights} weights, {self.parameters / 1e6:.2f} M parameters\n"
            + "".join(f"note  {note}\n" for note in self.notes)
            + f"next  {self.following}"
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
    preset: Preset | str | Path | None,
    out: str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    averaged_adapters: bool = False,
    weights: str = "ema",
    data: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ImportedModel:
    """Write weights that others trained as a single-file model.

    Args:
        file: their ``.pt`` or ``.safetensors`` file, examined before anything in it is loaded; or a folder of
            diffusers.
        preset: the settings that it was trained with; None takes those that the authors' name of the file
            says, e.g. celeba64-2l of ``ssd_64res_celeba_2levels_ema_0.9999_1000000.pt``, that alone fit
            what a file of [CD] holds, that the weights of guided-diffusion show, or that the ``config.json``
            of diffusers says (docs/networks.md).
        out: ends in ``.safetensors``.
        overrides: settings that differ, by their dotted names.
        averaged_adapters: see :func:`ssdiff.weights.load.import_official`.
        weights: likewise.
        data: likewise.
        overwrite: replace a file that exists.
        progress: told of images prepared and in all.

    Raises:
        UsageError: no preset, and the file does not say which.
        CheckpointError: not such weights, or of another architecture; names the settings that differ.
        PresetError: no such preset.
        OutputError: ``out`` exists.
    """
    target, path = check_output(out, overwrite, _SUFFIX), as_path("the file", file)
    given = load_preset(preset, overrides) if isinstance(preset, str | Path) else preset
    foreign = open_foreign(path, weights)
    state = foreign.state
    settings, unsaid = foreign.preset(overrides) if given is None else (given, [])
    pipeline = import_official(
        state,
        settings,
        device="cpu",
        where=path,
        averaged_adapters=averaged_adapters,
        data=data,
        progress=progress,
    )
    asked, settings, ours = settings, pipeline.required_preset(), pipeline.model.state_dict()
    start = None if pipeline.terminal_prior is None else pipeline.terminal_prior.to_json()
    note = f"imported from {path.name}"
    single_file.export(target, settings, ours, start=start, note=note, overwrite=overwrite)
    layout = _LAYOUTS.get(settings.model.kind, "plain UNet")
    if recognise_diffusers(state):
        layout = "UNet2DModel of diffusers"
    if any("adapters_in." in name for name in state):
        layout = "Flexi-UNet"
    count = sum(weight.numel() for weight in ours.values())
    notes = [*unsaid, *_notes(state, settings, averaged_adapters, start is not None)]
    if changed := differences(asked, settings, ("sampling",)):
        notes.append(f"nothing taken of training images comes with them (asked != now): {'; '.join(changed)}")
    return ImportedModel(
        target,
        layout,
        settings.name,
        len(state),
        len(ours),
        count,
        tuple(notes),
        tuple(_contradictions(path, settings)),
        _following(pipeline, shlex.quote(str(target))),
    )


def _following(pipeline: Pipeline, file: str) -> str:
    """The command that uses a model first: what has no start of generation restores."""
    settings = pipeline.required_preset()
    if not pipeline.generates or (settings.sampling.terminal_prior and pipeline.terminal_prior is None):
        return f"ssdiff restore IMAGES --ckpt {file} --degrade --compare --out restored/"
    return f"ssdiff sample --ckpt {file}" + (" --with SET" if pipeline.process.morphs else "")


def _contradictions(path: Path, settings: Preset) -> list[str]:
    """What the file's name says otherwise; weights of another number of levels have the same shapes."""
    said, name = said_by_name(path), settings.name
    wrong = [
        f"{said[key]} {unit}, {name} has {field}"
        for key, unit, field in (
            ("size", "px", settings.data.size),
            ("levels", "levels", settings.process.levels),
        )
        if said.get(key, field) != field
    ]
    if "set" in said and any(name.startswith(other) for other in SETS if other != said["set"]):
        wrong.append(f"{said['set']}, not {name}")
    if not wrong:
        return []
    named = preset_named(path)
    instead = f"with --preset {named}" if named else "with the preset that it says"
    return [
        f"the name {path.name} says {'; '.join(wrong)}: the weights fit both, but if the name is right the "
        f"images will be wrong; import it {instead}"
    ]


def _notes(state: Mapping[str, Tensor], settings: Preset, averaged: bool, fitted: bool) -> Iterator[str]:
    """What the weights alone do not settle."""
    outline, model = outline_model(settings), settings.model
    if cold := official_cold.read_layout(state):
        yield from process_tables.check_tables(cold.buffers, settings)
        if settings.sampling.terminal_prior is not None and not fitted:
            yield "it restores only: generation begins at a prior fitted to images, which --data SET names"
    if not isinstance(outline, FlexiUNet | AdmUNet):
        return
    if model.learn_sigma:
        yield "the second half of the output, a learned variance, is kept and not used"
    if model.classes and _rows(state) == model.classes:
        yield (
            "its classes have no row of 'no class': without a label the network gets the timestep alone, "
            "which it was not trained for"
        )
    if recognise_diffusers(state):
        return
    if tables := official.split_tables(state)[1]:
        yield f"its tables {', '.join(tables)} are those of the noise schedule"
    if isinstance(outline, FlexiUNet):
        yield from _adapter_notes(state, outline, averaged)
    if official.is_plain(state):
        heads = f"head_channels = {model.head_channels}" if model.head_channels else f"heads = {model.heads}"
        schedule = "" if tables else " and the noise schedule"
        yield (
            f"weights do not show model.{heads}, attention_order = {model.attention_order!r}, first_index = "
            f"{model.first_index}, process.predict = {settings.process.predict!r}{schedule}: "
            f"they are those of {settings.name}; --set changes them"
        )


def _rows(state: Mapping[str, Tensor]) -> int:
    """Classes that a file has a row for."""
    return next((len(rows) for name, rows in state.items() if name.endswith(_CLASS_TABLES)), 0)


def _adapter_notes(state: Mapping[str, Tensor], outline: FlexiUNet, averaged: bool) -> Iterator[str]:
    pairs = official.differing_adapters(state, outline)
    if pairs:
        modules = dict.fromkeys(" and ".join(name.rpartition(".")[0] for name in pair) for pair in pairs)
        shared = ", ".join(modules)
        taken = (
            "the averaged one, of the first name"
            if averaged
            else "the raw one, of the later name, as by the authors' own loader; --averaged-adapters takes "
            "the other"
        )
        yield f"adapters that two levels share are stored with two values ({shared}): taken is {taken}"
    elif averaged:
        yield "no adapter is stored with two values: --averaged-adapters changes nothing"


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
        init=stored.init,
        own_since=stored.own_since,
        lift=stored.lift,
        step=stored.step,
        note=note,
        half=half,
        overwrite=overwrite,
    )
    return ExportedModel(target, target.stat().st_size, stored.step, stored.preset.name)
