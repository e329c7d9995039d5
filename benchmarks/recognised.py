"""How many drawn images show the class that was asked for: `python benchmarks/recognised.py --ckpt RUN`.

A small convolutional network learns the classes of `shapes`, about a minute on a CPU, from the endless set of
a seed of its own, so that it never sees an image twice, nor one that a model was trained on; with a little
noise and blur, so that it looks at outlines and not at grain. Before it judges it must name 99.5 % of fresh
shapes. Mirrored shapes are not in the set: a crescent that opens to the left is none.

*Recognised* is an image whose likeliest class is the one that was asked for. One class is always the
likeliest, a blob's too, so there are two views more: *sure* counts only those recognised with a probability
of 0.9, and *certainty* is the mean probability of the likeliest class. To tell what they are worth the same
is printed for fresh shapes, and for blobs: fresh shapes reduced to 4 pixels and enlarged again.

Several models (the seeds of a training), samplers and numbers of steps are a row each, and several models
have a row of means. Images and judge are functions of their seeds. Seconds are those of the drawing alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ssdiff
from ssdiff import rng
from ssdiff.data.shapes import SHAPES, draw
from ssdiff.errors import SsdiffError
from ssdiff.images import from_uint8, grid, save_image

SIDE = 32
SURE = 0.9
LEAST = 0.995  # of fresh shapes that the judge must name
FRESH = 2**20  # number of the first shape that no lesson has
LESSON, RATE = 64, 3e-3  # images; largest learning rate
NOISE = 0.15  # largest std that a lesson adds


@dataclass(frozen=True)
class Verdict:
    """What a judge says of images.

    Attributes:
        recognised: share whose likeliest class is the one asked for.
        sure: share of those whose probability of it is 0.9 or more.
        certainty: mean probability of the likeliest class.
        confusion: images by class asked for (row) and likeliest class (column).
    """

    recognised: float
    sure: float
    certainty: float
    confusion: list[list[int]]

    @property
    def by_class(self) -> list[float]:
        """Share recognised of each class."""
        return [row[k] / max(sum(row), 1) for k, row in enumerate(self.confusion)]


def main() -> None:
    """Teach a judge, let it look at fresh shapes, blobs and drawn images, and print what it says."""
    parser = arguments()
    options = parser.parse_args()
    try:
        pipes = {name: ssdiff.load(name, device="cpu") for name in options.ckpt}
        for name, pipe in pipes.items():
            if tuple(pipe.class_names) != SHAPES or pipe.process.states[0].size != (SIDE, SIDE):
                parser.error(f"{name} does not draw the shapes of {SIDE} px in their {len(SHAPES)} classes")
        network = judge_of(options.judge_seed, options.lessons, options.judge)
        images, labels = shapes(2048, options.judge_seed, FRESH)
        known = {
            "fresh shapes": verdict(network, images, labels),
            "blobs": verdict(network, blobs(images), labels),
        }
        if known["fresh shapes"].recognised < LEAST:
            share = known["fresh shapes"].recognised
            parser.error(f"the judge names {share:.2%} of fresh shapes, too few to judge; raise --lessons")
        report(pipes, network, known, options)
    except SsdiffError as error:
        parser.error(str(error))


def arguments() -> argparse.ArgumentParser:
    """What can be asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ckpt",
        nargs="+",
        default=["shapes32"],
        help="runs, files, or the bundled model, which it is if omitted",
    )
    parser.add_argument("--per-class", type=int, default=64, help="images of each class")
    parser.add_argument(
        "--steps", type=numbers, default=(None,), help="numbers between commas; the model's own"
    )
    parser.add_argument(
        "--samplers", type=words, default=(None,), help="names between commas; the model's own"
    )
    parser.add_argument("--guidance", type=float, help="the model's own")
    parser.add_argument("--seed", type=int, default=0, help="of the images")
    parser.add_argument("--judge-seed", type=int, default=0, help="another one should say the same")
    parser.add_argument("--lessons", type=int, default=1000, help=f"of {LESSON} shapes each, for the judge")
    parser.add_argument("--judge", type=Path, help="file that keeps the judge, or has it already")
    parser.add_argument("--grid", type=Path, help="picture of the first images of the last row")
    parser.add_argument("--json", action="store_true", help="all figures")
    return parser


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(int(part) for part in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(text.split(","))


def report(
    pipes: dict[str, ssdiff.Pipeline],
    network: nn.Module,
    known: dict[str, Verdict],
    options: argparse.Namespace,
) -> None:
    """Draw and print row by row: first what the judge says of what it should know, then each model."""
    rows = []
    if not options.json:
        print(f"| images | steps | seconds | recognised | sure | certainty | {' | '.join(SHAPES)} |")
        print("| --- |" + " --- |" * (5 + len(SHAPES)))
        for name, found in known.items():
            print(line(name, "", "", [found]))
    for sampler, steps in itertools.product(options.samplers, options.steps):
        group, spent = [], 0.0
        for name, pipe in pipes.items():
            begun = time.perf_counter()
            images = pipe.sample(
                options.per_class * len(SHAPES), steps, sampler, guidance=options.guidance, seed=options.seed
            )
            seconds = time.perf_counter() - begun
            plan = pipe.plan(steps, sampler, None, options.guidance)
            found = verdict(network, images, torch.arange(len(images)) % len(SHAPES))
            rows.append(
                {"model": name, "sampler": plan.sampler, "steps": plan.evaluations, "seconds": seconds}
                | asdict(found)
                | {"by_class": dict(zip(SHAPES, found.by_class, strict=True))}
            )
            group.append(found)
            spent += seconds
            if not options.json:
                print(
                    line(f"{name}, {plan.sampler}", str(plan.evaluations), f"{seconds:.1f}", [found]),
                    flush=True,
                )
        if len(group) > 1 and not options.json:
            print(line("mean", "", f"{spent / len(group):.1f}", group), flush=True)
    if options.grid:
        save_image(grid(images[:64], columns=len(SHAPES)), options.grid, overwrite=True)
    if options.json:
        print(json.dumps({"known": {name: asdict(found) for name, found in known.items()}, "drawn": rows}))
        return
    print(f"\n| of the last row, asked for | {' | '.join(SHAPES)} |\n| --- |" + " --- |" * len(SHAPES))
    for name, row in zip(SHAPES, group[-1].confusion, strict=True):
        print(f"| {name} | " + " | ".join(str(count or "") for count in row) + " |")


def line(name: str, steps: str, seconds: str, found: Sequence[Verdict]) -> str:
    """A row of the table, the mean of what was found."""

    def mean(values: Iterator[float]) -> float:
        return sum(values) / len(found)

    shares = [mean(one.by_class[k] for one in found) for k in range(len(SHAPES))]
    cells = [mean(one.recognised for one in found), mean(one.sure for one in found)]
    certainty = f"{mean(one.certainty for one in found):.3f}"
    percent = [f"{share:.1%}" for share in cells]
    return (
        "| " + " | ".join([name, steps, seconds, *percent, certainty, *(f"{s:.0%}" for s in shares)]) + " |"
    )


def judge_of(seed: int, lessons: int, kept: Path | None) -> nn.Module:
    """The judge of a seed: taught, or read from the file that keeps it."""
    network = Judge()
    if kept is not None and kept.exists():
        network.load_state_dict(load_file(kept))
        return network.eval()
    teach(network, seed, lessons)
    if kept is not None:
        save_file(network.state_dict(), kept)
    return network


class Judge(nn.Sequential):
    """Logits of the classes of (B, 3, 32, 32) images in [-1, 1]."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after, side in ((3, 24, 5), (24, 48, 3), (48, 96, 3)):
            convolution = nn.Conv2d(before, after, side, stride=2, padding=side // 2)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(96 * 16, 96), nn.ReLU(), nn.Linear(96, len(SHAPES)))


def teach(network: Judge, seed: int, lessons: int) -> None:
    """Train the judge, each lesson with new shapes, and leave it ready to judge."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=lessons)
    network.train()
    for lesson in range(lessons):
        images, labels = shapes(LESSON, seed, lesson * LESSON)
        F.cross_entropy(network(disturbed(images, seed, lesson)), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    network.eval()


def shapes(count: int, seed: int, start: int) -> tuple[Tensor, Tensor]:
    """Images in [-1, 1] and classes, by a seed that is not that of the training set of models."""
    images, labels = draw(count, SIDE, seed=rng.derive(seed, "judge/shapes") >> 1, start=start)
    return from_uint8(images), labels


def disturbed(images: Tensor, seed: int, lesson: int) -> Tensor:
    """The images of a lesson, some blurred a little, all with faint noise."""
    places = torch.arange(len(images))
    share, std = rng.uniform(rng.derive(seed, "judge/disturb"), places, lesson, (2, 1, 1, 1)).unbind(1)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    noise = rng.normal(rng.derive(seed, "judge/noise"), places, lesson, tuple(images.shape[1:]))
    return torch.lerp(images, blurred, (2 * share - 1).clamp_min(0)) + NOISE * std * noise


def blobs(images: Tensor) -> Tensor:
    """What is left of images after a reduction to 4 pixels."""
    return F.interpolate(F.interpolate(images, 4, mode="area"), SIDE, mode="bicubic").clamp(-1, 1)


@torch.no_grad()
def verdict(network: nn.Module, images: Tensor, labels: Tensor) -> Verdict:
    """What a network of logits says of (B, 3, 32, 32) images of (B,) classes."""
    largest, named = network(images).softmax(1).max(1)
    right = named == labels
    counts = torch.bincount(labels * len(SHAPES) + named, minlength=len(SHAPES) ** 2)
    return Verdict(
        right.double().mean().item(),
        (right & (largest >= SURE)).double().mean().item(),
        largest.double().mean().item(),
        counts.reshape(len(SHAPES), -1).tolist(),
    )


if __name__ == "__main__":
    main()
