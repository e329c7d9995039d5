"""Weights that others trained: whose network they are, and what they are under our names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssdiff.build import outline_model
from ssdiff.config import Preset
from ssdiff.config.load import load_preset, presets
from ssdiff.config.sections import OPTIONS
from ssdiff.errors import CheckpointError
from ssdiff.models import infer_config, official, official_cold
from ssdiff.models.adm_unet import AdmUNet
from ssdiff.models.convnext_unet import ConvNextUNet
from ssdiff.models.ddpm_unet import DdpmUNet
from ssdiff.models.diffusers_layout import convert_diffusers, recognise_diffusers
from ssdiff.models.flexi_unet import FlexiUNet
from ssdiff.models.registry import ADM_UNET, CONVNEXT_UNET, DDPM_UNET, FLEXI_UNET
from ssdiff.weights import process_tables

_CLASSES = {FLEXI_UNET: FlexiUNet, CONVNEXT_UNET: ConvNextUNet, DDPM_UNET: DdpmUNet, ADM_UNET: AdmUNet}


def convert_released(
    state: Mapping[str, Tensor], settings: Preset, path: Path | None, *, averaged_adapters: bool = False
) -> dict[str, Tensor]:
    """Return a file's weights under our names.

    Args:
        state: as the file has them, prefixes and tables of a process included.
        settings: that they were trained with.
        path: of the file, for messages.
        averaged_adapters: see :func:`ssdiff.models.official.convert_weights`.

    Raises:
        CheckpointError: of a layout that is not known, of another network or of another process; names the
            settings that differ, or the presets that fit.
    """
    if settings.model.own:
        raise CheckpointError(
            f"the weights are of one network for all sizes, {settings.name} has model.own = "
            f"{settings.model.own}",
            path=path,
            hint="import them with --set model.own=0, then `ssdiff train --init FILE --set model.own=1`",
        )
    cold, network = official_cold.read_layout(state), outline_model(settings)
    try:
        _check_kind(state, cold, network, settings)
    except CheckpointError as error:
        raise CheckpointError(str(error.args[0]), path=path, hint=error.hint) from None
    try:
        return _convert(state, cold, network, settings, averaged_adapters)
    except CheckpointError as error:
        if recognise_diffusers(state):
            message = f"the weights are not of the network that the settings describe: {error.args[0]}"
            hint = "give the weights and the config.json of one network"
            raise CheckpointError(message, path=path, hint=hint) from None
        found = infer_config.outline(state, settings.data.size) if cold is None else cold.settings
        raise _with_differences(error, path, found, settings) from None


def _check_kind(
    state: Mapping[str, Tensor], cold: official_cold.ColdFile | None, network: nn.Module, settings: Preset
) -> None:
    """Refuse weights of another network than the preset's, with the presets that they may be of."""
    if recognise_diffusers(state):
        kinds: tuple[str, ...] = (ADM_UNET,)
    elif cold is None and not official.recognise(state):
        raise official.unknown_layout(state)
    elif cold is None:
        kinds = (FLEXI_UNET, ADM_UNET) if official.is_plain(state) else (FLEXI_UNET,)
    else:
        kinds = (cold.kind,)
    what = "UNet2DModel of diffusers" if recognise_diffusers(state) else " or ".join(kinds)
    if not isinstance(network, tuple(_CLASSES[kind] for kind in kinds)):
        raise CheckpointError(
            f"the weights are of a {what}, {settings.name} has network {settings.model.kind!r}",
            hint=_other_preset(cold),
        )


def _convert(
    state: Mapping[str, Tensor],
    cold: official_cold.ColdFile | None,
    network: nn.Module,
    settings: Preset,
    averaged_adapters: bool,
) -> dict[str, Tensor]:
    """The weights under our names, if they are of the preset's network and process."""
    if recognise_diffusers(state):
        assert isinstance(network, AdmUNet), "checked before"
        return convert_diffusers(state, network)
    if cold is None:
        assert isinstance(network, FlexiUNet | AdmUNet), "checked before"
        plain, tables = official.split_tables(state)
        process_tables.check_signals(tables, settings)
        return official.convert_weights(plain, network, averaged_adapters=averaged_adapters)
    assert isinstance(network, ConvNextUNet | DdpmUNet), "checked before"
    weights = official_cold.convert_cold(cold, network)
    try:
        process_tables.check_tables(cold.buffers, settings)
    except CheckpointError as error:
        raise CheckpointError(str(error.args[0]), hint=_other_preset(cold)) from None
    return weights


def _other_preset(cold: official_cold.ColdFile | None) -> str:
    fitting = [] if cold is None else suited_presets(cold)
    return (
        f"use --preset {' or '.join(fitting)}" if fitting else "give the preset that they were trained with"
    )


def suited_presets(file: official_cold.ColdFile) -> list[str]:
    """Return the shipped presets that a file of [CD] may have been trained with, by its network and T."""
    kinds, T = process_tables.kinds_with(file.buffers), process_tables.severities_of(file.buffers)
    fitting = []
    for name in presets():
        preset = load_preset(name)
        own = preset.process.degradation
        if preset.model.kind != file.kind or own is None or differing_settings(file.settings, preset):
            continue
        if kinds is None or (own.kind in kinds and preset.process.T == T):
            fitting.append(name)
    return fitting


def _with_differences(
    error: CheckpointError,
    file: Path | None,
    found: Mapping[str, object],
    settings: Preset,
) -> CheckpointError:
    """Return the error with the settings in which the file and the preset differ [docs/faults.md, row 21]."""
    differing = differing_settings(found, settings)
    if not differing:
        return CheckpointError(str(error.args[0]), path=file, hint=error.hint)
    told = [f"{name} is {theirs} in the file, {own} in {settings.name}" for name, theirs, own in differing]
    sets = " ".join(f"--set '{name}={theirs}'" for name, theirs, _ in differing)
    message = f"{error.args[0]}; {'; '.join(told)}"
    return CheckpointError(message, path=file, hint=f"give its own preset, or {sets}")


def differing_settings(found: Mapping[str, object], settings: Preset) -> list[tuple[str, str, str]]:
    """Return the settings read off a file that are not a preset's: name, the file's value, the preset's.

    Values are as in TOML.

    Args:
        found: of the file, by their names in a preset.
        settings: the preset.
    """
    differing = []
    for name, value in found.items():
        asked = _setting(settings, name)
        rows = name == "model.classes" and isinstance(asked, int) and value == asked + 1  # 'no class' has one
        if isinstance(value, tuple) and name == "model.attention":
            value, asked = tuple(sorted(value, reverse=True)), tuple(sorted(asked, reverse=True))
        if value != asked and not rows:
            differing.append((name, _toml(value), _toml(asked)))
    return differing


def _setting(settings: Preset, name: str) -> Any:
    section, field, *option = name.split(".")
    value = getattr(getattr(settings, section), field)
    if not option:
        return value
    known = OPTIONS.get(settings.model.kind)
    usual = known().model_dump() if known else {}
    return (value.values if value else {}).get(option[0], usual.get(option[0]))


def _toml(value: object) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else str(list(value) if isinstance(value, tuple) else value)
    )
