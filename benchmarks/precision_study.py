"""The same short training in fp32 and in bf16: `python benchmarks/precision_study.py --steps 300`.

Drawn shapes at 16 px, a small network, the same seeds, batches and noise. Beside each other: the mean loss of
the second half of the steps, and the squared error of the clean image that the averaged weights predict, in
fp32, for images and one noise at five timesteps. Where bf16 is emulated a run takes minutes; what it shows
does not depend on that.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import ssdiff
from ssdiff import rng
from ssdiff.data import open_data
from ssdiff.images import from_uint8
from ssdiff.pipeline import Pipeline
from ssdiff.runs import RunFolder

SETTINGS = {
    "data.size": 16,
    "process.T": 100,
    "process.levels": 2,
    "process.resolution": {"kind": "equal"},
    "model.width": 16,
    "model.multipliers": [1, 2],
    "training.batch": 8,
    "training.warmup": 20,
    "training.log_every": 10,
    "training.sample_every": 0,
    "training.sample_count": 1,
    "training.checkpoint_every": 100_000,
}
TIMESTEPS = (5, 20, 40, 60, 90)
MEASURED = 256  # images, the last of the set


def main() -> None:
    """Print a row a run, and the differences beside the spread over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print("precision  seed    loss    error at t = " + "  ".join(f"{t:6d}" for t in TIMESTEPS) + "   seconds")
    errors: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in range(options.seeds):
        for precision, found in errors.items():
            began = time.perf_counter()
            loss, pipeline = trained(precision, seed, options.steps)
            by_timestep = [denoising_error(pipeline, t) for t in TIMESTEPS]
            found.append(statistics.fmean(by_timestep))
            row = "  ".join(f"{error:.4f}" for error in by_timestep)
            seconds = time.perf_counter() - began
            print(f"{precision:9s} {seed:5d}  {loss:.4f}{' ' * 17}{row}   {seconds:7.0f}", flush=True)
    pairs = [bf16 / fp32 - 1 for fp32, bf16 in zip(errors["fp32"], errors["bf16"], strict=True)]
    seeds = max(errors["fp32"]) / min(errors["fp32"]) - 1
    print("mean error of bf16 against fp32: " + ", ".join(f"{100 * pair:+.2f} %" for pair in pairs))
    print(f"between the seeds of fp32: {100 * seeds:.2f} %")


def trained(precision: str, seed: int, steps: int) -> tuple[float, Pipeline]:
    """The mean loss of the second half, and the model in fp32."""
    settings = SETTINGS | {"training.precision": precision, "training.seed": seed, "training.steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        result = ssdiff.train("shapes32", "shapes", Path(folder) / "run", overrides=settings, device="cpu")
        metrics = RunFolder(result.folder).read_metrics()
        late = [line["loss"] for line in metrics if line["step"] > steps / 2]
        return statistics.fmean(late), result.pipeline(device="cpu", precision="fp32")


def denoising_error(pipeline: Pipeline, t: int) -> float:
    """Mean squared error of the predicted clean image, one timestep down."""
    images = open_data("shapes", size=16, channels=3).images[-MEASURED:]
    clean, numbers = from_uint8(torch.tensor(images)), torch.arange(MEASURED)
    process = pipeline.process
    noise = rng.normal(rng.derive(1, "benchmark/noise"), numbers, t, (3, *process.states[t].size))
    target = process.target(clean, t)
    found = pipeline.predict_x0(process.noised(target, t, noise), t)
    return float((found - target).square().mean())


if __name__ == "__main__":
    main()
