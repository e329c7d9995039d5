"""Whether tiles show: errors of restored photographs beside the borders of tiles, and elsewhere.

    python benchmarks/seams.py photos.zip

Every photograph whose name begins with --prefix is degraded as in benchmarks/photos.py and restored by the
bundled prior in tiles of --tile pixels, smaller than it would take by itself, and in as large ones as it
takes. Printed are the mean squared error within --near pixels of a line where a tile begins or ends, divided
by that of all other pixels: of the tiled picture, and of the other one at the same places, which says what of
it the picture alone makes. Means over the pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from photos import TASKS, Case, pictures
from torch import Tensor

import ssdiff


def restored(case: Case, pipeline: ssdiff.Pipeline, tile: int | None) -> Tensor:
    """(H, W) squared errors, means over colours."""
    found = ssdiff.restore(case.measured, pipeline, tile=tile, **case.known).images
    return (found - case.clean).square().mean(dim=(0, 1))


def beside_seams(pipeline: ssdiff.Pipeline, size: tuple[int, int], tile: int, near: int) -> Tensor:
    """(H, W) bool, where a tile begins or ends close by; the borders of the picture are no seams."""
    tiling = pipeline.at_size(size, tile=tile).tiling
    assert tiling is not None, "of another size than the model's"
    close = []
    for dim in (0, 1):
        starts = tiling.starts(dim)
        lines = torch.tensor([*starts[1:], *(start + tile for start in starts[:-1])])
        pixels = torch.arange(size[dim]) + 0.5
        close.append(((pixels[:, None] - lines).abs() < near).any(dim=1))
    return close[0][:, None] | close[1]


def main() -> None:
    """Restore, measure and print one row a task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="zip file or folder of photographs")
    parser.add_argument("--prefix", nargs="+", default=["scikit-image_", "scikit-learn_"])
    parser.add_argument("--ckpt", default="photos64", help="model; the bundled prior where omitted")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--near", type=int, default=8)
    options = parser.parse_args()
    pipeline = ssdiff.load(options.ckpt)
    print("| task | beside seams / elsewhere | the same places, large tiles | pictures |")
    print("| --- | --- | --- | --- |")
    for task in options.tasks:
        ratios = []
        for number, (_, clean) in enumerate(pictures(options.data, options.prefix, None)):
            size = (clean.shape[-2], clean.shape[-1])
            case, near = Case(task, clean, number), beside_seams(pipeline, size, options.tile, options.near)
            errors = [restored(case, pipeline, tile) for tile in (options.tile, None)]
            ratios.append([float(e[near].mean() / e[~near].mean()) for e in errors])
        mean = torch.tensor(ratios).mean(dim=0)
        print(f"| {task} | {mean[0]:.3f} | {mean[1]:.3f} | {len(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
