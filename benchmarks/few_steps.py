"""What a sampler loses by taking few steps: exact, for linear MMSE denoisers of Gaussian data; or measured.

    python benchmarks/few_steps.py --scale 16px --data faces64.zip \
        --variants "DDPM; published SSD, 3 levels; matched SSD, 3 levels" --steps 8,10,15,20,30
    python benchmarks/few_steps.py --ckpt RUN --data held-out.zip --extractor effnet_features:EffNetLite0 \
        --samplers "ancestral; ddim; ddim 0.5; dpm++" --steps 5,10,25,50 --set sampling.correction=0.5

The data are normal, with the covariance of grey images; their MMSE denoiser is linear, so the samplers of
ssdiff, run on a basis of all noise that a chain draws, give the covariance of what they generate. Printed is
its Frechet distance to the data as a share of their variance, for schedules of the study of SNR-preserving
noise.

With `--ckpt` it is a trained network whose images are measured: the distance of the extractor's features
to those of the data, and the seconds that drawing takes, of the processor where the network is on one.
A number after a sampler is its eta.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch
from study_scales import SCALES, Case
from torch import Tensor

import ssdiff
from ssdiff import load_preset
from ssdiff.analysis.covariance import frechet, root_sum
from ssdiff.analysis.data_moments import measure_moments
from ssdiff.build import build_process
from ssdiff.config.load import Preset, parse_override
from ssdiff.data import evenly, open_data
from ssdiff.generation import override_sampling
from ssdiff.images import from_uint8
from ssdiff.process.base import Process
from ssdiff.sampling.plan import make_plan
from ssdiff.sampling.registry import SAMPLERS
from ssdiff.sampling.walk import Walk

COMPARED = ("ddim", "dpm++")
MEASURED = ("ancestral", "ddim", "dpm++")


def main() -> None:
    """Print a table: a row for each variant and sampler, a column for each number of steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="images; made grey, but for --ckpt")
    parser.add_argument("--ckpt", type=Path, help="measure this run or model instead")
    parser.add_argument("--samplers", type=samplers, help="of --ckpt, e.g. 'ddim; ddim 0.5; dpm++'")
    parser.add_argument(
        "--set", dest="sets", type=parse_override, action="append", default=[], help="of --ckpt's sampling"
    )
    parser.add_argument("--extractor", default="inception", help="of --ckpt, as for `ssdiff eval fid`")
    parser.add_argument("--scale", choices=SCALES, default="16px", help="of the study; best up to 32px")
    parser.add_argument(
        "--variants",
        default="DDPM; published SSD, 3 levels; matched SSD, 3 levels; matched SSD, spectral details",
    )
    parser.add_argument("--images", type=int, default=3000, help="of the data; drawn, with --ckpt")
    parser.add_argument("--steps", type=numbers, default=(8, 10, 15, 20, 30))
    options = parser.parse_args()
    if options.ckpt is not None:
        measure(options)
        return
    scale, covariance = SCALES[options.scale], None
    names = [part.strip() for part in options.variants.split(";")]
    if unknown := [name for name in names if name not in scale.variants]:
        parser.error(f"no variant {unknown[0]!r}; there are: {'; '.join(scale.variants)}")
    print("| variant | sampler | " + " | ".join(f"{steps} steps" for steps in options.steps) + " |")
    print("| --- | --- |" + " --- |" * len(options.steps))
    for name in names:
        preset = load_preset("celeba64", Case(scale, name, 0, scale.budgets[0], Path()).settings())
        if covariance is None:
            covariance = grey_covariance(preset.data.size, options.data, options.images)
        for sampler in COMPARED:
            found = [distance(preset, covariance, steps, sampler) for steps in options.steps]
            print(f"| {name} | {sampler} | " + " | ".join(f"{one:.5f}" for one in found) + " |", flush=True)


def measure(options: argparse.Namespace) -> None:
    """Print the table of a trained network: a row for each sampler, a column for each number of steps."""
    pipeline = ssdiff.load(options.ckpt)
    override_sampling(pipeline, dict(options.sets))
    rows = options.samplers or [(name, None) for name in MEASURED]
    clock = time.process_time if pipeline.device.type == "cpu" else time.perf_counter
    side = pipeline.process.states[0].resolution
    print("| sampler | " + " | ".join(f"{steps} steps, seconds" for steps in options.steps) + " |")
    print("| --- |" + " --- |" * len(options.steps))
    for name, eta in rows:
        print(f"| {name}" + ("" if eta is None else f", eta {eta:g}"), end="", flush=True)
        for steps in options.steps:
            began = clock()
            images = pipeline.sample(options.images, steps, name, eta)
            seconds = clock() - began
            found = ssdiff.evaluate(images, options.data, extractor=options.extractor, resize=side)
            print(f" | {found.value:.4g}, {seconds:.0f}", end="", flush=True)
        print(" |", flush=True)


def samplers(text: str) -> list[tuple[str, float | None]]:
    """Names between semicolons, each with its eta or without."""
    found = [(name, eta) for name, _, eta in (one.strip().partition(" ") for one in text.split(";"))]
    return [(name, float(eta) if eta else None) for name, eta in found]


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(int(part) for part in text.split(","))


def grey_covariance(side: int, data: str, count: int) -> Tensor:
    """(R R, R R) of grey images of R pixels a side."""
    found = open_data(data, size=side, channels=1)
    images = torch.from_numpy(found.images[evenly(len(found), min(count, len(found)))])
    model = measure_moments([from_uint8(images).double()], (side,), covariance=True)
    assert model.covariance is not None
    return model.covariance


def distance(preset: Preset, covariance: Tensor, steps: int, sampler: str) -> float:
    """Relative Frechet distance of what a chain of the linear MMSE denoiser generates."""
    process = build_process(preset)
    root = symmetric_root(covariance)
    details = root if preset.sampling.renoise == "spectral" else None
    chain = make_plan(preset, process, steps, sampler).timesteps
    made = generated(process, covariance, chain, sampler, details)
    total, roots = float(covariance.trace()), root_sum(made, root)
    return frechet(made.new_zeros(1), total, float(made.trace()), roots) / total


def symmetric_root(covariance: Tensor) -> Tensor:
    """Its product with itself is the covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.mT


def generated(
    process: Process, covariance: Tensor, chain: list[int], sampler: str, details: Tensor | None
) -> Tensor:
    """Covariance of the images at the end of a chain, whose steps draw noise at resolution transitions alone.

    Args:
        process: of the chain.
        covariance: of the data.
        chain: timesteps, T first.
        sampler: ddim or dpm++.
        details: root of the covariance by which details are drawn that a resolution transition adds, or None.
    """
    states, side = process.states, process.states[0].resolution
    drawn = [chain[0], *(s for t, s in itertools.pairwise(chain) if s and states[t].size != states[s].size)]
    # Every draw has columns of its own, so that a state's product with itself is its covariance.
    widths = [states[t].resolution ** 2 for t in drawn] + [side**2] * (len(drawn) - 1)
    columns = torch.eye(sum(widths), dtype=torch.float64).split(widths, dim=1)

    def noise(t: int, shape: tuple[int, ...]) -> Tensor:
        return columns[drawn.index(t)].reshape(-1, *shape)

    def added(t: int, s: int) -> Tensor:
        assert details is not None
        images = (columns[len(drawn) - 1 + drawn.index(s)] @ details).reshape(-1, 1, side, side)
        return states[s].signal * process.high_frequencies(process.degrade(images, s), s, t)

    def predict(x: Tensor, t: int) -> Tensor:
        return best_linear(process, covariance, t, x)

    start = process.pure_noise(chain[0], noise(chain[0], (1, *states[chain[0]].size)))
    walk = Walk(process, predict, start, chain, noise, renoise=None if details is None else added)
    *_, (_, x) = SAMPLERS.get(sampler)(walk)
    return x.flatten(1).mT @ x.flatten(1)


def best_linear(process: Process, covariance: Tensor, t: int, x: Tensor) -> Tensor:
    """E[x_0 | x_t] at the size of t - 1, for Gaussian data without mean."""
    now, side = process.states[t], process.states[0].resolution
    pixels = torch.eye(side**2, dtype=torch.float64).reshape(-1, 1, side, side)
    small, large = (process.degrade(pixels, u).flatten(1).mT for u in (t, t - 1))
    own = now.signal**2 * small @ covariance @ small.mT
    own.diagonal().add_(now.sigma**2)
    weight = now.signal * torch.linalg.solve(own, small @ covariance @ large.mT)
    return (x.flatten(1) @ weight).reshape(len(x), 1, *process.states[t - 1].size)


if __name__ == "__main__":
    main()
