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
import math
import os
import shlex
import shutil
import signal
import statistics
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ssdiff import build_model, build_process, load_preset
from ssdiff.cli import run
from ssdiff.cost import path_costs, paths_along, training_flops, trajectory_flops
from ssdiff.planning import make_plan
from ssdiff.plots import Curve, Panel, save_panels

Settings = dict[str, object]


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        settings: of all variants.
        variants: settings of each by name.
        batch: images a step.
        budgets: images seen at which a network is judged.
        held_out: images kept for the reference.
        samples: drawn at each budget.
        chains: (steps, sampler) of the drawing.
    """

    settings: Settings
    variants: dict[str, Settings]
    batch: int
    budgets: tuple[int, ...]
    held_out: int = 2700
    samples: int = 5000
    chains: tuple[tuple[int, str], ...] = ((50, "ancestral"), (25, "ddim"))


def published(levels: int) -> Settings:
    """SSD as in the paper."""
    return {"process.levels": levels}


def matched(*at: float, **more: object) -> Settings:
    """SSD whose noise falls with the resolution, changing at these full-resolution log-SNRs."""
    return {
        "process.levels": len(at) + 1,
        "process.match": 1.0,
        "process.resolution.kind": "log_snr",
        "process.resolution.at": list(at),
        "training.change_share": 0.03,
    } | more


SMALL: Settings = {
    "model.width": 24,
    "model.blocks": 1,
    "training.lr": 1e-3,
    "training.warmup": 100,
    "training.ema": 0.999,
}
SCALES = {
    "toy": Scale(
        {**SMALL, "data.size": 16, "model.width": 8, "model.multipliers": [1, 2], "model.attention": [8]},
        {"DDPM": published(1), "matched SSD, 2 levels": matched(-2.0)},
        batch=8,
        budgets=(32, 64),
        held_out=8,
        samples=8,
        chains=((4, "ancestral"), (3, "ddim")),
    ),
    "16px": Scale(
        {**SMALL, "data.size": 16, "model.multipliers": [1, 2, 2], "model.attention": [4]},
        {
            "DDPM": published(1),
            "published SSD, 2 levels": published(2),
            "published SSD, 3 levels": published(3),
            "matched SSD, 3 levels": matched(-1.25, -4.25),
        },
        batch=64,
        budgets=(64_000, 128_000),
        samples=2000,
    ),
    "32px": Scale(
        {**SMALL, "data.size": 32, "model.multipliers": [1, 2, 2, 4], "model.attention": [8, 4]},
        {
            "DDPM": published(1),
            "published SSD, 2 levels": published(2),
            "published SSD, 4 levels": published(4),
            "matched SSD, 4 levels": matched(-1.0, -3.25, -6.5),
        },
        batch=64,
        budgets=(32_000, 64_000),
        samples=2000,
    ),
    "64px": Scale(
        {"model.width": 64, "training.lr": 3e-4, "training.warmup": 200, "training.ema": 0.999},
        {
            "DDPM": published(1),
            "published SSD, 2 levels": published(2),
            "published SSD, 4 levels": published(4),
            "matched SSD, 4 levels": matched(-1.0, -2.0, -7.5),
        },
        batch=256,
        budgets=(512_000, 1_024_000),
        chains=((50, "ancestral"), (250, "ancestral"), (25, "ddim")),
    ),
}


@dataclass(frozen=True)
class Place:
    """One network at one budget.

    Attributes:
        scale: of the study.
        variant: name.
        seed: of the training.
        images: seen in training.
        out: folder of the study.
    """

    scale: Scale
    variant: str
    seed: int
    images: int
    out: Path

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.out / "runs" / f"{_slug(self.variant)}-seed{self.seed}"

    @property
    def steps(self) -> int:
        """Of the optimiser."""
        return self.images // self.scale.batch

    def result(self, metric: str, chain: tuple[int, str]) -> Path:
        """Where a distance is kept."""
        return self.run / "results" / f"{self.images}-{chain[0]}-{chain[1]}-{metric}.json"

    def settings(self) -> Settings:
        """Of the preset celeba64."""
        return {
            **self.scale.settings,
            **self.scale.variants[self.variant],
            "training.batch": self.scale.batch,
            "training.seed": self.seed,
            "training.steps": self.steps,
            "training.checkpoint_every": max(1, self.scale.budgets[0] // self.scale.batch // 4),
            "training.sample_every": 0,
            "training.log_every": 20,
        }


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
        newest_grid(place.run), place.out / f"{_slug(place.variant)}-seed{place.seed}-{place.images}.png"
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


def rows(places: Sequence[Place]) -> Iterator[dict[str, Any]]:
    """What was found, one row for each network, budget and chain that is done."""
    for place in places:
        preset = load_preset("celeba64", place.settings())
        process = build_process(preset)
        with torch.device("meta"):
            model = build_model(preset)
        costs = path_costs(model, process, preset.data.channels, change_share=preset.training.change_share)
        for chain in place.scale.chains:
            found = {metric: place.result(metric, chain) for metric in ("fid", "kid")}
            if not all(path.exists() for path in found.values()):
                continue
            values = {metric: json.loads(path.read_text()) for metric, path in found.items()}
            plan = make_plan(preset, process, *chain)
            visits = paths_along(process, plan.severities[: plan.evaluations])
            yield {
                "variant": place.variant,
                "seed": place.seed,
                "images": place.images,
                "training_flops": place.images * training_flops(costs),
                "training_seconds": seconds_of(place.run, place.steps),
                "steps": chain[0],
                "sampler": chain[1],
                "sampling_flops": trajectory_flops(costs, visits),
                "fd": values["fid"]["value"],
                "kd": values["kid"]["value"],
                "name": values["fid"]["name"],
            }


def seconds_of(run_folder: Path, steps: int) -> float:
    """Time of the training steps up to a budget."""
    lines = map(json.loads, (run_folder / "metrics.jsonl").read_text().splitlines())
    return math.fsum(line["seconds"] for line in lines if line["step"] <= steps)


def show(places: Sequence[Place], out: Path) -> None:
    """Write and print the table, and plot distance against cost."""
    found = list(rows(places))
    (out / "results.json").write_text(json.dumps(found, indent=1))
    lines = [
        "| variant | images | training PFLOPs | s | steps, sampler | GFLOPs an image | FD | KD x 1000 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, group in grouped(found).items():
        variant, images, steps, sampler = key
        mean = {
            name: statistics.mean(row[name] for row in group)
            for name in group[0]
            if name not in ("name", *KEYS)
        }
        spread = (
            f" ({min(r['fd'] for r in group):.1f}..{max(r['fd'] for r in group):.1f})"
            if len(group) > 1
            else ""
        )
        lines.append(
            f"| {variant} | {images:,} | {mean['training_flops'] / 1e15:.3g} | "
            f"{mean['training_seconds']:.0f} | {steps}, {sampler} | {mean['sampling_flops'] / 1e9:.3g} | "
            f"{mean['fd']:.1f}{spread} | {1000 * mean['kd']:.1f} |"
        )
    table = "\n".join(lines)
    (out / "table.md").write_text(table + "\n")
    print(table)
    if found:
        save_panels(out / "distance.png", list(panels(found)), overwrite=True)


KEYS = ("variant", "images", "steps", "sampler")


def grouped(found: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows that differ by their seed alone."""
    result: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in found:
        result.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    return result


def panels(found: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    """Distance against the FLOPs of training, one panel for each way of sampling."""
    for steps, sampler in dict.fromkeys((row["steps"], row["sampler"]) for row in found):
        curves = []
        for variant in dict.fromkeys(row["variant"] for row in found):
            group = [
                members
                for key, members in grouped(found).items()
                if key[0] == variant and key[2:] == (steps, sampler)
            ]
            x = [members[0]["training_flops"] / 1e15 for members in group]
            y = [statistics.mean(row["fd"] for row in members) for members in group]
            curves.append(Curve(variant, x, y, markers=True))
        yield Panel(
            f"{steps} steps, {sampler}",
            "PFLOPs of training",
            found[0]["name"],
            curves,
            log_x=True,
            log_y=True,
        )


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).replace("--", "-")


if __name__ == "__main__":
    main()
