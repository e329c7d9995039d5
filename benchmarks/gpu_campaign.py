"""What a GPU does with the published network, in three calls of a few minutes each.

    python benchmarks/gpu_campaign.py step --out measured --minutes 9.5
    python benchmarks/gpu_campaign.py sampling --out measured --minutes 9.5
    python benchmarks/gpu_campaign.py study --data faces64.zip --work study --out measured --minutes 9.5

`step` takes a whole training step (loss, gradient, clipping, AdamW, average) by size, batch and mode: `eager`
is the network as it is, `channels-last` in the other layout of images, `compiled` is training.compile,
`graphs` is training.cuda_graphs, for batches of few pixels, where launching kernels may take longer than
running them; the others are without it.
`sampling` takes images a second by precision, sampler and batch, with an untrained network. `study` goes on
with matched_noise.py in the folder --work, by --workers processes at once (twelve small networks share an
H100 well), and copies tables and pictures.

Each call writes NAME.json and NAME.txt in --out after every measurement, so that what was measured is there
however the call ends. What would not fit in --minutes is left out, which its row says; what fails, too.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ssdiff import build_model, build_process, load_preset
from ssdiff.config import Preset
from ssdiff.config.load import override
from ssdiff.devices import pick_device, pick_precision, synchronise
from ssdiff.evaluation.flops import path_costs
from ssdiff.evaluation.timing import PathTrainer, matrix_peak, time_step, untrained
from ssdiff.files import write_atomic
from ssdiff.pipeline import Pipeline
from ssdiff.training.graphs import SMALL

MODES = ("eager", "channels-last", "graphs", "compiled")
USUAL = {
    "eager": 8.0,
    "channels-last": 8.0,
    "graphs": 12.0,
    "compiled": 75.0,
}  # seconds of one, until one is known
CHAINS = (("ancestral", 50), ("ddim", 25), ("dpm++", 10))
VARIANTS = (
    "DDPM; matched SSD, apart, later, linear lift; matched SSD, 4 levels; published SSD, trained as matched"
)
STUDY_FILES = ("results.json", "table.md", "distance.png")
STOPPED = "the same command goes on"
PICTURES = 3  # of the newest networks
RESERVE = 40.0  # seconds that a study needs after its time is up, to save and to draw its table

Row = dict[str, Any]


def main() -> None:
    """Run the part that is asked for."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    clock = Clock(60 * options.minutes)
    if options.part == "study":
        study(options, clock)
    else:
        device = pick_device(options.device)
        report = Report(options.out, options.part, facts(device, options))
        (step if options.part == "step" else sampling)(options, device, clock, report)
        print(f"{options.out / options.part}.json, .txt: {clock.spent():.0f} s")


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("step", "sampling", "study"):
        part = parts.add_parser(name)
        part.add_argument("--out", type=Path, required=True, help="folder of what is written")
        part.add_argument("--minutes", type=float, default=9.5, help="time for this call")
        if name != "study":
            part.add_argument("--preset", default="celeba64", help="name or TOML file")
            part.add_argument("--device", default="auto")
            part.add_argument("--seconds", type=float, default=2.0, help="of one measurement of steps")
            part.add_argument("--precisions", type=words, default=["bf16", "fp32"], metavar="bf16,fp32")
        if name == "step":
            part.add_argument("--batches", type=numbers, default=[256, 64, 16], metavar="256,64,...")
            part.add_argument("--sizes", type=numbers, default=None, help="pixels; default: all")
            part.add_argument("--modes", type=words, default=list(MODES), metavar=",".join(MODES))
        if name == "sampling":
            part.add_argument("--batches", type=numbers, default=[1024, 256, 64], metavar="1024,256,...")
            part.add_argument("--chains", type=chains, default=CHAINS, metavar="ancestral:50,...")
        if name == "study":
            part.add_argument("--data", type=Path, required=True, help="zip of images")
            part.add_argument("--work", type=Path, required=True, help="folder that the study goes on in")
            part.add_argument("--scale", default="64px")
            part.add_argument("--variants", default=VARIANTS)
            part.add_argument("--seeds", default="0", help="comma-separated")
            part.add_argument("--workers", type=int, default=1, help="processes at once")
            part.add_argument("--budgets", default="128000,256000", help="images seen")
            part.add_argument("--extractor", default="effnet_features:EffNetLite0")
    options = parser.parse_args()
    if options.minutes <= 0:
        parser.error(f"--minutes must be above 0, not {options.minutes:g}")
    if unknown := [mode for mode in getattr(options, "modes", []) if mode not in MODES]:
        parser.error(f"no mode {unknown[0]!r}; there are: {', '.join(MODES)}")
    return options


def words(text: str) -> list[str]:
    """What is between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[int]:
    """Positive whole numbers between commas."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text} has a number below 1")
    return values


def chains(text: str) -> tuple[tuple[str, int], ...]:
    """SAMPLER:STEPS between commas."""
    return tuple((name, int(steps)) for name, _, steps in (part.partition(":") for part in words(text)))


class Clock:
    """Tells what still fits.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._start, self._seconds = time.monotonic(), seconds

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def left(self) -> float:
        """Seconds until the time is up."""
        return self._seconds - self.spent()


class Report:
    """Rows that are written, as JSON and as text, whenever one is added.

    Args:
        out: folder.
        name: of the files.
        head: facts about the machine and the call.

    Attributes:
        head: as given.
        rows: what was added.
    """

    def __init__(self, out: Path, name: str, head: Row) -> None:
        self._file, self.head = out / name, head
        self.rows: list[Row] = []

    def add(self, row: Row, said: str) -> None:
        """Print a row, and write all of them."""
        self.rows.append({**row, "said": said})
        print(said, flush=True)
        text = json.dumps({**self.head, "rows": self.rows}, indent=1)
        lines = [f"{key}: {value}" for key, value in self.head.items()] + [""]
        lines += [one["said"] for one in self.rows]
        for ending, content in ((".json", text), (".txt", "\n".join(lines))):
            file = self._file.with_suffix(ending)
            write_atomic(file, f"{content}\n".encode(), overwrite=True)


def facts(device: torch.device, options: argparse.Namespace) -> Row:
    """The machine, and the peak of its matrix products by precision, which utilisation is relative to."""
    peaks = {
        name: matrix_peak(device, pick_precision(name, device), options.seconds)
        for name in options.precisions
    }
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "preset": str(options.preset),
        "matrix_peak": peaks,
    }


def guarded(
    measure: Callable[[], Row], row: Row, clock: Clock, needed: float, report: Report, title: str
) -> float | None:
    """Add a row: what was measured, or why not. Returns the seconds that it took, None if left out."""
    if clock.left() < needed:
        report.add(
            {**row, "skipped": True}, f"{title}  left out: about {needed:.0f} s, {clock.left():.0f} left"
        )
        return None
    began = time.monotonic()
    try:
        found = measure()
        report.add({**row, **found}, f"{title}  {', '.join(f'{k} {v:.5g}' for k, v in found.items())}")
    except Exception as error:  # one that fails must not cost the others
        text = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        report.add({**row, "failed": text}, f"{title}  failed: {text}")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return time.monotonic() - began


def step(options: argparse.Namespace, device: torch.device, clock: Clock, report: Report) -> None:
    """Measure training steps, all of a mode before the next one, because the compiler takes longest."""
    preset, usual = load_preset(options.preset), dict[str, float]()
    with torch.device("meta"):
        outline = build_model(preset)
    costs = {
        cost.resolution: cost
        for cost in path_costs(outline, build_process(preset), preset.data.channels, preset.model.classes)
        if cost.resolution == cost.wanted and cost.resolution in (options.sizes or [cost.resolution])
    }
    cases = itertools.product(options.precisions, sorted(costs, reverse=True), options.batches)
    for mode, (name, size, batch) in itertools.product(options.modes, list(cases)):
        row = {"mode": mode, "precision": name, "size": size, "batch": batch}
        title = f"{mode:13s} {name} {size:4d} px, batch {batch:4d}"
        if mode == "graphs" and (batch * size**2 > SMALL or device.type != "cuda"):
            report.add({**row, "skipped": True}, f"{title}  left out: for CUDA, up to {SMALL} pixels in all")
            continue
        case = Case(preset, device, mode, pick_precision(name, device), size, batch, options.seconds)
        work, peak = costs[size].training_flops, report.head["matrix_peak"][name]
        needed = usual.get(mode, USUAL[mode])
        took = guarded(partial(measure_step, case, work, peak), row, clock, needed, report, title)
        if took is not None:
            usual[mode] = max(1.3 * took, 0.5)


@dataclass(frozen=True)
class Case:
    """One measurement of a training step.

    Attributes:
        preset: of the network.
        device: to measure.
        mode: one of MODES.
        precision: of the network's mixed precision.
        size: pixels a side, before and after the step.
        batch: images.
        seconds: of steps.
    """

    preset: Preset
    device: torch.device
    mode: str
    precision: torch.dtype
    size: int
    batch: int
    seconds: float


def measure_step(case: Case, flops: float, peak: float) -> Row:
    """Seconds of a step, and what that means."""
    device, found = case.device, dict[str, float]()
    how = {"training.compile": case.mode == "compiled", "training.cuda_graphs": case.mode == "graphs"}
    preset = override(case.preset, how)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    pipeline = untrained(preset, device, case.precision)
    if case.mode == "channels-last":
        layout = torch.channels_last
        pipeline.model.to(memory_format=layout)
        pipeline.model.register_forward_pre_hook(
            lambda module, given: (given[0].contiguous(memory_format=layout), *given[1:])
        )
    trainer = PathTrainer(pipeline, case.batch)
    trainer.choose((case.size, case.size))
    began = time.monotonic()
    trainer.advance()
    synchronise(device)
    found["first"] = time.monotonic() - began
    seconds = time_step(trainer.advance, device, case.seconds).seconds
    rate = case.batch * flops / seconds
    found |= {"seconds": seconds, "images_per_second": case.batch / seconds}
    found |= {"tflops": rate / 1e12, "of_peak": rate / peak}
    if device.type == "cuda":
        found["gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def sampling(options: argparse.Namespace, device: torch.device, clock: Clock, report: Report) -> None:
    """Measure images a second, with an untrained network."""
    preset, usual = load_preset(options.preset), 20.0
    for name in options.precisions:
        pipeline = untrained(preset, device, pick_precision(name, device))
        for (sampler, steps), batch in itertools.product(options.chains, options.batches):
            row = {"precision": name, "sampler": sampler, "steps": steps, "batch": batch}
            title = f"{name} {sampler:10s} {steps:4d} steps, batch {batch:4d}"
            measure = partial(measure_drawing, pipeline, sampler, steps, batch)
            took = guarded(measure, row, clock, usual, report, title)
            usual = max(usual if took is None else 1.3 * took, 0.5)


def measure_drawing(pipeline: Pipeline, sampler: str, steps: int, batch: int) -> Row:
    """Seconds of a batch, after one to warm up."""
    seconds = 0.0
    for _ in range(2):
        began = time.monotonic()
        pipeline.sample(batch, steps, sampler, batch=batch)  # images are on the host when it returns
        seconds = time.monotonic() - began
    return {"seconds": seconds, "images_per_second": batch / seconds}


def study(options: argparse.Namespace, clock: Clock) -> None:
    """Go on with the study of matched noise, and copy what can be looked at.

    Small networks leave most of a GPU to others: several processes, each with a variant and a seed, share it
    (through NVIDIA's MPS, if its daemon runs, they do not take turns).
    """
    seconds = max(clock.left() - min(RESERVE, clock.left() / 4), 1.0)
    until = clock.spent() + seconds
    go_on(options, seconds, ["--only-prepare"])
    names = [name.strip() for name in options.variants.split(";") if name.strip()]
    work = [(seed, name) for seed in options.seeds.split(",") for name in names]

    def part(one: tuple[str, str]) -> subprocess.CompletedProcess[str] | None:
        left = until - clock.spent()
        if left <= 0:
            return None
        done = go_on(options, left, ["--seeds", one[0], "--variants", one[1]])
        print(
            f"seed {one[0]}, {one[1]}: {last_line(done) if done.returncode else 'done or stopped'}",
            flush=True,
        )
        return done

    with ThreadPoolExecutor(options.workers) as pool:
        parts = list(pool.map(part, work))
    shown = go_on(options, max(clock.left(), 1.0), ["--only-show", "--errors"])
    missing = any(one is None or STOPPED in one.stdout for one in (*parts, shown))
    said = f"{shown.stdout.strip()}\n{f'{STOPPED} from here' if missing else 'nothing is left to do'}"
    print(said, flush=True)
    failed = [one for one in (*parts, shown) if one is not None and one.returncode]
    text = "\n".join([said, *(one.stdout for one in failed)])
    write_atomic(options.out / "study.txt", text.encode(), overwrite=True)
    for file in taken(options.work):
        shutil.copy(file, options.out / f"study-{file.name}")
    if failed:
        sys.exit(last_line(failed[0]))


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Of what a process said."""
    return done.stdout.strip().rpartition("\n")[2]


def go_on(options: argparse.Namespace, seconds: float, more: list[str]) -> subprocess.CompletedProcess[str]:
    """Call matched_noise.py for a while."""
    here = Path(__file__).parent
    command = [sys.executable, here / "matched_noise.py", "--scale", options.scale, "--data", options.data]
    command += ["--out", options.work, "--extractor", options.extractor, "--budgets", options.budgets]
    command += ["--minutes", f"{seconds / 60:.3f}", *more]
    path = os.pathsep.join([str(here.parent), str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def taken(work: Path) -> Iterable[Path]:
    """Tables and the newest pictures of a study."""
    yield from (work / name for name in STUDY_FILES if (work / name).exists())
    grids = sorted(work.glob("*-seed*.png"), key=lambda file: file.stat().st_mtime, reverse=True)
    yield from grids[:PICTURES]


if __name__ == "__main__":
    main()
