"""Degrading images of any size, by a degradation of the registry or as a preset's process does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssdiff import images as pictures
from ssdiff.arguments import require_whole
from ssdiff.build import build_degradation_of
from ssdiff.config import Preset
from ssdiff.config.load import load_preset
from ssdiff.data.inputs import FailedFile, ImageFile
from ssdiff.errors import ChannelError, DataError, ProcessError, UsageError, memory_for
from ssdiff.evaluation.image_quality import psnr
from ssdiff.images.convert import ImagesLike, given
from ssdiff.operators.base import Size
from ssdiff.process.base import Other
from ssdiff.process.degradations.base import Degradation, check_severity
from ssdiff.process.degradations.registry import build_degradation
from ssdiff.progress import Counter, Progress
from ssdiff.second_set import as_other

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

    def degrade(self, x0: Tensor, t: int, numbers: Tensor) -> Tensor:
        """Return D(x_0, t), (B, C, h, w), not clipped.

        Args:
            x0: (B, C, H, W) in [-1, 1].
            t: severity, 0..T.
            numbers: (B,) image numbers, by which a random degradation draws.
        """
        return self.build((x0.shape[-2], x0.shape[-1])).degrade(x0, t, numbers)


def named(
    op: str, T: int | None = None, seed: int = 0, *, other: Other | None = None, **options: object
) -> Family:
    """Return a degradation of the registry; wrong names and options are found here, not at the first image.

    Args:
        op: one of :func:`ssdiff.degradations`.
        T: the highest severity; 1000 where omitted.
        seed: of a random degradation.
        other: what animorphosis turns images into.
        options: of the degradation.

    Raises:
        UsageError: for those.
    """
    if other is not None:
        if op != "animorph":
            raise UsageError(f"other (--with) is for animorph, not for {op}", hint="leave it out")
        options = options | {"other": other}
    top = _DEFAULT_T if T is None else T
    require_whole("T", top, 1, _MOST_T)

    @lru_cache(maxsize=1)
    def build(size: Size) -> Degradation:
        return build_degradation(op, size, top, seed=seed, **options)

    with suppress(ProcessError):  # what does not fit the probe may fit the images
        build(_PROBE)
    return Family(op, None, op, top, build)


def of_preset(
    preset: str | Preset, noise: bool = False, seed: int = 0, *, other: Other | None = None
) -> Family:
    """Return the process of a preset, carried over to the size of the image.

    Args:
        preset: or its name, or its file.
        noise: add the noise of the process, as its network sees images.
        seed: of the noise, and of a random degradation.
        other: what animorphosis turns images into.

    Raises:
        UsageError: for a preset that cannot be had, or options that it has no use for.
    """
    settings = preset if isinstance(preset, Preset) else load_preset(preset)
    cold = settings.process.degradation
    morphs = cold is not None and cold.kind == "animorph"
    if noise and cold is not None:
        raise UsageError(f"{settings.name} is a cold process, without noise", hint="leave it out")
    if morphs != (other is not None):
        hint = "name some by other (--with)" if morphs else "leave other (--with) out"
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


def degrade(
    images: ImagesLike,
    op: str | None = None,
    t: int | None = None,
    *,
    T: int | None = None,
    noise: bool = False,
    seed: int = 0,
    preset: str | Preset | None = None,
    other: ImagesLike | Other | None = None,
    progress: Progress | None = None,
    **options: object,
) -> Any:
    """Degrade images to D(x_0, t): t = 0 is the image itself, t = T the most degraded.

    Images of any size, square or not; a result may be smaller than its image. Image number i (0, 1, ... in
    the order given) of a seed is degraded in the same way in every call.

    Args:
        images: (B, C, H, W) or (C, H, W) in [-1, 1]; a Pillow image; the path of a file; or a list of these.
        op: one of :func:`ssdiff.degradations`.
        t: severity, 0..T.
        T: the highest severity; 1000, or the preset's, where omitted.
        noise: with a preset: add its noise and signal scale, as its network sees images.
        seed: of a random degradation, and of noise.
        preset: in place of ``op``: degrade as the process of this preset (or of this name) does.
        other: what ``animorph`` turns images into, one after the other: images, or a function from (B,) image
            numbers and (C, H, W) to (B, C, H, W).
        progress: called as progress("degrading", done, total).
        options: of the degradation, e.g. ``max_std`` of blur.

    Returns:
        What was given, degraded: of tensors tensors, not clipped to [-1, 1]; of Pillow images and files
        Pillow images.

    Raises:
        UsageError: an unknown op or option, a severity out of range, or images that are none.
        DataError: a file that cannot be read.

    Example:
        >>> import torch, ssdiff
        >>> ssdiff.degrade(torch.zeros(3, 40, 60), "downsample", 999).shape
        torch.Size([3, 10, 15])
    """
    require_whole("t", t)
    assert t is not None, "checked"
    family = family_of(op, T, noise, seed, preset, None if other is None else as_other(other), options)
    check_severity(t, family.T)
    read = given(images)
    count = Counter(progress, "degrading", sum(len(batch) for batch in read.batches))
    results, number = [], 0
    for batch in read.batches:
        numbers = torch.arange(number, number + len(batch), device=batch.device)
        working = batch if batch.dtype.itemsize >= 4 else batch.float()
        results.append(family.degrade(working, t, numbers).to(batch.dtype))
        number += len(batch)
        count(len(batch))
    return read.like(results)


def severities(t: int | None, strip: int | None, T: int) -> list[int]:
    """Return the severities of one picture, the last one the end of the strip.

    Args:
        t: severity; the end of a strip.
        strip: frames, evenly from 0; None for one picture.
        T: the highest severity.

    Raises:
        UsageError: neither is given, or one is out of range.
    """
    if t is None and strip is None:
        raise UsageError(
            "t is missing", hint=f"give a severity (--t), 0..{T}, or --strip K for all at a glance"
        )
    end = T if t is None else t
    check_severity(end, T)
    if strip is None:
        return [end]
    if not 2 <= strip <= end + 1:
        raise UsageError(f"strip must be between 2 and {end + 1} (severities 0..{end}), not {strip}")
    return [round(i * end / (strip - 1)) for i in range(strip)]


@dataclass(frozen=True, slots=True)
class DegradeTask:
    """What is done to every file.

    Attributes:
        family: the degradation.
        severities: one, or those of a strip.
        strip: side by side in one picture.
        upscale: show small results at the size of the image.
        max_pixels: of a file.
        device: where it is computed.
        overwrite: whether results may replace files.
    """

    family: Family
    severities: list[int]
    strip: bool = False
    upscale: bool = False
    max_pixels: int = pictures.MAX_PIXELS
    device: torch.device | str = "cpu"
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class DegradedFile:
    """One image that was degraded and written.

    Attributes:
        file: the image, and where the result went.
        op: name of the degradation.
        preset: name, or None.
        t: severity, of a strip the last.
        T: the highest severity.
        size_in: (height, width) of the image.
        size_out: likewise of the picture written.
        psnr: decibels at full size, what lies outside [-1, 1] clipped; None for an equal image.
        strip: a dict with t, size and psnr for each frame; None for one picture.
        seconds: that it took.
    """

    file: ImageFile
    op: str
    preset: str | None
    t: int
    T: int
    size_in: Size
    size_out: Size
    psnr: float | None
    strip: list[dict[str, Any]] | None
    seconds: float

    def __str__(self) -> str:
        """Return one line for people: sizes as width x height."""
        before, after = (f"{width} x {height}" for height, width in (self.size_in, self.size_out))
        quality = "unchanged" if self.psnr is None else f"PSNR {self.psnr:.1f} dB"
        what = self.preset or self.op
        return f"{self.file.target}: {what} t={self.t} of {self.T}, {before} -> {after}, {quality}"

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        return {
            "image": self.file.source,
            "out": str(self.file.target),
            "op": self.op,
            "preset": self.preset,
            "t": self.t,
            "T": self.T,
            "size_in": list(self.size_in),
            "size_out": list(self.size_out),
            "psnr": self.psnr,
            "strip": self.strip,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class DegradeFilesResult:
    """Files that were degraded, and those that could not be.

    Attributes:
        done: in the order given.
        failed: with what was wrong.
    """

    done: list[DegradedFile]
    failed: list[FailedFile]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of them."""
        return {
            "images": [one.to_dict() for one in self.done],
            "failures": [one.to_dict() for one in self.failed],
        }


def degrade_files(
    files: Sequence[ImageFile], task: DegradeTask, *, progress: Progress | None = None
) -> DegradeFilesResult:
    """Degrade files and write each result; one that cannot be used does not stop the others.

    Args:
        files: from :func:`ssdiff.data.inputs.plan_outputs`.
        task: what is done.
        progress: called as progress("degrading", done, total).
    """
    done: list[DegradedFile] = []
    failed: list[FailedFile] = []
    count = Counter(progress, "degrading", len(files))
    for file in files:
        try:
            with memory_for(file.source, "make the image smaller"):
                done.append(_degrade_file(file, task))
        except ChannelError as error:
            hint = "save it with as many channels, or choose another degradation"
            failed.append(FailedFile(file, DataError(f"{file.source}: {error}", path=file.source, hint=hint)))
        except (DataError, ProcessError) as error:
            failed.append(FailedFile(file, error))
        count()
    return DegradeFilesResult(done, failed)


def _degrade_file(file: ImageFile, task: DegradeTask) -> DegradedFile:
    """Read, degrade and write one image."""
    began = time.perf_counter()
    clean = pictures.read_image(Path(file.source), max_pixels=task.max_pixels).to(task.device)
    size = (clean.shape[-2], clean.shape[-1])
    if task.strip:
        pictures.check_extent(file.target, *pictures.strip_extent([size] * len(task.severities)))
    numbers = torch.tensor([file.number], device=task.device)
    frames: list[Tensor] = []
    states: list[dict[str, Any]] = []
    for t in task.severities:
        result = task.family.degrade(clean[None], t, numbers)[0]
        large = pictures.upscale_nearest(result, size)
        states.append({"t": t, "size": list(result.shape[-2:]), "psnr": _psnr(clean, large)})
        frames.append(pictures.to_uint8(large if task.strip or task.upscale else result))
    picture = pictures.film_strip(frames) if task.strip else frames[-1]
    pictures.save_image(picture, file.target, overwrite=task.overwrite)
    return DegradedFile(
        file,
        task.family.op,
        task.family.preset,
        task.severities[-1],
        task.family.T,
        size,
        (picture.shape[-2], picture.shape[-1]),
        states[-1]["psnr"],
        states if task.strip else None,
        time.perf_counter() - began,
    )


def _psnr(clean: Tensor, degraded: Tensor) -> float | None:
    """Decibels, what lies outside [-1, 1] clipped; None for equal images."""
    value = float(psnr(clean[None], degraded.clamp(-1, 1)[None])[0])
    return round(value, 3) if math.isfinite(value) else None


def family_of(
    op: str | None,
    T: int | None,
    noise: bool,
    seed: int,
    preset: str | Preset | None,
    other: Other | None,
    options: dict[str, object],
) -> Family:
    """Return the degradation that the arguments of :func:`degrade` name.

    Raises:
        UsageError: none, or arguments that do not go together.
    """
    if preset is None:
        if not isinstance(op, str):
            raise UsageError(f"op names no degradation: {op!r}", hint="give op, e.g. 'blur', or a preset")
        if noise:
            raise UsageError(
                "noise needs a preset, whose noise it is", hint="or degrade by noise itself (--op noise)"
            )
        return named(op, T, seed, other=other, **options)
    for name, value in {"op": op, "T": T, **options}.items():
        if value is not None:
            raise UsageError(f"{name} does not go with a preset, which decides it", hint="leave one out")
    return of_preset(preset, noise, seed, other=other)
