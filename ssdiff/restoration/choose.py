"""Which way to restore, and by which sampler."""

from __future__ import annotations

import os

from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.images.convert import ImageLike
from ssdiff.pipeline import Pipeline
from ssdiff.restoration.jpeg import Jpeg, jpeg
from ssdiff.restoration.kernels import checked_kernel, motion_kernel, read_kernel
from ssdiff.restoration.masks import given_mask
from ssdiff.restoration.options import Method, Options
from ssdiff.restoration.tasks import JPEG, TASKS, check_used, task_name
from ssdiff.restoration.trained import Trained
from ssdiff.restoration.zero_shot import ZeroShot, zero_shot
from ssdiff.sampling.plan import refuse_useless_steps
from ssdiff.sampling.registry import SAMPLERS


def choose_method(
    pipeline: Pipeline,
    op: str | None = None,
    t: int | None = None,
    options: Options | None = None,
    *,
    factor: int | None = None,
    reduction: str | None = None,
    std: float | None = None,
    length: float | None = None,
    angle: float | None = None,
    kernel: str | os.PathLike[str] | Tensor | None = None,
    mask: Tensor | ImageLike | None = None,
    invert_mask: bool = False,
    noise_std: float | None = None,
    quality: int | None = None,
    given: bool = False,
) -> Method:
    """Return a way to restore: the model's own degradation, or a task that it was not trained for.

    It is for images of the model's own size; :meth:`Method.at` gives that for others.

    Args:
        pipeline: the model.
        op: what happened to the images; None for what the model was trained for.
        t: timestep of the images, for the model's own degradation.
        options: of the sampler.
        factor: of super-resolve.
        reduction: likewise, as of :func:`ssdiff.restoration.zero_shot`.
        std: of deblur, pixels.
        length: of deblur, as of :func:`choose_kernel`.
        angle: likewise.
        kernel: likewise.
        mask: of inpaint: an image or file whose white is missing, or (H, W) bool, True where missing.
        invert_mask: what is known and what is missing change places.
        noise_std: of the degraded images, in units of the [-1, 1] image, with a task.
        quality: of jpeg, as of :func:`ssdiff.restoration.jpeg.jpeg`.
        given: the images are degraded already, as of :class:`Trained`.

    Raises:
        UsageError: options that do not go together or that the op has no use for, or a model that cannot
            do it.
    """
    options, op = options or Options(), task_name(op)
    own = _own(pipeline)
    if op not in (None, own, *TASKS):
        raise UsageError(
            f"the model was trained for {own}, not for {op}",
            hint=f"leave op out, use another model, or choose one of {', '.join(TASKS)}",
        )
    check_used(
        op,
        factor=factor,
        reduction=reduction,
        std=std,
        length=length,
        angle=angle,
        kernel=kernel,
        mask=mask,
        invert_mask=invert_mask or None,
        noise_std=noise_std,
        quality=quality,
    )
    if op not in TASKS:
        return Trained(pipeline, t, options, given=given)
    if t is not None:
        raise UsageError(f"t does not go with op {op}, which begins at noise", hint="leave t out")
    if op == JPEG:
        return jpeg(pipeline, options, quality)
    hole = given_mask(mask, invert_mask)
    if hole is not None:
        hole.look()
    return zero_shot(
        pipeline,
        op,
        options,
        factor=factor,
        std=std,
        mask=hole,
        noise_std=noise_std,
        kernel=choose_kernel(std, length, angle, kernel),
        reduction=reduction,
    )


def choose_fit(pipeline: Pipeline, degrade: bool, whole: bool | None, options: Options) -> bool:
    """Return whether clean pictures are cut and resized to the model's size, as its training images were.

    Args:
        pipeline: the model.
        degrade: whether the pictures are clean.
        whole: as asked for; omitted, pictures stay whole of a model that was trained on patches of whole
            pictures, and of no other.
        options: that may speak of tiles.

    Raises:
        UsageError: degraded pictures are to be resized, or tiles are asked for where there are none.
    """
    if not degrade:
        if whole is False:
            raise UsageError(
                "only clean pictures are resized (--fit), degraded ones are restored as they are",
                hint="leave it out, or add --degrade",
            )
        return False
    fit = not whole
    if whole is None:
        fit = pipeline.preset is None or not pipeline.preset.data.patches
    if fit and (options.tile, options.overlap) != (None, None):
        raise UsageError(
            "tile and overlap are for whole pictures, not for those that are resized to the model's size",
            hint="leave them out, or add --whole",
        )
    return fit


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
        elif isinstance(method, ZeroShot | Jpeg) and not method.check(name):
            continue
        taken = not every or SAMPLERS.get(name).takes_eta
        pipeline.plan(options.steps, name, options.eta if taken else None, t=t)
        if not every:
            refuse_useless_steps(options.steps, name)
    return samplers


def _own(pipeline: Pipeline) -> str:
    """The name of what a model was trained for."""
    if pipeline.preset is None:
        return "its own process"
    process = pipeline.preset.process
    return process.degradation.kind if process.degradation else process.kind


def choose_kernel(
    std: float | None,
    length: float | None = None,
    angle: float | None = None,
    kernel: str | os.PathLike[str] | Tensor | None = None,
) -> Tensor | None:
    """Return the kernel of a blur that is not Gaussian: of a motion, or as it was given; None for a Gaussian.

    Args:
        std: of the Gaussian blur, pixels.
        length: of a motion, pixels.
        angle: of it, degrees counter-clockwise from the horizontal; 0 where omitted.
        kernel: a file, see :func:`ssdiff.restoration.kernels.read_kernel`, or (h, w).

    Raises:
        UsageError: more than one is given, an angle without a length, or numbers out of range.
        DataError: a file that is no kernel.
    """
    given = {"std": std, "length": length, "kernel": kernel}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} say two blurs at once", hint="give one of them")
    if angle is not None and length is None:
        raise UsageError("an angle is that of a motion", hint="give its length, too")
    if length is not None:
        return motion_kernel(length, 0.0 if angle is None else angle)
    if isinstance(kernel, Tensor):
        return checked_kernel(kernel, "the kernel")
    return None if kernel is None else read_kernel(kernel)
