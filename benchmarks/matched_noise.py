"""The study of resolution-matched noise: DDPM, published SSD and matched SSD, trained alike and compared.

    python benchmarks/matched_noise.py --scale 16px --data faces64.zip --out study/ \
        --extractor effnet_features:EffNetLite0 --minutes 9.5

The last images by name are held out. Every variant and seed is one network of the same shape that sees the
same images in the same order; at each budget it draws images, and Frechet and kernel distances to the
held-out ones are taken. All of it is done by commands of ssdiff, which are printed. The same command again
goes on where the minutes ran out. Each call writes results.json, table.md, distance.png and sample grids of
what is there.
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
import zipfile
from pathlib import Path
from types import FrameType

from study_report import show
from study_scales import SCALES, Place, slug

from ssdiff import load_preset
from ssdiff.cli import run


def main() -> None:
    """Do what is left until the time is up, then show what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="16px")
    parser.add_argument("--data", type=Path, required=True, help="zip of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--extractor", default="inception", help="as for `ssdiff eval fid`")
    parser.add_argument("--variants", default="", help="comma-separated parts of names; default: all")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time for this call")
    parser.add_argument("--set", action="append", default=[], help="a.b=c for every variant")
    options = parser.parse_args()
    places = chosen(options)
    train, held_out = split(options.data, options.out, SCALES[options.scale].held_out)
    begin_countdown(60 * options.minutes)
    try:
        for place in places:
            work(place, train, held_out, options)
        print("nothing is left to do")
    except TimeIsUp:
        print("time is up; the same command goes on from here")
    show(places, options.out)


def chosen(options: argparse.Namespace) -> list[Place]:
    """Every network and budget, the cheap ones of all variants first."""
    scale = SCALES[options.scale]
    wanted = [part for part in options.variants.split(",") if part]
    names = [name for name in scale.variants if not wanted or any(part in name for part in wanted)]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    return [
        Place(scale, name, seed, images, options.out)
        for seed in seeds
        for images in scale.budgets
        for name in names
    ]


def split(data: Path, out: Path, held_out: int) -> tuple[Path, Path]:
    """Two zips beside the results: the images to train on, and the last ones by name."""
    train, reference = out / "train.zip", out / "held-out.zip"
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
    return train, reference


class TimeIsUp(BaseException):
    """The minutes of this call have passed."""


def begin_countdown(seconds: float) -> None:
    """After that time a training run saves and stops, and anything else is broken off."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    signal.signal(signal.SIGTERM, stop)
    if seconds < threading.TIMEOUT_MAX:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()


def work(place: Place, train: Path, held_out: Path, options: argparse.Namespace) -> None:
    """Train a network to its budget, draw, and take the distances; what is done already is left out."""
    missing = [
        (chain, metric)
        for chain in place.scale.chains
        for metric in ("fid", "kid")
        if not place.result(metric, chain).exists()
    ]
    if not missing:
        return
    sets = [f"{key}={json.dumps(value)}" for key, value in place.settings().items()] + options.set
    arguments = [
        "train",
        "--preset",
        "celeba64",
        "--data",
        str(train),
        "--out",
        str(place.run),
        "--resume",
        "auto",
    ]
    command(*arguments, *(word for one in sets for word in ("--set", one)))
    shutil.copy(
        newest_grid(place.run), place.out / f"{slug(place.variant)}-seed{place.seed}-{place.images}.png"
    )
    size = str(load_preset("celeba64", place.settings()).data.size)
    for chain in dict.fromkeys(chain for chain, _ in missing):
        steps, sampler = chain
        folder = place.run / "drawn"
        shutil.rmtree(folder, ignore_errors=True)
        arguments = ["sample", "--ckpt", str(place.run), "-n", str(place.scale.samples), "--sampler", sampler]
        command(*arguments, "--steps", str(steps), "--batch", "250", "--out", f"{folder}/")
        for metric in ("fid", "kid"):
            result = place.result(metric, chain)
            result.parent.mkdir(exist_ok=True)
            subset = ["--subset-size", str(min(1000, place.scale.samples // 2))] if metric == "kid" else []
            arguments = ["eval", metric, str(folder), "--reference", str(held_out), "--resize", size, *subset]
            command(*arguments, "--extractor", options.extractor, "--out", str(result), "--overwrite")
        shutil.rmtree(folder)


def command(*arguments: str) -> None:
    """Run one, showing it; a failure ends the study."""
    print("ssdiff", shlex.join(arguments), flush=True)
    code = run([*arguments, "--quiet"])
    if code == 75:
        raise TimeIsUp
    if code:
        sys.exit(code)


def newest_grid(run_folder: Path) -> Path:
    """The last sample grid of a run."""
    return max((run_folder / "samples").glob("*.png"))


if __name__ == "__main__":
    main()
