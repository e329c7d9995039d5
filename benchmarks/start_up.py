"""From command to picture: what `ssdiff sample` spends its time on.

    python benchmarks/start_up.py                # 64 images of the bundled model, as it draws by default
    python benchmarks/start_up.py --ckpt RUN -n 16 --sampler dpm++ --steps 10

Each part is timed in a fresh interpreter, and so is the whole command, several times, of which the quickest
counts: a busy machine makes all of it slower. Seconds of the processor are those of all cores together.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("import PyTorch", "import ssdiff", "open the model", "first step, one image", "draw", "write")
COMMAND = "ssdiff sample"
Seconds = tuple[float, float]  # on the wall, and of the processor


def main() -> None:
    """Print a table: a row for each part, and one for the command."""
    options = parse()
    if options.part_of is not None:
        print(json.dumps(laps(options, Path(options.part_of))))
        return
    found: dict[str, list[Seconds]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(options.repeat):
            out = str(Path(folder) / f"command-{k}.png")
            whole = child("-m", "ssdiff", "sample", "--quiet", *arguments(options), "--out", out)[1]
            told = json.loads(child(__file__, *sys.argv[1:], "--part-of", folder)[0])
            seconds = {name: tuple(pair) for name, pair in told.items()} | {COMMAND: whole}
            for name, pair in seconds.items():
                found.setdefault(name, []).append(pair)
    print("| part | seconds | of the processor |\n| --- | --- | --- |")
    for name, pairs in found.items():
        wall, cpu = min(pairs, key=lambda pair: pair[1])
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")


def parse() -> argparse.Namespace:
    """What to draw, as for the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", type=Path, help="run or model; default: the bundled one")
    parser.add_argument("-n", type=int, default=64, help="images")
    parser.add_argument("--sampler", help="default: the model's")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--repeat", type=int, default=3, help="how often; the quickest counts")
    parser.add_argument("--part-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def arguments(options: argparse.Namespace) -> list[str]:
    """Those of `ssdiff sample`, of the model that is timed, whatever runs there are."""
    from ssdiff.weights.single_file import bundled

    given = {"--sampler": options.sampler, "--steps": options.steps}
    chosen = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    return ["--ckpt", str(options.ckpt or bundled()), "-n", str(options.n), *chosen]


def child(*arguments: str) -> tuple[str, Seconds]:
    """What a fresh interpreter prints, and its seconds."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        sys.exit(done.returncode)
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout, (wall, spent)


def laps(options: argparse.Namespace, folder: Path) -> dict[str, Seconds]:
    """Seconds of each part in this interpreter."""
    marks = [(time.perf_counter(), time.process_time())]

    def lap() -> None:
        marks.append((time.perf_counter(), time.process_time()))

    import torch

    lap()
    from ssdiff.generation import Generation
    from ssdiff.images import grid, save_image
    from ssdiff.weights.load import load
    from ssdiff.weights.single_file import bundled

    lap()
    pipeline = load(options.ckpt or bundled(), device="cpu")
    lap()
    plan = pipeline.plan(options.steps, options.sampler)
    number = torch.zeros(1, dtype=torch.int64)
    walk = pipeline.walk(number, plan, 0, pipeline.choose_labels(number))
    next(walk), next(walk)
    lap()
    generation = Generation(pipeline, plan, options.n, 0, 0, pipeline.sampling.batch, None)
    drawn = generation.draw(range(options.n), lambda images: None)
    lap()
    save_image(grid(drawn), folder / f"parts-{os.getpid()}.png")
    lap()
    return {
        name: (after[0] - before[0], after[1] - before[1])
        for name, (before, after) in zip(PARTS, itertools.pairwise(marks), strict=True)
    }


if __name__ == "__main__":
    main()
