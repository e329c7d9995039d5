"""`ssdiff train`."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Plugins,
    Quiet,
    Sets,
    StopRequest,
    Terminal,
    is_main_process,
    parse_sets,
    with_options,
)
from ssdiff.display import human_seconds

if TYPE_CHECKING:
    from ssdiff.training.run import Event, TrainResult

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
_Seed = Annotated[int | None, typer.Option(help="Decides every random number.")]
_Steps = Annotated[int | None, typer.Option(help="Same as --set training.steps=INTEGER.")]
_Batch = Annotated[int | None, typer.Option(help="Same as --set training.batch=INTEGER.")]
_Rate = Annotated[float | None, typer.Option(help="Same as --set training.lr=FLOAT.")]
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
    seed: _Seed = None,
    steps: _Steps = None,
    batch: _Batch = None,
    lr: _Rate = None,
    set_: Sets = None,
    resume: _Resume = None,
    dry_run: _DryRun = False,
    accept_data: _AcceptData = False,
    accept_topology: _AcceptTopology = False,
    device: Device = "auto",
    plugin: Plugins = None,
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
    overrides = with_options(
        parse_sets(set_),
        {
            "--seed": ("training.seed", seed),
            "--steps": ("training.steps", steps),
            "--batch": ("training.batch", batch),
            "--lr": ("training.lr", lr),
        },
    )
    if plugin:
        overrides["plugins"] = [str(file) for file in plugin]
    if dry_run:
        from ssdiff.config.load import load_preset
        from ssdiff.evaluation.cost import dry_run as measure

        with terminal.progress_callback("path") as progress:
            expected = measure(load_preset(preset or "shapes32", overrides), device, progress)
        terminal.result(f"{expected}\nnothing was written", expected.to_dict())
        return
    from ssdiff.training.run import train as run

    units = {"preparing": "img", "training": "steps"}
    with terminal.progress_callback(**units) as progress, StopRequest().listening() as stop:
        result = run(
            preset,
            data,
            out,
            overrides=overrides,
            resume=resume,
            device=device,
            on_event=partial(_tell, terminal),
            stop=stop,
            progress=progress,
            other=with_,
            accept_changed_data=accept_data,
            allow_topology_change=accept_topology,
        )
    _report(result, terminal)


def _report(result: TrainResult, terminal: Terminal) -> None:
    """Print how the run ended, and what to do next."""
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
        result.to_dict(),
    )


def _tell(terminal: Terminal, event: Event) -> None:
    """Say what happens in a run, but for its single steps, which the bar counts."""
    values = event.values
    if event.kind == "start":
        terminal.say(event.text)
        terminal.say(f"{values['parameters'] / 1e6:.2f} M parameters, {values['steps']} steps")
        terminal.say(f"run folder {values['folder']}")
        if values["skipped"]:
            terminal.say(f"{values['skipped']} unreadable images left out")
    elif event.kind == "log":
        levels = "  ".join(f"{r} px {loss:.4f}" for r, loss in values["loss_by_resolution"].items())
        rate = values["images_per_second"]
        terminal.say(f"step {event.step}: {event.text}  ({levels})  {rate:.3g} img/s")
    elif event.kind != "step":
        terminal.say(f"step {event.step}: {event.text}")
