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
    is_main_process,
    parse_sets,
)
from ssdiff.display import human_seconds

if TYPE_CHECKING:
    from ssdiff.training.run import Event, Result

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
        from ssdiff.evaluation.cost import dry_run as measure

        with terminal.progress_callback("path") as progress:
            expected = measure(settings or load_preset("shapes32", overrides), device, progress)
        terminal.result(f"{expected}\nnothing was written", expected.to_dict())
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
