"""The study of SNR-preserving noise: DDPM, published SSD and matched SSD, compared.

    python benchmarks/matched_noise.py --scale 16px --data faces64.zip --out study/ \
        --extractor effnet_features:EffNetLite0 --minutes 9.5

The last images by name are held out. Every variant and seed is one network of the same shape that sees the
same images in the same order; published SSD trains its resolution transitions by the paper's rule, or, where
it says so, by that of matched SSD. For each budget the learning rate falls in the last quarter of the steps
(a larger budget goes on from before that), images are drawn, and their Frechet and kernel distances to the
held-out images and to those of the training are taken. All of it is done by commands of ssdiff, which are
printed. The same command again goes on where the minutes ran out. Each call writes results.json, a table,
distance.png and sample grids of what is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

from study_report import show
from study_scales import REFERENCES, SCALES, Case, Chain

from ssdiff import load_preset
from ssdiff.cli import run
from ssdiff.runs import RunFolder

SAMPLERS = ("ancestral", "ddim", "dpm++")
INTERRUPTED = 75  # exit code of a run that can be resumed
PART = 500  # images drawn between two looks at the clock


def main() -> None:
    """Do what is left until the time is up, then show what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="16px")
    parser.add_argument("--data", type=Path, required=True, help="zip of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--extractor", default="inception", help="as for `ssdiff eval fid`")
    parser.add_argument("--variants", default="", help="e.g. 'DDPM; matched SSD, 3 levels'; default: all")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument(
        "--budgets", type=numbers, default=(), help="images seen, e.g. 64000,128000; default: the scale's"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time for this call")
    parser.add_argument(
        "--chains", type=chains, default=(), help="e.g. 10:ddim,50:dpm++; judge the last budget by these"
    )
    options = parser.parse_args()
    scale, cases = SCALES[options.scale], chosen(options)
    begin(options)
    clock = Clock(60 * options.minutes)
    try:
        for case in cases:
            work(case, options.extractor, clock)
        print("nothing is left to do")
    except Stopped:
        print("stopped; the same command goes on from here")
    show(scale, options.out)


def numbers(text: str) -> tuple[int, ...]:
    """Positive whole numbers between commas, in order."""
    found = sorted(int(part) for part in text.split(","))
    if found[0] < 1:
        raise argparse.ArgumentTypeError(f"{found[0]} images are too few")
    return tuple(found)


def chains(text: str) -> tuple[Chain, ...]:
    """Steps and samplers between commas."""
    found = [(int(steps), sampler) for steps, _, sampler in (one.partition(":") for one in text.split(","))]
    if wrong := [f"{steps}:{name}" for steps, name in found if steps < 1 or name not in SAMPLERS]:
        raise argparse.ArgumentTypeError(
            f"{wrong[0]} is not STEPS:SAMPLER, with one of {', '.join(SAMPLERS)}"
        )
    return tuple(found)


def chosen(options: argparse.Namespace) -> list[Case]:
    """Every network and budget, the cheap ones of all variants first."""
    scale = SCALES[options.scale]
    budgets = options.budgets or scale.budgets
    if options.chains:
        scale, budgets = replace(scale, chains=options.chains), budgets[-1:]
    wanted = [name.strip() for name in options.variants.split(";") if name.strip()]
    if unknown := [name for name in wanted if name not in scale.variants]:
        sys.exit(f"no variant {unknown[0]!r}; there are: {'; '.join(scale.variants)}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    return [
        Case(scale, name, seed, images, options.out)
        for seed in seeds
        for images in budgets
        for name in wanted or scale.variants
    ]


def begin(options: argparse.Namespace) -> None:
    """Make the folder of a study, or see that what is there was made with the same data and settings."""
    with options.data.open("rb") as file:
        data = hashlib.file_digest(file, "sha256").hexdigest()
    scale = json.loads(json.dumps(asdict(SCALES[options.scale])))
    compared = {key: scale[key] for key in ("settings", "batch", "held_out", "samples")}
    now = {"scale": options.scale, "data": data, "extractor": options.extractor, **compared}
    options.out.mkdir(parents=True, exist_ok=True)
    note, variants = options.out / "study.json", scale["variants"]
    if note.exists():
        before = json.loads(note.read_text())
        known = before.pop("variants")
        differing = [key for key in now if now[key] != before.get(key)]
        differing += [name for name in variants if variants[name] != known.get(name, variants[name])]
        if differing:
            sys.exit(f"{options.out} holds another study ({', '.join(differing)}); choose another --out")
        variants = known | variants
    note.write_text(json.dumps({**now, "variants": variants}, indent=1))
    split(options.data, options.out, scale["held_out"])


def split(data: Path, out: Path, held_out: int) -> None:
    """Two zips beside the results: the images to train on, and the last ones by name."""
    train, reference = (out / f"{name}.zip" for name in ("train", "held-out"))
    if not reference.exists():
        with zipfile.ZipFile(data) as source:
            names = sorted(name for name in source.namelist() if not name.endswith("/"))
            for path, part in ((train, names[:-held_out]), (reference, names[-held_out:])):
                partial = path.with_suffix(f".{os.getpid()}")
                with zipfile.ZipFile(partial, "w") as target:
                    for name in part:
                        target.writestr(name, source.read(name))
                partial.replace(path)


class Stopped(Exception):
    """The minutes of this call have passed, or somebody asked it to stop."""


class Clock:
    """Asks a training run to save and stop when the time is up; shorter commands end by themselves.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        signal.signal(signal.SIGTERM, self._stop)  # a training run listens itself
        threading.Thread(target=self._remind, daemon=True).start()

    def check(self) -> None:
        """Raise Stopped if the time is up."""
        if time.monotonic() >= self._end:
            raise Stopped

    def _stop(self, number: int, frame: object) -> None:
        self._end = min(self._end, time.monotonic())

    def _remind(self) -> None:
        """Again and again, because a run that is still being loaded does not listen yet."""
        while (left := self._end - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)


def work(case: Case, extractor: str, clock: Clock) -> None:
    """Train a network to its budget, draw, and take the distances; what is done already is left out."""
    missing = [chain for chain in case.scale.chains if chain not in case.judged()]
    if not missing:
        return
    data = str(case.out / "train.zip")
    sets = [f"--set={key}={json.dumps(value)}" for key, value in case.settings().items()]
    where = ["--out", str(case.run), "--resume", str(beginning(case))]
    command(clock, "train", "--preset", "celeba64", "--data", data, *where, *sets)
    shutil.copy(newest_grid(case.run), case.out / f"{case.run.name}.png")
    for chain in missing:
        judge(case, chain, extractor, clock)


def beginning(case: Case) -> str | Path:
    """Where training goes on from: its own run, if there is one, or what a smaller budget shares with it."""
    if RunFolder(case.run).has_begun():
        return "auto"
    shared = (one.run / "checkpoints" / f"step-{one.steady:08d}" for one in case.smaller())
    return next((checkpoint for checkpoint in shared if checkpoint.exists()), "auto")


def judge(case: Case, chain: Chain, extractor: str, clock: Clock) -> None:
    """Draw images and take their distances to those that were held out, and to those of the training."""
    folder = case.run / f"drawn-{chain[0]}-{chain[1]}"
    how = ["--steps", str(chain[0]), "--sampler", chain[1], "--batch", str(min(PART, 250))]
    # An image depends on the seed and its number alone, so a call that is stopped loses one part at most.
    for first in range(0, case.scale.samples, PART):
        count = min(PART, case.scale.samples - first)
        if not all((folder / f"{number:06d}.png").exists() for number in range(first, first + count)):
            part = ["-n", str(count), "--first", str(first), "--out", f"{folder}/", "--overwrite"]
            command(clock, "sample", "--ckpt", str(case.run), *how, *part)
    size = load_preset("celeba64", case.settings()).data.size
    for reference in REFERENCES:
        against = ["--reference", str(case.out / f"{reference}.zip"), "--resize", str(size)]
        for metric, more in (("fid", []), ("kid", ["--subset-size", str(min(1000, count // 2))])):
            result = case.result(metric, chain, reference)
            result.parent.mkdir(exist_ok=True)
            target = ["--extractor", extractor, *more, "--out", str(result), "--overwrite"]
            command(clock, "eval", metric, str(folder), *against, *target)
    shutil.rmtree(folder)


def command(clock: Clock, *arguments: str) -> None:
    """Run one, showing it; a failure ends the study."""
    clock.check()
    print("ssdiff", shlex.join(arguments), flush=True)
    code = run([*arguments, "--quiet"])
    if code == INTERRUPTED:
        raise Stopped
    if code:
        sys.exit(code)


def newest_grid(run_folder: Path) -> Path:
    """The last sample grid of a run."""
    return max((run_folder / "samples").glob("*.png"))


if __name__ == "__main__":
    main()
