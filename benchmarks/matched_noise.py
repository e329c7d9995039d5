"""The study of resolution-matched noise: DDPM, published SSD and matched SSD, trained alike and compared.

    python benchmarks/matched_noise.py --scale 16px --data faces64.zip --out study/ \
        --extractor effnet_features:EffNetLite0 --minutes 9.5

The last images by name are held out. Every variant and seed is one network of the same shape that sees the
same images in the same order. For each budget the learning rate falls in the last quarter of the steps (a
larger budget goes on from before that), images are drawn, and their Frechet and kernel distances to the
held-out images and to those of the training are taken. All of it is done by commands of ssdiff, which are
printed. The same command again goes on where the minutes ran out. Each call writes results.json, table.md,
distance.png and sample grids of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

from study_report import show
from study_scales import REFERENCES, SCALES, Chain, Place

from ssdiff import load_preset
from ssdiff.cli import run

INTERRUPTED = 75  # exit code of a run that can be resumed


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
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time for this call")
    parser.add_argument("--chains", default="", help="e.g. 10:ddim,50:dpm++; judge the last budget by these")
    options = parser.parse_args()
    scale, places = SCALES[options.scale], chosen(options)
    split(options.data, options.out, scale.held_out)
    clock = Clock(60 * options.minutes)
    try:
        for place in places:
            work(place, options.extractor, clock)
        print("nothing is left to do")
    except TimeIsUp:
        print("time is up; the same command goes on from here")
    show(scale, options.out)


def chosen(options: argparse.Namespace) -> list[Place]:
    """Every network and budget, the cheap ones of all variants first."""
    scale = SCALES[options.scale]
    if options.chains:
        chains = [one.split(":") for one in options.chains.split(",")]
        own = tuple((int(steps), sampler) for steps, sampler in chains)
        scale = replace(scale, chains=own, budgets=scale.budgets[-1:])
    wanted = [name.strip() for name in options.variants.split(";") if name.strip()]
    if unknown := [name for name in wanted if name not in scale.variants]:
        sys.exit(f"no variant {unknown[0]!r}; there are: {'; '.join(scale.variants)}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    return [
        Place(scale, name, seed, images, options.out)
        for seed in seeds
        for images in scale.budgets
        for name in wanted or scale.variants
    ]


def split(data: Path, out: Path, held_out: int) -> None:
    """Two zips beside the results: the images to train on, and the last ones by name."""
    train, reference = (out / f"{name}.zip" for name in ("train", "held-out"))
    if not reference.exists():
        out.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(data) as source:
            names = sorted(name for name in source.namelist() if not name.endswith("/"))
            for path, part in ((train, names[:-held_out]), (reference, names[-held_out:])):
                partial = path.with_suffix(".partial")
                with zipfile.ZipFile(partial, "w") as target:
                    for name in part:
                        target.writestr(name, source.read(name))
                partial.replace(path)


class TimeIsUp(Exception):
    """The minutes of this call have passed."""


class Clock:
    """Asks a training run to save and stop when the time is up; shorter commands end by themselves.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        signal.signal(signal.SIGTERM, lambda number, frame: None)  # but for a run, which listens itself
        threading.Thread(target=self._remind, daemon=True).start()

    def check(self) -> None:
        """Raise TimeIsUp if it is."""
        if time.monotonic() >= self._end:
            raise TimeIsUp

    def _remind(self) -> None:
        """Again and again, because a run that is still being loaded does not listen yet."""
        while (left := self._end - time.monotonic()) > 0:
            time.sleep(min(left, 60.0))
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)


def work(place: Place, extractor: str, clock: Clock) -> None:
    """Train a network to its budget, draw, and take the distances; what is done already is left out."""
    missing = [chain for chain in place.scale.chains if chain not in place.judged()]
    if not missing:
        return
    data = str(place.out / "train.zip")
    sets = [f"--set={key}={json.dumps(value)}" for key, value in place.settings().items()]
    where = ["--out", str(place.run), "--resume", str(beginning(place))]
    command(clock, "train", "--preset", "celeba64", "--data", data, *where, *sets)
    shutil.copy(newest_grid(place.run), place.out / f"{place.run.name}.png")
    for chain in missing:
        judge(place, chain, extractor, clock)


def beginning(place: Place) -> str | Path:
    """Where training goes on from: its own run, if there is one, or what a smaller budget shares with it."""
    if place.smaller and not place.run.exists():
        shared = place.smaller.run / "checkpoints" / f"step-{place.smaller.steady:08d}"
        if shared.exists():
            return shared
    return "auto"


def judge(place: Place, chain: Chain, extractor: str, clock: Clock) -> None:
    """Draw images and take their distances to those that were held out, and to those of the training."""
    folder, count = place.run / "drawn", place.scale.samples
    shutil.rmtree(folder, ignore_errors=True)
    how = ["--steps", str(chain[0]), "--sampler", chain[1], "--batch", "250"]
    command(clock, "sample", "--ckpt", str(place.run), "-n", str(count), *how, "--out", f"{folder}/")
    size = load_preset("celeba64", place.settings()).data.size
    for reference in REFERENCES:
        against = ["--reference", str(place.out / f"{reference}.zip"), "--resize", str(size)]
        for metric, more in (("fid", []), ("kid", ["--subset-size", str(min(1000, count // 2))])):
            result = place.result(metric, chain, reference)
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
        raise TimeIsUp
    if code:
        sys.exit(code)


def newest_grid(run_folder: Path) -> Path:
    """The last sample grid of a run."""
    return max((run_folder / "samples").glob("*.png"))


if __name__ == "__main__":
    main()
