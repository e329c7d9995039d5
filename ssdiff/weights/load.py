"""Pipelines from files: runs, checkpoints, exported models, the authors' weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ssdiff import runs
from ssdiff.arguments import as_path
from ssdiff.build import (
    build_model,
    build_process,
    build_sampling_process,
    outline_model,
    place_model,
)
from ssdiff.config import Preset
from ssdiff.config.load import for_data_set, load_preset, override, read_preset
from ssdiff.devices import pick_device, pick_precision
from ssdiff.errors import CheckpointError, SsdiffError, UsageError
from ssdiff.models import official
from ssdiff.models.registry import BUILTIN
from ssdiff.pipeline import Pipeline
from ssdiff.priors.coarse_mixture import CoarseMixture, fit_prior
from ssdiff.priors.image_spectrum import ImageSpectrum
from ssdiff.priors.linear_lift import LinearLift
from ssdiff.progress import Progress, stage
from ssdiff.second_set import OtherImages, SecondSet, open_as
from ssdiff.weights import single_file
from ssdiff.weights.foreign import ForeignWeights, open_foreign
from ssdiff.weights.released import convert_released


@dataclass(frozen=True, slots=True)
class Found:
    """Where a model is, and why it was taken.

    Attributes:
        path: run folder, checkpoint or single-file model.
        chosen: it was given, is the newest run, or is the small model that ships with the package.
    """

    path: Path
    chosen: Literal["given", "newest", "bundled"]


def find_model(path: str | Path | None = None, *, zero_shot: bool = False) -> Found:
    """Find the model to use: the one given, else the newest run, else a bundled model.

    Args:
        path: run folder, checkpoint or single-file model; whether it is there shows when it is read. The
            name of a bundled model, where no file of that name is there.
        zero_shot: it shall restore what it was not trained for: the newest run counts if it is an
            unconditional model of kind ssd or ddpm, and the bundled model is the prior of photographs.

    Raises:
        CheckpointError: none is given, there is no run, and the bundled model is missing.
        UsageError: it is no path.
    """
    if path is not None:
        found = as_path("the model", path)
        named = str(path) in single_file.BUNDLED and not found.exists()
        return Found(single_file.bundled(str(path)) if named else found, "given")
    newest = runs.newest_run()
    if newest is not None and not (zero_shot and not _is_prior(newest)):
        return Found(newest, "newest")
    shipped = single_file.bundled("photos64" if zero_shot else "shapes32")
    if not shipped.is_file():
        message = "there is no run yet, and the model that should ship with ssdiff is missing"
        raise CheckpointError(message, path=shipped, hint="reinstall ssdiff, or name a model")
    return Found(shipped, "bundled")


def _is_prior(run: Path) -> bool:
    """Whether a run restores without training; of one that cannot be read that shows when it is loaded."""
    try:
        preset = read_preset(run / "preset.toml", run_plugins=False)
    except SsdiffError:
        return True
    return preset.process.kind in ("ssd", "ddpm") and not preset.model.classes


def find_preset(source: str | Path, overrides: Mapping[str, object] | None = None) -> Preset:
    """Read the settings of a preset by name or file, or those of a run, checkpoint or single-file model.

    Args:
        source: what is there as a file or folder is a model; a name alone may be that of a preset.
        overrides: settings that differ, by their dotted names.

    Raises:
        PresetError: no such preset, or one that is not valid.
        CheckpointError: no such run or model.
    """
    path, changes = as_path("the preset or model", source), dict(overrides or {})
    if path.suffix == ".toml":
        return load_preset(path, changes)
    if not path.exists():
        if path.name != str(source):
            raise CheckpointError(f"no run or model at {source}", path=source, hint="check the path")
        return load_preset(str(source), changes)
    if runs.is_run(path):
        preset = override(read_preset(path / "preset.toml", run_plugins=True), changes)
        return for_data_set(preset, single_file.data_set_of_run(path))
    return override(single_file.read(path).preset, changes)


def load(
    source: str | Path | None = None,
    *,
    weights: str = "ema",
    device: str = "auto",
    precision: str = "auto",
    other: OtherImages | None = None,
) -> Pipeline:
    """Load a pipeline from a run folder, one of its checkpoints, or an exported ``.safetensors`` file.

    Args:
        source: path; the newest run, or else the bundled model, where omitted.
        weights: ``ema`` (averaged) or ``raw``; an exported file holds averaged ones only.
        device: see :func:`ssdiff.devices.pick_device`.
        precision: ``auto``, ``fp32`` or ``bf16`` for the network.
        other: second set of animorphosis, as :meth:`ssdiff.Pipeline.with_other` takes it; the one that the
            run was trained with where omitted, which is opened when an image of it is needed.

    Raises:
        CheckpointError: absent, damaged, or not of the model that its own preset describes.
        DataError: a second set that is missing, empty or damaged.
        ResourceError: the device is absent.
        UsageError: the source is no path, or an option is unknown or not for this model.
    """
    path = find_model(source).path
    stored = single_file.read(path, weights)
    place = pick_device(device)
    pipeline = assemble(stored.preset, stored.weights, place, precision)
    pipeline.class_names, pipeline.origin, pipeline.step = stored.class_names, stored.origin, stored.step
    pipeline.path = path
    pipeline.terminal_prior = None if stored.start is None else CoarseMixture.from_json(stored.start)
    if stored.details is not None:
        pipeline.spectrum = ImageSpectrum.from_json(stored.details)
        pipeline.spectrum.check(pipeline.process, stored.preset.data.channels)
    if stored.lift is not None:
        pipeline.lift = LinearLift.from_tensors(
            stored.lift, build_process(stored.preset), stored.preset.data.channels
        )
    if other is None and stored.other and pipeline.process.morphs:
        settings, seed = stored.preset.data, stored.preset.training.seed
        other = SecondSet(stored.other, settings, seed, remembered=True)
        pipeline.process = build_process(stored.preset, other=other)
        return pipeline
    return pipeline if other is None else pipeline.with_other(other)


def import_official(
    source: Mapping[str, Tensor] | str | Path,
    preset: Preset | str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    where: str | Path | None = None,
    averaged_adapters: bool = False,
    weights: str = "ema",
    data: str | Path | None = None,
    progress: Progress | None = None,
) -> Pipeline:
    """Make a pipeline of weights of others: the authors of [SSD] or [CD], guided-diffusion, diffusers.

    Files of [CD] carry tables of their process, which must be those of the preset's. No spectra of training
    images come with any, nor linear maps, so a preset's ``sampling.renoise`` becomes ``"none"``, its
    ``sampling.lift`` ``"network"`` and its ``sampling.correction`` 0.

    Args:
        source: a state dict, a file of one (``.pt`` files are read through the guard of
            :func:`ssdiff.weights.untrusted.read_weights`), or a folder of diffusers.
        preset: the settings that the weights were trained with, e.g. ``"celeba64"``; None takes those that
            the file, its name or the folder says (docs/networks.md).
        device: as in :func:`load`.
        precision: as in :func:`load`.
        where: the file of a state dict, for messages.
        averaged_adapters: of adapters that the authors' saver stored under two names with two values take
            the averaged one, not the one that their loader takes.
        weights: ``raw`` takes those that were trained instead of their average, from a file that has both.
        data: the images that the weights were trained with, for a preset whose generation begins at a prior
            fitted to them; without, such a model restores only.
        progress: told of images prepared and in all.

    Raises:
        DataError: a data set that is missing, empty or damaged.
        UsageError: a data set for a preset that needs none; or no preset, and nothing says which.
        CheckpointError: not such weights, of another architecture, or of another process; names keys, shapes
            and settings.
    """
    if isinstance(source, Mapping):
        foreign = ForeignWeights(None if where is None else Path(where), source)
    else:
        foreign = open_foreign(as_path("source", source), weights)
    state = foreign.state
    if preset is None:
        settings = foreign.preset()[0]
    else:
        settings = preset if isinstance(preset, Preset) else load_preset(preset)
    without = {
        "sampling.renoise": "none",
        "sampling.lift": "network",
        "sampling.correction": 0.0,
        "training.transitions": True,
    }
    settings = override(settings, without)
    prior = settings.sampling.terminal_prior
    if data is not None and prior is None:
        raise UsageError(f"{settings.name} fits nothing to a data set", hint="leave out --data (data=...)")
    place = pick_device(device)
    file = source if isinstance(source, str | Path) else where
    path = None if file is None else Path(file)
    converted = convert_released(state, settings, path, averaged_adapters=averaged_adapters)
    pipeline = assemble(settings, converted, place, precision)
    pipeline.origin = "official weights" if isinstance(source, Mapping) else f"official weights {source}"
    if data is not None and prior is not None:
        images = open_as(
            settings.data, data, None if progress is None else stage(progress, "preparing")
        ).images
        fitted = fit_prior(images, pipeline.process, prior.grid, prior.basis, prior.components)
        pipeline.terminal_prior = fitted
    return pipeline


def assemble(preset: Preset, weights: Mapping[str, Tensor], device: torch.device, precision: str) -> Pipeline:
    """Make a pipeline of a preset and the weights of its model.

    Args:
        preset: the settings.
        weights: of the network, by name.
        device: where it shall be.
        precision: as :func:`ssdiff.devices.pick_precision` takes it.

    Raises:
        CheckpointError: weights of another network.
        UsageError: another precision.
    """
    parameters = sum(weight.numel() for weight in weights.values())
    dtype = pick_precision(precision, device, parameters)
    if preset.model.kind in BUILTIN:
        model = outline_model(preset)
    else:  # it may hold more than its state dict says
        with torch.random.fork_rng(devices=[]):
            model = build_model(preset)
        model.to(device)
    _check_weights(model.state_dict(), weights)
    # The device's own copy, never the memory-mapped file: weights outlive the file they came from.
    moved = {
        name: value.to(device, torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in weights.items()
    }
    model.load_state_dict(moved, assign=True)
    place_model(model.requires_grad_(False).eval(), device)
    return Pipeline(build_sampling_process(preset), model, preset=preset, precision=dtype)


def _check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise the error that names what differs [docs/faults.md, row 21]."""
    official.check_names(list(expected), found)
    for name in sorted(expected):
        if expected[name].shape != found[name].shape:
            raise official.wrong_shape(name, found[name].shape, expected[name].shape)
