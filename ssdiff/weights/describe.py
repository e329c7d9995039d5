"""What a run, checkpoint or single-file model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdiff import checkpoints, runs
from ssdiff.build import build_process, outline_model
from ssdiff.config import Preset
from ssdiff.config.load import for_data_set, read_preset
from ssdiff.display import human_bytes
from ssdiff.errors import SsdiffError
from ssdiff.process.base import ResolutionLevel
from ssdiff.weights import single_file
from ssdiff.weights.initial import Origin
from ssdiff.weights.load import find_model

_VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """One checkpoint of a run: its name, size in bytes, and whether it is whole."""

    name: str
    bytes: int
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        return {"name": self.name, "bytes": self.bytes, "verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class RunState:
    """How a run stands.

    Attributes:
        status: what it wrote of itself last: state, step, time, perhaps a reason.
        killed: it calls itself running, and its process is gone.
        precision: in which it computes, ``fp32`` or ``bf16``, as its newest checkpoint says; as its settings
            say, perhaps ``auto``, where none does.
        checkpoints: all that are there, oldest first.
        init: whose weights it began with; None for random ones.
    """

    status: dict[str, Any]
    killed: bool
    precision: str
    checkpoints: tuple[StoredCheckpoint, ...]
    init: Origin | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        found = [checkpoint.to_dict() for checkpoint in self.checkpoints]
        return {
            "status": self.status,
            "killed": self.killed,
            "precision": self.precision,
            "checkpoints": found,
            "init": _told(self.init),
        }

    def lines(self, path: Path) -> list[str]:
        """Return what people are told of it."""
        reason = f": {self.status['reason']}" if self.status.get("reason") else ""
        told = [f"state {self.status.get('state', 'unknown')}, step {self.status.get('step', 0)}{reason}"]
        if self.killed:
            told.append(f"its process is gone; go on with ssdiff train --resume {path}")
        told.append(f"trains in {self.precision}")
        told += _began(self.init)
        told += [
            f"checkpoint {one.name}, {human_bytes(one.bytes)}, {one.verdict}" for one in self.checkpoints
        ]
        return told if self.checkpoints else [*told, "no checkpoint yet"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a checkpoint or single-file model says of itself.

    Attributes:
        step: training steps behind it.
        class_names: names of its labels.
        origin: where it is from, in words.
        init: whose weights its training began with; None for random ones, or where that is not known.
    """

    step: int | None
    class_names: tuple[str, ...]
    origin: str
    init: Origin | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        names = list(self.class_names)
        return {"step": self.step, "class_names": names, "origin": self.origin, "init": _told(self.init)}

    def lines(self) -> list[str]:
        """Return what people are told of it."""
        classes = [f"classes {', '.join(self.class_names)}"] if self.class_names else []
        trained = [] if self.step is None else [f"step {self.step}"]
        return [*trained, *classes, self.origin, *_began(self.init)]


@dataclass(frozen=True, slots=True)
class Description:
    """What a run or model is.

    Attributes:
        path: where it is.
        state: of a run how it stands, of a file what it says of itself.
        preset: its settings.
        parameters: of its network.
        levels: the timesteps of each resolution.
        noisy: whether its process adds noise; a cold one has severities instead of timesteps.
    """

    path: Path
    state: RunState | ModelFile
    preset: Preset
    parameters: int
    levels: tuple[ResolutionLevel, ...]
    noisy: bool

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff info --json`` prints."""
        return {
            "path": str(self.path),
            **self.state.to_dict(),
            "preset": self.preset.name,
            "summary": self.preset.summary,
            "published": self.preset.published,
            "parameters": self.parameters,
            "levels": [level.to_dict() for level in self.levels],
        }

    def __str__(self) -> str:
        state = self.state
        lines = [
            str(self.path),
            *(state.lines(self.path) if isinstance(state, RunState) else state.lines()),
            f"preset {self.preset.title}",
            f"{self.parameters / 1e6:.2f} M parameters",
            f"resolution   {'timesteps ' if self.noisy else 'severities'}    log SNR",
        ]
        for level in self.levels:
            first, last = level.log_snr
            noise = "no noise" if first is None else f"{first:6.2f} .. {last:.2f}"
            size = f"{level.size[1]} x {level.size[0]}" if level.size else str(level.resolution)
            lines.append(f"{size:>10}   {level.first:4d}..{level.last:<4d}   {noise}")
        return "\n".join(lines)


def describe_model(source: str | Path | None = None) -> Description:
    """Describe a run, checkpoint or single-file model: its settings, levels, checkpoints and state.

    Args:
        source: path; the newest run, or else the bundled model, where omitted.

    Raises:
        CheckpointError: absent or damaged; a damaged checkpoint of a run is only said to be.
        PresetError: the settings of a run cannot be read.
    """
    path = find_model(source).path
    state: RunState | ModelFile
    if runs.is_run(path):
        folder = runs.RunFolder(path)
        preset = read_preset(folder.preset, run_plugins=True)
        stored_steps = map(_checkpoint, checkpoints.list_steps(folder.checkpoints))
        precision = single_file.precision_of_run(path) or preset.training.precision
        found = tuple(one for one in stored_steps if one is not None)
        init = Origin.from_dict(folder.read_init())
        status = _up_to_date(folder.read_status() or {}, found)
        state = RunState(status, folder.was_killed(), precision, found, init)
        preset = for_data_set(preset, single_file.data_set_of_run(path))
    else:
        stored = single_file.read(path)
        init = Origin.from_dict(stored.init)
        preset, state = stored.preset, ModelFile(stored.step, stored.class_names, stored.origin, init)
    if init is not None and preset.published:
        preset = preset.model_copy(update={"published": ""})  # figures of weights that began at random
    count = sum(weight.numel() for weight in outline_model(preset).parameters())
    process = build_process(preset)
    return Description(path, state, preset, count, tuple(process.levels()), process.noisy)


def _up_to_date(status: dict[str, Any], found: Sequence[StoredCheckpoint]) -> dict[str, Any]:
    """A status whose step is no earlier than the newest checkpoint's: who is killed between the two has
    written the checkpoint alone."""
    steps = [int(one.name.removeprefix("step-")) for one in found if one.verdict == _VERIFIED]
    step = status.get("step")
    return status | {"step": max(step, *steps)} if steps and isinstance(step, int) else status


def _began(init: Origin | None) -> list[str]:
    return [] if init is None else [f"began with {init}"]


def _told(init: Origin | None) -> dict[str, Any] | None:
    return None if init is None else init.to_dict()


def _checkpoint(folder: Path) -> StoredCheckpoint | None:
    """None if a run that goes on has deleted it meanwhile."""
    try:
        checkpoints.verify(folder)
        verdict = _VERIFIED
    except SsdiffError as error:
        verdict = f"damaged: {error}"
    try:
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    except FileNotFoundError:
        return None
    return StoredCheckpoint(folder.name, size, verdict)
