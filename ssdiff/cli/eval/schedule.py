"""`ssdiff eval schedule`: the planner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from ssdiff.cli.common import Terminal, parse_sets, with_options
from ssdiff.cli.options import (
    MEASUREMENT,
    OUTPUT,
    SAMPLING,
    Data,
    DataList,
    DataPart,
    Images,
    Json,
    Overwrite,
    Plugins,
    PresetName,
    Quiet,
    Sets,
    option,
)
from ssdiff.errors import UsageError

_Number = TypeVar("_Number", int, float)

_Steps = Annotated[str, option(SAMPLING, metavar="S[,S...]", help="Numbers of sampling steps to compare at.")]
_Eta = Annotated[str, option(SAMPLING, metavar="E[,E...]", help="Shares of fresh noise to compare at, 0..1.")]
_Budget = Annotated[
    float,
    option(MEASUREMENT, help="FLOPs of a step that the plan may cost on average, as a share of DDPM's."),
]
_Exact = Annotated[
    bool | None,
    option(
        MEASUREMENT,
        "--exact/--no-exact",
        help="With the true covariance, up to 64 px.",
        show_default="up to 32 px",
    ),
]
_Out = Annotated[Path, option(OUTPUT, metavar="DIR/", help="Folder for the table, the plot and the preset.")]


def schedule(
    data: Data = None,
    data_list: DataList = None,
    data_part: DataPart = None,
    images: Images = 5000,
    preset: PresetName = "celeba64-matched",
    sets: Sets = None,
    plugin: Plugins = None,
    steps: _Steps = "50,100,250",
    eta: _Eta = "1,0",
    budget: _Budget = 0.55,
    exact: _Exact = None,
    out: _Out = Path("schedule"),
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Plan a schedule before training: distance to the data and cost of DDPM, published and matched SSD.

    Gaussian data with the spectrum of yours, and the MMSE denoiser: the distance is the sampler's alone.
    The preset is of kind ssd; its size, levels, noise and network count. Writes schedule.csv,
    schedule.png and planned.toml, a preset with the best transition points.
    """
    from ssdiff.analysis.schedule_plan import check_plan_files, plan_schedule
    from ssdiff.config.load import load_preset

    listed = None if data_list is None else str(data_list)
    chosen = {"--data-list": ("data.list", listed), "--data-part": ("data.part", data_part)}
    terminal = Terminal(quiet, json)
    check_plan_files(out, overwrite)
    with terminal.progress_callback("schedule", preparing="img", statistics="batch") as progress:
        plan = plan_schedule(
            data,
            load_preset(preset, with_options(parse_sets(sets), chosen)),
            steps=_numbers("--steps", steps, int),
            eta=_numbers("--eta", eta, float),
            budget=budget,
            images=images,
            exact=exact,
            progress=progress,
        )
    files = [str(path) for path in plan.save(out, overwrite)]
    told = f"{plan.table()}\nfiles    {', '.join(files)}\nnext     ssdiff train --preset {files[-1]}"
    terminal.result(told, plan.to_dict() | {"files": files})


def _numbers(option: str, text: str, kind: Callable[[str], _Number]) -> list[_Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} takes numbers between commas, not {text!r}") from None
