"""Restoring images: by the degradation that a model was trained for, or by one that it never saw.

An unconditional model of a noisy process restores what any linear operator did to an image, by making every
prediction agree with the measurement [DDNM, section 3; DDRM, section 4].
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssdiff import images as pictures
from ssdiff import rng
from ssdiff.arguments import as_path, require_number, require_type, require_whole
from ssdiff.data.inputs import FailedFile, ImageFile, expand
from ssdiff.errors import DataError, UsageError, memory_for
from ssdiff.evaluation.image_quality import Row, compare, mean_rows, quality_table
from ssdiff.images import from_uint8, to_uint8
from ssdiff.images.convert import Given, ImageLike, ImagesLike, given, one_batch, png_bytes
from ssdiff.images.read import from_pillow, pixels
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Size
from ssdiff.operators.colour import LUMA
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress
from ssdiff.sampling.data_consistency import Measurement, predict_consistent
from ssdiff.sampling.registry import SAMPLERS
from ssdiff.schedules.respacing import Steps
from ssdiff.second_set import OtherImages

TASKS = ("super-resolve", "deblur", "inpaint", "colourise")
_SHOWN = 8  # rows of a notebook's picture
_ROUNDING = 2 / 255 / 12**0.5  # std of the rounding to bytes, in units of the [-1, 1] image


@dataclass(frozen=True, slots=True)
class Options:
    """How to sample; omitted ones come from the preset.

    Attributes:
        draws: restorations of each image, of which the mean is taken: the more, the nearer to the true image
            in the mean square, and the smoother.
    """

    steps: Steps | None = None
    eta: float | None = None
    seed: int = 0
    draws: int = 1

    def __post_init__(self) -> None:
        require_whole("draws", self.draws, 1)

    def mean(self, restore: Callable[[int], Tensor]) -> Tensor:
        """Return the mean over the draws of a restoration by seed."""
        total = restore(self.seed)
        for k in range(1, self.draws):
            total = total + restore(rng.derive(self.seed, f"restore/draw/{k}"))
        return total / self.draws


class Method(Protocol):
    """A way to restore."""

    @property
    def size(self) -> Size:
        """Return (h, w) of the degraded images that it takes."""

    @property
    def channels(self) -> int:
        """Return the channels of the degraded images."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """Return those that :meth:`restore` knows, the best first."""

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Return degraded images of clean (B, C, R, R) ones."""

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Return what :meth:`degrade` would have made, from degraded images out of files."""

    def baseline(self, degraded: Tensor) -> Tensor:
        """Return (B, C, R, R): the degraded images at full size, enlarged or filled in without a model."""

    def restore(self, degraded: Tensor, numbers: Tensor, sampler: str | None) -> Tensor:
        """Return (B, C, R, R) restored images on the CPU."""


class Trained:
    """The model's own degradation, from timestep t down.

    Args:
        pipeline: any model.
        t: timestep; T where omitted.
        options: of the sampler.
        given: the images are degraded already. What is mixed into them is then not known: at T it is the
            image itself, as where generation begins, below T only ``ddim`` and ``direct`` can do without it.
    """

    def __init__(self, pipeline: Pipeline, t: int | None, options: Options, *, given: bool = False) -> None:
        self._pipeline, self._options = pipeline, options
        self._t = pipeline.plan(t=pipeline.process.T if t is None else t).timesteps[0]
        mixes = not pipeline.process.noisy and pipeline.process.has_posterior
        if not given:
            pipeline.check_other()
        self._at_start = given and mixes and self._t == pipeline.process.T
        self._unknown = given and mixes and not self._at_start
        self.size, self.channels = pipeline.process.states[self._t].size, pipeline.channels
        if not pipeline.process.noisy:
            if options.draws > 1:
                raise UsageError("a cold model restores an image in one way only", hint="leave --draws out")
            algorithms = () if self._unknown else ("alg2", "alg1")
            self.samplers: tuple[str, ...] = (*algorithms, *(("ddim",) if mixes else ()), "direct")
        else:
            full = pipeline.process.states[self._t - 1].size == pipeline.process.states[0].size
            self.samplers = ("ancestral", "ddim", *(["direct"] if full else []))

    def check(self, sampler: str) -> None:
        """Refuse a sampler that needs what is mixed into the images, if nobody knows it.

        Raises:
            UsageError: then.
        """
        if self._unknown and sampler in ("alg1", "alg2"):
            raise UsageError(
                f"{sampler} needs what is mixed into the images, which is known at t = "
                f"{self._pipeline.process.T} only, not at {self._t}",
                hint=f"choose one of {', '.join(self.samplers)}",
            )

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Return x_t, noise and signal scale included."""
        return self._pipeline.degrade(clean, self._t, seed=self._options.seed, images=numbers)

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Return the images scaled, and with the noise that a state has."""
        process, device = self._pipeline.process, self._pipeline.device
        return process.from_degraded(given.to(device), self._t, numbers.to(device), self._options.seed)

    def baseline(self, degraded: Tensor) -> Tensor:
        """Return the images without the signal scale, pixels repeated."""
        full = self._pipeline.process.states[0].size
        unscaled = degraded.cpu() / self._pipeline.process.states[self._t].signal
        return F.interpolate(unscaled, full, mode="nearest-exact")

    def restore(self, degraded: Tensor, numbers: Tensor, sampler: str | None) -> Tensor:
        """Return images sampled down from t."""
        options = self._options
        eta = options.eta if sampler is None or SAMPLERS.get(sampler).takes_eta else None
        return options.mean(
            lambda seed: self._pipeline.restore(
                degraded,
                self._t,
                sampler,
                steps=options.steps,
                eta=eta,
                seed=seed,
                images=numbers,
                at_start=self._at_start,
            )
        )


@dataclass(frozen=True)
class ZeroShot:
    """A linear operator that the model was not trained for.

    Attributes:
        pipeline: of kind ssd or ddpm.
        operator: A, from full-size images.
        channels: of A's results.
        full_size: A's results to full-size images without a model, the baseline.
        noise_std: of the measurement, in units of the [-1, 1] image; no less than the rounding to bytes.
        options: of the sampler.
    """

    pipeline: Pipeline
    operator: Operator
    channels: int
    full_size: partial[Tensor]
    noise_std: float = 0.0
    options: Options = field(default_factory=Options)
    samplers: tuple[str, ...] = ("ancestral", "ddim")

    @property
    def size(self) -> Size:
        """Return (h, w) of the measurement."""
        return self.operator.out_size or self.pipeline.process.states[0].size

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Return y = A x + n, rounded to bytes as a file would hold it."""
        key = rng.derive(self.options.seed, "restore/measurement")
        y = self.operator.apply(clean)
        noisy = y + self.noise_std * rng.normal(key, numbers.to(y.device), 0, tuple(y.shape[1:]))
        return from_uint8(to_uint8(noisy))

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Return them as they are."""
        return given

    def baseline(self, degraded: Tensor) -> Tensor:
        """Return the measurement enlarged or filled in without a model."""
        return self.full_size(degraded)

    def restore(self, degraded: Tensor, numbers: Tensor, sampler: str | None) -> Tensor:
        """Return images sampled from noise, every prediction made to agree with the measurement."""
        process, device = self.pipeline.process, self.pipeline.device
        plan = self.pipeline.plan(self.options.steps, sampler, self.options.eta)
        known = Measurement(self.operator, degraded.to(device), max(self.noise_std, _ROUNDING), process)

        def draw(seed: int) -> Tensor:
            x = degraded
            for _, state in self.pipeline.walk(
                numbers.to(device), plan, seed, refine=lambda predict: predict_consistent(predict, known)
            ):
                x = state
            return x.clamp(-1, 1).float().cpu()

        return self.options.mean(draw)


def zero_shot(
    pipeline: Pipeline,
    task: str,
    options: Options,
    *,
    factor: int = 4,
    std: float = 2.0,
    mask: Tensor | None = None,
    noise_std: float = 0.0,
) -> ZeroShot:
    """Return a way to undo a task by name, with a model that was not trained for it.

    Args:
        pipeline: the model.
        task: one of :data:`TASKS`.
        options: of the sampler.
        factor: of super-resolution, a divisor of the size.
        std: of the blur, pixels.
        mask: (R, R), 1 where the image is known and 0 where it is missing; a square in the middle is missing
            where omitted.
        noise_std: of the measurement, in units of the [-1, 1] image.

    Raises:
        UsageError: an unknown task, a number out of range, or a model that cannot do it.
    """
    process, (side, _) = pipeline.process, pipeline.process.states[0].size
    channels = pipeline.channels
    if not (process.noisy and process.isotropic) or pipeline.classes:
        raise UsageError(
            f"{task} without training needs an unconditional model of kind ssd or ddpm",
            hint="use a model that was trained for this degradation",
        )
    require_whole("factor", factor)
    for name, value in (("std", std), ("noise_std", noise_std)):
        require_number(name, value)
    if noise_std < 0:
        raise UsageError(f"the noise must have a std of at least 0, not {noise_std}")
    make = partial(ZeroShot, pipeline, noise_std=noise_std, options=options)
    if task == "super-resolve":
        larger = partial(F.interpolate, size=(side, side), mode="bicubic", align_corners=False)
        return make(_shrink(side, factor), channels, larger)
    if task == "deblur":
        return make(_soften(side, std), channels, partial(torch.clone))
    if task == "inpaint":
        known = _check_mask(mask, side)
        return make(Mask(known), channels, partial(_filled, known=known))
    if task == "colourise":
        if channels != 3:
            raise UsageError("a model of grey images knows no colours")
        grey = ChannelMix(torch.tensor([LUMA]))
        return make(grey, 1, partial(torch.Tensor.repeat, repeats=(1, 3, 1, 1)))
    raise UsageError(f"unknown task {task!r}", hint=f"choose one of {', '.join(TASKS)}")


def _check_mask(mask: Tensor | None, side: int) -> Tensor:
    """(side, side) of known pixels; all but a square of half the side in the middle where none is given."""
    if mask is None:
        mask, quarter = torch.ones(side, side), side // 4
        mask[quarter : side - quarter, quarter : side - quarter] = 0
    if tuple(mask.shape) != (side, side) or not 0 < float(mask.mean()) < 1:
        raise UsageError(
            f"the mask must be {side} x {side} pixels, with some known and some missing",
            hint="black is known, white is missing",
        )
    return mask


def _soften(side: int, std: float) -> Separable:
    """A Gaussian blur with reflect padding."""
    if not 0 < std < side:
        raise UsageError(f"the blur must have a std within 0..{side} pixels, not {std}")
    return Separable(matrices.gaussian_blur(side, std))


def _shrink(side: int, factor: int) -> Separable:
    """The chain of progressive_downsample that the published SSD makes, as far as the factor is a power of
    two."""
    if factor < 2 or side % factor:
        raise UsageError(f"a factor of {factor} does not divide {side} pixels", hint="choose a divisor")
    result: Separable | None = None
    while factor > 1:
        step = 2 if factor % 2 == 0 else factor
        shrunk = Separable(matrices.resize(side, side // step))
        composed = shrunk if result is None else shrunk @ result
        assert isinstance(composed, Separable), "resizes compose"
        result, side, factor = composed, side // step, factor // step
    assert result is not None, "the factor is at least 2"
    return result


def _filled(y: Tensor, known: Tensor) -> Tensor:
    """Missing pixels get the mean of the known ones, channel by channel."""
    mask = known.to(y)
    mean = (y * mask).sum((-2, -1), keepdim=True) / mask.sum()
    return torch.where(mask > 0, y, mean)


def choose_method(
    pipeline: Pipeline,
    op: str | None = None,
    t: int | None = None,
    options: Options | None = None,
    *,
    factor: int = 4,
    std: float = 2.0,
    mask: Tensor | ImageLike | None = None,
    noise_std: float = 0.0,
    given: bool = False,
) -> Method:
    """Return a way to restore: the model's own degradation, or a task that it was not trained for.

    Args:
        pipeline: the model.
        op: what happened to the images; None for what the model was trained for.
        t: timestep of the images, for the model's own degradation.
        options: of the sampler.
        factor: of super-resolve.
        std: of deblur, pixels.
        mask: of inpaint: an image or file whose white is missing, or (R, R) bool, True where missing.
        noise_std: of the degraded images, in units of the [-1, 1] image, with a task.
        given: the images are degraded already, as of :class:`Trained`.

    Raises:
        UsageError: options that do not go together, or a model that cannot do it.
    """
    options = options or Options()
    if op not in TASKS:
        for name, value in (("mask", mask is not None), ("noise_std", noise_std != 0)):
            if value:
                raise UsageError(f"{name} needs an op", hint=f"one of {', '.join(TASKS)}")
        own = _own(pipeline)
        if op not in (None, own):
            raise UsageError(
                f"the model was trained for {own}, not for {op}",
                hint=f"leave op out, use another model, or choose one of {', '.join(TASKS)}",
            )
        return Trained(pipeline, t, options, given=given)
    if t is not None:
        raise UsageError(f"t does not go with op {op}, which begins at noise", hint="leave t out")
    if mask is not None and op != "inpaint":
        raise UsageError("mask goes with op inpaint only", hint="leave it out")
    known = None if mask is None else _known(mask, pipeline.process.states[0].resolution)
    return zero_shot(pipeline, op, options, factor=factor, std=std, mask=known, noise_std=noise_std)


def choose_samplers(
    pipeline: Pipeline, method: Method, options: Options, sampler: str | None, t: int | None, every: bool
) -> list[str]:
    """Return the samplers to restore by; a wrong one, or wrong steps or eta, is found here.

    Args:
        pipeline: the model.
        method: how.
        options: of the samplers.
        sampler: None for the best one.
        t: timestep to begin at.
        every: all that the method has.

    Raises:
        UsageError: then.
    """
    if every and sampler is not None:
        raise UsageError("a comparison tries every sampler", hint="leave --sampler or --compare out")
    samplers = list(method.samplers) if every else [sampler or method.samplers[0]]
    for name in samplers:
        if isinstance(method, Trained):
            method.check(name)
        taken = not every or SAMPLERS.get(name).takes_eta
        pipeline.plan(options.steps, name, options.eta if taken else None, t=t)
    return samplers


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """Restored images, and how near they are to the clean ones.

    A notebook shows degraded | restored (| clean), an image a row.

    Attributes:
        images: restored, in the form in which the images were given.
        degraded: what was restored, at full size, enlarged or filled in without a model; in the same form.
        sampler: rule of a step.
        psnr: (N,) float64, decibels; None where the clean images are not known.
        ssim: likewise, at most 1.
        rmse: likewise, of pixels in 0..1.
    """

    images: Any
    degraded: Any
    sampler: str
    psnr: Tensor | None
    ssim: Tensor | None
    rmse: Tensor | None
    _rows: Tensor = field(repr=False)  # (N, 2 or 3, C, R, R) uint8

    def picture(self) -> Image.Image:
        """Return degraded, restored and (if known) clean images side by side, an image a row."""
        return pictures.to_pillow(pictures.grid(self._rows.flatten(0, 1), self._rows.shape[1]))

    def to_dict(self) -> dict[str, Any]:
        """Return the number of images, the sampler, and the means of the three measures."""
        scores = {"psnr": self.psnr, "ssim": self.ssim, "rmse": self.rmse}
        means = {name: None if value is None else float(value.mean()) for name, value in scores.items()}
        return {"n": len(self._rows), "sampler": self.sampler, **means}

    def _repr_png_(self) -> bytes:
        shown = self._rows[:_SHOWN]
        return png_bytes(pictures.to_pillow(pictures.grid(shown.flatten(0, 1), shown.shape[1])))


def restore(
    images: ImagesLike,
    pipeline: Pipeline,
    *,
    op: str | None = None,
    t: int | None = None,
    sampler: str | None = None,
    steps: Steps | None = None,
    eta: float | None = None,
    draws: int = 1,
    seed: int = 0,
    factor: int = 4,
    std: float = 2.0,
    mask: Tensor | ImageLike | None = None,
    noise_std: float = 0.0,
    degrade: bool = False,
    truth: ImagesLike | None = None,
    other: OtherImages | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Restore degraded images with a model.

    The model undoes what it was trained for, or, if it is an unconditional one of kind ssd or ddpm, one of
    super-resolve, deblur, inpaint and colourise, which it was not trained for.

    Args:
        images: (B, C, h, w) or (C, h, w) in [-1, 1], Pillow images, files, or a list of these; degraded, of
            the size that the model has at ``t``. With ``degrade`` clean ones, of which Pillow images and
            files are cut and resized to the model's size.
        pipeline: from :func:`ssdiff.load`.
        op: what happened to the images; what the model was trained for where omitted.
        t: timestep of the images, 1..T; T where omitted.
        sampler: rule of a step; the best one of the method where omitted.
        steps: of sampling; the preset's, at most T, where omitted.
        eta: share of fresh noise of ddim, 0..1.
        draws: restorations of each image, of which the mean is taken; for models with noise.
        seed: decides every random number.
        factor: of super-resolve.
        std: of deblur: std of the Gaussian blur, pixels of the full image.
        mask: of inpaint: an image or file whose white is missing, or (R, R) bool, True where missing.
        noise_std: std of noise on the degraded images, in units of the [-1, 1] image; with ``op``.
        degrade: the images are clean: degrade and restore them, and compare with them.
        truth: clean images in the order of ``images``, to compare with.
        other: second set of a model of animorphosis, as :meth:`ssdiff.Pipeline.with_other` takes it, for
            ``degrade``; images that are given at T begin at themselves.
        batch: images at once; the preset's where omitted.
        progress: called as progress("restoring", done, total).

    Raises:
        UsageError: options that do not go together, or images of another size or form.
        DataError: a file that cannot be read.

    Example:
        ``ssdiff.restore("photo.png", pipe, op="inpaint", degrade=True).psnr``
    """
    require_type("the pipeline", pipeline, Pipeline, "load one: ssdiff.load(path)")
    if degrade and truth is not None:
        raise _two_truths()
    options = Options(steps, eta, seed, draws)
    pipeline = pipeline if other is None else pipeline.with_other(other)
    method = choose_method(
        pipeline,
        op,
        t,
        options,
        factor=factor,
        std=std,
        mask=mask,
        noise_std=noise_std,
        given=not degrade,
    )
    [rule] = choose_samplers(pipeline, method, options, sampler, None if op in TASKS else t, every=False)
    if batch is not None:
        require_whole("batch", batch, 1)
    size = batch or pipeline.sampling.batch
    read, clean = _inputs(images, truth, degrade, method, pipeline)
    given_images = one_batch(read)
    count = Counter(progress, "restoring", len(given_images))
    seen, restored = [], []
    for start in range(0, len(given_images), size):
        part = given_images[start : start + size].float()
        numbers = torch.arange(start, start + len(part))
        with memory_for(
            f"{len(part)} images of {pipeline.process.states[0].resolution} px at once", "lower batch"
        ):
            degraded = method.degrade(part, numbers) if degrade else method.admit(part, numbers)
            seen.append(method.baseline(degraded).float().cpu().clamp(-1, 1))
            restored.append(method.restore(degraded, numbers, rule))
        count(len(part))
    return _result(read, torch.cat(seen), torch.cat(restored), clean, rule)


def _inputs(
    images: ImagesLike, truth: ImagesLike | None, degrade: bool, method: Method, pipeline: Pipeline
) -> tuple[Given, Tensor | None]:
    """The images, and the clean ones on the CPU, if they are known."""
    channels, full = pipeline.channels, pipeline.process.states[0].size
    if degrade:
        read = given(images, channels=channels, size=full)
        return read, one_batch(read).float().cpu()
    read = given(images, channels=method.channels, clean=False)
    found = tuple(one_batch(read).shape[-2:])
    if found != method.size:
        raise UsageError(
            f"images have {found[1]} x {found[0]} pixels, the model restores images of "
            f"{method.size[1]} x {method.size[0]} at this timestep",
            hint="crop and resize them; or degrade=True for clean images",
        )
    if truth is None:
        return read, None
    clean = one_batch(given(truth, channels=channels, size=full, name="truth"), "truth").float().cpu()
    count = sum(len(one) for one in read.batches)
    if len(clean) != count:
        raise UsageError(f"truth has {len(clean)} images, for {count} degraded ones")
    return read, clean


def _result(
    read: Given, degraded: Tensor, restored: Tensor, clean: Tensor | None, sampler: str
) -> RestoreResult:
    quality = None if clean is None else compare(clean, restored)
    shown = [degraded, restored, *([] if clean is None else [clean])]
    counts = [len(one) for one in read.batches]
    return RestoreResult(
        read.like(restored.split(counts)),
        read.like(degraded.split(counts)),
        sampler,
        quality and quality.psnr,
        quality and quality.ssim,
        quality and quality.rmse,
        torch.stack([to_uint8(x) for x in shown], dim=1),
    )


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
        raise _two_truths()
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


def _known(mask: Tensor | ImageLike, side: int) -> Tensor:
    """(side, side) float, 1 where the image is known, of a mask that is white or True where it is missing."""
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool or tuple(mask.shape) != (side, side):
            raise UsageError(
                f"the mask must be ({side}, {side}) bool, not {tuple(mask.shape)} {mask.dtype}",
                hint="True where the image is missing",
            )
        return (~mask).float().cpu()
    require_type("the mask", mask, Image.Image | str | os.PathLike, "give an image or (R, R) bool")
    height, width = _mask_pixels(mask).shape[-2:]
    if height != width:
        raise UsageError(
            f"the mask has {width} x {height} pixels, the image {side} x {side}",
            hint="give one of the image's shape: black is known, white is missing",
        )
    return (_mask_pixels(mask, (side, side))[0] < 0).float()


def _mask_pixels(mask: ImageLike, size: Size | None = None) -> Tensor:
    """(1, H, W); on black, because what was not painted on a transparent layer is not missing."""
    if isinstance(mask, Image.Image):
        grey = pixels(from_pillow(mask, channels=1, background=0.0, size=size))
        return from_uint8(torch.from_numpy(grey))
    return pictures.read_image(as_path("mask", mask), channels=1, background=0.0, size=size)


def _own(pipeline: Pipeline) -> str:
    """The name of what a model was trained for."""
    if pipeline.preset is None:
        return "its own process"
    process = pipeline.preset.process
    return process.degradation.kind if process.degradation else process.kind


def _two_truths() -> UsageError:
    message = "truth (--truth) does not go with degrade (--degrade), whose images are the truth"
    return UsageError(message, hint="leave one out")
