"""Presets of former versions: keys by their former names, and settings whose absence meant something else.

A preset that a user wrote gets one warning for each former key; one that ssdiff wrote into a run or a model
gets none, because nobody could change it there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ssdiff.errors import PresetError, RenamedSetting

RENAMED: Mapping[tuple[str, ...], str] = {
    ("process", "match"): "snr_preserving",
    ("process", "resolution", "changes"): "transitions",
    ("model", "checkpointing"): "activation_checkpointing",
    ("training", "accumulate"): "grad_accum_steps",
    ("training", "change_share"): "transition_share",
    ("training", "clip"): "grad_clip_norm",
    ("training", "decay"): "lr_schedule",
    ("training", "decay_share"): "lr_decay_share",
    ("training", "keep"): "max_checkpoints",
    ("training", "min_snr"): "min_snr_gamma",
    ("sampling", "clip"): "clip_denoised",
    ("sampling", "details"): "renoise",
    ("sampling", "start"): "terminal_prior",
}
"""Former key to its name of today, in the same table."""

_VALUES: Mapping[tuple[str, ...], Mapping[object, object]] = {("sampling", "renoise"): {"predicted": "none"}}
_KERNEL_OPTIONS = ("std", "first", "growth", "padding", "to_mean")
_told: set[tuple[str, ...]] = set()


def today(values: Mapping[str, Any], *, warn: bool = True, where: str | None = None) -> dict[str, Any]:
    """Return nested settings with every former key and value under its name of today.

    Args:
        values: tables of a preset, from one file or one set of overrides.
        warn: issue a :class:`ssdiff.errors.RenamedSetting` for each former key, once a process.
        where: the file, for the warning.

    Raises:
        PresetError: a former key stands beside its new name.
    """
    renamed: list[tuple[tuple[str, ...], str]] = []
    result = _today(values, (), renamed)
    for place, new in renamed if warn else ():
        if place not in _told:
            _told.add(place)
            file = f"{where}: " if where else ""
            warnings.warn(f"{file}{'.'.join(place)} is now called {new}", RenamedSetting, stacklevel=3)
    return result


def _today(
    values: Mapping[str, Any], path: tuple[str, ...], renamed: list[tuple[tuple[str, ...], str]]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        place = (*path, key)
        name = RENAMED.get(place, key)
        if name != key:
            old, new = ".".join(place), ".".join((*path, name))
            if name in values:
                raise PresetError(f"{old} and {new} are one setting, given twice", hint=f"leave {old} out")
            renamed.append((place, new))
        if isinstance(value, Mapping):
            value = _today(value, (*path, name), renamed)
        elif isinstance(value, str):
            value = _VALUES.get((*path, name), {}).get(value, value)
        result[name] = value
    return result


def stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a preset that ssdiff stored, with the meaning that they had then.

    Settings whose default or meaning has changed since are written out. A preset that a user wrote is not
    meant: it has today's meaning.

    Args:
        values: tables under the names of today.
    """
    process = values.get("process")
    if not isinstance(process, Mapping):
        return dict(values)
    changed: dict[str, Any] = {}
    degradation = _table(process, "degradation")
    match process.get("kind"):
        case "heat" if process.get("heat") is None:
            changed["heat"] = {"noise": 0.01, "sampling_noise": 0.0125}
        case "blur-noise":
            changed["blur_noise"] = _former_blur_noise(process.get("blur_noise") or {})
        case "cold" if degradation.get("kind") == "blur-noise":
            changed["degradation"] = _former_blur_noise(degradation)
        case "cold" if degradation.get("kind") == "blur" and not _has_kernels(degradation):
            # Their options had no effect without them, and are refused today.
            changed["degradation"] = {k: v for k, v in degradation.items() if k not in _KERNEL_OPTIONS}
        case "cold" if degradation.get("kind") == "snow" and "motion" not in degradation:
            changed["degradation"] = {"motion": "slanted", "whiten": True, **degradation}
    kept = dict(process)
    if process.get("kind") in ("cold", "heat") and "start_noise" not in _table(values, "sampling"):
        # ssdiff 0.1 and 0.2, which did not store sampling.start_noise, read this table and did not use it.
        kept.pop("noise", None)
    return {**values, "process": {**kept, **changed}}


def _has_kernels(blur: Mapping[str, Any]) -> bool:
    return "kernel" in blur or "last" in blur or blur.get("std") == "individual"


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _former_blur_noise(table: Any) -> Any:
    """Without the range that every table has today, the rates are those of ssdiff 0.1 and 0.2."""
    if not isinstance(table, Mapping) or "unit_range" in table:
        return table
    return {**table, "unit_range": False, "former_rates": True}
