"""``ssdiff.restore``."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdiff.arguments import require_type, require_whole
from ssdiff.errors import UsageError, memory_for
from ssdiff.images.convert import Given, ImageLike, ImagesLike, given, one_batch
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress
from ssdiff.restoration.choose import choose_method, choose_samplers
from ssdiff.restoration.options import Method, Options, two_truths
from ssdiff.restoration.results import RestoreResult, compared
from ssdiff.restoration.tasks import TASKS
from ssdiff.schedules.respacing import Steps
from ssdiff.second_set import OtherImages


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
        raise two_truths()
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
    return compared(read, torch.cat(seen), torch.cat(restored), clean, rule)


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
