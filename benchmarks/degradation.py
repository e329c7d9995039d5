"""D(x, T) as one precomputed operator against T kernels applied one after the other.

python benchmarks/degradation.py [--size 128] [--T 200] [--batch 16]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff.process.degradations.registry import build_degradation

TAPS, GROWTH = 15, 0.01  # of cold-blur-celeba128


def one_after_the_other(x: Tensor, T: int) -> Tensor:
    """T convolutions with reflect padding, one channel at a time."""
    reach = TAPS // 2
    offset = torch.arange(-reach, reach + 1, dtype=x.dtype)
    for i in range(T):
        row = torch.exp(-0.5 * (offset / math.exp(GROWTH * i)).square())
        kernel = torch.outer(row, row) / row.sum().square()
        weight = kernel.expand(x.shape[1], 1, TAPS, TAPS)
        x = F.conv2d(F.pad(x, [reach] * 4, mode="reflect"), weight, groups=x.shape[1])
    return x


def seconds(work: Callable[[], Tensor], repeats: int) -> float:
    """The quickest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--T", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    size, T = (options.size, options.size), options.T
    began = time.perf_counter()
    family = build_degradation("blur", size, T, kernel=TAPS, std="exponential", growth=GROWTH)
    x = torch.rand(options.batch, 3, *size) * 2 - 1
    family.degrade(x, T)
    built = time.perf_counter() - began
    error = float((family.degrade(x, T) - one_after_the_other(x, T)).abs().max())
    ours = seconds(lambda: family.degrade(x, T), 20)
    theirs = seconds(lambda: one_after_the_other(x, T), 2)
    threads = torch.get_num_threads()
    print(f"{options.batch} images of {options.size} px, {T} kernels of {TAPS} taps, {threads} threads")
    print(f"largest difference      {error:.1e}")
    print(f"one after the other     {1e3 * theirs:.1f} ms")
    print(f"one operator            {1e3 * ours:.2f} ms ({built:.2f} s once to build)")
    print(f"ratio                   {theirs / ours:.0f}")


if __name__ == "__main__":
    main()
