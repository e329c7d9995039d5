"""Photographs at full size, restored by the bundled prior and by classical tools: PSNR and SSIM in one table.

    pip install 'scale-space-diffusion[photos]'
    python benchmarks/photos.py photos.zip --out photos.json

Pictures are those of the archive (or folder) whose names begin with --prefix. Degraded pictures are rounded
to bytes, as files hold them, and tools get what restoration gets: the picture, the noise, the blur, the
mask. Parameters that a classical tool leaves open (balance, iterations) are the best of a few, chosen for
each row of the table by the truth, which favours the tool. Blurs continue pictures by their mirror image,
and the tools get them continued. What has been measured is read from --out, so that the command goes on
where it stopped; --again NAME measures a tool anew. LPIPS is left out: it needs the weights of a classifier.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

import ssdiff
from ssdiff import rng
from ssdiff.evaluation.image_quality import psnr, ssim
from ssdiff.images import from_uint8, to_uint8
from ssdiff.images.jpeg import through_jpeg
from ssdiff.operators import matrices
from ssdiff.operators.separable import Separable

OURS = "ssdiff"
GRANULE = 4  # sizes are cut to multiples, so that super-resolution has whole pixels
BLUR, BLUR_NOISE, NOISE = 1.6, 2.0, 25.0  # pixels; of 255
PAD = 16  # pixels of the mirror image that the tools against blur get

Tool = Callable[["Case"], dict[str, np.ndarray]]


class Case:
    """One degraded picture and what was done to it.

    Args:
        task: its row of the table.
        clean: (1, 3, H, W) in [-1, 1].
        number: of the picture, which decides noise and mask.
    """

    def __init__(self, task: str, clean: Tensor, number: int) -> None:
        self.task, self.clean = task, clean
        size = (clean.shape[-2], clean.shape[-1])
        self.mask: Tensor | None = None  # True where missing
        self.noise = {"denoise": NOISE, "deblur": BLUR_NOISE}.get(task, 0.0)
        measured = clean
        if task == "deblur":
            measured = Separable(*(matrices.gaussian_blur(n, BLUR) for n in size)).apply(clean)
        if task.startswith("super-resolve"):
            measured = F.avg_pool2d(clean, self.number)
        if self.noise:
            key = rng.derive(number, "benchmark/photos/noise")
            drawn = rng.normal(key, torch.zeros(1, dtype=torch.int64), 0, tuple(measured.shape[1:]))
            measured = measured + self.noise / 127.5 * drawn
        if task == "inpaint half":
            key = rng.derive(number, "benchmark/photos/mask")
            self.mask = rng.uniform(key, torch.zeros(1, dtype=torch.int64), 0, size)[0] < 0.5
        if task == "inpaint text":
            self.mask = text_mask(size)
        if self.mask is not None:
            measured = torch.where(self.mask, torch.ones(()), measured)  # white on the picture
        if task.startswith("jpeg"):
            measured = through_jpeg(clean, self.number)
        self.measured = from_uint8(to_uint8(measured))

    @property
    def number(self) -> int:
        """Factor of super-resolution, quality of a JPEG file."""
        return int(self.task.split()[-1])

    @property
    def known(self) -> dict[str, Any]:
        """What ssdiff.restore is told."""
        op = self.task.split()[0]
        told: dict[str, Any] = {"op": op}
        if self.noise:
            told["noise_std"] = self.noise / 127.5
        if op == "deblur":
            told["std"] = BLUR
        if op == "super-resolve":
            told["factor"] = self.number
        if op == "jpeg":
            told["quality"] = self.number
        if op == "inpaint":
            told["mask"] = self.mask
        return told

    @property
    def array(self) -> np.ndarray:
        """(h, w, 3) in 0..1, as scikit-image takes pictures."""
        return self.measured[0].permute(1, 2, 0).double().numpy() * 0.5 + 0.5


def text_mask(size: tuple[int, int]) -> Tensor:
    """(H, W) bool, True under lines of text."""
    picture = Image.new("L", (size[1], size[0]), 0)
    draw = ImageDraw.Draw(picture)
    line = "scale-space diffusion restores what was written over. " * (size[1] // 200 + 1)
    for top in range(4, size[0], 24):
        draw.text((4, top), line, fill=255)
    return torch.from_numpy(np.array(picture) > 127)


def bm3d(case: Case) -> dict[str, np.ndarray]:
    """BM3D in colour, with the true noise."""
    from bm3d import bm3d_rgb

    return {"": bm3d_rgb(case.array, case.noise / 255)}


def non_local_means(case: Case) -> dict[str, np.ndarray]:
    """Non-local means of scikit-image, with the true noise."""
    from skimage.restoration import denoise_nl_means

    std = case.noise / 255
    settings = {"patch_size": 5, "patch_distance": 6, "fast_mode": True, "channel_axis": -1}
    return {
        f"h = {share} std": denoise_nl_means(case.array, h=share * std, sigma=std, **settings)
        for share in (0.4, 0.5, 0.6, 0.8)
    }


def _mirrored(case: Case) -> np.ndarray:
    return np.pad(case.array, ((PAD, PAD), (PAD, PAD), (0, 0)), "reflect")


def _point_spread() -> np.ndarray:
    row = np.exp(-(np.arange(-PAD, PAD + 1.0) ** 2) / (2 * BLUR**2))
    return np.outer(row, row) / row.sum() ** 2


def wiener(case: Case) -> dict[str, np.ndarray]:
    """Wiener deconvolution with a Laplacian prior."""
    from skimage.restoration import wiener as restore

    image, kernel = _mirrored(case), _point_spread()

    def run(balance: float) -> np.ndarray:
        channels = [restore(image[..., c], kernel, balance) for c in range(3)]
        return np.stack(channels, axis=-1)[PAD:-PAD, PAD:-PAD]

    return {f"balance {balance:g}": run(balance) for balance in (1e-3, 3e-3, 1e-2, 3e-2)}


def richardson_lucy(case: Case) -> dict[str, np.ndarray]:
    """Richardson-Lucy deconvolution."""
    from skimage.restoration import richardson_lucy as restore

    image, kernel = _mirrored(case), _point_spread()

    def run(count: int) -> np.ndarray:
        channels = [restore(image[..., c], kernel, num_iter=count) for c in range(3)]
        return np.stack(channels, axis=-1)[PAD:-PAD, PAD:-PAD]

    return {f"{count} iterations": run(count) for count in (10, 20, 40)}


def bicubic(case: Case) -> dict[str, np.ndarray]:
    """Bicubic enlargement."""
    height, width = case.clean.shape[-2:]
    small = Image.fromarray(to_uint8(case.measured)[0].permute(1, 2, 0).numpy())
    return {"": np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) / 255}


def biharmonic(case: Case) -> dict[str, np.ndarray]:
    """Biharmonic inpainting."""
    from skimage.restoration import inpaint_biharmonic

    assert case.mask is not None, "of inpainting"
    return {"": inpaint_biharmonic(case.array, case.mask.numpy(), channel_axis=-1)}


def decoded(case: Case) -> dict[str, np.ndarray]:
    """What the file gives."""
    return {"": case.array}


TASKS: dict[str, dict[str, Tool]] = {
    "denoise": {"BM3D": bm3d, "non-local means": non_local_means},
    "deblur": {"Wiener": wiener, "Richardson-Lucy": richardson_lucy},
    "super-resolve 2": {"bicubic": bicubic},
    "super-resolve 4": {"bicubic": bicubic},
    "inpaint half": {"biharmonic": biharmonic},
    "inpaint text": {"biharmonic": biharmonic},
    "jpeg 20": {"as decoded": decoded},
    "jpeg 50": {"as decoded": decoded},
}


def prior(pipeline: ssdiff.Pipeline) -> Tool:
    """Restoration by ssdiff, options as a user leaves them."""

    def run(case: Case) -> dict[str, np.ndarray]:
        found = ssdiff.restore(case.measured, pipeline, **case.known).images
        return {"": found[0].permute(1, 2, 0).double().numpy() * 0.5 + 0.5}

    return run


def pictures(source: Path, prefixes: list[str], middle: int | None) -> Iterator[tuple[str, Tensor]]:
    """(name, (1, 3, H, W) in [-1, 1]) of an archive or a folder; of the middle alone where a side is said."""
    archive = zipfile.ZipFile(source) if source.is_file() else None
    names = archive.namelist() if archive else [path.name for path in source.iterdir()]
    for name in sorted(names):
        if name.startswith(tuple(prefixes)):
            stream = BytesIO(archive.read(name)) if archive else (source / name).open("rb")
            image = np.array(Image.open(stream).convert("RGB"))
            sides = [min(n - n % GRANULE, middle or n) for n in image.shape[:2]]
            top, left = (
                (n - side) // 2 if middle else 0 for n, side in zip(image.shape, sides, strict=False)
            )
            part = image[top : top + sides[0], left : left + sides[1]]
            yield Path(name).stem, from_uint8(torch.from_numpy(part).permute(2, 0, 1)[None])


def measure(case: Case, found: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM of a result, as bytes."""
    result = torch.from_numpy(np.clip(found * 255, 0, 255).round().astype(np.uint8)).permute(2, 0, 1)[None]
    restored = from_uint8(result)
    return {"psnr": float(psnr(restored, case.clean)), "ssim": float(ssim(restored, case.clean))}


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the means over pictures as Markdown; of each tool the best setting of a row."""
    lines = ["| task | tool | PSNR, dB | SSIM | pictures |", "| --- | --- | --- | --- | --- |"]
    for task, tools in TASKS.items():
        for tool in (*tools, OURS):
            settings: dict[str, list[dict[str, float]]] = {}
            for place, measured in results.items():
                if place.startswith(f"{task}/{tool}/"):
                    for setting, figures in measured.items():
                        settings.setdefault(setting, []).append(figures)
            if settings:
                best = max(settings, key=lambda key: np.mean([one["psnr"] for one in settings[key]]))
                means = [np.mean([one[what] for one in settings[best]]) for what in ("psnr", "ssim")]
                name = f"{tool}, {best}" if best else tool
                lines.append(f"| {task} | {name} | {means[0]:.2f} | {means[1]:.4f} | {len(settings[best])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="zip file or folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all figures")
    parser.add_argument("--prefix", nargs="+", default=["scikit-image_", "scikit-learn_"])
    parser.add_argument("--middle", type=int, default=None, help="cut pictures to so many pixels a side")
    parser.add_argument("--ckpt", default="photos64", help="model; the bundled prior where omitted")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--tools", nargs="+", default=None, help="of the table; all where omitted")
    parser.add_argument("--again", nargs="*", default=[], help="tools that are measured anew")
    parser.add_argument("--save", type=Path, default=None, help="folder for degraded and restored pictures")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.is_file() else {}
    model: Tool | None = None
    for number, (name, clean) in enumerate(pictures(options.data, options.prefix, options.middle)):
        for task in options.tasks:
            case = None
            for tool in (*TASKS[task], OURS):
                place = f"{task}/{tool}/{name}"
                if (options.tools and tool not in options.tools) or (
                    place in results and tool not in options.again
                ):
                    continue
                case = case or Case(task, clean, number)
                if tool == OURS:
                    model = model or prior(ssdiff.load(options.ckpt))
                found = (model if tool == OURS else TASKS[task][tool])(case)  # type: ignore[misc]
                results[place] = {setting: measure(case, image) for setting, image in found.items()}
                options.out.write_text(json.dumps(results, indent=1))
                if options.save:
                    save(options.save, name, task, tool, case, next(iter(found.values())))
                print(place, results[place], flush=True)
    print(table(results))


def save(folder: Path, name: str, task: str, tool: str, case: Case, found: np.ndarray) -> None:
    """Write a result, and what it was made from."""
    folder.mkdir(parents=True, exist_ok=True)
    for what, array in ((tool, found), ("degraded", case.array)):
        bytes_ = np.clip(array * 255, 0, 255).round().astype(np.uint8)
        Image.fromarray(bytes_).save(folder / f"{name}-{task.replace(' ', '-')}-{what}.png")


if __name__ == "__main__":
    main()
