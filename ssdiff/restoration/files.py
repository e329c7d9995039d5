"""Restoring files and folders."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ssdiff import images as pictures
from ssdiff.data.inputs import FailedFile, ImageFile, expand
from ssdiff.errors import DataError, memory_for
from ssdiff.evaluation.image_quality import Row, compare, mean_rows, quality_table
from ssdiff.images import to_uint8
from ssdiff.operators.base import Size
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress
from ssdiff.restoration.options import Method, two_truths


@dataclass(frozen=True, slots=True)
class RestoreTask:
    """What is done to every file.

    Attributes:
        pipeline: the model.
        method: how.
        samplers: each one restores every image.
        batch: images at once; None leaves it to the preset.
        degrade: the images are clean.
        strip: write clean (if known), degraded and restored side by side.
        truth: folder of clean images by name.
        overwrite: whether results may replace files.
    """

    pipeline: Pipeline
    method: Method
    samplers: list[str]
    batch: int | None = None
    degrade: bool = False
    strip: bool = False
    truth: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class RestoredFile:
    """One image that was restored and written.

    Attributes:
        file: the image, and where the result went.
        quality: psnr, ssim and rmse of "degraded" and each sampler; None where the truth is not known. A psnr
            of None is infinite.
    """

    file: ImageFile
    quality: dict[str, Row] | None

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of it; the image quality keeps its former key, which programs read."""
        return {"image": self.file.source, "out": str(self.file.target), "likeness": self.quality}


@dataclass(frozen=True, slots=True)
class RestoreFilesResult:
    """Files that were restored, and those that could not be.

    Attributes:
        done: in the order given.
        failed: with what was wrong.
        seconds: that all took.
    """

    done: list[RestoredFile]
    failed: list[FailedFile]
    seconds: float

    @property
    def mean(self) -> dict[str, Row]:
        """Return the means over images of "degraded" and each sampler; {} where no truth is known."""
        return mean_rows([one.quality for one in self.done if one.quality])

    def __str__(self) -> str:
        """Return the files written, and the table of means."""
        lines = [str(one.file.target) for one in self.done]
        if table := self.mean:
            lines.append(quality_table(table, len(self.done)))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of them."""
        return {
            "images": [one.to_dict() for one in self.done],
            "mean": self.mean,
            "failures": [one.to_dict() for one in self.failed],
            "seconds": round(self.seconds, 3),
        }


def restore_files(
    files: Sequence[ImageFile], task: RestoreTask, *, progress: Progress | None = None
) -> RestoreFilesResult:
    """Restore files and write each result; one that cannot be read does not stop the others.

    Args:
        files: from :func:`ssdiff.data.inputs.plan_outputs`.
        task: what is done.
        progress: called as progress("restoring", done, total).

    Raises:
        DataError: images have no clean image of their name; nothing was restored then.
        UsageError: the truth is given twice.
    """
    if task.degrade and task.truth is not None:
        raise two_truths()
    truths = _truths(files, task.truth)
    batch, side = task.batch or task.pipeline.sampling.batch, task.pipeline.process.states[0].resolution
    failed: list[FailedFile] = []
    done: list[RestoredFile] = []
    began = time.perf_counter()
    count = Counter(progress, "restoring", len(files))
    for start in range(0, len(files), batch):
        part = []
        for file in files[start : start + batch]:
            try:
                part.append(_read(file, task, truths.get(file.number)))
            except DataError as error:
                failed.append(FailedFile(file, error))
        if part:
            with memory_for(f"{len(part)} images of {side} px at once", "lower --batch"):
                done += _restore(part, task)
        count(len(files[start : start + batch]))
    return RestoreFilesResult(done, failed, time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class _Read:
    """One image in memory."""

    file: ImageFile
    clean: Tensor | None
    degraded: Tensor | None


def _truths(files: Sequence[ImageFile], folder: Path | None) -> dict[int, str]:
    """The clean image of each file: of its name, endings apart, in the same sub-folder.

    Raises:
        DataError: some have none, or two; names them (docs/faults.md, row 39).
    """
    if folder is None:
        return {}
    known: dict[str, list[str]] = {}
    for path, name in expand([str(folder)]):
        known.setdefault(_stem(name), []).append(path)
    for count, what in ((0, "no clean image"), (2, "more than one clean image")):
        if wrong := [file.source for file in files if min(len(known.get(_stem(file.name), ())), 2) == count]:
            shown = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
            raise DataError(
                f"{len(wrong)} of {len(files)} images have {what} of their name in {folder}: {shown}",
                path=folder,
                hint="nothing was restored; names count with their sub-folders",
            )
    return {file.number: known[_stem(file.name)][0] for file in files}


def _stem(name: PurePosixPath) -> str:
    """A name without its ending; accents are written in two ways, which are one."""
    return unicodedata.normalize("NFC", str(name.with_suffix("")))


def _read(file: ImageFile, task: RestoreTask, truth: str | None) -> _Read:
    channels, full = task.pipeline.channels, task.pipeline.process.states[0].size
    if task.degrade:
        return _Read(file, pictures.read_image(file.source, channels=channels, size=full), None)
    degraded = pictures.read_image(file.source, channels=task.method.channels)
    if tuple(degraded.shape[-2:]) != task.method.size:
        height, width = task.method.size
        raise DataError(
            f"{file.source} has {degraded.shape[-1]} x {degraded.shape[-2]} pixels, the model restores "
            f"images of {width} x {height} at this timestep",
            path=file.source,
            hint="crop and resize it; with --degrade, ssdiff does that to clean images",
        )
    return _Read(file, _read_truth(truth, channels, full) if truth else None, degraded)


def _read_truth(truth: str, channels: int, full: Size) -> Tensor:
    """A clean image, which may be larger than the model's, but of the same shape."""
    clean = pictures.read_image(truth, channels=channels)
    height, width = clean.shape[-2:]
    if abs(height * full[1] - width * full[0]) > max(full):
        raise DataError(
            f"{truth} has {width} x {height} pixels, not the shape of the model's {full[1]} x {full[0]}",
            path=truth,
            hint="cut it as the degraded image was cut",
        )
    return pictures.read_image(truth, channels=channels, size=full)


def _restore(part: Sequence[_Read], task: RestoreTask) -> list[RestoredFile]:
    """Restore a batch and write it."""
    numbers = torch.tensor([one.file.number for one in part])
    known = [one.clean for one in part if one.clean is not None]
    clean = torch.stack(known) if known else None
    if task.degrade and clean is not None:
        degraded = task.method.degrade(clean, numbers)
    else:
        found = [one.degraded for one in part if one.degraded is not None]
        degraded = task.method.admit(torch.stack(found), numbers)
    results = {"degraded": task.method.baseline(degraded).float().cpu().clamp(-1, 1)}
    for sampler in task.samplers:
        results[sampler] = task.method.restore(degraded, numbers, sampler)
    scores = {name: compare(clean, x) for name, x in results.items()} if clean is not None else {}
    written = []
    for i, one in enumerate(part):
        frames = [x[i] for x in results.values()]
        shown = frames if clean is None else [clean[i], *frames]
        picture = pictures.film_strip([to_uint8(x) for x in shown]) if task.strip else frames[-1]
        pictures.save_image(picture, one.file.target, overwrite=task.overwrite)
        quality = {
            name: {key: _number(value[i]) for key, value in score._asdict().items()}
            for name, score in scores.items()
        }
        written.append(RestoredFile(one.file, quality or None))
    return written


def _number(value: Tensor) -> float | None:
    """Rounded; None for the infinite PSNR of equal images."""
    number = float(value)
    return round(number, 4) if abs(number) != float("inf") else None
