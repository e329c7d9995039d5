"""``ssdiff.restore``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ssdiff.arguments import require_type, require_whole
from ssdiff.errors import UsageError, memory_for
from ssdiff.images.convert import Given, ImageLike, ImagesLike, given, one_batch
from ssdiff.images.picture import Form, read_picture
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress
from ssdiff.restoration.choose import choose_fit, choose_method, choose_samplers
from ssdiff.restoration.options import Method, Options, two_truths
from ssdiff.restoration.results import RestoreResult, compared
from ssdiff.restoration.tasks import JPEG, TASKS, task_name
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
    factor: int | None = None,
    reduction: str | None = None,
    std: float | None = None,
    length: float | None = None,
    angle: float | None = None,
    kernel: Tensor | str | os.PathLike[str] | None = None,
    mask: Tensor | ImageLike | None = None,
    invert_mask: bool = False,
    noise_std: float | None = None,
    quality: int | None = None,
    degrade: bool = False,
    truth: ImagesLike | None = None,
    other: OtherImages | None = None,
    whole: bool | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    classes: Sequence[str | int] | str | int | None = None,
    guidance: float | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Restore degraded images with a model.

    The model undoes what it was trained for, or, if it is of kind ssd or ddpm, one of denoise, super-resolve,
    deblur, inpaint, colourise and jpeg, which it was not trained for.

    Args:
        images: (B, C, h, w) or (C, h, w) in [-1, 1], Pillow images, files, or a list of these, of one size;
            degraded, or clean ones with ``degrade``. Of another size than the model's they are restored by
            :meth:`ssdiff.Pipeline.at_size`.
        pipeline: from :func:`ssdiff.load`.
        op: what happened to the images; what the model was trained for where omitted.
        t: timestep of the images, 1..T; T where omitted.
        sampler: rule of a step; the best one of the method where omitted.
        steps: of sampling; the preset's, at most T, where omitted.
        eta: share of fresh noise of ddim, 0..1.
        draws: restorations of each image, of which the mean is taken; for models with noise.
        seed: decides every random number.
        factor: of super-resolve; 4 where omitted.
        reduction: of super-resolve, how small pictures came about: ``area`` (means of squares) or
            ``bilinear`` (antialiased halvings); omitted, by area for a model of photographs.
        std: of deblur: std of the Gaussian blur, pixels of the full image; 2 where no blur is given.
        length: of deblur: pixels of an even motion, instead of ``std``.
        angle: of the motion, degrees counter-clockwise from the horizontal.
        kernel: of deblur: a blur's kernel, (h, w) with odd sides, or a file, instead of ``std``; a picture,
            or a text (.txt, .csv) of numbers.
        mask: of inpaint: an image or file whose white is missing, or (H, W) bool, True where missing; of a
            picture with transparent parts, what is opaque is missing.
        invert_mask: what is known and what is missing change places.
        noise_std: std of noise on the degraded images, in units of the [-1, 1] image; with ``op``. Denoising
            estimates it where it is omitted or 0, and warns of the figure.
        quality: of jpeg, 1..100: of the files that the images were in. JPEG files say themselves how they
            were rounded; those of one call must say the same.
        degrade: the images are clean: degrade and restore them, and compare with them.
        truth: clean images in the order of ``images``, to compare with.
        other: second set of a model of animorphosis, as :meth:`ssdiff.Pipeline.with_other` takes it, for
            ``degrade``; images that are given at T begin at themselves.
        whole: with ``degrade``: True takes pictures at their own size, False cuts and resizes Pillow images
            and files to the model's, as its training images were. Omitted, it is False but for a model that
            was trained on patches of whole pictures.
        tile: of pictures of another size than the model's, as of :meth:`ssdiff.Pipeline.at_size`.
        overlap: likewise.
        classes: of a model that knows classes: that of the images by name or number; several are used in turn
            by image number. Omitted, it restores by the class that stands for none.
        guidance: weight of the class, 1 is plain; the preset's where omitted.
        batch: images at once; the preset's, and one of another size than the model's, where omitted.
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
    named = [classes] if isinstance(classes, str | int) else classes
    if named is not None:
        require_type("classes", named, Sequence, "give names or numbers")
    options = Options(steps, eta, seed, draws, tile, overlap, named, guidance)
    pipeline = pipeline if other is None else pipeline.with_other(other)
    method = choose_method(
        pipeline,
        op,
        t,
        options,
        factor=factor,
        reduction=reduction,
        std=std,
        length=length,
        angle=angle,
        kernel=kernel,
        mask=mask,
        invert_mask=invert_mask,
        noise_std=noise_std,
        quality=quality,
        given=not degrade,
    )
    if task_name(op) == JPEG and not degrade:
        method = method.of(*_stored_form(images))
    while method.notes:
        warnings.warn(method.notes.pop(0), stacklevel=2)
    [rule] = choose_samplers(
        pipeline, method, options, sampler, None if task_name(op) in TASKS else t, every=False
    )
    if batch is not None:
        require_whole("batch", batch, 1)
    fit = choose_fit(pipeline, degrade, whole, options)
    if fit:
        _ = method.size  # what does not fit the model's size is found before images are read
    read, clean, method = _inputs(images, truth, degrade, fit, method, pipeline)
    given_images = one_batch(read)
    native = method.full == pipeline.process.states[0].size
    size = batch or (pipeline.sampling.batch if native else 1)
    count = Counter(progress, "restoring", len(given_images))
    work = method.evaluations(rule)
    seen, restored = [], []
    for start in range(0, len(given_images), size):
        part = given_images[start : start + size].float()
        numbers = torch.arange(start, start + len(part))
        with memory_for(f"{len(part)} images of {max(method.full)} px at once", "lower batch or tile"):
            degraded = method.degrade(part, numbers) if degrade else method.admit(part, numbers)
            seen.append(method.baseline(degraded).float().cpu().clamp(-1, 1))
            told = partial(_tell, count, len(part) / work)
            restored.append(method.restore(degraded, numbers, rule, told))
        while method.notes:
            warnings.warn(method.notes.pop(0), stacklevel=2)
        count.reach(start + len(part))
    return compared(read, torch.cat(seen), torch.cat(restored), clean, rule)


def _tell(count: Counter, images: float, share: float) -> None:
    count(images * share)


def _stored_form(images: ImagesLike) -> tuple[Form, str]:
    """What JPEG files say of how they were rounded, and the name of the first; nothing of other images.

    Raises:
        UsageError: they say different things, or their pixels would be other ones than those in memory.
    """
    forms: list[tuple[Form, str]] = []
    for image in images if isinstance(images, list | tuple) else [images]:
        if not isinstance(image, str | os.PathLike):
            return Form(), "the image"
        _, form = read_picture(os.fspath(image), channels=3, as_stored=True)
        if form.tables is not None and (form.turn, form.profile) != (None, None):
            raise UsageError(
                f"{image} is turned or has a colour profile, which images in memory have not",
                hint="restore the file by the command, which keeps both",
            )
        forms.append((form, str(image)))
    if len({form.tables for form, _ in forms}) > 1:
        raise UsageError("the files were rounded in different ways", hint="restore them one by one")
    return forms[0] if forms else (Form(), "the image")


def _inputs(
    images: ImagesLike,
    truth: ImagesLike | None,
    degrade: bool,
    fit: bool,
    method: Method,
    pipeline: Pipeline,
) -> tuple[Given, Tensor | None, Method]:
    """The images, the clean ones on the CPU, if they are known, and the method at their size."""
    channels, full = pipeline.channels, pipeline.process.states[0].size
    if degrade:
        read = given(images, channels=channels, size=full if fit else None)
        clean = one_batch(read).float().cpu()
        height, width = clean.shape[-2:]
        if not fit and (height % method.granule or width % method.granule):
            raise UsageError(
                f"a factor of {method.granule} does not divide {width} x {height} pixels",
                hint="crop the images",
            )
        return read, clean, method if fit else method.at((height, width))
    read = given(images, channels=method.channels, clean=False)
    height, width = one_batch(read).shape[-2:]
    method = method.at(method.full_of((height, width)))
    if truth is None:
        return read, None, method
    clean = one_batch(given(truth, channels=channels, size=method.full, name="truth"), "truth").float().cpu()
    count = sum(len(one) for one in read.batches)
    if len(clean) != count:
        raise UsageError(f"truth has {len(clean)} images, for {count} degraded ones")
    return read, clean, method
