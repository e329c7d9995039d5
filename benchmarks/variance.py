"""How much variance sampling keeps, octave by octave: where does a chain lose contrast?

    python benchmarks/variance.py study/runs/A study/runs/B --data study/held-out.zip --steps 25

Real images are noised to a timestep of the chain and sampled from there. The variance of each octave of the
results is printed as a share of what the real images have; the first row, from T, is nearly generation.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from denoisers import clean_images, coarse_log_snr
from torch import Tensor

import ssdiff
from ssdiff.data import evenly
from ssdiff.operators import matrices
from ssdiff.operators.separable import Separable
from ssdiff.pipeline import Pipeline
from ssdiff.sampling.plan import Plan

COARSEST = 4  # pixels a side of the last octave


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="RUN", help="of SSD or DDPM")
    parser.add_argument("--data", required=True, help="images that none was trained on")
    parser.add_argument("--images", type=int, default=500, help="how many of them")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--starts", type=int, default=6, help="timesteps to begin at, spread over the chain")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    for path in options.models:
        model = ssdiff.load(path, device=options.device)
        if not model.process.isotropic:
            parser.error(f"{path} is of kind {model.required_preset().process.kind}, not ssd or ddpm")
        images = clean_images(model, options.data, options.images)
        table(model, path.name, images, model.plan(options.steps, options.sampler), options)


def table(model: Pipeline, name: str, images: Tensor, plan: Plan, options: argparse.Namespace) -> None:
    """One row for each timestep to begin at."""
    truth = octaves(images)
    print(f"| {name}, from log-SNR | size | " + " | ".join(f"{side} px" for side in truth) + " |")
    print("| --- | --- |" + " --- |" * len(truth))
    chain = plan.timesteps[:-1]
    for place in evenly(len(chain), min(options.starts, len(chain))):
        rest = replace(plan, timesteps=plan.timesteps[place:])
        found = octaves(torch.cat([sampled(model, rest, part) for part in numbered(images, options.batch)]))
        t = chain[place]
        shares = " | ".join(f"{found[side] / truth[side]:.3f}" for side in truth)
        print(
            f"| {coarse_log_snr(model, t):.2f} | {model.process.states[t].resolution} | {shares} |",
            flush=True,
        )


def numbered(images: Tensor, batch: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of images with their numbers."""
    numbers = torch.arange(len(images), device=images.device)
    return list(zip(numbers.split(batch), images.split(batch), strict=True))


def sampled(model: Pipeline, plan: Plan, part: tuple[Tensor, Tensor]) -> Tensor:
    """Real images noised to the plan's first timestep and sampled from there."""
    numbers, x0 = part
    x = model.degrade(x0, plan.timesteps[0], images=numbers)
    for _, state in model.walk(numbers, plan, x=x):
        x = state
    return x.clamp(-1, 1)


def octaves(images: Tensor) -> dict[int, float]:
    """Pixels a side to the variance over the set of what the next smaller average has not, or of all that is
    left."""
    found: dict[int, float] = {}
    side = images.shape[-1]
    while side % 2 == 0 and side // 2 >= COARSEST:
        halved = Separable(matrices.area(side, side // 2))
        smaller = halved.apply(images)
        found[side] = spread(images - halved.pseudo_inverse(smaller))
        images, side = smaller, side // 2
    return found | {side: spread(images)}


def spread(images: Tensor) -> float:
    """Mean over the pixels of the variance over the set."""
    return float(images.double().var(dim=0).mean())


if __name__ == "__main__":
    main()
