"""Whether data keep a training waiting: `python benchmarks/reading.py`.

First the seconds in which a set of JPEG photographs (drawn here) is prepared, by the number of threads; then
what a step waits for its batch, read ahead by a thread and not, where a batch takes as long to read as a step
to compute. Both are sleeps, so that the figures do not depend on free cores: with reading ahead a step takes
what the slower of the two takes, without it takes the sum.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssdiff.data import cache, open_data
from ssdiff.distributed import World
from ssdiff.training.batches import Batches


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=int, default=512, help="512 x 384 pixels each")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--milliseconds", type=float, default=20, help="of a step, and of a batch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        preparing(Path(folder), options.photographs)
    waiting(options.steps, options.milliseconds / 1e3)


def preparing(folder: Path, count: int) -> None:
    """Decode one set with 1, 2, 4, ... threads, as many as there are cores."""
    numbers = np.random.default_rng(0)
    (folder / "set").mkdir()
    for k in range(count):
        coarse = Image.fromarray(numbers.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((512, 384), Image.Resampling.BICUBIC).save(folder / "set" / f"{k:05}.jpg", quality=92)
    cores = cache.usable_cores()
    print("threads   seconds   images/s   seconds of all cores")
    for workers in [n for n in (2**k for k in range(10)) if n < cores] + [cores]:
        cache.usable_cores = lambda workers=workers: workers
        began, spent = time.perf_counter(), time.process_time()
        open_data(folder / "set", size=64, channels=3, cache=folder / f"cache{workers}")
        seconds, spent = time.perf_counter() - began, time.process_time() - spent
        print(f"{workers:7d} {seconds:9.2f} {count / seconds:10.1f} {spent:22.2f}", flush=True)


class Slow(Batches):
    """Batches from a slow disk."""

    seconds = 0.0

    def _make(self, counter: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        time.sleep(self.seconds)
        return super()._make(counter)


def waiting(steps: int, seconds: float) -> None:
    """Time steps that sleep while the next batch is read."""
    images = np.zeros((1000, 3, 64, 64), np.uint8)
    print("read ahead   milliseconds a step   of which waiting")
    for ahead in (0, 2):
        batches = Slow(images, None, torch.device("cpu"), World(), 8, 0, flip=True, ahead=ahead)
        batches.seconds = seconds
        waited, began = 0.0, time.perf_counter()
        for counter in itertools.islice(itertools.count(), steps):
            asked = time.perf_counter()
            batches(counter)
            waited += time.perf_counter() - asked
            time.sleep(seconds)
        taken = time.perf_counter() - began
        print(f"{ahead:10d} {1e3 * taken / steps:21.1f} {1e3 * waited / steps:18.1f}")
        batches.close()


if __name__ == "__main__":
    main()
