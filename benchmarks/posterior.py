"""Time of one posterior draw at a resolution transition: `python benchmarks/posterior.py`.

The bar is 10 ms for 64 images of 64 px on a CPU; the authors' Lanczos routine took 1161 ms on two cores of
the machine on which the bar was set.
"""

import argparse
import time

import torch

from ssdiff import build_process, load_preset


def median_ms(function, repeats: int) -> float:
    """Median wall-clock milliseconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[repeats // 2]


def main() -> None:
    """Print a table, one row a resolution transition of celeba64."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    process = build_process(load_preset("celeba64"))
    threads = torch.get_num_threads()
    print(f"{options.device}, {threads} threads, batch {options.batch}, torch {torch.__version__}")
    print("change     posterior draw")
    for t in range(2, process.T + 1):
        now, then = process.states[t], process.states[t - 1]
        if now.size == then.size:
            continue
        x_t = torch.randn(options.batch, 3, *now.size, device=options.device)
        x0, noise = (torch.randn(options.batch, 3, *then.size, device=options.device) for _ in range(2))

        def draw(x_t=x_t, x0=x0, noise=noise, t=t):
            return process.posterior(x_t, x0, t, t - 1).sample(noise)

        draw()
        print(f"{now.resolution:3d} -> {then.resolution:3d}  {median_ms(draw, options.repeats):8.2f} ms")


if __name__ == "__main__":
    main()
