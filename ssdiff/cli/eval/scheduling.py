"""The work of `ssdiff eval schedule`: data in; table, plot and preset out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdiff.cli.common import Terminal
from ssdiff.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.analysis.data_moments import DataMoments
    from ssdiff.analysis.schedule_search import Outcome, Setting, Thresholds
    from ssdiff.config import Preset
    from ssdiff.process.base import State

_PART = 500  # images at once
_PLANNED = "matched, planned"
_PUBLISHED: dict[str, Any] = {
    "process.resolution": {"kind": "convex_decay"},
    "process.resize": "bilinear",
    "sampling.renoise": "none",
}
_MATCHED_RESIZE = "area"  # keeps noise white
_FILES = ("schedule.csv", "schedule.png", "planned.toml")


@dataclass(frozen=True, slots=True)
class Row:
    """One schedule.

    Attributes:
        name: what it is called.
        at: thresholds; empty where it has none.
        flops: of a step, mean over the timesteps.
        settings: for each setting its chain's length, FLOPs an image, spectral and (or None) exact distance.
        details: what its changes add.
    """

    name: str
    at: Thresholds
    flops: float
    settings: list[tuple[Setting, int, int, float, float | None]]
    details: str = "predicted"


@dataclass
class Report:
    """What was asked for, and what was found.

    Attributes:
        preset: that is planned for.
        settings: to judge by.
        budget: share of DDPM's FLOPs.
        out: folder.
        overwrite: whether files there may be replaced.
        rows: schedules, DDPM first, the planned one last.
        front: of the search, the best distances by cost.
        planned: the preset with the planned thresholds.
    """

    preset: Preset
    settings: Sequence[Setting]
    budget: float
    out: Path
    overwrite: bool
    rows: list[Row] = field(default_factory=list)
    front: list[Outcome] = field(default_factory=list)
    planned: Preset | None = None

    def __post_init__(self) -> None:
        from ssdiff.files import check_output

        for name in _FILES:
            check_output(self.out / name, self.overwrite)


def read_models(
    preset: Preset, source: str | None, images: int, exact: bool, terminal: Terminal
) -> dict[str, DataMoments]:
    """Statistics of the data at the resolutions of a preset, by the name of the resize that makes them.

    Raises:
        UsageError: there is no source.
        DataError: it cannot be used.
    """
    import numpy as np
    import torch

    from ssdiff.analysis.data_moments import measure
    from ssdiff.build import RESIZES, preset_level_sizes
    from ssdiff.data import evenly
    from ssdiff.images import from_uint8
    from ssdiff.training.dataset import open_as

    wanted = source or preset.data.source
    if wanted is None:
        raise UsageError(f"the preset {preset.name!r} names no data set", hint="give --data FOLDER or NAME")
    with terminal.preparing() as show:
        data = open_as(preset.data, wanted, show)
    chosen = evenly(len(data), images)
    parts, sides = np.array_split(chosen, -(-len(chosen) // _PART)), preset_level_sizes(preset)
    with terminal.progress("batch") as bar:
        task = bar.add_task("statistics", total=len(RESIZES) * len(parts), rate="-", note="")

        def batches() -> Iterator[Tensor]:
            for part in parts:
                yield from_uint8(torch.tensor(data.images[part]))
                bar.advance(task)

        return {
            name: measure(batches(), sides, covariance=exact, resize=resize)
            for name, resize in RESIZES.items()
        }


def compare(report: Report, models: Mapping[str, DataMoments], terminal: Terminal) -> None:
    """Fill in the rows: DDPM, published SSD, the preset's own matched schedule, and the planned one."""
    from ssdiff.analysis.schedule_search import Search, front
    from ssdiff.build import build_states
    from ssdiff.config.load import override

    preset, levels = report.preset, report.preset.process.levels
    paths = _paths(preset)
    trials: dict[str, dict[str, object]] = {
        "DDPM": {"process.kind": "ddpm", "process.levels": 1, "process.snr_preserving": 0.0},
        **{
            f"published, {count} levels": {"process.levels": count, "process.snr_preserving": 0.0}
            for count in range(2, levels + 1)
        },
    }
    presets = {name: override(preset, {**_PUBLISHED, **changes}) for name, changes in trials.items()}
    if preset.process.snr_preserving > 0:
        presets[f"matched, {preset.name}"] = preset

    # What is wrong with the preset for other reasons than its thresholds is told before the search.
    _matched(preset, tuple(-float(change) for change in range(1, levels)))

    def states(at: Thresholds) -> Sequence[State]:
        return build_states(_matched(preset, at))

    search = Search(models[_MATCHED_RESIZE], states, report.settings, paths)
    full = search.evaluate((), build_states(presets["DDPM"])).flops
    with terminal.progress("schedules") as bar:
        task = bar.add_task("searching", total=None, rate="-", note="")
        best = search.best(levels - 1, report.budget * full, lambda tried: bar.update(task, completed=tried))
        report.planned = presets[_PLANNED] = _matched(preset, best.at)
        bar.update(task, description="comparing", total=len(presets), completed=0)
        for name, each in presets.items():
            model = models[each.process.resize]
            report.rows.append(_row(name, each, model, report.settings, paths))
            bar.advance(task)
    report.front = front(search.tried)


def write(report: Report, models: Mapping[str, DataMoments], seconds: float, terminal: Terminal) -> None:
    """The files, and the table on stdout."""
    from ssdiff.files import write_atomic
    from ssdiff.reporting.plots import save_panels

    assert report.planned is not None, "compare came first"
    model = models[_PUBLISHED["process.resize"]]  # which folds little of an octave into the next
    write_atomic(report.out / _FILES[0], _csv(report).encode(), report.overwrite)
    save_panels(report.out / _FILES[1], _panels(report), overwrite=report.overwrite)
    heading = (
        f"# Planned by `ssdiff eval schedule` from {report.preset.name} for a budget of {report.budget:g} of "
        "DDPM's FLOPs a step.\n"
    )
    text = heading + report.planned.to_toml()
    write_atomic(report.out / _FILES[2], text.encode(), report.overwrite)
    values: dict[str, Any] = {
        "preset": report.preset.name,
        "images": model.count,
        "octave_variances": {str(side): value for side, value in model.octaves.items()},
        "budget": report.budget,
        "planned": list(report.rows[-1].at),
        "rows": [_json(row) for row in report.rows],
        "files": [str(report.out / name) for name in _FILES],
        "seconds": round(seconds, 3),
    }
    terminal.result(_table(report, model), values)


def _matched(preset: Preset, at: Thresholds) -> Preset:
    """The preset with lossless resolution transitions at log-SNRs."""
    from ssdiff.config.load import override

    process = {
        "process.snr_preserving": 1.0,
        "process.resize": _MATCHED_RESIZE,
        "process.resolution": {"kind": "log_snr", "at": list(at)},
    }
    return override(preset, {"name": f"{preset.name}-planned", **process})


def _paths(preset: Preset) -> dict[tuple[int, int], int]:
    """Forward FLOPs of every path that any of the schedules takes."""
    import torch

    from ssdiff.build import build_model, build_process
    from ssdiff.config.load import override
    from ssdiff.evaluation.flops import path_costs

    published = override(preset, {"process.snr_preserving": 0.0, "process.resolution": {"kind": "equal"}})
    process = build_process(published)
    with torch.device("meta"):
        model = build_model(preset)
    costs = path_costs(model, process, preset.data.channels, preset.model.classes)
    return {cost.path: cost.flops for cost in costs}


def _row(
    name: str,
    preset: Preset,
    model: DataMoments,
    settings: Sequence[Setting],
    paths: Mapping[tuple[int, int], int],
) -> Row:
    from ssdiff.analysis.sampler_error import ExactChains, spectral_distance
    from ssdiff.analysis.schedule_search import chain_flops, chain_of, mean_flops
    from ssdiff.build import build_states
    from ssdiff.config import LogSnrTransitions
    from ssdiff.process.gaussian import GaussianProcess

    states, details = build_states(preset), preset.sampling.renoise == "spectral"
    exact = ExactChains(model) if model.covariance is not None else None
    found = []
    for setting in settings:
        chain = chain_of(states, setting.steps)
        spectral = spectral_distance(model, states, chain, setting.eta, renoise=details)
        process = GaussianProcess(states, model.resize)
        true = exact.distance(process, chain, setting.eta, renoise=details) if exact else None
        found.append((setting, len(chain) - 1, chain_flops(states, chain, paths), spectral, true))
    rule = preset.process.resolution
    at = rule.at if isinstance(rule, LogSnrTransitions) and preset.process.levels > 1 else ()
    return Row(name, tuple(at), mean_flops(states, paths), found, preset.sampling.renoise)


def _json(row: Row) -> dict[str, Any]:
    return {
        "schedule": row.name,
        "log_snr": list(row.at) or None,
        "gflops_a_step": row.flops / 1e9,
        "details": row.details,
        "settings": [
            {
                "steps": setting.steps,
                "eta": setting.eta,
                "evaluations": evaluations,
                "gflops_an_image": flops / 1e9,
                "distance": spectral,
                "exact_distance": true,
            }
            for setting, evaluations, flops, spectral, true in row.settings
        ],
    }


def _csv(report: Report) -> str:
    stream = io.StringIO()
    lines = csv.writer(stream, lineterminator="\n")
    columns = ("steps", "eta", "evaluations", "gflops_an_image", "distance", "exact_distance")
    lines.writerow(("schedule", "log_snr", "gflops_a_step", "details", *columns))
    for row in report.rows:
        at = " ".join(f"{value:g}" for value in row.at)
        for part in _json(row)["settings"]:
            lines.writerow(
                (row.name, at, row.flops / 1e9, row.details, *(part[column] for column in columns))
            )
    return stream.getvalue()


def _table(report: Report, model: DataMoments) -> str:
    """For people: one line a schedule, one column a setting."""
    full = report.rows[0].flops
    width = max(len(row.name) for row in report.rows)
    exact = model.covariance is not None
    heads = "".join(f"{f'{one.steps}, eta {one.eta:g}':>14}" for one in report.settings)
    lines = [
        "octave variances a pixel: "
        + ", ".join(f"{value:.4f} at {side} px" for side, value in model.octaves.items()),
        f"Frechet distance to the data, relative ({'exact' if exact else 'spectral approximation'}), "
        f"{model.count} grey images",
        f"{'schedule':{width}}{'GFLOPs':>9}{'share':>7}{heads}",
    ]
    for row in report.rows:
        values = "".join(f"{true if exact else near:14.5f}" for *_, near, true in row.settings)
        lines.append(f"{row.name:{width}}{row.flops / 1e9:9.3g}{row.flops / full:7.0%}{values}")
    if added := [row.name for row in report.rows if row.details == "spectral"]:
        lines.append(f"with added details, which the search leaves out: {'; '.join(added)}")
    at = ", ".join(f"{value:g}" for value in report.rows[-1].at)
    lines += [
        f"planned: resolution transitions at full-resolution log-SNR {at}",
        f"files    {', '.join(str(report.out / name) for name in _FILES)}",
        f"next     ssdiff train --preset {report.out / _FILES[2]}",
    ]
    return "\n".join(lines)


def _panels(report: Report) -> list[Any]:
    """Distance against the cost of an image for each eta, and the best distances by the cost of a step."""
    from ssdiff.reporting.plots import Curve, Panel

    panels = []
    for eta in dict.fromkeys(one.eta for one in report.settings):
        curves = []
        for row in report.rows:
            points = [
                (flops / 1e9, near if true is None else true)
                for one, _, flops, near, true in row.settings
                if one.eta == eta
            ]
            costs, distances = zip(*points, strict=True)
            curves.append(Curve(row.name, costs, distances, markers=True))
        panels.append(
            Panel(
                f"eta = {eta:g}",
                "GFLOPs an image",
                "relative Frechet distance",
                curves,
                log_x=True,
                log_y=True,
            )
        )
    best = Curve(
        "matched, best by cost",
        [one.flops / 1e9 for one in report.front],
        [one.distance for one in report.front],
    )
    panels.append(
        Panel("search", "GFLOPs a step, mean", "distance, geometric mean (spectral)", [best], log_y=True)
    )
    return panels
