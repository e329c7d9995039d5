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
        own_since: step at which the sizes of ``model.own`` got weights of their own; None as long as all is
            shared, or where nothing branches.
    """

    path: Path
    state: RunState | ModelFile
    preset: Preset
    parameters: int
    levels: tuple[ResolutionLevel, ...]
    noisy: bool
    own_since: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff info --json`` prints."""
        return {
            "path": str(self.path),
            **self.state.to_dict(),
            "preset": self.preset.name,
            "summary": self.preset.summary,
            "published": self.preset.published,
            "parameters": self.parameters,
            "own": list(self.preset.model_resolutions[: self.preset.model.own]),
            "own_since": self.own_since,
            "levels": [level.to_dict() for level in self.levels],
        }

    def __str__(self) -> str:
        state = self.state
        lines = [
            str(self.path),
            *(state.lines(self.path) if isinstance(state, RunState) else state.lines()),
            f"preset {self.preset.title}",
            f"{self.parameters / 1e6:.2f} M parameters",
            *tell_own(self.preset, self.own_since),
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
    own = None
    if runs.is_run(path):
        folder = runs.RunFolder(path)
        preset = read_preset(folder.preset, run_plugins=True)
        stored_steps = map(_checkpoint, checkpoints.list_steps(folder.checkpoints))
        precision = single_file.precision_of_run(path) or preset.training.precision
        found = tuple(one for one in stored_steps if one is not None)
        init = Origin.from_dict(folder.read_init())
        own = _own_since(folder, found)
        status = _up_to_date(folder.read_status() or {}, found)
        state = RunState(status, folder.was_killed(), precision, found, init)
        preset = for_data_set(preset, single_file.data_set_of_run(path))
    else:
        stored = single_file.read(path)
        init = Origin.from_dict(stored.init)
        preset, own = stored.preset, stored.own_since
        state = ModelFile(stored.step, stored.class_names, stored.origin, init)
    if init is not None and preset.published:
        preset = preset.model_copy(update={"published": ""})  # figures of weights that began at random
    count = sum(weight.numel() for weight in outline_model(preset).parameters())
    process = build_process(preset)
    return Description(path, state, preset, count, tuple(process.levels()), process.noisy, own)


def tell_own(preset: Preset, since: int | None) -> list[str]:
    """Return what people are told of sizes with weights of their own; nothing where there are none.

    Args:
        preset: says which.
        since: step at which they got them; None as long as all is shared.
    """
    sizes = preset.model_resolutions[: preset.model.own]
    if not sizes:
        return []
    named = " and ".join(filter(None, (", ".join(map(str, sizes[:-1])), str(sizes[-1]))))
    verb, whose = ("has", "its") if len(sizes) == 1 else ("have", "their")
    when = "from the start" if since == 0 else f"since step {since}"
    if since is None:
        when = "not yet; all sizes share them"
    return [f"{named} px {verb} weights of {whose} own {when}"]


def _own_since(folder: runs.RunFolder, found: Sequence[StoredCheckpoint]) -> int | None:
    """What the newest checkpoint says of it."""
    newest = (folder.checkpoints / one.name for one in reversed(found) if one.verdict == _VERIFIED)
    return next(
        (single_file.whole_number(checkpoints.read_meta(path).get("own_since")) for path in newest), None
    )


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
