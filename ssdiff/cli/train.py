"""`ssdiff train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Quiet,
    Sets,
    StopRequest,
    Terminal,
    human_bytes,
    human_seconds,
    is_main_process,
    memory_for,
    parse_sets,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ssdiff.config import Preset
    from ssdiff.evaluation.flops import PathCost
    from ssdiff.training.run import Event, Result

_MEASURING = 10.0  # seconds that a dry run spends on it, about


_Preset = Annotated[
    str | None, typer.Option(metavar="NAME|FILE.toml", help="What to train; see `ssdiff presets list`.")
]
_Data = Annotated[
    str | None,
    typer.Option(metavar="PATH|NAME", help="Folder, .zip, or a data set's name; default: the preset's."),
]
_Out = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Run folder; default: a new one in the user's data folder.")
]
_With = Annotated[
    str | None, typer.Option("--with", metavar="PATH|NAME", help="Second data set, for animorphosis.")
]
_Resume = Annotated[
    str | None,
    typer.Option(metavar="auto|PATH", help="Continue: the newest run (or --out), or a run or checkpoint."),
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show shapes, parameters, FLOPs, memory and time; write nothing.")
]
_AcceptData = Annotated[
    bool, typer.Option("--accept-changed-data", help="Resume although the data set has changed.")
]
_AcceptTopology = Annotated[
    bool, typer.Option("--allow-topology-change", help="Resume with another number of processes.")
]


def train(
    preset: _Preset = None,
    data: _Data = None,
    out: _Out = None,
    with_: _With = None,
    set_: Sets = None,
    resume: _Resume = None,
    dry_run: _DryRun = False,
    accept_data: _AcceptData = False,
    accept_topology: _AcceptTopology = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model; under torchrun, on several devices.

    Writes a run folder: preset.toml, checkpoints, metrics.jsonl, sample grids, train.log and status.json.
    Ctrl-C or SIGTERM saves and stops; `--resume auto` continues as if nothing had happened, on a
    CPU bit for bit.
    """
    main = is_main_process()
    terminal = Terminal(quiet or not main, json and main)
    from ssdiff.config.load import load_preset, override

    overrides = parse_sets(set_)
    settings = load_preset(preset, overrides) if preset else None
    if dry_run:
        _dry_run(settings or load_preset("shapes32", overrides), device, terminal)
        return
    from ssdiff.training.resume import Request
    from ssdiff.training.run import train as run

    adjust = (lambda stored: override(stored, overrides)) if overrides else None
    request = Request(settings, data, out, resume, device, accept_data, accept_topology, with_, adjust)
    with terminal.progress("img") as bar, StopRequest().listening() as stop:
        result = run(request, _Watcher(terminal, bar), stop)
    _report(result, terminal)


def _report(result: Result, terminal: Terminal) -> None:
    """How the run ended, and what to do next."""
    values = {
        "run": str(result.folder),
        "step": result.step,
        "seconds": round(result.seconds, 1),
        "grid": str(result.grid),
    }
    folder = shlex.quote(str(result.folder))
    following = [
        f"ssdiff sample --ckpt {folder} -n 64 --out grid.png",
        f"ssdiff sample --ckpt {folder} -n 8 --trajectory --out film.png",
    ]
    if not result.generates:
        following = [f"ssdiff restore IMAGES --ckpt {folder} --degrade --compare --out restored/"]
    following.append(f"ssdiff info {folder}")
    terminal.result(
        f"finished step {result.step} in {human_seconds(result.seconds)}\n"
        f"run      {result.folder}\n"
        f"samples  {result.grid}\n"
        f"next     " + "\n         ".join(following),
        values,
    )


class _Watcher:
    """Shows the events of a run."""

    def __init__(self, terminal: Terminal, bar: Any) -> None:
        self.terminal, self.bar = terminal, bar
        self.task: Any = None
        self.reading: Any = None

    def __call__(self, event: Event) -> None:
        if event.kind == "step":
            self.bar.update(self.task, completed=event.step)
        elif event.kind == "start":
            self._start(event)
        elif event.kind == "log":
            rate = event.values["images_per_second"]
            self.bar.update(self.task, rate=f"{rate:.3g}", note=event.text)
            if not self.bar.live.console.is_terminal:
                self._line(event, rate)
        elif "total" in event.values:
            self._reading(event.values["done"], event.values["total"])
        else:
            self.terminal.say(f"step {event.step}: {event.text}")

    def _start(self, event: Event) -> None:
        values = event.values
        if self.reading is not None:
            self.bar.remove_task(self.reading)
        self.terminal.say(event.text)
        self.terminal.say(f"{values['parameters'] / 1e6:.2f} M parameters, {values['steps']} steps")
        self.terminal.say(f"run folder {values['folder']}")
        if values["skipped"]:
            self.terminal.say(f"{values['skipped']} unreadable images left out")
        self.task = self.bar.add_task(
            "training", total=values["steps"], completed=event.step, rate="-", note=""
        )

    def _line(self, event: Event, rate: float) -> None:
        levels = "  ".join(f"{r} px {loss:.4f}" for r, loss in event.values["loss_by_resolution"].items())
        self.terminal.say(f"step {event.step}: {event.text}  ({levels})  {rate:.3g} img/s")

    def _reading(self, done: int, total: int) -> None:
        if self.reading is None:
            self.reading = self.bar.add_task("preparing data", total=total, rate="-", note="")
        self.bar.update(self.reading, completed=done)


def _dry_run(preset: Preset, device: str, terminal: Terminal) -> None:
    """Print what a run would cost; writes nothing."""
    import torch

    from ssdiff.build import build_model, build_process
    from ssdiff.devices import pick_device
    from ssdiff.evaluation import flops

    place, process, settings = pick_device(device), build_process(preset), preset.training
    channels, classes = preset.data.channels, preset.model.classes
    with torch.device("meta"):
        outline = build_model(preset)
    costs = flops.path_costs(outline, process, channels, classes, transition_share=settings.transition_share)
    times = _seconds_per_image(preset, costs, place)
    images = settings.batch * settings.grad_accum_steps
    step = images * sum(path.share * times[path.path] for path in costs)
    values = {
        "preset": preset.name,
        "summary": preset.summary,
        "parameters": sum(weight.numel() for weight in outline.parameters()),
        "T": process.T,
        "mean_gflops": flops.mean_flops(costs) / 1e9,
        "training_bytes": flops.training_bytes(outline, costs, settings.batch),
        "batch": settings.batch,
        "images_per_step": images,
        "steps": settings.steps,
        "seconds_per_step": step,
        "seconds_in_all": step * settings.steps,
        "device": str(place),
        "paths": [
            {
                "in": [path.resolution] * 2,
                "out": [path.wanted] * 2,
                "share": path.share,
                "gflops": path.flops / 1e9,
                "activation_bytes": path.activation_bytes,
                "seconds_per_image": times[path.path],
            }
            for path in costs
        ],
    }
    terminal.result(_dry_run_text(values), values)


def _seconds_per_image(
    preset: Preset, costs: Sequence[PathCost], device: torch.device
) -> dict[tuple[int, int], float]:
    """Measured, of a training step that is not compiled, in the run's precision; by path."""
    from ssdiff.config.load import override
    from ssdiff.devices import pick_precision
    from ssdiff.evaluation import timing

    dtype = pick_precision(preset.training.precision, device)
    peak = timing.matrix_peak(device, dtype, _MEASURING / 20)
    batch = timing.affordable_batch(costs, peak, _MEASURING, preset.training.batch)
    pipeline = timing.untrained(override(preset, {"training.compile": False}), device, dtype)
    with memory_for(f"{batch} images of {preset.data.size} px at once", "lower training.batch"):
        trainer = timing.PathTrainer(pipeline, batch)
        timings = timing.time_training(trainer, device, _MEASURING, lambda: None)
    return {path: timing.seconds / batch for path, timing in timings.items()}


def _dry_run_text(values: dict[str, Any]) -> str:
    lines = [
        f"{values['preset']}: {values['summary']}",
        f"{values['parameters'] / 1e6:.2f} M parameters, T = {values['T']}",
        "path          share of steps   GFLOPs   activations   ms an image, a whole step",
    ]
    lines += [
        f"{path['in'][0]:4d} -> {path['out'][0]:4d}  {100 * path['share']:13.1f} % {path['gflops']:8.2f} "
        f"{human_bytes(path['activation_bytes']):>13} {1e3 * path['seconds_per_image']:13.1f}"
        for path in values["paths"]
    ]
    return "\n".join(
        [
            *lines,
            f"forward cost   {values['mean_gflops']:.1f} GFLOPs an image, mean over the batches",
            f"memory         about {human_bytes(values['training_bytes'])} at batch {values['batch']}: "
            "weights, Adam, average, activations",
            f"time           about {human_seconds(values['seconds_per_step'])} a step of "
            f"{values['images_per_step']} images on {values['device']}, "
            f"{human_seconds(values['seconds_in_all'])} for {values['steps']} steps",
            "nothing was written",
        ]
    )
