"""The work of `ssdiff degrade`: a degradation for each size, files in, pictures out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ssdiff.cli.common import Terminal, memory_for, positive
from ssdiff.cli.inputs import Job, failures, raise_failures
from ssdiff.errors import DataError, ProcessError, SsdiffError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssdiff.operators.base import Size
    from ssdiff.process.degradations.base import Degradation, Other

_DEFAULT_T = 1000
_MOST_T = 100_000  # as in a preset
_PROBE = (8, 8)


@dataclass(frozen=True, slots=True)
class Family:
    """A degradation before the size of the image is known.

    Attributes:
        op: name of the operator; that of the process's kind for a preset.
        preset: name, or None.
        label: in the names of files.
        T: the highest severity.
        build: the degradation of a size.
    """

    op: str
    preset: str | None
    label: str
    T: int
    build: Callable[[Size], Degradation]


@dataclass(frozen=True, slots=True)
class Task:
    """What is done to every image.

    Attributes:
        family: the degradation.
        severities: one, or those of a strip.
        strip: side by side in one picture.
        upscale: show small results at the size of the image.
        max_pixels: of a file.
        device: where it is computed.
    """

    family: Family
    severities: list[int]
    strip: bool
    upscale: bool
    max_pixels: int
    device: torch.device


def named(op: str, top: int | None, seed: int, options: dict[str, object], other: Other | None) -> Family:
    """A degradation of the registry; wrong names and options are found here, not at the first image.

    Raises:
        UsageError: for those.
    """
    from ssdiff.process.degradations.registry import build_degradation

    if other is not None:
        if op != "animorph":
            raise UsageError(f"--with is for animorph, not for {op}", hint="leave it out")
        options = options | {"other": other}
    T = _DEFAULT_T if top is None else positive(top, "--T")
    if T > _MOST_T:
        raise UsageError(f"--T must be at most {_MOST_T}, not {T}")

    @lru_cache(maxsize=1)
    def build(size: Size) -> Degradation:
        return build_degradation(op, size, T, seed=seed, **options)

    with suppress(ProcessError):  # what does not fit the probe may fit the images
        build(_PROBE)
    return Family(op, None, op, T, build)


def of_preset(name: str, noise: bool, seed: int, other: Other | None) -> Family:
    """The process of a preset, carried over to the size of the image.

    Raises:
        UsageError: for a preset that cannot be had, or options that it has no use for.
    """
    from ssdiff.build import build_degradation_of
    from ssdiff.config.load import load_preset

    settings = load_preset(name)
    cold = settings.process.degradation
    morphs = cold is not None and cold.kind == "animorph"
    if noise and cold is not None:
        raise UsageError(f"--noise: {settings.name} is a cold process", hint="leave it out")
    if morphs != (other is not None):
        hint = "name an image with --with" if morphs else "leave --with out"
        raise UsageError(
            f"{settings.name} turns images into {'others' if morphs else 'no others'}", hint=hint
        )

    @lru_cache(maxsize=1)
    def build(size: Size) -> Degradation:
        return build_degradation_of(settings, size, noisy=noise, seed=seed, other=other)

    kinds = {"ssd": "downsample", "ddpm": "downsample", "blurring": "dct-blur", "heat": "dct-blur"}
    op = cold.kind if cold is not None else kinds.get(settings.process.kind, settings.process.kind)
    label = settings.name.replace(" ", "-") + ("-noise" if noise else "")
    return Family(op, settings.name, label, settings.process.T, build)


def run(jobs: list[Job], task: Task, overwrite: bool, terminal: Terminal) -> None:
    """Degrade all; an image that cannot be read, or does not suit the degradation, does not stop the others.

    Raises:
        SsdiffError: if there is one image, and it failed.
        DataError: if all of several failed.
        PartialFailure: if some failed; the others are written.
    """
    done: list[dict[str, Any]] = []
    failed: list[tuple[Job, SsdiffError]] = []
    with terminal.progress("img") as bar:
        shown = bar.add_task("degrading", total=len(jobs), rate="-", note="")
        began = time.perf_counter()
        for count, job in enumerate(jobs, 1):
            try:
                with memory_for(job.source, "make the image smaller"):
                    done.append(_one(job, task, overwrite))
            except (DataError, ProcessError) as error:
                failed.append((job, error))
            rate = count / (time.perf_counter() - began)
            bar.update(shown, advance=1, rate=f"{rate:.3g}")
    if failed and len(jobs) == 1:
        raise failed[0][1]
    terminal.result("\n".join(_line(entry) for entry in done), {"images": done, "failures": failures(failed)})
    raise_failures(failed, len(done))


def _one(job: Job, task: Task, overwrite: bool) -> dict[str, Any]:
    """Read, degrade and write one image."""
    import torch

    from ssdiff import images

    began = time.perf_counter()
    clean = images.read_image(job.source, max_pixels=task.max_pixels).to(task.device)
    size = (clean.shape[-2], clean.shape[-1])
    family = task.family.build(size)
    numbers = torch.tensor([job.number], device=task.device)
    frames, states = [], []
    for t in task.severities:
        result = family.degrade(clean[None], t, numbers)[0]
        large = images.upscale_nearest(result, size)
        states.append({"t": t, "size": list(result.shape[-2:]), "psnr": _psnr(clean, large)})
        frames.append(images.to_uint8(large if task.strip or task.upscale else result))
    picture = images.film_strip(frames) if task.strip else frames[-1]
    images.save_image(picture, job.target, overwrite=overwrite)
    return {
        "image": job.source,
        "out": str(job.target),
        "op": task.family.op,
        "preset": task.family.preset,
        "t": task.severities[-1],
        "T": task.family.T,
        "size_in": list(size),
        "size_out": list(picture.shape[-2:]),
        "psnr": states[-1]["psnr"],
        "strip": states if task.strip else None,
        "seconds": round(time.perf_counter() - began, 3),
    }


def _psnr(clean: Tensor, degraded: Tensor) -> float | None:
    """Decibels, what lies outside [-1, 1] clipped; None for equal images."""
    from ssdiff.evaluation.image_quality import psnr

    value = float(psnr(clean[None], degraded.clamp(-1, 1)[None])[0])
    return round(value, 3) if math.isfinite(value) else None


def _line(entry: dict[str, Any]) -> str:
    """One image's result for people: sizes as width x height."""
    before, after = (f"{width} x {height}" for height, width in (entry["size_in"], entry["size_out"]))
    likeness = "unchanged" if entry["psnr"] is None else f"PSNR {entry['psnr']:.1f} dB"
    what = entry["preset"] or entry["op"]
    return f"{entry['out']}: {what} t={entry['t']} of {entry['T']}, {before} -> {after}, {likeness}"
