"""A whole training run: folder, data, steps, checkpoints, sample grids, and how it ends."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from ssdiff import checkpoints, images, rng, runs
from ssdiff.arguments import as_path, require_callable, require_type
from ssdiff.build import (
    build_full_size,
    build_model,
    build_process,
    build_sampling_process,
    place_model,
)
from ssdiff.config import Preset
from ssdiff.config.load import load_preset, override
from ssdiff.data import ImageSet, PictureSet, require_packages
from ssdiff.data.lists import read_list
from ssdiff.devices import PRECISIONS, pick_device, precision_name
from ssdiff.distributed import World, join_world
from ssdiff.errors import CheckpointError, Interrupted, memory_for
from ssdiff.failures import explain
from ssdiff.models.convolution import ARITHMETIC, Conv2d
from ssdiff.pipeline import Pipeline
from ssdiff.priors.coarse_mixture import CoarseMixture
from ssdiff.priors.image_spectrum import ImageSpectrum
from ssdiff.priors.linear_lift import LinearLift
from ssdiff.process.base import Process
from ssdiff.progress import Progress
from ssdiff.second_set import choose_from
from ssdiff.training.batches import Batches
from ssdiff.training.compile import require_compiler
from ssdiff.training.dataset import (
    check_labels,
    fit_details,
    fit_linear_lift,
    fit_start,
    portable_source,
    prepare_on_rank0,
    untrained_classes,
)
from ssdiff.training.feasible import check_feasible
from ssdiff.training.patches import Patches
from ssdiff.training.precision import Decision, choose_by_probe, settle_precision
from ssdiff.training.preview import preview
from ssdiff.training.resume import (
    Request,
    Start,
    check_other,
    check_other_unchanged,
    check_same_weights,
    check_unchanged,
    resolve_resume,
)
from ssdiff.training.trainer import MEMORY_HINT, Trainer
from ssdiff.weights import single_file
from ssdiff.weights.describe import tell_own
from ssdiff.weights.initial import InitialRequest, check_request
from ssdiff.weights.load import load

EventKind = Literal["start", "step", "log", "checkpoint", "samples", "note"]
_AHEAD = 2  # micro-batches that are read while a step runs
_log = logging.getLogger("ssdiff")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a watcher of a run may want to show."""

    kind: EventKind
    step: int
    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended; a notebook shows its last picture.

    Attributes:
        folder: of the run: settings, checkpoints, metrics, pictures.
        step: the last one.
        seconds: since the data were opened.
        grid: the last picture of samples; None on all processes but the first.
        generates: whether the model samples images, or only restores given ones.
    """

    folder: Path
    step: int
    seconds: float
    grid: Path | None
    generates: bool

    def pipeline(self, *, weights: str = "ema", device: str = "auto", precision: str = "auto") -> Pipeline:
        """Return the trained model, loaded as :func:`ssdiff.load` does."""
        return load(self.folder, weights=weights, device=device, precision=precision)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff train --json`` prints."""
        return {
            "run": str(self.folder),
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "grid": str(self.grid),
        }

    def _repr_png_(self) -> bytes | None:
        return self.grid.read_bytes() if self.grid is not None and self.grid.is_file() else None


def train(
    preset: Preset | str | Path | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    resume: str | Path | None = None,
    device: str = "auto",
    on_event: Callable[[Event], None] | None = None,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
    other: str | Path | None = None,
    accept_changed_data: bool = False,
    allow_topology_change: bool = False,
    plugins: str | Path | Sequence[str | Path] = (),
    init: str | Path | None = None,
    init_partial: bool = False,
    init_weights: str = "ema",
) -> TrainResult:
    """Train a model to its last step, saving on the way; under torchrun, as one of its processes.

    Args:
        preset: name, TOML file or settings; None takes those of the run that is resumed, or of the model that
            the run begins with.
        data: folder, zip file or name of a data set; None takes that of the run that is resumed, or else the
            preset's.
        out: run folder; None chooses a new one in the user's data folder.
        overrides: settings that differ, by their dotted names: ``{"training.steps": 20}``.
        resume: a run or checkpoint folder to go on from; ``"auto"`` goes on with the run in ``out``, or with
            the newest, and starts one if there is none.
        device: see :func:`ssdiff.devices.pick_device`.
        on_event: told of every step, log line, checkpoint and picture (process 0 only).
        stop: asked after every step; True saves and ends the run.
        progress: told of "preparing" in images and of "training" in steps (process 0 only).
        other: second data set, for animorphosis, chosen as ``data`` is.
        accept_changed_data: resume although the data set has changed.
        allow_topology_change: resume with another number of processes.
        plugins: Python file, or files, that make parts of one's own known, run and remembered by the run; as
            the preset's ``plugins``.
        init: model whose weights a new run begins with, as :func:`ssdiff.load` takes it: weights alone, all
            that belongs to steps begins anew. A run that is resumed does not need it again.
        init_partial: take the tensors that fit the network in name and shape, instead of refusing a model
            that does not fit as a whole.
        init_weights: ``ema`` (averaged) or ``raw``, of that model.

    Raises:
        Interrupted: stopped on request; the run can be resumed.
        NonFiniteError: loss or gradient not finite; the last checkpoint stays.
        SsdiffError: whatever else is wrong with the request, its files or the machine.
    """
    named = [plugins] if isinstance(plugins, str | Path) else plugins
    require_type("plugins", named, Sequence, "give a list of Python files")
    for name, function in (("on_event", on_event), ("stop", stop), ("progress", progress)):
        require_callable(name, function)
    for name, source in (("data", data), ("other", other)):
        if source is not None:
            as_path(name, source)
    if named:
        overrides = {**(overrides or {}), "plugins": [str(file) for file in named]}
    settings = preset if isinstance(preset, Preset | None) else load_preset(preset, overrides)
    if isinstance(preset, Preset) and overrides:
        settings = override(preset, overrides)
    if init is not None:
        as_path("init", init)
    asked = None if init is None else InitialRequest(str(init), init_partial, init_weights)
    check_request(asked, init_partial, init_weights, None if resume is None else str(resume))
    request = Request(
        settings,
        data,
        None if out is None else as_path("out", out),
        None if resume is None else str(resume),
        device,
        accept_changed_data,
        allow_topology_change,
        other,
        overrides or {},
        asked,
    )
    with join_world(device) as world, ExitStack() as stack:
        start = resolve_resume(request)
        if start.initial is not None:
            check_same_weights(start.initial, world)
        # First: settings that do not hold together, or need what is not installed, leave no folder.
        process = build_process(start.preset)
        check_feasible(start.preset, process)
        for source in (start.source, start.other):
            require_packages(source)
        if (listed := start.preset.data.list) is not None:
            read_list(Path(listed), start.preset.data.part)
        check_other(start, process.morphs)
        place = world.device(pick_device(device))
        if start.preset.training.compile:
            require_compiler(place)
        meta = start.loaded.meta if start.loaded else {}
        precision = settle_precision(start.preset, start.stored, meta, place)
        folder = _open_folder(start, world, stack)
        watchers = (on_event, progress) if world.rank == 0 else (None, None)
        run = _Run(start, process, folder, world, precision, stack, *watchers)
        try:
            return run.go(stop or (lambda: False))
        except BaseException as error:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            found = explain(world.without(error))
            if run.begun:
                state: runs.State = "interrupted" if stopped else "failed"
                run.status(state, code=found.code, reason=found.message)
            raise


def _open_folder(start: Start, world: World, stack: ExitStack) -> runs.RunFolder:
    """Process 0 makes and locks the run folder; the others wait for it and share its place."""
    if world.rank == 0:
        resume = start.request.resume == "auto" or start.goes_on_in_its_folder
        folder = runs.RunFolder.create(start.folder, start.preset.to_toml(), resume)
        stack.enter_context(folder.lock())
        if not resume:
            folder.refuse_begun()  # somebody else may have been quicker
        folder.write_init(start.origin)  # now: a run may be killed before it has saved anything
        runs.remember(start.folder)
    if world.size > 1:
        place = [str(start.folder)]
        dist.broadcast_object_list(place, src=0)
        start_folder = Path(place[0])
    else:
        start_folder = start.folder
    return runs.RunFolder(start_folder)


class _Run:
    """The loop of :func:`train` and what it needs to know."""

    def __init__(
        self,
        start: Start,
        process: Process,
        folder: runs.RunFolder,
        world: World,
        precision: Decision,
        closing: ExitStack,
        on_event: Callable[[Event], None] | None,
        progress: Progress | None,
    ) -> None:
        self.start, self.preset, self.process = start, start.preset, process
        self.folder, self.world = folder, world
        self._on_event, self._progress = on_event, progress
        self._precision, self._why = precision.dtype, precision.note
        self._closing = closing
        self.trainer: Trainer | None = None
        self._device = world.device(pick_device(start.request.device))
        self.grid: Path | None = None
        self._generation: CoarseMixture | None = None
        self._details: ImageSpectrum | None = None
        self._lift: LinearLift | None = None
        self._other: str | None = None  # fingerprint of the second set
        self._saved = self._drawn = -1
        self.begun = True

    @property
    def step(self) -> int:
        return self.trainer.step if self.trainer else 0

    def status(self, state: runs.State, **more: object) -> None:
        """Process 0 writes how the run stands; another one only that it failed."""
        if self.world.rank == 0 or state == "failed":
            self.folder.write_status(state, self.step, rank=self.world.rank, **more)

    def go(self, stop: Callable[[], bool]) -> TrainResult:
        settings, began = self.preset.training, time.monotonic()
        data = self._open_data(stop)
        trainer = self.trainer = self._build(data, stop)
        self.status("running", steps=settings.steps)
        with self._logging():
            self._announce(data)
            window = time.monotonic()
            if self.start.initial is not None:
                self._save(data)  # whose model it is, and that it need not be there again
            if self.world.any(self.start.is_drawn_otherwise(self._details)):
                self._save(data)  # also where the run is finished
            self._show("training", trainer.step, settings.steps)
            # A run that was ended between a checkpoint and its picture still owes the picture.
            stopping = self._draw_if_due(data, stop, missing=True)
            while trainer.step < settings.steps and not stopping:
                shared = trainer.own_since is None
                trainer.advance()
                if shared and trainer.own_since is not None:
                    [text] = tell_own(self.preset, trainer.own_since)
                    self._tell(Event("note", trainer.own_since, text))
                self._notify(Event("step", trainer.step))
                self._show("training", trainer.step, settings.steps)
                if trainer.step % settings.log_every == 0 or trainer.step == settings.steps:
                    window = self._record(time.monotonic() - window)
                stopping = self._agree(stop())
                if (
                    trainer.step % settings.checkpoint_every == 0
                    or trainer.step == settings.steps
                    or stopping
                ):
                    self._save(data)
                stopping = stopping or self._draw_if_due(data, stop)
            if stopping and trainer.step < settings.steps:
                self._save(data)
                raise Interrupted(
                    f"stopped at step {trainer.step}, saved in {self.folder.path}",
                    hint=f"go on with --resume {shlex.quote(str(self.folder.path))}",
                )
            self._draw(data, lambda: False)
            if self.start.loaded is not None and self._saved < 0 and self.world.rank == 0:
                # The run had ended, and perhaps been killed before it had deleted the checkpoint before.
                keep = self.preset.training.max_checkpoints
                checkpoints.delete_old(self.folder.checkpoints, self.start.loaded.path, keep)
        self.status("finished", steps=settings.steps)
        seconds = time.monotonic() - began
        return TrainResult(self.folder.path, trainer.step, seconds, self.grid, self.preset.generates)

    def _open_data(self, stop: Callable[[], bool]) -> ImageSet:
        """The training set; what the process needs of data is completed from it and the second set."""

        def progress(done: int, total: int) -> None:
            self._show("preparing", done, total)
            if stop():
                raise Interrupted("stopped while preparing data", hint="run the same command again")

        preset, start = self.preset, self.start
        goes_on = start.loaded is not None
        data = prepare_on_rank0(start.source, preset, self.world, progress, goes_on=goes_on)
        if start.class_names:
            data = data.in_order(start.class_names)  # a class that was added takes nobody's number
        elif start.initial is not None and set(data.class_names) <= set(start.initial.class_names):
            data = data.in_order(start.initial.class_names)  # each class keeps what was learnt of it
        try:
            check_unchanged(start, data.fingerprint, self.world.size)
        except CheckpointError:
            self.begun = not start.goes_on_in_its_folder  # refused: the run stays as it is
            raise
        check_labels(data, preset)
        if self.world.rank == 0:
            self.folder.write_preset(preset.to_toml())
        if self.process.morphs:
            other = prepare_on_rank0(start.other, preset, self.world, progress, "--with", goes_on=goes_on)
            check_other_unchanged(start, other.fingerprint)
            self._other = other.fingerprint
            self.process = build_process(preset, other=choose_from(other.images, preset.training.seed))
        self._generation = fit_start(preset, self.process, data.images)
        if self.world.rank == 0:  # which saves and draws
            self._details = fit_details(preset, self.process, data.images)
            self._lift = fit_linear_lift(preset, self.process, data.images)
        return data

    def _build(self, data: ImageSet, stop: Callable[[], bool]) -> Trainer:
        preset, settings = self.preset, self.preset.training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.derive(settings.seed, "train/weights") >> 1)
            model = build_model(preset)
        if self.start.initial is not None:
            self.start.initial.fill(model)
        place_model(model, self._device)
        patches = Patches(data, preset.data.scales, settings.seed) if isinstance(data, PictureSet) else None
        crops = preset.data.crop == "random" and patches is None
        with memory_for(f"training.batch = {settings.batch} at {preset.data.size} px", MEMORY_HINT):
            batches = Batches(
                data.whole if crops else data.images if patches is None else patches,
                data.labels,
                self._device,
                self.world,
                settings.batch,
                settings.seed,
                flip=preset.data.flip,
                crop=preset.data.size if crops else None,
                padding=preset.data.padding,
                classes=preset.model.classes,
                label_dropout=settings.label_dropout,
                ahead=_AHEAD,
            )
            self._closing.callback(batches.close)
            trainer = Trainer(
                settings,
                self.process,
                model,
                batches,
                predict=preset.process.predict,
                full_size=build_full_size(preset) if settings.overlap_share else None,
            )
            trainer.precision = self._precision = self._precision or self._probe(trainer, stop)
        if self.start.loaded is not None:
            loaded = self.start.loaded
            since = single_file.whole_number(loaded.meta.get("own_since"))
            trainer.restore(loaded.step, loaded.tensors, loaded.meta.get("unreported"), since)
        if self.world.rank == 0:
            self.folder.truncate_metrics(trainer.step)
            for path in checkpoints.set_aside(self.folder.checkpoints, trainer.step):
                self._tell(Event("note", trainer.step, f"kept a later checkpoint as {path.name}"))
        return trainer

    def _probe(self, trainer: Trainer, stop: Callable[[], bool]) -> torch.dtype:
        """The precision that process 0 finds to pay; all processes compute in one."""
        name = ""  # of a run that was stopped
        if self.world.rank == 0:
            with suppress(Interrupted):
                name, self._why = choose_by_probe(trainer.rehearse, stop)
        name = self.world.broadcast(name)
        if not name:
            raise Interrupted("stopped while choosing the precision", hint="run the same command again")
        return PRECISIONS[name]

    def _announce(self, data: ImageSet) -> None:
        for note in (
            *filter(None, [self._why]),
            *self.start.notes,
            *self._renamed(data),
            *data.notes,
            *untrained_classes(data, self.preset),
            *self._rounds_otherwise(),
        ):
            self._tell(Event("note", self.step, note))
        if self.preset.training.compile:
            self._tell(
                Event("note", self.step, "the first step of each pair of resolutions waits for the compiler")
            )
        trainer = self._trainer
        parameters = sum(weight.numel() for weight in trainer.model.parameters())
        values = {
            "folder": str(self.folder.path),
            "images": len(data),
            "parameters": parameters,
            "steps": self.preset.training.steps,
            "resumed": self.start.loaded is not None,
            "skipped": len(data.skipped),
            "precision": precision_name(trainer.precision),
            "init": self.start.origin,
        }
        verb = f"resumed at step {self.step}" if values["resumed"] else "started"
        self._tell(
            Event(
                "start", self.step, f"{verb}: {self.preset.name}, {len(data)} images of {data.source}", values
            )
        )

    def _rounds_otherwise(self) -> list[str]:
        """A note if a run goes on that a former version began, whose sums had another order."""
        trainer, loaded = self._trainer, self.start.loaded
        if loaded is None or loaded.meta.get("arithmetic", 1) == ARITHMETIC or self._device.type != "cpu":
            return []
        modules = trainer.model.modules()
        by_products = any(isinstance(module, Conv2d) and module.by_products for module in modules)
        if trainer.precision != torch.float32 or self.preset.training.compile or not by_products:
            return []
        return [
            "convolutions are trained by quicker products than when the run began: steps from here differ in "
            "their last digits from those of the former version"
        ]

    def _renamed(self, data: ImageSet) -> list[str]:
        """A note if classes have the numbers of others in the model that the run begins with."""
        names = () if self.start.initial is None else self.start.initial.class_names
        if not names or not data.class_names or set(data.class_names) <= set(names):
            return []
        return [f"classes of the data begin with what the model knows of others: {_pairs(names, data)}"]

    def _record(self, seconds: float) -> float:
        """One line of metrics.jsonl; returns the time from which the next one counts."""
        trainer, settings = self._trainer, self.preset.training
        averages = trainer.averages()
        images_a_step = settings.batch * settings.grad_accum_steps * self.world.size
        shown = averages.steps * images_a_step
        values = {
            "step": trainer.step,
            "loss": averages.loss,
            "loss_by_resolution": averages.by_resolution,
            "grad_norm": averages.grad_norm,
            "images": trainer.step * images_a_step,
            "images_per_second": shown / max(seconds, 1e-9),
            "seconds": seconds,
        }
        if self.world.rank == 0:
            self.folder.append_metrics(values)
        self._notify(Event("log", trainer.step, f"loss {averages.loss:.4f}", values))
        return time.monotonic()

    def _save(self, data: ImageSet) -> None:
        trainer = self._trainer
        # On every process, so that all learn of a gradient that is not finite.
        tensors, unreported = trainer.state(), trainer.unreported()
        if self.world.rank == 0 and self._saved != trainer.step:
            meta = {
                "preset": self.preset.to_toml(),
                "class_names": list(data.class_names),
                "data": data.fingerprint,
                "source": portable_source(self.start.source),
                "other": portable_source(self.start.other),
                "other_data": self._other,
                "init": self.start.origin,
                "world": self.world.size,
                "start": self._generation.to_json() if self._generation else None,
                "details": self._details.to_json() if self._details else None,
                "torch": torch.__version__,
                "precision": precision_name(trainer.precision),
                "arithmetic": ARITHMETIC,
                "unreported": unreported,
                "own_since": trainer.own_since,
            }
            if self._lift is not None:
                tensors["lift"] = self._lift.to_tensors()
            path = checkpoints.save(
                self.folder.checkpoints,
                trainer.step,
                tensors,
                meta,
                keep=self.preset.training.max_checkpoints,
            )
            self._tell(Event("checkpoint", trainer.step, f"saved {path.name}"))
            self.status("running", steps=self.preset.training.steps)
        self._saved = trainer.step
        self.world.barrier()

    def _draw_if_due(self, data: ImageSet, stop: Callable[[], bool], missing: bool = False) -> bool:
        """Draw after a step that asks for it, if ``missing`` only what is not there; whether to stop now."""
        every = self.preset.training.sample_every
        if not every or not self.step or self.step % every:
            return False
        self._draw(data, stop, missing)
        return self._agree(stop())

    def _draw(self, data: ImageSet, stop: Callable[[], bool], missing: bool = False) -> None:
        """A picture by the averaged weights; the same images each time, so that pictures compare."""
        place = self.folder.samples / f"step-{self.step:08d}.png"
        if self.world.rank == 0 and self._drawn != self.step and not (missing and place.exists()):
            trainer = self._trainer
            moved = self.preset.sampling.transitions is not None
            pipeline = Pipeline(
                build_sampling_process(self.preset) if moved else trainer.process,
                trainer.ema,
                preset=self.preset,
                class_names=data.class_names,
                step=trainer.step,
                precision=trainer.precision,
                terminal_prior=self._generation,
                spectrum=self._details,
                lift=self._lift,
            )
            picture = preview(pipeline, data.images, stop)
            if picture is not None:
                self.grid = place
                images.save_image(picture, place, overwrite=True)
                self._tell(Event("samples", trainer.step, str(place)))
                self._drawn = self.step
        self.world.barrier()

    def _agree(self, stopping: bool) -> bool:
        """True on every process as soon as one of them was asked to stop."""
        return self.world.any(stopping)

    def _tell(self, event: Event) -> None:
        if self.world.rank == 0:
            _log.info("step %d: %s %s", event.step, event.kind, event.text)
        self._notify(event)

    def _notify(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _show(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, total)

    def _logging(self) -> ExitStack:
        """train.log receives what ssdiff logs while the run lasts."""
        stack = ExitStack()
        if self.world.rank == 0:
            handler = _Log(self.folder.log, encoding="utf-8", errors="backslashreplace")
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            _log.addHandler(handler)
            _log.setLevel(logging.INFO)
            stack.callback(handler.close)
            stack.callback(_log.removeHandler, handler)
            _log.info("preset %s, %s", self.preset.name, self.start.request)
        return stack

    @property
    def _trainer(self) -> Trainer:
        assert self.trainer is not None, "the run has begun"
        return self.trainer


def _pairs(names: Sequence[str], data: ImageSet) -> str:
    shown = [f"{now} with {then}" for then, now in zip(names, data.class_names, strict=False) if then != now]
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")


class _Log(logging.FileHandler):
    """A log that goes without what the disk does not take: what cannot be saved tells why a run ends."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # it is closed all the same
            super().close()
