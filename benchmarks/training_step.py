"""Time of a training step along each path through the network: `python benchmarks/training_step.py`.

The authors' code takes 9.7 s at 64 px, 4.7 at 32, 2.3 at 16 and 0.76 at 8 with celeba64 and batch 8 on two
cores with AVX512-BF16; the last column is held against that, and says something on such a machine alone. A
step is loss, gradient, clipping, AdamW and the average; on CUDA each measurement is the mean of a few steps,
because there the host does not wait for a step's end. On a GPU, one size at a time because the compiler takes
up to a minute for each path:

    python benchmarks/training_step.py --compile --batches 256 --resolutions 64 --profile operators.txt

Columns: the first step, which allocates, chooses kernels and, with --compile, waits for the compiler; then
the median of the others. `of peak` is relative to the best product of two large matrices of the same type,
and counts the products of plain convolutions: in fp32 on a CPU Winograd's filtering takes fewer, so that it
may pass 100 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath

import torch
from torch.profiler import ProfilerActivity, profile

from ssdiff import build_model, build_process, load_preset
from ssdiff.build import place_model
from ssdiff.config import Preset
from ssdiff.devices import multiplies_bf16, pick_device, pick_precision, precision_name, synchronise
from ssdiff.evaluation.flops import Path, PathCost, path_costs
from ssdiff.evaluation.timing import PathTrainer, Timing, matrix_peak, mean_seconds, time_step
from ssdiff.pipeline import Pipeline

OFFICIAL = {("celeba64", 8): {64: 9.7, 32: 4.7, 16: 2.3, 8: 0.76}}
HEAVIEST = 30  # operators in a profile


def main() -> None:
    """Print a table for each batch size, one row a path."""
    options = parse()
    device = pick_device(options.device)
    preset = load_preset(options.preset, {"training.compile": options.compile})
    costs = chosen_costs(preset, options.resolutions)
    official = OFFICIAL if device.type == "cpu" else {}
    native = "native" if multiplies_bf16(device) else "not native"
    print(
        f"{options.preset}, {device}, {torch.get_num_threads()} threads, "
        f"{'compiled' if options.compile else 'not compiled'}, bf16 {native}"
    )
    for name in options.precisions:
        measure(preset, costs, device, name, official, options)


def measure(
    preset: Preset,
    costs: list[PathCost],
    device: torch.device,
    name: str,
    official: Mapping[tuple[str, int], dict[int, float]],
    options: argparse.Namespace,
) -> None:
    """Measure one precision beside the peak of its matrix products."""
    precision = pick_precision(name, device)
    peak = matrix_peak(device, precision)
    print(f"\n{precision_name(precision)}: matrix peak {peak / 1e12:.3g} TFLOP/s")
    for batch in options.batches:
        bar = official.get((options.preset, batch), {})
        try:
            table(preset, costs, device, precision, batch, peak, bar, options)
        except torch.OutOfMemoryError:
            print(f"\nbatch {batch}: out of memory")
        if device.type == "cuda":
            torch.cuda.empty_cache()


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="celeba64")
    parser.add_argument("--batches", type=numbers, default=[8], metavar="8,32,...", help="images a step")
    parser.add_argument(
        "--resolutions", type=numbers, metavar="16,8", help="only paths that begin and end at one of these"
    )
    parser.add_argument("--compile", action="store_true", help="as training.compile")
    parser.add_argument("--profile", type=FilePath, metavar="FILE", help="append the heaviest operators")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--precisions", type=lambda text: text.split(","), default=["fp32", "bf16"], metavar="fp32,bf16"
    )
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each path, at least 1")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, not {options.repeats}")
    return options


def numbers(text: str) -> list[int]:
    """Positive whole numbers between commas."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text} has a number below 1")
    return values


def chosen_costs(preset: Preset, resolutions: list[int] | None) -> list[PathCost]:
    """The paths to measure, with their FLOPs and shares of the training."""
    with torch.device("meta"):
        outline = build_model(preset)
    costs = path_costs(
        outline,
        build_process(preset),
        preset.data.channels,
        preset.model.classes,
        training=preset.training,
    )
    chosen = [c for c in costs if resolutions is None or {*c.path} <= {*resolutions}]
    if not chosen:
        sides = ", ".join(str(side) for side in sorted({c.resolution for c in costs}, reverse=True))
        raise SystemExit(f"no path of {preset.name} begins and ends at these resolutions; it has {sides}")
    return chosen


def table(
    preset: Preset,
    costs: list[PathCost],
    device: torch.device,
    precision: torch.dtype,
    batch: int,
    peak: float,
    official: dict[int, float],
    options: argparse.Namespace,
) -> None:
    """Measure and print one batch size."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model = place_model(build_model(preset), device)
    process = build_process(preset)
    trainer = PathTrainer(Pipeline(process, model, preset=preset, precision=precision), batch)
    print(f"\nbatch {batch}")
    print(" in -> out   share   first, s  seconds a step   images/s  TFLOP/s  of peak  official / ours")
    timings: dict[Path, Timing] = {}
    for cost in costs:
        trainer.choose(cost.path)
        first = once(trainer.advance, device)
        timing = timings[cost.path] = time_step(trainer.advance, device, 0, options.repeats)
        bar = official.get(cost.resolution) if cost.resolution == cost.wanted else None
        row(cost, first, timing.seconds, batch, peak, bar)
        if options.profile:
            write_profile(options.profile, trainer.advance, device, f"batch {batch}, {cost.path}")
    if sum(cost.share for cost in costs) > 1 - 1e-9:
        seconds = mean_seconds(costs, timings)
        rate = batch * sum(cost.share * cost.training_flops for cost in costs) / seconds
        print(f"      mean  100.0 %{rates(seconds, batch, rate, peak, 27)}")
    if device.type == "cuda":
        print(f"most memory at once: {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")


def row(
    cost: PathCost, first: float, seconds: float, batch: int, peak: float, official: float | None
) -> None:
    """Print what one path takes."""
    line = f"{cost.resolution:3d} -> {cost.wanted:3d} {100 * cost.share:6.1f} % {first:10.2f}"
    line += rates(seconds, batch, batch * cost.training_flops / seconds, peak, 16)
    print(line + (f"{official / seconds:17.2f}" if official else ""), flush=True)


def rates(seconds: float, batch: int, flops: float, peak: float, width: int) -> str:
    """Seconds, images a second, TFLOP/s and utilisation as columns."""
    return f"{seconds:{width}.4f} {batch / seconds:10.2f} {flops / 1e12:8.3g} {100 * flops / peak:6.1f} %"


def once(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one step."""
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - start


def write_profile(path: FilePath, step: Callable[[], object], device: torch.device, title: str) -> None:
    """Append the operators that take most time in one step, with the device's own time where there is one."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        step()
        synchronise(device)
    own = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    text = found.key_averages().table(sort_by=own, row_limit=HEAVIEST, max_name_column_width=80)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{title}\n{text}\n\n")


if __name__ == "__main__":
    main()
