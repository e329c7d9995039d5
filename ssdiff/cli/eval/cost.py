"""`ssdiff eval cost`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Precision,
    Quiet,
    Sets,
    Terminal,
    check_precision,
    human_bytes,
    human_seconds,
    memory_for,
    parse_sets,
    positive,
)
from ssdiff.cli.eval.options import Steps
from ssdiff.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import torch

    from ssdiff.config import Preset
    from ssdiff.evaluation.flops import PathCost
    from ssdiff.evaluation.timing import Measured, Timing
    from ssdiff.sampling.plan import Plan

_Source = Annotated[
    str | None,
    typer.Argument(
        metavar="PRESET|RUN|FILE",
        help="Preset by name or file, run, checkpoint or model; default: the newest run, or the bundled one.",
    ),
]
_Batch = Annotated[
    int | None,
    typer.Option(help="Images a step. Default: the preset's, halved until measuring fits into --seconds."),
]
_Seconds = Annotated[float, typer.Option(help="Time to spend on measuring, about.")]
_NoTiming = Annotated[bool, typer.Option("--no-timing", help="Count only; measure nothing.")]
_Out = Annotated[Path | None, typer.Option(metavar="x.json", help="Write the result there, too.")]

_GUIDED = 2  # evaluations of a step with guidance


def cost(
    source: _Source = None,
    batch: _Batch = None,
    steps: Steps = None,
    set_: Sets = None,
    seconds: _Seconds = 20.0,
    no_timing: _NoTiming = False,
    precision: Precision = "auto",
    out: _Out = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a step costs at each resolution: parameters, FLOPs, time, memory, utilisation."""
    from json import dumps

    from ssdiff.devices import pick_device, pick_precision
    from ssdiff.files import check_output, write_atomic

    terminal = Terminal(quiet, json)
    if batch is not None:
        positive(batch, "--batch")
    if not seconds > 0:
        raise UsageError(f"--seconds must be above 0, not {seconds:g}")
    check_precision(precision)
    if out is not None:
        check_output(out, overwrite, (".json",))
    preset = _preset(source, parse_sets(set_), terminal)
    place = pick_device(device)
    counted = Counted(preset, steps)
    values = counted.values()
    if not no_timing:
        values |= timed(counted, place, pick_precision(precision, place), batch, seconds, terminal)
    if out is not None:
        write_atomic(out, dumps(values, indent=1).encode() + b"\n", overwrite)
    terminal.result(_text(values), values)


class Counted:
    """What can be known of a preset's cost without computing anything.

    Args:
        preset: to count.
        steps: of sampling; None leaves them to the preset.

    Attributes:
        plan: the trajectory.
        costs: of every path through the network.
        visits: how often the trajectory takes each path.
        parameters: of the whole network.
    """

    def __init__(self, preset: Preset, steps: int | None) -> None:
        import torch

        from ssdiff.build import build_model, build_process
        from ssdiff.evaluation import flops
        from ssdiff.sampling.plan import make_plan

        process = build_process(preset)
        self.preset = preset
        self.plan: Plan = make_plan(preset, process, steps)
        with torch.device("meta"):
            outline = build_model(preset)
        self.costs: list[PathCost] = flops.path_costs(
            outline,
            process,
            preset.data.channels,
            preset.model.classes,
            transition_share=preset.training.transition_share,
        )
        self.visits = flops.paths_along(process, self.plan.timesteps[: self.plan.evaluations])
        self.parameters = sum(weight.numel() for weight in outline.parameters())
        self.passes = 1 if self.plan.guidance == 1 else _GUIDED

    def values(self) -> dict[str, Any]:
        """The JSON result of `eval cost`, without times."""
        from ssdiff.evaluation.flops import mean_flops, training_flops, trajectory_flops

        preset, plan = self.preset, self.plan
        total = self.passes * trajectory_flops(self.costs, self.visits)
        return {
            "preset": preset.name,
            "summary": preset.summary,
            "parameters": self.parameters,
            "T": preset.process.T,
            "paths": [self._path(path) for path in self.costs],
            "training": {
                "forward_gflops": mean_flops(self.costs) / 1e9,
                "gflops": training_flops(self.costs) / 1e9,
            },
            "sampling": {
                "sampler": plan.sampler,
                "steps": plan.evaluations,
                "guidance": plan.guidance,
                "gflops_per_step": total / plan.evaluations / 1e9,
                "gflops_per_image": total / 1e9,
            },
        }

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


def timed(
    counted: Counted,
    device: torch.device,
    dtype: torch.dtype,
    batch: int | None,
    seconds: float,
    terminal: Terminal,
) -> dict[str, Any]:
    """What measuring adds to the JSON result; paths, training and sampling are replaced.

    Args:
        counted: the model.
        device: to measure.
        dtype: of the network's mixed precision.
        batch: images a step; None finds one that fits into the time.
        seconds: to spend.
        terminal: shows the progress.
    """
    import torch

    from ssdiff.evaluation.timing import affordable_batch, matrix_peak, measure

    peak = matrix_peak(device, dtype, seconds / 20)
    size = batch or affordable_batch(counted.costs, peak, seconds, counted.preset.training.batch)
    with terminal.progress("path") as bar:
        total = len(counted.costs) + len(counted.visits)
        task = bar.add_task("measuring", total=total, rate="-", note=f"batch {size}")
        with memory_for(f"{size} images of {counted.preset.data.size} px at once", "lower --batch"):
            found = measure(
                counted.preset, counted.plan, device, dtype, size, seconds, lambda: bar.advance(task)
            )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "torch": torch.__version__,
        "precision": "bf16" if dtype == torch.bfloat16 else "fp32",
        "compiled": counted.preset.training.compile,
        "batch": size,
        "matrix_peak_tflops": peak / 1e12,
        **_with_times(counted, found, size, peak),
    }


def _with_times(counted: Counted, found: Measured, batch: int, peak: float) -> dict[str, Any]:
    """``paths``, ``training`` and ``sampling`` with times, images a second and utilisation."""
    from ssdiff.evaluation.timing import mean_seconds, trajectory_seconds

    values = counted.values()
    for entry, path in zip(values["paths"], counted.costs, strict=True):
        entry["training"] = _rates(found.training[path.path], batch, path.training_flops, peak)
        timing = found.sampling.get(path.path)
        entry["sampling"] = timing and _rates(timing, batch, counted.passes * path.flops, peak)
    step, walk = (
        mean_seconds(counted.costs, found.training),
        trajectory_seconds(counted.visits, found.sampling),
    )
    training, sampling = values["training"], values["sampling"]
    training |= {
        "ms_per_step": 1e3 * step,
        "images_per_second": batch / step,
        "utilisation": 1e9 * training["gflops"] * batch / step / peak,
        "peak_bytes": found.training_bytes,
    }
    sampling |= {
        "ms_per_step": 1e3 * walk / counted.plan.evaluations,
        "seconds_per_batch": walk,
        "images_per_second": batch / walk,
        "utilisation": 1e9 * sampling["gflops_per_image"] * batch / walk / peak,
        "peak_bytes": found.sampling_bytes,
    }
    return {"paths": values["paths"], "training": training, "sampling": sampling}


def _rates(timing: Timing, batch: int, flops: float, peak: float) -> dict[str, Any]:
    return {
        "ms": 1e3 * timing.seconds,
        "images_per_second": batch / timing.seconds,
        "utilisation": flops * batch / timing.seconds / peak,
        "repeats": timing.repeats,
    }


def _preset(source: str | None, overrides: dict[str, object], terminal: Terminal) -> Preset:
    """The settings asked for; of a model or run only they are read, for time does not depend on weights."""
    from ssdiff import runs
    from ssdiff.config.load import load_preset, override
    from ssdiff.weights import single_file
    from ssdiff.weights.load import find_model

    if source is not None and not Path(source).exists() and not source.endswith(".toml"):
        if Path(source).name != source or os.sep in source:
            raise CheckpointError(f"no run or model at {source}", path=source, hint="check the path")
        return load_preset(source, overrides)
    if source is not None and source.endswith(".toml"):
        return load_preset(source, overrides)
    path = find_model(None if source is None else Path(source)).path
    if source is None:
        terminal.say(f"measuring {path}")
    if runs.is_run(path):
        return load_preset(path / "preset.toml", overrides)
    return override(single_file.read(path).preset, overrides)


def _text(values: dict[str, Any]) -> str:
    measured = "batch" in values
    lines = [
        f"{values['preset']}: {values['summary']}",
        f"{values['parameters'] / 1e6:.2f} M parameters, T = {values['T']}",
    ]
    if measured:
        lines.append(machine(values))
    broken = [line.replace("; ", ";\n          ") for line in summary(values)]
    return "\n".join([*lines, "", *_table(values["paths"], measured), "", *broken])


def _table(paths: list[dict[str, Any]], measured: bool) -> list[str]:
    first = f"{'':14}{'parameters':>12}{'forward':>10}{'share of steps':>18}"
    second = f"{'in -> out':>14}{'used':>12}{'GFLOPs':>10}{'training':>9}{'sampling':>9}"
    if measured:
        first += f"{'training step':>26}{'sampling step':>26}"
        second += f"{'ms':>10}{'img/s':>9}{'util.':>7}" * 2
    lines = [first, second]
    for path in paths:
        line = (
            f"{path['in'][0]:6d} -> {path['out'][0]:4d}{path['parameters'] / 1e6:10.2f} M"
            f"{path['gflops']:10.3g}{100 * path['training_share']:8.1f}%{100 * path['sampling_share']:8.1f}%"
        )
        lines.append(line + (_rate(path["training"]) + _rate(path["sampling"]) if measured else ""))
    return lines


def _rate(rates: dict[str, Any] | None) -> str:
    if rates is None:
        return f"{'-':>10}{'-':>9}{'-':>7}"
    return f"{rates['ms']:10.4g}{rates['images_per_second']:9.3g}{100 * rates['utilisation']:6.1f}%"


def summary(values: dict[str, Any]) -> list[str]:
    """One line about training and one about sampling, of the JSON result."""
    training, sampling = values["training"], values["sampling"]
    guided = f" with guidance {sampling['guidance']:g}, twice the work" if sampling["guidance"] != 1 else ""
    lines = [
        f"training: {training['forward_gflops']:.3g} GFLOPs forward and {training['gflops']:.3g} in all an "
        "image, mean over the batches",
        f"sampling: {sampling['gflops_per_step']:.3g} GFLOPs a step and {sampling['gflops_per_image']:.4g} "
        f"an image, {sampling['steps']} steps of {sampling['sampler']}{guided}",
    ]
    if "batch" in values:
        lines[0] += f"; {training['ms_per_step']:.4g} ms a step, {_pace(training)}"
        lines[1] += f"; {human_seconds(sampling['seconds_per_batch'])} a batch, {_pace(sampling)}"
    return lines


def machine(values: dict[str, Any]) -> str:
    """On what the times of a JSON result were measured."""
    count = values["threads"]
    threads = f", {count} thread{'s' * (count > 1)}" if count else ""
    compiled = ", training compiled" if values["compiled"] else ""
    return (
        f"measured on {values['device_name'] or values['device']}{threads}, {values['precision']}{compiled}, "
        f"batch {values['batch']}; matrix peak {values['matrix_peak_tflops']:.3g} TFLOP/s"
    )


def _pace(part: dict[str, Any]) -> str:
    memory = f", {human_bytes(part['peak_bytes'])} of memory" if part["peak_bytes"] is not None else ""
    rate, used = part["images_per_second"], 100 * part["utilisation"]
    return f"{rate:.3g} images/s, {used:.1f} % of the matrix peak{memory}"
