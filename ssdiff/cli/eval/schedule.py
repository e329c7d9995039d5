"""`ssdiff eval schedule`: the planner."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdiff.cli.common import Json, Overwrite, Quiet, Sets, Terminal, memory_for, parse_sets
from ssdiff.errors import UsageError

if TYPE_CHECKING:
    from ssdiff.analysis.schedule_search import Setting
    from ssdiff.config import Preset

_EXACT_SIDE, _MOST_EXACT = 32, 64  # pixels a side up to which the covariance is kept unasked, and at all

_Data = Annotated[
    str | None, typer.Option(metavar="PATH|NAME", help="Folder, .zip or name. Default: the preset's.")
]
_Preset = Annotated[
    str,
    typer.Option(metavar="NAME|FILE.toml", help="Of kind ssd; its size, levels, noise and network count."),
]
_Images = Annotated[int, typer.Option(help="Images to look at, evenly from the set.")]
_Steps = Annotated[str, typer.Option(metavar="S[,S...]", help="Numbers of sampling steps to judge by.")]
_Eta = Annotated[str, typer.Option(metavar="E[,E...]", help="Shares of fresh noise to judge by, 0..1.")]
_Budget = Annotated[
    float, typer.Option(help="FLOPs of a step that the plan may cost on average, as a share of DDPM's.")
]
_Exact = Annotated[
    bool | None,
    typer.Option(
        "--exact/--no-exact",
        help=f"With the true covariance, up to {_MOST_EXACT} px. Default: up to {_EXACT_SIDE} px.",
    ),
]
_Out = Annotated[Path, typer.Option(metavar="DIR/", help="Folder for the table, the plot and the preset.")]


def schedule(
    data: _Data = None,
    preset: _Preset = "celeba64-matched",
    sets: Sets = None,
    images: _Images = 5000,
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

    Normal data with the spectrum of yours, and the MMSE denoiser: the distance is that of the sampler alone.
    Writes schedule.csv, schedule.png and planned.toml, a preset with the best transition points.
    """
    from ssdiff.cli.eval.scheduling import Report, compare, read_models, write
    from ssdiff.config.load import load_preset

    terminal = Terminal(quiet, json)
    chosen = load_preset(preset, parse_sets(sets))
    settings = _settings(steps, eta, chosen)
    if not 0 < budget <= 1:
        raise UsageError(f"--budget must be above 0 and at most 1 (DDPM's own cost), not {budget}")
    if images < 2:
        raise UsageError(f"--images must be at least 2, not {images}")
    side = chosen.data.size
    if exact is None:
        exact = side <= _EXACT_SIDE
    if exact and side > _MOST_EXACT:
        raise UsageError(f"--exact goes up to {_MOST_EXACT} px, not {side}", hint="leave it out")
    report = Report(chosen, settings, budget, out, overwrite)
    began = time.perf_counter()
    with memory_for(f"{images} images of {side} px", "lower --images, or use --no-exact"):
        models = read_models(chosen, data, images, exact, terminal)
        compare(report, models, terminal)
    write(report, models, time.perf_counter() - began, terminal)


def _settings(steps: str, eta: str, preset: Preset) -> Sequence[Setting]:
    """Every number of steps with every eta."""
    from ssdiff.analysis.schedule_search import Setting

    process = preset.process
    if process.kind != "ssd" or process.levels < 2:
        raise UsageError(
            f"preset {preset.name!r} has no resolution transitions to plan",
            hint="choose one of kind ssd with 2 levels or more",
        )
    counts, shares = _numbers("--steps", steps), _numbers("--eta", eta)
    for count in counts:
        if count != int(count) or not 1 <= count <= process.T:
            raise UsageError(f"--steps must be whole numbers within 1..{process.T}, not {count:g}")
    for share in shares:
        if not 0 <= share <= 1:
            raise UsageError(f"--eta must be within 0..1, not {share:g}")
    return [Setting(int(count), share) for count in counts for share in shares]


def _numbers(option: str, text: str) -> list[float]:
    """Numbers between commas, without repeats."""
    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"{option} takes numbers between commas, not {text!r}") from None
