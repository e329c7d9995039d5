"""Plan a schedule before training: what DDPM, published and SNR-preserving SSD cost, and how far they end."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ssdiff.analysis.data_moments import DataMoments, measure_moments
from ssdiff.analysis.input_images import InputImages, choose_images
from ssdiff.analysis.sampler_error import ExactChains, spectral_distance
from ssdiff.analysis.schedule_search import (
    Outcome,
    Search,
    Setting,
    Thresholds,
    chain_flops,
    chain_of,
    front,
    mean_step_flops,
)
from ssdiff.arguments import require_number
from ssdiff.build import RESIZES, build_process, build_states, outline_model, preset_level_sizes
from ssdiff.config import LogSnrTransitions, Preset, TrainingSettings
from ssdiff.config.load import load_preset, override
from ssdiff.errors import ProcessError, UsageError, memory_for
from ssdiff.evaluation.flops import path_costs
from ssdiff.files import check_outputs, write_atomic
from ssdiff.process.base import Process, State
from ssdiff.process.gaussian import GaussianProcess
from ssdiff.progress import Counter, Progress
from ssdiff.training.timesteps import training_shares

if TYPE_CHECKING:
    from ssdiff.reporting.plots import Panel

EXACT_SIDE, MOST_EXACT = 32, 64
"""Pixels a side up to which the dense covariance is kept unasked, and at all."""

_FILES = ("schedule.csv", "schedule.png", "planned.toml")
_PLANNED = "matched, planned"
_WITHOUT_MOVES: dict[str, Any] = {"sampling.transitions": None}  # they are of the preset's own transitions
_PUBLISHED: dict[str, Any] = {
    "process.resolution": {"kind": "convex_decay"},
    "process.resize": "bilinear",
    "sampling.renoise": "none",
    **_WITHOUT_MOVES,
    "sampling.lift": "network",
    "sampling.crossing": "step",
    "training.transitions": True,
    "training.overlap_share": 0.0,
    "training.overlap_log_snr": TrainingSettings.model_fields["overlap_log_snr"].default,
    "model.own": 0,  # DDPM has one size; a step costs what that of the shared network does
    "training.own_after": 0.0,
}
_SNR_PRESERVING_RESIZE = "area"  # keeps noise white
_COLUMNS = ("steps", "eta", "evaluations", "gflops_an_image", "distance", "exact_distance")

Paths = Mapping[tuple[int, int], int]
"""Forward FLOPs by pixels a side of the network's input and output."""


@dataclass(frozen=True, slots=True)
class SampledSchedule:
    """What a schedule comes to with one way of sampling.

    Attributes:
        setting: steps and eta.
        evaluations: of the network for an image; resolution transitions add to the steps.
        flops: forward FLOPs of an image.
        distance: squared Frechet distance to the data over their total variance, spectral approximation.
        exact_distance: the same with the data's true covariance; None where that was not asked for.
    """

    setting: Setting
    evaluations: int
    flops: int
    distance: float
    exact_distance: float | None

    @property
    def best_distance(self) -> float:
        """The exact distance where it is known, the approximation otherwise."""
        return self.distance if self.exact_distance is None else self.exact_distance


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One schedule.

    Attributes:
        name: what it is called.
        at: full-resolution log-SNRs at which its resolution changes; empty where it has none.
        flops: forward FLOPs of a step, mean over the timesteps.
        training_flops: the same, mean over the batches that the preset's training draws; None where it leaves
            a size without.
        sampled: one for each setting.
        renoise: what its resolution transitions add, as ``sampling.renoise`` says.
    """

    name: str
    at: Thresholds
    flops: float
    training_flops: float | None
    sampled: tuple[SampledSchedule, ...]
    renoise: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "schedule": self.name,
            "log_snr": list(self.at) or None,
            "gflops_a_step": self.flops / 1e9,
            "training_gflops": None if self.training_flops is None else self.training_flops / 1e9,
            "details": self.renoise,
            "settings": [
                {
                    "steps": one.setting.steps,
                    "eta": one.setting.eta,
                    "evaluations": one.evaluations,
                    "gflops_an_image": one.flops / 1e9,
                    "distance": one.distance,
                    "exact_distance": one.exact_distance,
                }
                for one in self.sampled
            ],
        }


@dataclass(frozen=True)
class SchedulePlan:
    """A planned schedule beside those it was compared with.

    A notebook shows it as the table and the plot.

    Attributes:
        preset: the planned preset: SNR-preserving noise, with the best resolution transitions for the budget.
        base: name of the preset that was planned for.
        rows: DDPM first, published SSD, the base preset if its noise is SNR-preserving, the planned one last.
        front: of the search, the best distances by cost, the cheapest first.
        octave_variances: pixels a side to the variance a pixel of what the next smaller resolution has not.
        images: that were looked at.
        budget: FLOPs of a step that the plan may cost, as a share of DDPM's.
        seconds: that the planning took.
    """

    preset: Preset
    base: str
    rows: tuple[PlanRow, ...]
    front: tuple[Outcome, ...]
    octave_variances: Mapping[int, float]
    images: int
    budget: float
    seconds: float

    @property
    def planned(self) -> PlanRow:
        """The row of the planned schedule."""
        return self.rows[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as `ssdiff eval schedule --json` prints them."""
        return {
            "preset": self.base,
            "images": self.images,
            "octave_variances": {str(side): value for side, value in self.octave_variances.items()},
            "budget": self.budget,
            "planned": list(self.planned.at),
            "rows": [row.to_dict() for row in self.rows],
            "seconds": round(self.seconds, 3),
        }

    def table(self) -> str:
        """Return a text: one line a schedule, one column a setting."""
        headings, rows = self._cells()
        width = max(len(row[0]) for row in rows)
        lines = [
            self._octaves(),
            self._what(),
            f"{headings[0]:{width}}{headings[1]:>9}{headings[2]:>7}"
            + "".join(f"{heading:>14}" for heading in headings[3:]),
        ]
        lines += [
            f"{row[0]:{width}}{row[1]:>9}{row[2]:>7}" + "".join(f"{cell:>14}" for cell in row[3:])
            for row in rows
        ]
        return "\n".join([*lines, *self._notes()])

    def plot(self) -> bytes:
        """Draw a PNG file: distance against the cost of an image for each eta, and the search's front."""
        from ssdiff.reporting.plots import draw_panels

        return draw_panels(self._panels())

    def save(self, folder: str | Path, overwrite: bool = False) -> list[Path]:
        """Write schedule.csv, schedule.png and planned.toml, a preset that can be trained.

        Args:
            folder: where; it is created.
            overwrite: whether files there may be replaced.

        Returns:
            Their paths.

        Raises:
            OutputError: one is there already.
            ResourceError: the folder cannot be written or the disk is full.
        """
        paths = check_plan_files(folder, overwrite)
        heading = (
            f"# Planned by `ssdiff eval schedule` from {self.base} for a budget of {self.budget:g} of DDPM's "
            "FLOPs a step.\n"
        )
        contents = (self._csv().encode(), self.plot(), (heading + self.preset.to_toml()).encode())
        for path, content in zip(paths, contents, strict=True):
            write_atomic(path, content, overwrite)
        return paths

    def _repr_html_(self) -> str:
        from ssdiff.reporting.html import Strip, Table, Text, fragment, plot

        headings, rows = self._cells()
        plots = [plot(panel, f"{panel.title}: {panel.y_label}") for panel in self._panels()]
        notes = [Text(note) for note in self._notes()]
        return fragment([Table(self._what(), headings, rows, range(1, len(headings))), Strip(plots), *notes])

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """Headings, and the cells of each schedule."""
        settings = [one.setting for one in self.rows[0].sampled]
        headings = [
            "schedule",
            "GFLOPs",
            "share",
            "in training",
            *(f"{one.steps}, eta {one.eta:g}" for one in settings),
        ]
        full = self.rows[0].flops
        rows = [
            [
                row.name,
                f"{row.flops / 1e9:.3g}",
                f"{row.flops / full:.0%}",
                "-" if row.training_flops is None else f"{row.training_flops / 1e9:.3g}",
                *(f"{one.best_distance:.5f}" for one in row.sampled),
            ]
            for row in self.rows
        ]
        return headings, rows

    def _what(self) -> str:
        exact = self.rows[0].sampled[0].exact_distance is not None
        how = "exact" if exact else "spectral approximation"
        return f"Frechet distance to the data, relative ({how}), {self.images} grey images"

    def _octaves(self) -> str:
        variances = (f"{value:.4f} at {side} px" for side, value in self.octave_variances.items())
        return f"octave variances a pixel: {', '.join(variances)}"

    def _notes(self) -> list[str]:
        redrawn = [row.name for row in self.rows if row.renoise == "spectral"]
        names, at = "; ".join(redrawn), ", ".join(f"{value:g}" for value in self.planned.at)
        note = f"with high-frequency renoising, which the search leaves out: {names}"
        planned = f"planned: resolution transitions at full-resolution log-SNR {at}"
        notes = [note, planned] if redrawn else [planned]
        if self.preset.sampling.correction:
            notes.append("without sampling.correction, which gives back a share of what each size loses")
        return notes

    def _csv(self) -> str:
        stream = io.StringIO()
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(("schedule", "log_snr", "gflops_a_step", "training_gflops", "details", *_COLUMNS))
        for row in self.rows:
            at = " ".join(f"{value:g}" for value in row.at)
            for part in row.to_dict()["settings"]:
                trained = "" if row.training_flops is None else row.training_flops / 1e9
                own = (row.name, at, row.flops / 1e9, trained, row.renoise)
                lines.writerow((*own, *(part[column] for column in _COLUMNS)))
        return stream.getvalue()

    def _panels(self) -> list[Panel]:
        from ssdiff.reporting.plots import Curve, Panel

        panels = []
        for eta in dict.fromkeys(one.setting.eta for one in self.rows[0].sampled):
            curves = []
            for row in self.rows:
                chosen = [one for one in row.sampled if one.setting.eta == eta]
                costs, distances = [one.flops / 1e9 for one in chosen], [one.best_distance for one in chosen]
                curves.append(Curve(row.name, costs, distances, markers=True))
            axes = ("GFLOPs an image", "relative Frechet distance")
            panels.append(Panel(f"eta = {eta:g}", *axes, curves, log_x=True, log_y=True))
        best = Curve(
            "matched, best by cost",
            [one.flops / 1e9 for one in self.front],
            [one.distance for one in self.front],
        )
        labels = ("GFLOPs a step, mean", "distance, geometric mean (spectral)")
        return [*panels, Panel("search", *labels, [best], log_y=True)]


def check_plan_files(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Return the paths that :meth:`SchedulePlan.save` will write, if it may; see :func:`check_outputs`."""
    return check_outputs(folder, _FILES, overwrite)


def plan_schedule(
    data: str | Path | Tensor | None,
    preset: str | Path | Preset,
    *,
    steps: Sequence[int] = (50, 100, 250),
    eta: Sequence[float] = (1.0, 0.0),
    budget: float = 0.55,
    images: int = 5000,
    exact: bool | None = None,
    progress: Progress | None = None,
) -> SchedulePlan:
    """Plan where the resolution should change, for your data and a budget, before anything is trained.

    Gaussian data with the spectrum of yours and the MMSE denoiser: the distances are those of the sampler
    alone [docs/math.md, section 11]; a trained network adds its own error.

    Args:
        data: folder, zip file or name; or images (N, C, R, R) in [-1, 1], C 1 or 3. None takes the data set
            that the preset names.
        preset: of kind ssd, by name, file or object; its size, levels, noise and network count.
        steps: numbers of sampling steps to evaluate by, 1..T; every resolution transition may add one.
        eta: shares of fresh noise to evaluate by, 0..1.
        budget: FLOPs of a step that the plan may cost on average, as a share of DDPM's, above 0 and up to 1.
        images: to look at, evenly from the set.
        exact: whether to use the true covariance, for at most 64 px; None: up to 32 px.
        progress: is told of the stages preparing, statistics, searching and comparing.

    Returns:
        The planned preset, and what each schedule costs and loses.

    Raises:
        PresetError: the preset does not exist, or does not hold together.
        UsageError: it has no resolution transitions; an argument is out of range.
        ProcessError: no schedule is as cheap as the budget.
        DataError: the data cannot be used.
        ResourceError: memory ran out.

    >>> import torch, ssdiff
    >>> x = torch.rand(100, 1, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    >>> plan = ssdiff.plan_schedule(x, "shapes32", steps=[5], eta=[0.0], exact=False)
    >>> plan.preset.process.resolution.kind, len(plan.rows)
    ('log_snr', 5)
    """
    began = time.perf_counter()
    chosen = preset if isinstance(preset, Preset) else load_preset(preset)
    settings = _settings(steps, eta, chosen)
    require_number("budget", budget)
    if not 0 < budget <= 1:
        raise UsageError(f"budget must be above 0 and at most 1 (DDPM's own cost), not {budget}")
    side = chosen.data.size
    if exact and side > MOST_EXACT:
        raise UsageError(f"the exact distance goes up to {MOST_EXACT} px, not {side}", hint="leave exact out")
    source = chosen.data.source if data is None else data
    if source is None:
        raise UsageError(
            f"the preset {chosen.name!r} names no data set", hint="give a folder or name as data"
        )
    with memory_for(f"{images} images of {side} px", "use fewer images, or not the exact distance"):
        found = choose_images(
            source, images, side, chosen.data.channels, settings=chosen.data, progress=progress
        )
        models = _measure(found, chosen, side <= EXACT_SIDE if exact is None else exact, progress)
        return _compare(chosen, models, settings, budget, began, progress)


def _settings(steps: Sequence[int], eta: Sequence[float], preset: Preset) -> list[Setting]:
    """Every number of steps with every eta, without repeats."""
    process = preset.process
    if process.kind != "ssd" or process.levels < 2:
        raise UsageError(
            f"preset {preset.name!r} has no resolution transitions to plan",
            hint="choose one of kind ssd with 2 levels or more",
        )
    counts, shares = _several("steps", steps), _several("eta", eta)
    for count in counts:
        if not _is_number(count) or count != int(count) or not 1 <= count <= process.T:
            raise UsageError(f"steps must be whole numbers within 1..{process.T}, not {count}")
    for share in shares:
        if not _is_number(share) or not 0 <= share <= 1:
            raise UsageError(f"eta must be within 0..1, not {share}")
    return [
        Setting(count, share)
        for count in dict.fromkeys(map(int, counts))
        for share in dict.fromkeys(map(float, shares))
    ]


def _several(name: str, values: object) -> list[Any]:
    found = list(values) if isinstance(values, Iterable) else []
    if not found:
        raise UsageError(f"{name} must be a list of one number or more, not {values!r}")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _measure(
    images: InputImages, preset: Preset, exact: bool, progress: Progress | None
) -> dict[str, DataMoments]:
    """Moments of the data at the resolutions of a preset, by the name of the resize that makes them."""
    sides, told = preset_level_sizes(preset), Counter(progress, "statistics", len(RESIZES) * images.parts)

    def of(resize: str) -> DataMoments:
        def batches() -> Iterator[Tensor]:
            for batch in images.batches():
                yield batch
                told()

        return measure_moments(batches(), sides, covariance=exact, resize=RESIZES[resize])

    return {name: of(name) for name in RESIZES}


def _compare(
    preset: Preset,
    models: Mapping[str, DataMoments],
    settings: Sequence[Setting],
    budget: float,
    began: float,
    progress: Progress | None,
) -> SchedulePlan:
    """DDPM, published SSD, the preset's own SNR-preserving schedule, and the planned one."""
    levels, paths = preset.process.levels, _paths(preset)
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
    _snr_preserving(preset, tuple(-float(transition) for transition in range(1, levels)))

    def states(at: Thresholds) -> Sequence[State]:
        planned = _snr_preserving(preset, at)
        found = build_states(planned)
        training = planned.training
        if training.timesteps != "uniform" or not training.transitions:  # a size may be left without batches
            training_shares(GaussianProcess(found, RESIZES[_SNR_PRESERVING_RESIZE]), training)
        return found

    crossing = preset.sampling.crossing
    search = Search(models[_SNR_PRESERVING_RESIZE], states, settings, _taken(preset, paths), crossing)
    full = search.evaluate((), build_states(presets["DDPM"])).flops
    best = search.best(
        levels - 1, budget * full, lambda tried: progress("searching", tried, None) if progress else None
    )
    planned = presets[_PLANNED] = _snr_preserving(preset, best.at)
    told, rows = Counter(progress, "comparing", len(presets)), []
    for name, each in presets.items():
        rows.append(_row(name, each, models[each.process.resize], settings, paths))
        told()
    model = models[_PUBLISHED["process.resize"]]  # which folds little of an octave into the next
    return SchedulePlan(
        planned,
        preset.name,
        tuple(rows),
        tuple(front(search.tried)),
        model.octaves,
        model.count,
        budget,
        time.perf_counter() - began,
    )


def _snr_preserving(preset: Preset, at: Thresholds) -> Preset:
    """The preset with lossless resolution transitions at log-SNRs."""
    process = {
        "process.snr_preserving": 1.0,
        "process.resize": _SNR_PRESERVING_RESIZE,
        "process.resolution": {"kind": "log_snr", "at": list(at)},
        **_WITHOUT_MOVES,
    }
    before, training = preset.process.resolution, preset.training
    if training.overlap_share and isinstance(before, LogSnrTransitions):  # as far beyond as it was
        process["training.overlap_log_snr"] = at[0] - (before.at[0] - training.overlap_log_snr)
    return override(preset, {"name": f"{preset.name}-planned", **process})


def _paths(preset: Preset) -> Paths:
    """Forward FLOPs of every path that any of the schedules takes."""
    published = override(
        preset, {**_PUBLISHED, "process.snr_preserving": 0.0, "process.resolution": {"kind": "equal"}}
    )
    process = build_process(published)
    costs = path_costs(outline_model(preset), process, preset.data.channels, preset.model.classes)
    return {cost.path: cost.flops for cost in costs}


def _taken(preset: Preset, paths: Paths) -> Paths:
    """The same as sampling takes them: a change of size by a linear map costs what the small size does."""
    if preset.sampling.lift == "network":
        return paths
    return {(now, then): paths[now, now] for now, then in paths}


def _row(name: str, preset: Preset, model: DataMoments, settings: Sequence[Setting], paths: Paths) -> PlanRow:
    states, renoise = build_states(preset), preset.sampling.renoise == "spectral"
    exact, taken = ExactChains(model) if model.covariance is not None else None, _taken(preset, paths)
    process = GaussianProcess(states, model.resize)
    sampled = []
    for setting in settings:
        chain = chain_of(states, setting.steps, preset.sampling.crossing)
        sampled.append(
            SampledSchedule(
                setting,
                len(chain) - 1,
                chain_flops(states, chain, taken),
                spectral_distance(model, states, chain, setting.eta, renoise=renoise),
                exact.distance(process, chain, setting.eta, renoise=renoise) if exact else None,
            )
        )
    rule = preset.process.resolution
    at = rule.at if isinstance(rule, LogSnrTransitions) and preset.process.levels > 1 else ()
    flops, trained = mean_step_flops(states, taken), _training_flops(process, preset, paths)
    return PlanRow(name, tuple(at), flops, trained, tuple(sampled), preset.sampling.renoise)


def _training_flops(process: Process, preset: Preset, paths: Paths) -> float | None:
    """Forward FLOPs of a step, mean over the batches; None where a size has hardly any."""
    try:
        shares = training_shares(process, preset.training)
    except ProcessError:
        return None
    return sum(share * paths[max(now), max(then)] for (now, then), share in shares.items())
