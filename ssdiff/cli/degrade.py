"""`ssdiff degrade`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdiff.cli.common import Device, Json, Overwrite, Quiet, Seed, Terminal, positive
from ssdiff.errors import DataError, PartialFailure, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssdiff.operators.base import Size
    from ssdiff.process.families import Degradation

_DEFAULT_OP, _DEFAULT_T = "downsample", 1000
_MOST_T = 100_000  # as in a preset


_Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE...", help="Files, or folders that are searched with their sub-folders."),
]
_Op = Annotated[
    str | None, typer.Option(help="downsample, blur, dct-blur, noise or pixelate. Default: downsample.")
]
_Severity = Annotated[
    int | None, typer.Option(help="Severity, 0 (the image itself) to T. With --strip: its end.")
]
_Preset = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE.toml", help="Downsample by this preset's process, at the image's size."),
]
_Noise = Annotated[
    bool, typer.Option("--noise", help="With --preset: add its noise, as its model sees images.")
]
_Strip = Annotated[int | None, typer.Option(metavar="K", help="Film strip of K severities, evenly from 0.")]
_Out = Annotated[
    str | None, typer.Option(metavar="x.png|DIR/", help="Default: NAME-OP-tT.png in the current folder.")
]
_Top = Annotated[int | None, typer.Option("--T", help="Highest severity. Default: 1000, or the preset's.")]
_Upscale = Annotated[
    bool, typer.Option("--upscale", help="Show a smaller result at the original size, pixels repeated.")
]
_MaxStd = Annotated[
    float | None, typer.Option(help="Std of blur or dct-blur at T, in pixels. Default: by the size.")
]
_MaxPixels = Annotated[int | None, typer.Option(help="Largest image that is decoded.")]


def degrade(
    images: _Images,
    op: _Op = None,
    t: _Severity = None,
    preset: _Preset = None,
    noise: _Noise = False,
    strip: _Strip = None,
    out: _Out = None,
    top: _Top = None,
    upscale: _Upscale = False,
    max_std: _MaxStd = None,
    max_pixels: _MaxPixels = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Degrade images of any size and see what is left; a smaller result keeps its true size."""
    from ssdiff.devices import pick_device
    from ssdiff.images import MAX_PIXELS

    limit = MAX_PIXELS if max_pixels is None else positive(max_pixels, "--max-pixels")
    if preset is None:
        family = _named(op or _DEFAULT_OP, noise, top, seed, max_std)
    else:
        family = _of_preset(preset, op, noise, top, seed, max_std)
    severities = _severities(t, strip, family.T)
    ending = f"strip{strip}" if strip is not None else f"t{severities[-1]}"
    jobs = _jobs(_expand(images), out, f"{family.label}-{ending}.png", overwrite)
    task = _Task(family, severities, strip is not None, upscale, limit, pick_device(device))
    _run(jobs, task, overwrite, Terminal(quiet, json))


@dataclass(frozen=True, slots=True)
class _Family:
    """A degradation before the size of the image is known."""

    op: str
    preset: str | None
    label: str  # in file names
    T: int
    build: Callable[[Size], Degradation]


@dataclass(frozen=True, slots=True)
class _Job:
    """One image: what the user calls it, its number, where the result goes."""

    source: str
    number: int
    target: Path


@dataclass(frozen=True, slots=True)
class _Task:
    """What is done to every image."""

    family: _Family
    severities: list[int]
    strip: bool
    upscale: bool
    max_pixels: int
    device: torch.device


def _named(op: str, noise: bool, top: int | None, seed: int, max_std: float | None) -> _Family:
    """A degradation of the registry; wrong names and options are found here, not at the first image."""
    from ssdiff.process.degradations import build_degradation

    if noise:
        raise UsageError("--noise needs --preset, whose noise it is", hint="or use --op noise")
    T = _DEFAULT_T if top is None else positive(top, "--T")
    if T > _MOST_T:
        raise UsageError(f"--T must be at most {_MOST_T}, not {T}")
    options = {} if max_std is None else {"max_std": max_std}

    @lru_cache(maxsize=1)
    def build(size: Size) -> Degradation:
        return build_degradation(op, size, T, seed=seed, **options)

    build((8, 8))
    return _Family(op, None, op, T, build)


def _of_preset(
    name: str, op: str | None, noise: bool, top: int | None, seed: int, max_std: float | None
) -> _Family:
    """The process of a preset, carried over to the size of the image."""
    from ssdiff.build import build_process
    from ssdiff.presets import load_preset
    from ssdiff.process.pyramids import preset_process

    for option, given in (("--op " + str(op), op not in (None, _DEFAULT_OP)), ("--T", top is not None)):
        if given:
            raise UsageError(f"{option} does not go with --preset, which decides it", hint="leave one out")
    if max_std is not None:
        raise UsageError("--max-std does not go with --preset, which does not blur", hint="leave one out")
    settings = load_preset(name)
    process = build_process(settings)
    label = settings.name.replace(" ", "-") + ("-noise" if noise else "")

    @lru_cache(maxsize=1)
    def build(size: Size) -> Degradation:
        return preset_process(process, size, noisy=noise, seed=seed)

    return _Family(_DEFAULT_OP, settings.name, label, process.T, build)


def _severities(t: int | None, strip: int | None, T: int) -> list[int]:
    """The severities to compute, the last one the end of the strip."""
    if t is None and strip is None:
        raise UsageError("--t is missing", hint=f"give a severity, 0..{T}, or --strip K for all at a glance")
    end = T if t is None else t
    if not 0 <= end <= T:
        raise UsageError(f"--t {end} is outside 0..{T}", hint="0 is the image itself, T the most degraded")
    if strip is None:
        return [end]
    if not 2 <= strip <= end + 1:
        raise UsageError(f"--strip must be between 2 and {end + 1} (severities 0..{end}), not {strip}")
    return [round(i * end / (strip - 1)) for i in range(strip)]


def _expand(arguments: list[str]) -> list[tuple[str, PurePosixPath]]:
    """Path of every image and its name under the output folder, which keeps sub-folders of a folder."""
    from ssdiff.data.sources import FolderSource

    found = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            found += [(str(path / name), PurePosixPath(name)) for name in FolderSource(path).members]
        else:
            found.append((str(path), PurePosixPath(path.name)))
    return found


def _jobs(
    sources: list[tuple[str, PurePosixPath]], out: str | None, ending: str, overwrite: bool
) -> list[_Job]:
    """Decide and check every output before anything is computed."""
    from ssdiff.images import SAVE_SUFFIXES, check_output

    path = Path(out or ".").expanduser()
    folder = path.is_dir() or (out is not None and out.endswith(("/", "\\")))
    if not folder and len(sources) > 1:
        if path.suffix.lower() in SAVE_SUFFIXES:
            raise UsageError(
                f"--out {out} is one file, for {len(sources)} images", hint="name a folder: --out DIR/"
            )
        folder = True
    taken: dict[Path, str] = {}
    for source, name in sources:
        target = path / name.parent / f"{name.stem}-{ending}" if folder else path
        if target in taken:
            raise UsageError(
                f"{taken[target]} and {source} would both become {target}",
                hint="degrade them one after the other, into different folders",
            )
        taken[target] = source
    targets = [check_output(target, overwrite, SAVE_SUFFIXES) for target in taken]
    pairs = zip(targets, taken.values(), strict=True)
    return [_Job(source, number, target) for number, (target, source) in enumerate(pairs)]


def _run(jobs: list[_Job], task: _Task, overwrite: bool, terminal: Terminal) -> None:
    """Degrade all; an image that cannot be read does not stop the others."""
    done: list[dict[str, Any]] = []
    failed: list[tuple[_Job, DataError]] = []
    with terminal.progress("img") as bar:
        shown = bar.add_task("degrading", total=len(jobs), rate="-", note="")
        began = time.perf_counter()
        for count, job in enumerate(jobs, 1):
            try:
                done.append(_one(job, task, overwrite))
            except DataError as error:
                failed.append((job, error))
            rate = count / (time.perf_counter() - began)
            bar.update(shown, advance=1, rate=f"{rate:.3g}")
    if failed and len(jobs) == 1:
        raise failed[0][1]
    failures = [{"image": job.source, "error": str(cause), "code": cause.code} for job, cause in failed]
    terminal.result("\n".join(_line(entry) for entry in done), {"images": done, "failures": failures})
    for _, cause in failed:
        print(f"ssdiff: error: {cause}", file=sys.stderr)
    if failed:
        message = f"{len(failed)} of {len(jobs)} images failed, each named above"
        raise PartialFailure(message) if done else DataError(message)


def _one(job: _Job, task: _Task, overwrite: bool) -> dict[str, Any]:
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
    """Decibels, for pixels in [-1, 1], what lies outside clipped; None for equal images."""
    error = float((clean - degraded.clamp(-1, 1)).square().mean())
    return round(10 * math.log10(4 / error), 3) if error else None


def _line(entry: dict[str, Any]) -> str:
    """One image's result for people: sizes as width x height."""
    before, after = (f"{width} x {height}" for height, width in (entry["size_in"], entry["size_out"]))
    likeness = "unchanged" if entry["psnr"] is None else f"PSNR {entry['psnr']:.1f} dB"
    what = entry["preset"] or entry["op"]
    return f"{entry['out']}: {what} t={entry['t']} of {entry['T']}, {before} -> {after}, {likeness}"
