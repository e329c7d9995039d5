"""What a model costs: parameters, FLOPs, and, where they are measured, time, memory and utilisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn

from ssdiff.arguments import require_number, require_whole
from ssdiff.build import build_process, build_sampling_process, outline_model
from ssdiff.config import Preset
from ssdiff.config.load import override
from ssdiff.devices import PRECISIONS, pick_device, pick_precision, precision_name
from ssdiff.display import html_table, human_bytes, human_seconds
from ssdiff.errors import UsageError, memory_for
from ssdiff.evaluation import flops, timing
from ssdiff.evaluation.flops import Path, PathCost
from ssdiff.evaluation.timing import Measured, Timing
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress
from ssdiff.sampling.plan import Plan, make_plan
from ssdiff.schedules.respacing import Steps
from ssdiff.training.feasible import check_feasible
from ssdiff.training.precision import choose_by_probe, settle_precision
from ssdiff.weights.load import find_preset

_CALIBRATION = 1 / 20  # of the time to measure goes into the matrix peak
_DRY_RUN_SECONDS = 10.0  # that a dry run spends on measuring, about


@dataclass(frozen=True, slots=True)
class CostMeasurement:
    """What a device took for the steps of a model.

    Attributes:
        device: that was measured.
        device_name: of a GPU; None of a CPU.
        threads: of a CPU; None of a GPU.
        precision: of the network, ``fp32`` or ``bf16``.
        batch: images a step.
        peak: FLOP/s of the best product of two large matrices, against which utilisation is held.
        times: seconds and bytes, by path.
    """

    device: str
    device_name: str | None
    threads: int | None
    precision: str
    batch: int
    peak: float
    times: Measured


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs in training and sampling, path by path through the network.

    FLOPs count 2 for a multiplication and addition; training takes three times those of the forward pass.
    Utilisation is FLOPs a second over those of the best matrix product of the device.

    Attributes:
        preset: settings of the model.
        plan: sampling trajectory.
        parameters: numbers in all weights.
        paths: cost of one image along every path, largest resolution first.
        visits: how often the trajectory takes each path.
        evaluations: of the network along each path: two a visit with guidance, else one.
        measured: times and memory; None where nothing was measured.
    """

    preset: Preset
    plan: Plan
    parameters: int
    paths: tuple[PathCost, ...]
    visits: Mapping[Path, int]
    evaluations: Mapping[Path, int]
    measured: CostMeasurement | None = None

    @property
    def forward_flops(self) -> float:
        """Of one image forward, averaged over the training batches: the papers' cost of a step."""
        return flops.mean_flops(self.paths)

    @property
    def training_flops(self) -> float:
        """Of one image in training, averaged over the batches."""
        return flops.training_flops(self.paths)

    @property
    def sampling_flops(self) -> int:
        """Of one image along the whole trajectory."""
        return flops.trajectory_flops(self.paths, self.evaluations)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff eval cost --json`` prints."""
        steps = self.plan.evaluations
        values: dict[str, Any] = {
            "preset": self.preset.name,
            "summary": self.preset.summary,
            "published": self.preset.published,
            "parameters": self.parameters,
            "T": self.preset.process.T,
            "paths": [self._path(path) for path in self.paths],
            "training": {"forward_gflops": self.forward_flops / 1e9, "gflops": self.training_flops / 1e9},
            "sampling": {
                "sampler": self.plan.sampler,
                "steps": steps,
                **self.plan.told,
                "gflops_per_step": self.sampling_flops / steps / 1e9,
                "gflops_per_image": self.sampling_flops / 1e9,
            },
        }
        return values if self.measured is None else self._with_times(values, self.measured)

    def _path(self, path: PathCost) -> dict[str, Any]:
        visits = self.visits.get(path.path, 0)
        return {
            "in": [path.resolution] * 2,
            "out": [path.wanted] * 2,
            "parameters": path.parameters,
            "gflops": path.flops / 1e9,
            "training_share": path.share,
            "sampling_share": visits / self.plan.evaluations,
            "sampling_steps": visits,
        }

    def _with_times(self, values: dict[str, Any], measured: CostMeasurement) -> dict[str, Any]:
        """Add times, images a second and utilisation."""
        times, batch, peak = measured.times, measured.batch, measured.peak
        for entry, path in zip(values["paths"], self.paths, strict=True):
            entry["training"] = _rates(times.training[path.path], batch, path.training_flops, peak)
            sampled = times.sampling.get(path.path)
            visits, asked = self.visits.get(path.path, 0), self.evaluations.get(path.path, 0)
            entry["sampling"] = sampled and _rates(sampled, batch, path.flops * asked / visits, peak)
        step = timing.mean_seconds(self.paths, times.training)
        walk = timing.trajectory_seconds(self.visits, times.sampling)
        values["training"] |= {
            "ms_per_step": 1e3 * step,
            "images_per_second": batch / step,
            "utilisation": self.training_flops * batch / step / peak,
            "peak_bytes": times.training_bytes,
        }
        values["sampling"] |= {
            "ms_per_step": 1e3 * walk / self.plan.evaluations,
            "seconds_per_batch": walk,
            "images_per_second": batch / walk,
            "utilisation": self.sampling_flops * batch / walk / peak,
            "peak_bytes": times.sampling_bytes,
        }
        return values | {
            "device": measured.device,
            "device_name": measured.device_name,
            "threads": measured.threads,
            "torch": torch.__version__,
            "precision": measured.precision,
            "compiled": self.preset.training.compile,
            "batch": batch,
            "matrix_peak_tflops": peak / 1e12,
        }

    def summary(self) -> list[str]:
        """Return one line about training and one about sampling."""
        values = self.to_dict()
        training, sampling, weight = values["training"], values["sampling"], self.plan.guidance
        place = self.plan.guidance_place
        guided = f" with guidance {weight:g}{place}, twice the work{' there' * bool(place)}"
        guided = guided if weight != 1 else ""
        lines = [
            f"training: {training['forward_gflops']:.3g} GFLOPs forward and {training['gflops']:.3g} in all "
            "an image, mean over the batches",
            f"sampling: {sampling['gflops_per_step']:.3g} GFLOPs a step and "
            f"{sampling['gflops_per_image']:.4g} an image, {sampling['steps']} steps of "
            f"{sampling['sampler']}{guided}",
        ]
        if self.measured is not None:
            lines[0] += f"; {training['ms_per_step']:.4g} ms a step, {_pace(training)}"
            lines[1] += f"; {human_seconds(sampling['seconds_per_batch'])} a batch, {_pace(sampling)}"
        return lines

    def machine(self) -> str:
        """Return on what was measured, in words; nothing where nothing was."""
        found = self.measured
        if found is None:
            return ""
        threads = f", {found.threads} thread{'s' * (found.threads > 1)}" if found.threads else ""
        compiled = ", training compiled" if self.preset.training.compile else ""
        return (
            f"measured on {found.device_name or found.device}{threads}, {found.precision}{compiled}, "
            f"batch {found.batch}; matrix peak {found.peak / 1e12:.3g} TFLOP/s"
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows, a row a path."""
        headings = ["In and out", "Parameters used", "Forward GFLOPs", "Training steps", "Sampling steps"]
        if self.measured is not None:
            kinds = ("Training", "Sampling")
            headings += [f"{kind}: {what}" for kind in kinds for what in ("ms", "images/s", "of peak")]
        return headings, [self._row(path) for path in self.to_dict()["paths"]]

    def _row(self, path: dict[str, Any]) -> list[str]:
        row = [
            f"{path['in'][0]} to {path['out'][0]} px",
            f"{path['parameters'] / 1e6:.2f} M",
            f"{path['gflops']:.3g}",
            f"{100 * path['training_share']:.1f} %",
            f"{100 * path['sampling_share']:.1f} %",
        ]
        for kind in ("training", "sampling") if self.measured is not None else ():
            rates = path[kind]
            row += _shown(rates) if rates else ["-", "-", "-"]
        return row

    def __str__(self) -> str:
        lines = [
            self.preset.title,
            f"{self.parameters / 1e6:.2f} M parameters, T = {self.preset.process.T}",
        ]
        if self.measured is not None:
            lines.append(self.machine())
        broken = [line.replace("; ", ";\n          ") for line in self.summary()]
        return "\n".join([*lines, "", *self._text_table(), "", *broken])

    def _text_table(self) -> list[str]:
        first = f"{'':14}{'parameters':>12}{'forward':>10}{'share of steps':>18}"
        second = f"{'in -> out':>14}{'used':>12}{'GFLOPs':>10}{'training':>9}{'sampling':>9}"
        if self.measured is not None:
            first += f"{'training step':>26}{'sampling step':>26}"
            second += f"{'ms':>10}{'img/s':>9}{'util.':>7}" * 2
        lines = [first, second]
        for path in self.to_dict()["paths"]:
            line = (
                f"{path['in'][0]:6d} -> {path['out'][0]:4d}{path['parameters'] / 1e6:10.2f} M"
                f"{path['gflops']:10.3g}{100 * path['training_share']:8.1f}%"
                f"{100 * path['sampling_share']:8.1f}%"
            )
            for kind in ("training", "sampling") if self.measured is not None else ():
                shown = _shown(path[kind]) if path[kind] else ["-", "-", "-"]
                line += f"{shown[0]:>10}{shown[1]:>9}{shown[2].replace(' ', ''):>7}"
            lines.append(line)
        return lines

    def _repr_html_(self) -> str:
        headings, rows = self.table()
        return html_table(self.preset.title, headings, rows)


@dataclass(frozen=True, slots=True)
class DryRun:
    """What training a preset would take.

    Attributes:
        preset: to train.
        device: that was measured.
        parameters: numbers in all weights.
        paths: cost of one image along every path, largest resolution first.
        seconds: of one image in a whole step of the optimiser that is not compiled, by path.
        memory: estimate of what training needs, bytes.
        precision: of the network, ``fp32`` or ``bf16``.
        remark: what is to be known of that, empty where nothing is unusual.
    """

    preset: Preset
    device: str
    parameters: int
    paths: tuple[PathCost, ...]
    seconds: Mapping[Path, float]
    memory: int
    precision: str
    remark: str

    @property
    def images_per_step(self) -> int:
        """Images behind one step of the optimiser."""
        return self.preset.training.batch * self.preset.training.grad_accum_steps

    @property
    def seconds_per_step(self) -> float:
        """Of one step of the optimiser, mean over the batches."""
        return self.images_per_step * sum(path.share * self.seconds[path.path] for path in self.paths)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff train --dry-run --json`` prints."""
        settings = self.preset.training
        return {
            "preset": self.preset.name,
            "summary": self.preset.summary,
            "published": self.preset.published,
            "parameters": self.parameters,
            "T": self.preset.process.T,
            "mean_gflops": flops.mean_flops(self.paths) / 1e9,
            "training_bytes": self.memory,
            "batch": settings.batch,
            "images_per_step": self.images_per_step,
            "steps": settings.steps,
            "seconds_per_step": self.seconds_per_step,
            "seconds_in_all": self.seconds_per_step * settings.steps,
            "device": self.device,
            "precision": self.precision,
            "paths": [
                {
                    "in": [path.resolution] * 2,
                    "out": [path.wanted] * 2,
                    "share": path.share,
                    "gflops": path.flops / 1e9,
                    "activation_bytes": path.activation_bytes,
                    "seconds_per_image": self.seconds[path.path],
                }
                for path in self.paths
            ],
        }

    def __str__(self) -> str:
        settings, step = self.preset.training, self.seconds_per_step
        lines = [
            self.preset.title,
            f"{self.parameters / 1e6:.2f} M parameters, T = {self.preset.process.T}",
            "path          share of steps   GFLOPs   activations   ms an image, a whole step",
        ]
        lines += [
            f"{path.resolution:4d} -> {path.wanted:4d}  {100 * path.share:13.1f} % {path.flops / 1e9:8.2f} "
            f"{human_bytes(path.activation_bytes):>13} {1e3 * self.seconds[path.path]:13.1f}"
            for path in self.paths
        ]
        lines += [
            f"forward cost   {flops.mean_flops(self.paths) / 1e9:.1f} GFLOPs an image, mean over the batches",
            f"memory         about {human_bytes(self.memory)} at batch {settings.batch}: "
            "weights, Adam, average, activations",
            f"precision      {self.precision}{f': {self.remark}' if self.remark else ''}",
            f"time           about {human_seconds(step)} a step of {self.images_per_step} images on "
            f"{self.device}, {human_seconds(step * settings.steps)} for {settings.steps} steps",
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            [
                f"{path.resolution} to {path.wanted} px",
                f"{100 * path.share:.1f} %",
                f"{path.flops / 1e9:.2f}",
                human_bytes(path.activation_bytes),
                f"{1e3 * self.seconds[path.path]:.1f}",
            ]
            for path in self.paths
        ]
        headings = ["In and out", "Share of steps", "GFLOPs", "Activations", "ms an image"]
        caption = f"{self.preset.name}: about {human_seconds(self.seconds_per_step)} a step on {self.device}"
        return html_table(caption, headings, rows)


def cost(
    preset_or_pipeline: Preset | Pipeline | str | FilePath,
    *,
    steps: Steps | None = None,
    batch: int | None = None,
    measure: bool = False,
    seconds: float = 20.0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Cost:
    """Count what a model costs at each resolution, and measure it if asked.

    Args:
        preset_or_pipeline: settings, or what has them: a preset's name or file, a run, checkpoint or model
            file, a pipeline. Weights play no part.
        steps: of sampling, 1..T; the preset's where omitted.
        batch: images a step when measuring; the preset's, halved until it fits into the time, where omitted.
        measure: take times and memory on the device, too.
        seconds: to spend on that, about.
        device: to measure, see :func:`ssdiff.devices.pick_device`.
        precision: ``auto``, ``fp32`` or ``bf16`` for the network.
        progress: is told of each measured path.

    Raises:
        UsageError: a number or precision out of range, or a pipeline without a preset.
        PresetError: no such preset.
        CheckpointError: no such run or model.
        ResourceError: the device is absent or out of memory.
    """
    if batch is not None:
        require_whole("batch", batch, 1)
    require_number("seconds", seconds)
    if seconds <= 0:
        raise UsageError(f"the seconds to measure must be above 0, not {seconds:g}")
    preset = _settings(preset_or_pipeline)
    place = pick_device(device)
    counted = count(preset, steps)
    dtype = pick_precision(precision, place, counted.parameters)
    if not measure:
        return counted
    return Cost(
        counted.preset,
        counted.plan,
        counted.parameters,
        counted.paths,
        counted.visits,
        counted.evaluations,
        _measured(counted, place, dtype, batch, seconds, progress),
    )


def count(preset: Preset, steps: Steps | None = None) -> Cost:
    """Count without measuring: nothing is computed, for the network is made on the meta device.

    Args:
        preset: settings of the model.
        steps: of sampling; the preset's where omitted.
    """
    process = build_sampling_process(preset)
    plan = make_plan(preset, process, steps)
    model, paths = _outline(preset)
    linear = preset.sampling.lift == "linear"
    visits = flops.paths_along(process, plan.timesteps[:-1], linear=linear)
    asked = [t for t, passes in zip(plan.timesteps, plan.passes, strict=False) for _ in range(passes)]
    evaluations = flops.paths_along(process, asked, linear=linear)
    return Cost(preset, plan, _parameters(model), paths, visits, evaluations)


def dry_run(preset: Preset, device: str = "auto", progress: Progress | None = None) -> DryRun:
    """Measure what training a preset would take, for about ten seconds; nothing is written.

    Args:
        preset: to train; its precision counts, and it is measured uncompiled.
        device: see :func:`ssdiff.devices.pick_device`.
        progress: is told of each measured path.

    Raises:
        UsageError: the training would refuse the settings, as
            :func:`ssdiff.training.feasible.check_feasible`.
        ProcessError: likewise.
        ResourceError: the device is absent or out of memory.
    """
    place = pick_device(device)
    check_feasible(preset, build_process(preset))
    model, paths = _outline(preset)
    settled = settle_precision(preset, None, {}, place)
    dtype, remark = settled.dtype, settled.note
    peak = timing.matrix_peak(place, dtype or torch.float32, _DRY_RUN_SECONDS * _CALIBRATION)
    batch = timing.affordable_batch(paths, peak, _DRY_RUN_SECONDS, preset.training.batch)
    counter = Counter(progress, "measuring", len(paths))
    with memory_for(f"{batch} images of {preset.data.size} px at once", "lower training.batch"):
        plain = override(preset, {"training.compile": False})
        trainer = timing.PathTrainer(timing.untrained(plain, place, dtype or torch.float32), batch)
        if dtype is None:
            name, remark = choose_by_probe(trainer.rehearse, lambda: False)
            dtype = trainer.precision = PRECISIONS[name]
        times = timing.time_training(trainer, place, _DRY_RUN_SECONDS, counter)
    seconds = {path: found.seconds / batch for path, found in times.items()}
    memory = flops.training_bytes(model, paths, preset.training.batch)
    return DryRun(
        preset, str(place), _parameters(model), paths, seconds, memory, precision_name(dtype), remark
    )


def _settings(source: Preset | Pipeline | str | FilePath) -> Preset:
    if isinstance(source, Preset):
        return source
    if not isinstance(source, Pipeline):
        return find_preset(source)
    return source.required_preset()


def _outline(preset: Preset) -> tuple[nn.Module, tuple[PathCost, ...]]:
    """The network, without weights where it can be, and what its paths cost."""
    outline = outline_model(preset)
    paths = flops.path_costs(
        outline,
        build_process(preset),
        preset.data.channels,
        preset.model.classes,
        training=preset.training,
    )
    return outline, tuple(paths)


def _parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _measured(
    counted: Cost,
    device: torch.device,
    dtype: torch.dtype,
    batch: int | None,
    seconds: float,
    progress: Progress | None,
) -> CostMeasurement:
    peak = timing.matrix_peak(device, dtype, seconds * _CALIBRATION)
    size = batch or timing.affordable_batch(counted.paths, peak, seconds, counted.preset.training.batch)
    counter = Counter(progress, "measuring", len(counted.paths) + len(counted.visits))
    with memory_for(f"{size} images of {counted.preset.data.size} px at once", "lower the batch (--batch)"):
        times = timing.measure_costs(counted.preset, counted.plan, device, dtype, size, seconds, counter)
    return CostMeasurement(
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        threads=torch.get_num_threads() if device.type == "cpu" else None,
        precision=precision_name(dtype),
        batch=size,
        peak=peak,
        times=times,
    )


def _rates(timed: Timing, batch: int, work: float, peak: float) -> dict[str, Any]:
    return {
        "ms": 1e3 * timed.seconds,
        "images_per_second": batch / timed.seconds,
        "utilisation": work * batch / timed.seconds / peak,
        "repeats": timed.repeats,
    }


def _shown(rates: dict[str, Any]) -> list[str]:
    return [
        f"{rates['ms']:.4g}",
        f"{rates['images_per_second']:.3g}",
        f"{100 * rates['utilisation']:.1f} %",
    ]


def _pace(part: dict[str, Any]) -> str:
    memory = f", {human_bytes(part['peak_bytes'])} of memory" if part["peak_bytes"] is not None else ""
    rate, used = part["images_per_second"], 100 * part["utilisation"]
    return f"{rate:.3g} images/s, {used:.1f} % of the matrix peak{memory}"
