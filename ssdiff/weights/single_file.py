"""Where trained models are kept: weights out of run folders and checkpoints, and single-file models.

A single-file model is a safetensors file whose metadata holds the preset (TOML), so that it needs nothing
beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssdiff import checkpoints
from ssdiff.config import Preset
from ssdiff.config.load import for_data_set, parse_preset
from ssdiff.errors import CheckpointError, PresetError, SkippedCheckpoint, UsageError, printable
from ssdiff.files import write_atomic
from ssdiff.runs import RunFolder, is_run
from ssdiff.weights.untrusted import read_weights

FORMAT = 1
_FILES = {"ema": "ema", "raw": "weights"}
_LIFT = "lift"  # group of a checkpoint, and what the names of its tensors begin with in a file


@dataclass(frozen=True, slots=True)
class Stored:
    """Weights with what is needed to use them.

    Attributes:
        start: where generation begins, as :meth:`ssdiff.priors.coarse_mixture.CoarseMixture.to_json` gives
            it.
        details: spectra, as :meth:`ssdiff.priors.image_spectrum.ImageSpectrum.to_json` gives them.
        other: the second set that it was trained with, of animorphosis; a single file knows that of its
            preset alone.
        init: what its training began with, as :meth:`ssdiff.weights.initial.Origin.to_dict` tells it.
        lift: linear maps, as :meth:`ssdiff.priors.linear_lift.LinearLift.to_tensors` gives them.
        own_since: step at which the sizes of ``model.own`` got weights of their own; None as long as all is
            shared, or where nothing branches.
    """

    preset: Preset
    weights: dict[str, Tensor]
    class_names: tuple[str, ...]
    origin: str
    step: int | None
    start: object = None
    details: object = None
    other: str | None = None
    init: object = None
    own_since: int | None = None
    lift: dict[str, Tensor] | None = None


BUNDLED = ("shapes32", "photos64")
"""The models that ship with the package: drawn shapes, and the prior of photographs."""


def bundled(name: str = "shapes32") -> Path:
    """Return the path of a small model that ships with the package.

    Args:
        name: one of :data:`BUNDLED`, that of the preset that it was trained with.
    """
    return Path(str(resources.files("ssdiff") / "assets" / f"{name}.safetensors"))


def read(path: Path, weights: str = "ema") -> Stored:
    """Read weights from a run folder (its newest verified checkpoint), a checkpoint folder or a single-file
    model.

    Args:
        path: what to read.
        weights: ``ema`` or ``raw``; a single-file model holds only the former.

    Raises:
        CheckpointError: absent, damaged or of another kind; says what a file is that holds no weights.
        UsageError: ``weights`` is neither.
    """
    if weights not in _FILES:
        raise UsageError(f"unknown weights {weights!r}", hint=f"choose one of {', '.join(_FILES)}")
    if not path.exists():
        raise CheckpointError(
            f"no run or checkpoint at {path}", path=path, hint="check the path to the model"
        )
    if path.is_file():
        if weights == "raw":
            raise CheckpointError(f"{path} holds averaged weights only", path=path, hint="use --weights ema")
        return _read_file(path)
    folder = newest_checkpoint(path) if is_run(path) else path
    groups = [_FILES[weights], *([_LIFT] if (folder / f"{_LIFT}.safetensors").exists() else [])]
    loaded = checkpoints.load(folder, groups)
    preset = _preset(str(loaded.meta.get("preset", "")), folder, run_plugins=True)
    preset = for_data_set(preset, data_set(folder))
    names = loaded.meta.get("class_names")
    class_names = tuple(str(name) for name in names) if isinstance(names, list) else ()
    origin = f"{path}, step {loaded.step}"
    start, details = loaded.meta.get("start"), loaded.meta.get("details")
    other = str(loaded.meta.get("other") or "") or preset.data.other
    tensors = loaded.tensors[_FILES[weights]]
    init, own = loaded.meta.get("init"), whole_number(loaded.meta.get("own_since"))
    lift = loaded.tensors.get(_LIFT)
    return Stored(preset, tensors, class_names, origin, loaded.step, start, details, other, init, own, lift)


def data_set(checkpoint: Path) -> str | None:
    """Return what a model was trained on, as a checkpoint says; None if it does not."""
    source = checkpoints.read_meta(checkpoint).get("source")
    return str(source) if source else None


def data_set_of_run(run: Path) -> str | None:
    """Return what a run was trained on, as its newest checkpoint says; None if none does."""
    steps = checkpoints.list_steps(RunFolder(run).checkpoints)
    return data_set(steps[-1]) if steps else None


def precision_of_run(run: Path) -> str | None:
    """Return in which precision a run computes, as its newest checkpoint says; None if none does."""
    steps = checkpoints.list_steps(RunFolder(run).checkpoints)
    said = checkpoints.read_meta(steps[-1]).get("precision") if steps else None
    return str(said) if said else None


def newest_checkpoint(run: Path) -> Path:
    """Find the newest verified checkpoint of a run; warn of newer ones that are damaged.

    Raises:
        CheckpointError: if there is none; says what is wrong with those that are there.
    """
    found, skipped = checkpoints.latest(RunFolder(run).checkpoints)
    if found is None:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in skipped) or "none was saved"
        raise CheckpointError(f"no usable checkpoint in {run} ({reasons})", path=run)
    for path, reason in skipped:
        warnings.warn(
            f"skipped {path.name}, took {found.path.name}: {reason}", SkippedCheckpoint, stacklevel=2
        )
    return found.path


def export(
    path: Path,
    preset: Preset,
    weights: Mapping[str, Tensor],
    *,
    class_names: tuple[str, ...] = (),
    step: int | None = None,
    start: object = None,
    details: object = None,
    init: object = None,
    own_since: int | None = None,
    lift: Mapping[str, Tensor] | None = None,
    note: str = "",
    half: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a single-file model.

    Args:
        path: ends in ``.safetensors``.
        preset: the model's settings.
        weights: its averaged weights.
        class_names: names of its labels.
        step: training steps behind it.
        start: as in :class:`Stored`.
        details: likewise.
        init: likewise.
        own_since: likewise.
        lift: likewise.
        note: how it was made, e.g. the command.
        half: store 16-bit numbers, which halve the file; computing stays in float32.
        overwrite: replace a file that exists.
    """
    metadata = {
        "ssdiff": str(FORMAT),
        "preset": preset.model_copy(update={"plugins": ()}).to_toml(),  # nobody else has these files
        "class_names": json.dumps(list(class_names)),
        "step": "" if step is None else str(step),
        "start": json.dumps(start),
        "details": json.dumps(details),
        "note": printable(note),
    }
    if init is not None:
        metadata["init"] = json.dumps(init)
    if own_since is not None:
        metadata["own_since"] = str(own_since)
    dtype = torch.float16 if half else torch.float32
    tensors = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in weights.items()
    }
    for name, value in (lift or {}).items():
        tensors[f"{_LIFT}/{name}"] = value.detach().to("cpu", torch.float32).contiguous()
    metadata["sha256"] = _digest(metadata, tensors)
    write_atomic(path, save(tensors, metadata), overwrite=overwrite)


def digest_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors with their names, types and shapes, whatever file they are in."""
    return _digest({}, weights)


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all that a file says, but for this."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_file(path: Path) -> Stored:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        read_weights(path)  # raises for what holds no weights at all, and says what it is instead
        raise CheckpointError(
            f"{path} is not a model file: {error}",
            path=path,
            hint="authors' .pt files are read by `ssdiff import`",
        ) from None
    found = metadata.get("ssdiff")
    if found is None:
        raise CheckpointError(
            f"{path} holds weights without a preset",
            path=path,
            hint="convert it with `ssdiff import --preset NAME`",
        )
    if found != str(FORMAT):
        raise CheckpointError(f"{path} has format {found}, this version reads {FORMAT}", path=path)
    stated = metadata.pop("sha256", None)  # files of former versions have none
    if stated is not None and stated != (real := _digest(metadata, weights)):
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {real[:16]}..., it should be {stated[:16]}...",
            path=path,
            hint="export or download it again",
        )
    try:
        names = tuple(str(name) for name in json.loads(metadata.get("class_names", "[]")))
        start, details, init = (
            json.loads(metadata.get(name, "null")) for name in ("start", "details", "init")
        )
    except (ValueError, TypeError, RecursionError):
        raise CheckpointError(
            f"{path} has damaged class names, terminal prior or spectra", path=path
        ) from None
    step, own = (_count(metadata.get(name, "")) for name in ("step", "own_since"))
    origin = f"{path}{': ' + metadata['note'] if metadata.get('note') else ''}"
    preset = _preset(metadata.get("preset", ""), path)
    named = [name for name in weights if name.startswith(f"{_LIFT}/")]
    lift = {name.removeprefix(f"{_LIFT}/"): weights.pop(name) for name in named}
    return Stored(
        preset,
        weights,
        names,
        origin,
        step,
        start,
        details,
        preset.data.other,
        init,
        own,
        lift or None,
    )


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def whole_number(value: object) -> int | None:
    """Return what a checkpoint's note says as a whole number; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _preset(text: str, path: Path, *, run_plugins: bool = False) -> Preset:
    try:
        return parse_preset(text, f"the preset in {path}", run_plugins=run_plugins)
    except PresetError as error:
        raise CheckpointError(str(error), path=path) from None
