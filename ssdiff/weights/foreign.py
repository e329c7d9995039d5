"""Weights that others trained, and the settings that they were trained with: by the name of the file, by what
the weights show, by the files beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssdiff.config import Preset
from ssdiff.config.load import load_preset, make_preset, presets
from ssdiff.errors import CheckpointError, UsageError
from ssdiff.models import infer_config, official, official_cold
from ssdiff.models.diffusers_layout import recognise_diffusers
from ssdiff.models.registry import ADM_UNET
from ssdiff.weights.diffusers_folder import CONFIG, DiffusersFolder, folder_settings, read_folder
from ssdiff.weights.released import differing_settings, suited_presets
from ssdiff.weights.untrusted import read_weights

_COARSEST = 8  # pixels a side of the last level of guided-diffusion's networks
_HEAD_CHANNELS, _HEADS = (
    64,
    4,
)  # of attention, in most of its released files and in those without resblock_updown
_SQUARE = re.compile(r"(?<!\d)(\d{2,4})x\1(?!\d)")
SETS = ("celeba", "imagenet")
"""Data sets in the names of files of [SSD]."""
_IN_NAMES = {
    "set": f"({'|'.join(SETS)})",
    "size": r"(?<!\d)(\d{2,4})(?:res|px)(?![a-z])",
    "levels": r"(?<!\d)(\d{1,2})[-_ ]?(?:levels?|l)(?![a-z])",
}


@dataclass(frozen=True, slots=True)
class ForeignWeights:
    """Weights that others trained, as their file or folder has them.

    Attributes:
        path: of the file or folder; None of a state dict.
        state: by their names.
        folder: of diffusers, which says their settings.
    """

    path: Path | None
    state: Mapping[str, Tensor]
    folder: DiffusersFolder | None = None

    def preset(self, overrides: Mapping[str, object] | None = None) -> tuple[Preset, list[str]]:
        """Return the settings that the weights were trained with, and notes of what nothing says.

        Args:
            overrides: settings that differ, by their dotted names.

        Raises:
            UsageError: they do not show, neither in the weights nor in the name of the file.
            CheckpointError: weights of a layout, or settings of a network, that is not known.
            PresetError: settings that make no network.
        """
        if self.folder is not None:
            return _diffusers_preset(self.folder, overrides)
        if recognise_diffusers(self.state):
            raise CheckpointError(
                f"{self.path or 'these'} are weights of diffusers, and no {CONFIG} is beside them",
                path=self.path,
                hint="import the folder that save_pretrained wrote, or put its config.json beside the file",
            )
        cold = official_cold.read_layout(self.state)
        if cold is None and not official.recognise(self.state):
            raise official.unknown_layout(self.state)
        named = None if self.path is None or cold is not None else preset_named(self.path)
        if named is None and cold is None and official.is_plain(self.state):
            return _guided_preset(self.path, self.state, overrides)
        fitting = [] if cold is None else suited_presets(cold)
        if named is None and len(fitting) != 1:
            raise _unsaid(self.path, fitting)
        return load_preset(named or fitting[0], overrides), []


def open_foreign(path: Path, weights: str = "ema") -> ForeignWeights:
    """Read weights that others trained.

    Args:
        path: a file of weights, or a folder of diffusers; a file that lies beside a ``config.json`` of
            diffusers is of that folder.
        weights: as :func:`ssdiff.weights.untrusted.read_weights` takes it.

    Raises:
        CheckpointError: as that function, or as :func:`ssdiff.weights.diffusers_folder.read_folder`.
    """
    if path.is_dir():
        folder = read_folder(path)
        return ForeignWeights(path, folder.weights(weights), folder)
    state = read_weights(path, weights)
    beside = recognise_diffusers(state) and (path.parent / CONFIG).is_file()
    return ForeignWeights(path, state, read_folder(path.parent) if beside else None)


def said_by_name(path: Path) -> dict[str, int | str]:
    """Return what the name of a file says, ``set``, ``size`` and ``levels``, as the authors of [SSD] name
    theirs."""
    found = {key: re.search(pattern, path.name.lower()) for key, pattern in _IN_NAMES.items()}
    return {key: int(match[1]) if match[1].isdecimal() else match[1] for key, match in found.items() if match}


def preset_named(path: Path) -> str | None:
    """Return the shipped preset that a file's name says, as the authors of [SSD] name theirs."""
    said, shipped = said_by_name(path), presets()
    whole = f"{said.get('set')}{said.get('size')}"
    for name in (whole, f"{whole}-{said.get('levels')}l"):
        if name in shipped and load_preset(name).process.levels == said.get("levels"):
            return name
    return None


def _unsaid(path: Path | None, fitting: Sequence[str]) -> UsageError:
    told = f"it may be of {' or '.join(fitting)}" if fitting else "`ssdiff presets list` names them"
    return UsageError(
        f"{'the weights do' if path is None else path.name + ' does'} not say with which settings they were "
        "trained",
        hint=f"give --preset; {told}",
    )


def _diffusers_preset(
    folder: DiffusersFolder, overrides: Mapping[str, object] | None
) -> tuple[Preset, list[str]]:
    values, notes = folder_settings(folder, _size_in(overrides))
    return make_preset(values, overrides, f"the settings in {folder.path}"), notes


def _guided_preset(
    path: Path | None, state: Mapping[str, Tensor], overrides: Mapping[str, object] | None
) -> tuple[Preset, list[str]]:
    """The settings of a file in guided-diffusion's layout, and notes of what its weights do not show.

    Those of a shipped preset, if one of an ADM U-Net has all that the weights show; otherwise made of that,
    with defaults: the size from the name (``256x256``), else 8 px at the last level; heads of 64 channels
    where residual blocks change the size, else 4 heads; queries, keys and values by heads; linear noise,
    T = 1000, noise predicted.

    Weights that fit a preset of another network of this layout may be of that, and are refused.
    """
    wanted = _size_in(overrides) or _size_named(path)
    fitting = [
        preset
        for preset in map(load_preset, presets())
        if wanted in (None, preset.data.size) and _fits(state, preset)
    ]
    exact = [preset for preset in fitting if preset.model.kind == ADM_UNET]
    if len(exact) == 1:
        return load_preset(exact[0].name, overrides), []
    if others := [preset.name for preset in fitting if preset.model.kind != ADM_UNET]:
        raise _unsaid(path, others)
    return _made(path, state, wanted, overrides)


def _made(
    path: Path | None, state: Mapping[str, Tensor], wanted: int | None, overrides: Mapping[str, object] | None
) -> tuple[Preset, list[str]]:
    official.refuse_relatives(state)
    depth = len(_tuple(infer_config.outline(state).get("model.multipliers")))
    if not depth:
        raise official.unknown_layout(state)
    size = wanted or _COARSEST << max(depth - 1, 0)
    found = infer_config.outline(state, size)
    width = found["model.width"]
    assert isinstance(width, int), "a number of channels"
    widths = [width * n for n in _tuple(found["model.multipliers"])]
    sides = [size >> k for k in range(depth)]
    attending = [n for n, side in zip(widths, sides, strict=True) if side in _tuple(found["model.attention"])]
    attending.append(widths[-1])
    by_channels = bool(found["model.resblock_updown"]) and not any(n % _HEAD_CHANNELS for n in attending)
    heads = 1 if any(n % _HEADS for n in attending) else _HEADS
    attention = {"head_channels": _HEAD_CHANNELS} if by_channels else {"heads": heads}
    name = "adm" if path is None else re.sub(r"[^\w .+-]", "-", path.stem)[:80].strip(" .-")
    values: dict[str, Any] = {
        "name": name if re.match(r"\w", name) else f"adm-{name}".strip(" .-"),
        "summary": f"guided-diffusion's U-Net, {size} px",
        "data": {"size": size},
        "process": {"kind": "ddpm", "levels": 1, "predict": "eps"},
        "model": {"kind": ADM_UNET, **attention},
    }
    for field, value in found.items():
        section, _, rest = field.partition(".")
        if rest.startswith("options."):
            values[section]["options"] = {rest.removeprefix("options."): value}
        elif field == "model.classes":
            values[section][rest] = value
        else:
            values[section][rest] = list(value) if isinstance(value, tuple) else value
    settings = make_preset(values, overrides, "the settings that the weights show")
    note = f"weights do not show the size of images: taken are {size} px; --set data.size changes it"
    return settings, [] if wanted else [note]


def _fits(state: Mapping[str, Tensor], preset: Preset) -> bool:
    """Whether a preset has all that the weights of a plain UNet show."""
    plain = preset.model.kind == ADM_UNET or preset.model.full_decoder
    return plain and not differing_settings(infer_config.outline(state, preset.data.size), preset)


def _size_in(overrides: Mapping[str, object] | None) -> int | None:
    given = (overrides or {}).get("data.size")
    return given if type(given) is int and given > 0 else None


def _size_named(path: Path | None) -> int | None:
    if path is None:
        return None
    square, said = _SQUARE.search(path.name), said_by_name(path).get("size")
    return int(square[1]) if square else said if isinstance(said, int) else None


def _tuple(value: object) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else ()
