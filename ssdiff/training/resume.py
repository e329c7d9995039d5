"""Where a training run begins: a new folder, or a verified checkpoint of an old one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssdiff import checkpoints, runs
from ssdiff.arguments import as_path
from ssdiff.config import Preset
from ssdiff.config.load import differences, for_data_set, override, parse_preset, read_preset
from ssdiff.data import check_source
from ssdiff.distributed import World
from ssdiff.errors import CheckpointError, DataError, UsageError
from ssdiff.priors.image_spectrum import ImageSpectrum
from ssdiff.weights.initial import Initial, InitialRequest, Origin, choose_initial

_MODEL_SECTIONS = ("data", "process", "model")
# Where the list of images lies may change; that the images have not is seen by their fingerprint.
_PLACES = ("data.list:", "data.part:")


@dataclass(frozen=True, slots=True)
class Request:
    """What to train, where, and from where on.

    Attributes:
        preset: the settings; None takes those of the run that is resumed.
        source: data set, folder or archive; None takes that of the run that is resumed,
            or the preset's ``data.source``.
        out: run folder; None chooses a new one in the user's data folder.
        resume: ``"auto"`` (continue the run if there is one, else start), a run or checkpoint folder, or
            None.
        device: see :func:`ssdiff.devices.pick_device`.
        accept_changed_data: resume although the data set has changed.
        allow_topology_change: resume with another number of processes.
        other: second data set, for animorphosis; None takes that of the run that is resumed, or the preset's.
        overrides: change the stored settings of a run that is resumed without ``preset``, or those of the
            model that it begins with.
        init: weights that a new run begins with; without ``preset`` its settings are that model's.
    """

    preset: Preset | None
    source: str | Path | None = None
    out: Path | None = None
    resume: str | None = None
    device: str = "auto"
    accept_changed_data: bool = False
    allow_topology_change: bool = False
    other: str | Path | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    init: InitialRequest | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A request with everything decided: settings, folder, and the checkpoint to continue from with the
    settings that it was made with."""

    request: Request
    preset: Preset
    folder: Path
    loaded: checkpoints.Loaded | None
    notes: tuple[str, ...]
    stored: Preset | None
    initial: Initial | None = None

    @property
    def origin(self) -> dict[str, Any] | None:
        """What the run began with, as a checkpoint tells it; None for random weights."""
        if self.loaded is None:
            return None if self.initial is None else self.initial.origin.to_dict()
        found = Origin.from_dict(self.loaded.meta.get("init"))
        return None if found is None else found.to_dict()

    @property
    def source(self) -> str | Path | None:
        """The data set: the one asked for, or that of the run that is resumed, or the preset's."""
        resumed = self.loaded.meta.get("source") if self.loaded else None
        return self.request.source or (str(resumed) if resumed else self.preset.data.source)

    @property
    def goes_on_in_its_folder(self) -> bool:
        """Whether the checkpoint is one of the run's own, not one that a new run begins with."""
        return self.loaded is not None and self.folder.resolve() in self.loaded.path.resolve().parents

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels that the checkpoint was trained with; none without a checkpoint."""
        names = self.loaded.meta.get("class_names") if self.loaded else None
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def is_drawn_otherwise(self, spectrum: ImageSpectrum | None) -> bool:
        """Return whether a run goes on in its folder with settings of sampling, spectra or linear maps that
        are not those of its checkpoint, which is what images are drawn by.

        Args:
            spectrum: taken of the training images, if the settings ask for it.
        """
        if self.loaded is None or self.stored is None or not self.goes_on_in_its_folder:
            return False
        lacks_lift = self.preset.sampling.lift == "linear" and "lift" not in self.loaded.tensors
        other_spectra = spectrum is not None and self.loaded.meta.get("details") != spectrum.to_json()
        return self.stored.sampling != self.preset.sampling or lacks_lift or other_spectra

    @property
    def other(self) -> str | Path | None:
        """The second data set, chosen in the same way."""
        resumed = self.loaded.meta.get("other") if self.loaded else None
        return self.request.other or (str(resumed) if resumed else self.preset.data.other)


def resolve_resume(request: Request) -> Start:
    """Find the checkpoint and settle which settings count.

    Raises:
        CheckpointError: an explicit checkpoint is absent, damaged, of other settings or of a run that began
            with other weights; the model to begin with is absent, damaged or does not fit.
        UsageError: nothing says what to train.
    """
    folder, found, notes = request.out, None, []
    if request.resume == "auto":
        folder = folder or runs.newest_run(
            request.preset.name if request.preset else None, init=request.init.key if request.init else None
        )
        if folder is not None and runs.is_run(folder):
            latest, skipped = checkpoints.latest(runs.RunFolder(folder).checkpoints)
            notes = [f"skipped {path.name}: {reason}" for path, reason in skipped]
            found = latest.path if latest else None
        if folder is None or not folder.exists():
            notes.append("nothing to resume: a new run is started")
    elif request.resume is not None:
        found, folder = _explicit(as_path("resume", request.resume), folder)
    loaded = None
    if found is not None:
        loaded = checkpoints.require_groups(checkpoints.load(found), "ema", "weights", "optimizer")
        _check_origin(request, loaded)
    request, initial = _begin(request, folder) if loaded is None else (request, None)
    preset, stored, changed = _settle(request, loaded, folder)
    if changed:
        notes.append(f"going on with other settings (then != now): {'; '.join(changed)}")
    notes += initial.lines() if initial else []
    folder = folder or runs.new_run_path(preset.name)
    start = Start(request, preset, folder, loaded, tuple(notes), stored, initial)
    return replace(start, preset=for_data_set(preset, start.source))


def _begin(request: Request, folder: Path | None) -> tuple[Request, Initial | None]:
    """The request with its settings, and the weights of another model that a new run begins with.

    A run that was killed before it saved anything begins with what it was to begin with.
    """
    asked = request.init
    if asked is None and request.resume == "auto" and request.preset is not None and folder is not None:
        origin = Origin.from_dict(runs.RunFolder(folder).read_init())
        if origin is not None:
            asked = InitialRequest(origin.model, origin.taken < origin.tensors, origin.weights)
    if asked is None:
        return request, None
    preset, initial = choose_initial(asked, request.preset, request.overrides, request.source)
    return replace(request, preset=preset), initial


def _check_origin(request: Request, loaded: checkpoints.Loaded) -> None:
    """Refuse a run that began otherwise than it is said to [docs/faults.md, row 70]."""
    if request.init is None:
        return
    origin = Origin.from_dict(loaded.meta.get("init"))
    if origin is None or origin.model != request.init.key:
        began = "random weights" if origin is None else origin.model
        raise CheckpointError(
            f"the run of {loaded.path} began with {began}, not with {request.init.model}",
            path=loaded.path,
            hint="leave --init out to go on with it, or start a new run with --out",
        )


def _explicit(path: Path, out: Path | None) -> tuple[Path, Path]:
    """Checkpoint and run folder of an explicit ``--resume PATH``; never falls back to anything else."""
    if path.is_file():
        raise CheckpointError(
            f"cannot resume from {path}: a single file has no optimizer's state",
            path=path,
            hint="give a run folder or one of its checkpoints",
        )
    if not path.is_dir():
        raise CheckpointError(f"no run or checkpoint folder at {path}", path=path, hint="nothing was started")
    if not runs.is_run(path):
        return path, out or path.absolute().parent.parent
    steps = checkpoints.list_steps(runs.RunFolder(path).checkpoints)
    if not steps:
        raise CheckpointError(f"{path} has no checkpoint to resume from", path=path)
    return steps[-1], out or path


def _settle(
    request: Request, loaded: checkpoints.Loaded | None, folder: Path | None
) -> tuple[Preset, Preset | None, list[str]]:
    """The settings that count, those of the checkpoint, and which of training and sampling differ.

    Those of a run are in its preset.toml, which people edit; the checkpoint knows what has been trained.
    """
    if loaded is None:
        if request.preset is None:
            raise UsageError(
                "nothing says what to train", hint="give --preset NAME, --init MODEL, or --resume with a run"
            )
        return request.preset, None, []
    text = str(loaded.meta.get("preset", ""))
    stored = parse_preset(text, "the checkpoint's preset", run_plugins=True)
    own = stored
    inside = folder is not None and folder.resolve() in loaded.path.resolve().parents
    if request.preset is None and folder is not None and inside and runs.is_run(folder):
        own = read_preset(runs.RunFolder(folder).preset, run_plugins=True)
    wanted = request.preset or (override(own, request.overrides) if request.overrides else own)
    differing = [
        line for line in differences(stored, wanted, _MODEL_SECTIONS) if not line.startswith(_PLACES)
    ]
    since = loaded.meta.get("own_since")
    if since is not None and stored.training.own_after != wanted.training.own_after:
        then, now = stored.training.own_after, wanted.training.own_after
        differing.append(f"training.own_after: {then} != {now}, and it branched at step {since}")
    if stored.training.seed != wanted.training.seed:
        differing.append(f"training.seed: {stored.training.seed} != {wanted.training.seed}")
    if differing:
        raise CheckpointError(
            f"the checkpoint was trained with other settings: {'; '.join(differing[:5])}",
            hint="leave --preset and --set out to go on with the run's own, or start a new run with --out",
        )
    return wanted, stored, differences(stored, wanted, ("training", "sampling"))


def refuse_other(preset: Preset, other: str | Path | None) -> None:
    """Refuse a second set that was named for a preset that mixes none in [docs/faults.md, row 52].

    Raises:
        UsageError: then.
    """
    if other is not None:
        message = f"other (--with) is for animorphosis, {preset.name} mixes no second set in"
        raise UsageError(message, hint="leave it out")


def check_other(start: Start, morphs: bool) -> None:
    """Refuse a second set that is missing or empty, or not asked for, before anything is made for it.

    Args:
        start: of the run.
        morphs: whether the process turns images into those of a second set.

    Raises:
        UsageError: there is none, or the process has no use for one that was named.
        DataError: it cannot be found.
    """
    if not morphs:
        refuse_other(start.preset, start.request.other)
        return
    if start.other is None:
        message = f"the preset {start.preset.name!r} names no data set for --with"
        raise UsageError(message, hint="give --with FOLDER or NAME")
    try:
        check_source(start.other)
    except DataError as error:
        hint = error.hint or "give --with FOLDER or NAME"
        raise DataError(f"second set: {error.args[0]}", path=error.path, hint=hint) from None


def check_other_unchanged(start: Start, fingerprint: str) -> None:
    """Check that the second set is the checkpoint's [docs/faults.md, row 13].

    Raises:
        CheckpointError: it is not, and the request does not accept that.
    """
    then = None if start.loaded is None else start.loaded.meta.get("other_data")
    if then not in (None, fingerprint) and not start.request.accept_changed_data:
        raise CheckpointError(
            f"the second set has changed: fingerprint {str(then)[:12]} at the checkpoint, "
            f"{fingerprint[:12]} now",
            hint="restore it, or resume all the same with --accept-changed-data",
        )


def check_same_weights(initial: Initial, world: World) -> None:
    """Check that all processes begin with the same weights.

    Raises:
        CheckpointError: the model changed while they read it, as a run that is still trained does.
    """
    if world.broadcast(initial.origin.sha256) != initial.origin.sha256:
        raise CheckpointError(
            f"{initial.origin.model} changed while it was read",
            path=initial.origin.model,
            hint="name one of its checkpoints, or export it before",
        )


def check_unchanged(start: Start, fingerprint: str, processes: int) -> None:
    """Check that data set and number of processes are the checkpoint's [docs/faults.md, rows 13 and 24].

    Raises:
        CheckpointError: they are not, and the request does not accept that.
    """
    if start.loaded is None:
        return
    then = str(start.loaded.meta.get("data"))
    if then != fingerprint and not start.request.accept_changed_data:
        raise CheckpointError(
            f"the data set has changed: fingerprint {then[:12]} at the checkpoint, {fingerprint[:12]} now",
            hint="restore it, or resume all the same with --accept-changed-data",
        )
    world = start.loaded.meta.get("world")
    if world != processes and not start.request.allow_topology_change:
        raise CheckpointError(
            f"the checkpoint was made by {world} processes, there are {processes} now",
            hint="resume all the same with --allow-topology-change",
        )
