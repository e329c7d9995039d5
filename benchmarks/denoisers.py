"""Two trained models as denoisers, timestep by timestep: where does one of them lose?

    python benchmarks/denoisers.py study/runs/A study/runs/B --data study/held-out.zip --images 1000

At timesteps of A, and those of B with the nearest log-SNR of the coarse content, both predict the clean
image from noisy versions of the same images. Errors are mean squares over pixels in [-1, 1], compared at the
smaller of the two sizes. A ratio above 1 says that A is worse.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import ssdiff
from ssdiff import rng
from ssdiff.data import evenly, open_data
from ssdiff.images import from_uint8
from ssdiff.pipeline import Pipeline


def main() -> None:
    """Print a row for each timestep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs=2, metavar="RUN", help="of SSD or DDPM")
    parser.add_argument("--data", required=True, help="images that neither was trained on")
    parser.add_argument("--images", type=int, default=500, help="how many of them")
    parser.add_argument("--timesteps", type=int, default=15, help="rows of the table")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    one, other = (ssdiff.load(path, device=options.device, precision="fp32") for path in options.models)
    if not all(model.process.isotropic for model in (one, other)):
        parser.error("both models must be of kind ssd or ddpm")
    images = clean_images(one, options.data, options.images).split(options.batch)
    print("| log-SNR | size | mean square error | size | mean square error | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in compared(one, other, images, options.timesteps):
        (size, first), (other_size, second) = row.one, row.other
        print(
            f"| {row.log_snr:.2f} | {size} | {first:.5f} | {other_size} | {second:.5f} | {row.ratio:.3f} |",
            flush=True,
        )


@dataclass(frozen=True)
class Row:
    """Errors at one noise level.

    Attributes:
        log_snr: of the coarse content.
        one: pixels a side of the first model's image, and its mean square error.
        other: those of the second.
    """

    log_snr: float
    one: tuple[int, float]
    other: tuple[int, float]

    @property
    def ratio(self) -> float:
        """Above 1 if the first is worse."""
        return self.one[1] / self.other[1]


def compared(one: Pipeline, other: Pipeline, images: Sequence[Tensor], count: int) -> Iterator[Row]:
    """Errors at timesteps of the first model that are evenly spread, and those of the second nearest to them.

    Args:
        one: a model of kind ssd or ddpm.
        other: another.
        images: batches of clean images.
        count: of timesteps.
    """
    for t in timesteps(one, count):
        level = coarse_log_snr(one, t)
        u = min(range(1, other.process.T + 1), key=lambda u: abs(coarse_log_snr(other, u) - level))
        first, second = mean_squares(one, t, other, u, images)
        sizes = (one.process.states[t].resolution, other.process.states[u].resolution)
        yield Row(level, (sizes[0], first), (sizes[1], second))


def clean_images(model: Pipeline, data: str, count: int) -> Tensor:
    """(count, C, H, W) in [-1, 1], spread evenly over the set."""
    preset = model.required_preset().data
    found = open_data(data, size=preset.size, channels=preset.channels)
    chosen = torch.from_numpy(found.images[evenly(len(found), min(count, len(found)))])
    return from_uint8(chosen.to(model.device))


def timesteps(model: Pipeline, count: int) -> list[int]:
    """Evenly spread over 1..T."""
    return [1 + int(t) for t in evenly(model.process.T, min(count, model.process.T))]


def coarse_log_snr(model: Pipeline, t: int) -> float:
    """log (a / sigma_0)^2, sigma_0 the noise at full size whose mean over merged pixels is sigma."""
    state, full = model.process.states[t], model.process.states[0]
    return 2 * math.log(state.signal / state.sigma * state.resolution / full.resolution)


def mean_squares(
    one: Pipeline, t: int, other: Pipeline, u: int, batches: Sequence[Tensor]
) -> tuple[float, float]:
    """Mean square errors of both, at the smaller of the two sizes."""
    small, s = min((one, t - 1), (other, u - 1), key=lambda pair: pair[0].process.states[pair[1]].resolution)
    found = [0.0, 0.0]
    for number, x0 in enumerate(batches):
        for place, (model, timestep) in enumerate(((one, t), (other, u))):
            missed = errors(model, timestep, x0, number, small, s)
            found[place] += float(missed.square().mean(dim=(1, 2, 3)).sum())
    images = sum(map(len, batches))
    return found[0] / images, found[1] / images


def errors(model: Pipeline, t: int, x0: Tensor, batch: int, small: Pipeline, s: int) -> Tensor:
    """What the model's clean images miss, reduced to the size that ``small`` has at timestep s."""
    process = model.process
    positions = torch.arange(len(x0), device=x0.device)
    noise = rng.normal(rng.derive(batch, "denoisers"), positions, t, (x0.shape[1], *process.states[t].size))
    target = process.target(x0, t)
    missed = model.predict_x0(process.noised(target, t, noise), t) - target
    sizes = [state.size for state in small.process.states]
    return small.process.resize(missed, sizes.index(tuple(missed.shape[-2:])), s)


if __name__ == "__main__":
    main()
