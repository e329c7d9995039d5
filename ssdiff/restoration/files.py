"""Restoring files and folders."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ssdiff import images as pictures
from ssdiff.data.inputs import FailedFile, ImageFile, expand
from ssdiff.errors import DataError, ResourceError, SsdiffError, UsageError, memory_for
from ssdiff.evaluation.image_quality import ImageQuality, Row, compare, mean_rows, quality_table
from ssdiff.images import to_uint8
from ssdiff.images.orientation import turned, turned_back
from ssdiff.images.picture import Form, read_picture, write_picture
from ssdiff.operators.base import Size
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress
from ssdiff.restoration.options import Method, two_truths


@dataclass(frozen=True, slots=True)
class RestoreTask:
    """What is done to every file.

    Attributes:
        pipeline: the model.
        method: how, at the model's own size.
        samplers: each one restores every image.
        batch: images at once, of the model's own size; None leaves it to the preset.
        degrade: the images are clean.
        strip: write clean (if known), degraded and restored side by side.
        truth: folder of clean images by name.
        overwrite: whether results may replace files.
        fit: clean images are cut and resized to the model's size, as its training images were.
        max_pixels: of a file.
        notes: what is to be said of all files.
    """

    pipeline: Pipeline
    method: Method
    samplers: list[str]
    batch: int | None = None
    degrade: bool = False
    strip: bool = False
    truth: Path | None = None
    overwrite: bool = False
    fit: bool = True
    max_pixels: int = pictures.MAX_PIXELS
    notes: Sequence[str] = ()


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
        notes: what could not be kept as it was, and what a mask was taken for; one line each.
    """

    done: list[RestoredFile]
    failed: list[FailedFile]
    seconds: float
    notes: list[str] = field(default_factory=list)

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
            "warnings": self.notes,
        }


def restore_files(
    files: Sequence[ImageFile], task: RestoreTask, *, progress: Progress | None = None
) -> RestoreFilesResult:
    """Restore files and write each result; one that cannot be restored does not stop the others.

    Images of the model's own size are restored in batches, pictures of other sizes one by one.

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
    if task.degrade and task.fit:
        _ = task.method.size  # what does not fit the model's size is wrong for all
    return _Work(task, _truths(files, task.truth), Counter(progress, "restoring", len(files))).run(files)


@dataclass(frozen=True, slots=True)
class _Read:
    """One image in memory, how it is restored, and what its file was like."""

    file: ImageFile
    method: Method
    form: Form
    clean: Tensor | None
    degraded: Tensor | None


class _Work:
    """Files on their way, in order."""

    def __init__(self, task: RestoreTask, truths: dict[int, str], count: Counter) -> None:
        self._task, self._truths, self._count = task, truths, count
        self._done: list[RestoredFile] = []
        self._failed: list[FailedFile] = []
        self._notes = list(task.notes)
        self._over = 0  # files that are done or have failed
        self._method: Method = task.method  # the last one that was made for another size

    def run(self, files: Sequence[ImageFile]) -> RestoreFilesResult:
        began = time.perf_counter()
        batch = self._task.batch or self._task.pipeline.sampling.batch
        for start in range(0, len(files), batch):
            part = []
            for file in files[start : start + batch]:
                try:
                    read = self._read(file, self._truths.get(file.number))
                except (DataError, UsageError) as error:
                    self._fail(file, error)
                    continue
                if read.method is self._task.method:
                    part.append(read)
                else:
                    self._whole(read)
            if part:
                self._write(part, self._restore(part, "lower --batch"))
                self._finish(len(part))
        done = sorted(self._done, key=lambda one: one.file.number)
        failed = sorted(self._failed, key=lambda one: one.file.number)
        return RestoreFilesResult(done, failed, time.perf_counter() - began, self._notes)

    def _fail(self, file: ImageFile, error: SsdiffError) -> None:
        self._failed.append(FailedFile(file, error))
        self._finish(1)

    def _finish(self, count: int) -> None:
        self._over += count
        self._count.reach(self._over)

    def _whole(self, read: _Read) -> None:
        """One picture of a size of its own; what is wrong with it is not wrong with the others."""
        try:
            self._write([read], self._restore([read], "lower --tile, or make the picture smaller"))
        except (DataError, UsageError, _TooLarge) as error:
            self._fail(read.file, error)
        else:
            self._finish(1)

    def _read(self, file: ImageFile, truth: str | None) -> _Read:
        task, channels = self._task, self._task.pipeline.channels
        if task.degrade and task.fit:
            shown = pictures.read_image(
                file.source, channels=channels, size=task.method.full, max_pixels=task.max_pixels
            )
            return _Read(file, task.method, Form(), shown, None)
        wanted = channels if task.degrade else task.method.channels
        stored = task.method.as_stored and not task.degrade
        x, form = read_picture(file.source, channels=wanted, max_pixels=task.max_pixels, as_stored=stored)
        self._notes += [f"{file.source}: {note}" for note in form.notes]
        if channels == 1 and not form.grey:
            self._notes.append(f"{file.source}: the model knows no colours, the result is grey")
            form = replace(form, grey=True, profile=None)
        if task.degrade:
            x, form = self._cut(file, x, form)
            return _Read(file, self._at(size_of(x)), form, x, None)
        method = self._at(task.method.full_of(size_of(x))).of(form, file.source)
        if channels > wanted:  # colours are made
            form = replace(form, grey=False, profile=None if form.grey else form.profile)
        clean = _read_truth(truth, channels, method.full, form) if truth else None
        return _Read(file, method, form, clean, x)

    def _at(self, full: Size) -> Method:
        """The method for pictures of a size; that of the last one is kept."""
        if full == self._task.method.full:
            return self._task.method
        if self._method.full != full:
            self._method = self._task.method.at(full)
        return self._method

    def _cut(self, file: ImageFile, x: Tensor, form: Form) -> tuple[Tensor, Form]:
        """A clean picture whose sides the task can divide."""
        unit, (height, width) = self._task.method.granule, size_of(x)
        new = (height - height % unit, width - width % unit)
        if new == (height, width):
            return x, form
        if not all(new):
            raise DataError(
                f"{file.source} has {width} x {height} pixels, fewer than the factor {unit} makes one of",
                path=file.source,
                hint="give a larger image, or a smaller factor",
            )
        self._notes.append(
            f"{file.source}: cut from {width} x {height} to {new[1]} x {new[0]} pixels, which {unit} divides"
        )
        alpha = None if form.alpha is None else form.alpha[:, : new[0], : new[1]]
        return x[:, : new[0], : new[1]], replace(form, alpha=alpha)

    def _restore(self, part: Sequence[_Read], hint: str) -> _Restored:
        """Images of one method, together."""
        task, method = self._task, part[0].method
        numbers = torch.tensor([one.file.number for one in part])
        known = [one.clean for one in part if one.clean is not None]
        height, width = method.full
        size = f"{height} px" if height == width else f"{width} x {height} px"
        with _memory(f"{len(part)} images of {size} at once", hint):
            clean = torch.stack(known) if known else None
            if task.degrade and clean is not None:
                degraded = method.degrade(clean, numbers)
            else:
                found = [one.degraded for one in part if one.degraded is not None]
                degraded = method.admit(torch.stack(found), numbers)
            results = {}
            if clean is not None or task.strip:
                results["degraded"] = method.baseline(degraded).float().cpu().clamp(-1, 1)
            work = sum(method.evaluations(sampler) for sampler in task.samplers)
            for sampler in task.samplers:
                results[sampler] = method.restore(
                    degraded, numbers, sampler, lambda share: self._count(share * len(part) / work)
                )
            said, method.notes[:] = list(method.notes), []
            self._notes += [f"{part[0].file.source}: {note}" for note in said]
            scores = {name: compare(clean, x) for name, x in results.items()} if clean is not None else {}
        return _Restored(clean, results, scores)

    def _write(self, part: Sequence[_Read], restored: _Restored) -> None:
        task, clean = self._task, restored.clean
        for i, one in enumerate(part):
            frames = [x[i] for x in restored.results.values()]
            if task.strip:
                shown = frames if clean is None else [clean[i], *frames]
                strip = pictures.film_strip([to_uint8(x) for x in shown])
                pictures.save_image(strip, one.file.target, overwrite=task.overwrite)
            else:
                said = write_picture(frames[-1], one.form, one.file.target, overwrite=task.overwrite)
                self._notes += [f"{one.file.target}: {note}" for note in said]
            quality = {
                name: {key: _number(value[i]) for key, value in score._asdict().items()}
                for name, score in restored.scores.items()
            }
            self._done.append(RestoredFile(one.file, quality or None))


@dataclass(frozen=True, slots=True)
class _Restored:
    """Images of one batch, by "degraded" and by sampler."""

    clean: Tensor | None
    results: dict[str, Tensor]
    scores: dict[str, ImageQuality]


class _TooLarge(ResourceError):
    """Memory ran out over one picture."""


@contextmanager
def _memory(what: str, hint: str) -> Iterator[None]:
    try:
        with memory_for(what, hint):
            yield
    except ResourceError as error:
        raise _TooLarge(str(error.args[0]), hint=error.hint) from error


def size_of(x: Tensor) -> Size:
    """Return (H, W) of an image."""
    return x.shape[-2], x.shape[-1]


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


def _read_truth(truth: str, channels: int, full: Size, form: Form) -> Tensor:
    """A clean image, which may be larger than the model's, but of the same shape; lying as the file does."""
    if form.stored:
        clean, other = read_picture(truth, channels=channels, as_stored=True)
        clean = turned_back(turned(clean, other.turn), form.turn)
        if size_of(clean) == full:
            return clean
    clean = pictures.read_image(truth, channels=channels)
    height, width = clean.shape[-2:]
    if abs(height * full[1] - width * full[0]) > max(full):
        raise DataError(
            f"{truth} has {width} x {height} pixels, not the shape of the model's {full[1]} x {full[0]}",
            path=truth,
            hint="cut it as the degraded image was cut",
        )
    return pictures.read_image(truth, channels=channels, size=full)


def _number(value: Tensor) -> float | None:
    """Rounded; None for the infinite PSNR of equal images."""
    number = float(value)
    return round(number, 4) if abs(number) != float("inf") else None
