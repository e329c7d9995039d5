"""Which part of a chain costs quality: two models take turns, one at coarse and one at full size.

    python benchmarks/stage_swap.py study/runs/MATCHED study/runs/DDPM --reference study/held-out.zip \
        --extractor effnet_features:EffNetLite0

The first model changes resolution with SNR-preserving noise and reductions by area, the second never; both
have one noise schedule at full size. A noisy image of the second, reduced, is then a noisy image of the
first, so that either can go on where the other stopped:

- `first`, `second`: each alone;
- `second, first`: the first takes over at full size, after its last resolution transition;
- `second, change, first`: likewise, but before that change;
- `first, second`: the second takes over at full size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import ssdiff
from ssdiff.images import to_uint8
from ssdiff.pipeline import Pipeline

TOLERANCE = 1e-4  # relative, of what the schedules should share


def main() -> None:
    """Print a row for each stage swap."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path, metavar="MATCHED", help="run with resolution transitions")
    parser.add_argument("second", type=Path, metavar="DDPM", help="run without")
    parser.add_argument("--reference", type=Path, required=True, help="images that none was trained on")
    parser.add_argument("--extractor", default="inception", help="as for `ssdiff eval fid`")
    parser.add_argument("--images", type=int, default=2000, help="drawn by each stage swap")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    first, second = (ssdiff.load(path, device=options.device) for path in (options.first, options.second))
    if fault := misfit(first, second):
        parser.error(fault)
    swaps = StageSwaps(first, second, options.steps, options.sampler)
    print("| stage swap | FD | KD x 1000 |\n| --- | --- | --- |")
    for name, draw in swaps.all().items():
        fd, kd = distances(draw, options)
        print(f"| {name} | {fd:.1f} | {1000 * kd:.1f} |", flush=True)


def misfit(first: Pipeline, second: Pipeline) -> str | None:
    """Why two models cannot take turns, in words."""
    coarse, fine = first.process, second.process
    if not coarse.isotropic or not fine.isotropic:
        return "both models must be of kind ssd or ddpm"
    sizes = {state.size for state in fine.states}
    if len(sizes) > 1 or coarse.states[0].size not in sizes or coarse.T != fine.T:
        return "the second model must have the first one's T and full size at every timestep"
    if coarse.states[-1].size in sizes or first.required_preset().process.resize != "area":
        return "the first model must reduce images by area"
    for ours, theirs in zip(coarse.states[1:], fine.states[1:], strict=True):
        factor = theirs.resolution / ours.resolution
        if abs(ours.sigma / ours.signal / (theirs.sigma / theirs.signal) * factor - 1) > TOLERANCE:
            return "the models' noise does not match; is process.snr_preserving 1, and the schedule the same?"
    return None


@dataclass(frozen=True, slots=True)
class StageSwaps:
    """Chains of which parts are drawn by different models.

    Attributes:
        first: changes resolution.
        second: does not.
        steps: of each alone; the first takes its changes besides, and all swaps follow its chain.
        sampler: of both.
    """

    first: Pipeline
    second: Pipeline
    steps: int
    sampler: str

    def all(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """By name, functions from (B,) image numbers to (B, C, R, R)."""
        chain = self.first.plan(self.steps, self.sampler).timesteps
        alone = self.second.plan(self.steps, self.sampler).timesteps
        states = self.first.process.states
        fine = next(place for place, t in enumerate(chain) if states[t].size == states[0].size)
        before, after, change = chain[: fine + 1], chain[fine:], chain[fine - 1]

        def reduced(x: Tensor) -> Tensor:
            process = self.first.process
            scale = states[change].signal / self.second.process.states[change].signal
            return scale * process.degrade(x, change)

        return {
            "first": lambda images: self._walk(self.first, chain, images),
            "second": lambda images: self._walk(self.second, alone, images),
            "second, first": lambda images: self._walk(
                self.first, after, images, self._walk(self.second, before, images)
            ),
            "second, change, first": lambda images: self._walk(
                self.first, chain[fine - 1 :], images, reduced(self._walk(self.second, chain[:fine], images))
            ),
            "first, second": lambda images: self._walk(
                self.second, after, images, self._walk(self.first, before, images)
            ),
        }

    def _walk(self, model: Pipeline, chain: list[int], images: Tensor, x: Tensor | None = None) -> Tensor:
        """The state at the end of a part of a chain."""
        plan = replace(model.plan(self.steps, self.sampler), timesteps=chain)
        for _, state in model.walk(images.to(model.device), plan, x=x):
            x = state
        assert x is not None
        return x


def distances(draw: Callable[[Tensor], Tensor], options: argparse.Namespace) -> tuple[float, float]:
    """FD and KD of a stage swap's images to the reference."""
    images = torch.cat([to_uint8(draw(part)) for part in torch.arange(options.images).split(options.batch)])
    found = ssdiff.evaluate(
        images,
        options.reference,
        ("fid", "kid"),
        extractor=options.extractor,
        resize=images.shape[-1],
        subset_size=min(1000, options.images // 2),
        device=options.device,
    )
    return found.values["fid"]["distance"], found.values["kid"]["mean"]


if __name__ == "__main__":
    main()
