"""`ssdiff train`."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ssdiff.cli.common import StopRequest, Terminal, parse_sets, torchrun_rank, with_options
from ssdiff.cli.options import (
    MACHINE,
    OUTPUT,
    TRAINING,
    Data,
    DataList,
    DataPart,
    Device,
    Json,
    Plugins,
    Preset,
    Quiet,
    Sets,
    With,
    option,
)
from ssdiff.display import human_seconds
from ssdiff.errors import UsageError

if TYPE_CHECKING:
    from ssdiff.training.run import Event, TrainResult

_Seed = Annotated[int | None, option(TRAINING, help="Decides every random number: training.seed.")]
_Steps = Annotated[int | None, option(TRAINING, help="Same as --set training.steps=INTEGER.")]
_Batch = Annotated[int | None, option(TRAINING, help="Same as --set training.batch=INTEGER.")]
_Rate = Annotated[float | None, option(TRAINING, help="Same as --set training.lr=FLOAT.")]
_Precision = Annotated[
    str | None,
    option(
        MACHINE,
        metavar="auto|fp32|bf16",
        help="Of the network: training.precision. auto is bf16 where the hardware multiplies it natively, on "
        "a CPU if a probe of a few steps shows that it pays; a run that is resumed goes on as it began.",
        show_default="the preset's",
    ),
]
_Resume = Annotated[
    str | None,
    option(
        TRAINING,
        metavar="auto|PATH",
        help="Continue: the newest run (or --out), or a run or checkpoint.",
    ),
]
_Init = Annotated[
    str | None,
    option(
        TRAINING,
        metavar="MODEL",
        help="Begin with the weights of a run, checkpoint, model file or bundled model; without --preset "
        "with its settings, too.",
        show_default="random weights",
    ),
]
_InitPartial = Annotated[
    bool, option(TRAINING, "--init-partial", help="Of --init: take the tensors that fit, leave the others.")
]
_InitWeights = Annotated[str, option(TRAINING, help="Of --init: ema (averaged) or raw.")]
_AcceptData = Annotated[
    bool, option(TRAINING, "--accept-changed-data", help="Resume although the data set has changed.")
]
_AcceptTopology = Annotated[
    bool, option(TRAINING, "--allow-topology-change", help="Resume with another number of processes.")
]
_Out = Annotated[
    Path | None,
    option(OUTPUT, metavar="RUN", help="Run folder.", show_default="a new one in the user's data folder"),
]
_DryRun = Annotated[
    bool,
    option(OUTPUT, "--dry-run", help="Show shapes, parameters, FLOPs, memory and time; write nothing."),
]


def train(
    data: Data = None,
    data_list: DataList = None,
    data_part: DataPart = None,
    with_: With = None,
    preset: Preset = None,
    set_: Sets = None,
    plugin: Plugins = None,
    seed: _Seed = None,
    steps: _Steps = None,
    batch: _Batch = None,
    lr: _Rate = None,
    resume: _Resume = None,
    init: _Init = None,
    init_partial: _InitPartial = False,
    init_weights: _InitWeights = "ema",
    accept_data: _AcceptData = False,
    accept_topology: _AcceptTopology = False,
    out: _Out = None,
    dry_run: _DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    precision: _Precision = None,
) -> None:
    """Train a model; under torchrun, on several devices.

    Writes a run folder: preset.toml, checkpoints, metrics.jsonl, sample grids, train.log and
    status.json. Ctrl-C or SIGTERM saves and stops; `--resume auto` continues as if nothing had
    happened, on a CPU bit for bit.
    """
    main = torchrun_rank() == 0
    terminal = Terminal(quiet or not main, json and main)
    overrides = with_options(
        parse_sets(set_),
        {
            "--data-list": ("data.list", None if data_list is None else str(data_list)),
            "--data-part": ("data.part", data_part),
            "--seed": ("training.seed", seed),
            "--steps": ("training.steps", steps),
            "--batch": ("training.batch", batch),
            "--lr": ("training.lr", lr),
            "--precision": ("training.precision", precision),
        },
    )
    for name, given in (("--accept-changed-data", accept_data), ("--allow-topology-change", accept_topology)):
        if given and resume is None:
            raise UsageError(f"{name} is for a run that goes on", hint="give --resume, or leave it out")
    if dry_run:
        from ssdiff.build import build_process
        from ssdiff.config.load import for_data_set, load_preset
        from ssdiff.data import check_source
        from ssdiff.evaluation.cost import dry_run as measure
        from ssdiff.runs import RunFolder
        from ssdiff.training.resume import refuse_other
        from ssdiff.weights.initial import InitialRequest, check_request, choose_initial

        if resume is not None:
            raise UsageError(
                "a dry run is of a preset, not of a run", hint="`ssdiff eval cost RUN` measures a run"
            )
        asked = None if init is None else InitialRequest(init, init_partial, init_weights)
        check_request(asked, init_partial, init_weights, resume)
        if asked is None:
            wanted, initial = load_preset(preset or "shapes32", overrides), None
        else:
            named = None if preset is None else load_preset(preset, overrides)
            wanted, initial = choose_initial(asked, named, overrides, data)
        with terminal.progress_callback("path") as progress:
            settings = for_data_set(wanted, data)
            if not build_process(settings).morphs:
                refuse_other(settings, with_)
            if data is not None or settings.data.list is not None:
                check_source(
                    data or settings.data.source or "", names=settings.data.list, part=settings.data.part
                )
            if out is not None:
                RunFolder(out).check_new()
            expected = measure(settings, device, progress)
        told = [str(expected), *(initial.lines() if initial else ()), "nothing was written"]
        begun = initial.origin.to_dict() if initial else None
        terminal.result("\n".join(told), {**expected.to_dict(), "init": begun})
        return
    units = {"preparing": "img", "training": "steps"}
    with StopRequest().listening() as stop, terminal.progress_callback(**units) as progress:
        from ssdiff.training.run import train as run  # seconds, in which a signal counts as well

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
            plugins=plugin or (),
            init=init,
            init_partial=init_partial,
            init_weights=init_weights,
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
        terminal.say(
            f"{values['parameters'] / 1e6:.2f} M parameters in {values['precision']}, {values['steps']} steps"
        )
        terminal.say(f"run folder {values['folder']}")
        if values["skipped"]:
            terminal.say(f"{values['skipped']} unreadable images left out")
    elif event.kind == "log":
        levels = "  ".join(f"{r} px {loss:.4f}" for r, loss in values["loss_by_resolution"].items())
        rate = values["images_per_second"]
        terminal.say(f"step {event.step}: {event.text}  ({levels})  {rate:.3g} img/s")
    elif event.kind != "step":
        terminal.say(f"step {event.step}: {event.text}")
