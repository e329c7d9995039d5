"""What can be undone without training: a linear operator for each task but one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Scale, Size
from ssdiff.operators.colour import LUMA
from ssdiff.operators.convolution import Convolution
from ssdiff.operators.cosines import gaussian_filter
from ssdiff.operators.factored import Factored
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.resizing import ResizeMatrix, follow, is_large, resize_step
from ssdiff.operators.separable import Separable
from ssdiff.restoration.filling import fill_smoothly, passed_on


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of what was done to the images; each task looks at its own.

    Attributes:
        factor: of super-resolution, a divisor of both sides.
        std: of the blur, pixels of the full image.
        mask: (H, W), 1 where the image is known and 0 where it is missing; a rectangle in the middle is
            missing where omitted.
        kernel: (h, w) of a blur that is not Gaussian, instead of ``std``.
        reduction: of super-resolution, one of :data:`REDUCTIONS`.
    """

    factor: int = 4
    std: float = 2.0
    mask: Tensor | None = None
    kernel: Tensor | None = None
    reduction: str = "bilinear"


@dataclass(frozen=True, slots=True)
class Task:
    """What was done to images of one size.

    Attributes:
        operator: A, from full-size images.
        channels: of A's results.
        full_size: A's results to full-size images without a model, the baseline.
        admit: measurements out of files to those that the operator may have made.
        guess: A's results to what plug and play begins with; ``full_size`` where omitted.
        follows: of plug and play, what is corrected in a prediction to what follows for all pixels.
    """

    operator: Operator
    channels: int
    full_size: Callable[[Tensor], Tensor]
    admit: Callable[[Tensor], Tensor] = torch.clone
    guess: Callable[[Tensor], Tensor] | None = None
    follows: Callable[[Tensor], Tensor] | None = None


def check_task(name: str, channels: int, known: Known) -> None:
    """Refuse what is wrong at every size.

    Raises:
        UsageError: an unknown task, a number out of range, or a model of other channels.
    """
    if name not in _BUILDERS:
        raise UsageError(f"unknown task {name!r}", hint=f"choose one of {', '.join(_BUILDERS)}")
    if known.reduction not in REDUCTIONS:
        raise UsageError(
            f"unknown reduction {known.reduction!r}", hint=f"choose {' or '.join(REDUCTIONS)} (--reduction)"
        )
    if name == "super-resolve" and known.factor < 2:
        raise UsageError(f"a factor must be 2 or more, not {known.factor}")
    if name == "deblur" and not known.std > 0:
        raise UsageError(f"the blur must have a std within 0 and the image's side, not {known.std}")
    if name == "colourise" and channels != 3:
        raise UsageError("a model of grey images knows no colours")


def enlargement(name: str, known: Known) -> int:
    """Return how many times larger a side of the restored image is."""
    return known.factor if name == "super-resolve" else 1


def measured_channels(name: str, channels: int) -> int:
    """Return the channels of a task's degraded images, of restored ones of ``channels``."""
    return 1 if name == "colourise" else channels


def build_task(name: str, size: Size, channels: int, known: Known) -> Task:
    """Return what a task means for (H, W) images.

    Raises:
        UsageError: an unknown task, or a number or mask that does not fit the size.
    """
    if name not in _BUILDERS:
        raise UsageError(f"unknown task {name!r}", hint=f"choose one of {', '.join(_BUILDERS)}")
    return _BUILDERS[name](size, channels, known)


def _super_resolve(size: Size, channels: int, known: Known) -> Task:
    larger = partial(F.interpolate, size=size, mode="bicubic", align_corners=False)
    return Task(_shrink(size, known.factor, REDUCTIONS[known.reduction]), channels, larger)


def _denoise(size: Size, channels: int, known: Known) -> Task:
    return Task(Scale(), channels, torch.clone)


def _deblur(size: Size, channels: int, known: Known) -> Task:
    if known.kernel is not None:
        return _deblur_by(known.kernel, size, channels)
    if not 0 < known.std < min(size):
        raise UsageError(f"the blur must have a std within 0..{min(size)} pixels, not {known.std}")
    if is_large(size):
        return Task(gaussian_filter(size, known.std), channels, torch.clone)
    blur = [matrices.gaussian_blur(n, known.std) for n in size]
    return Task(Separable(*blur), channels, torch.clone)


def _inpaint(size: Size, channels: int, known: Known) -> Task:
    mask = _check_mask(known.mask, size)
    return Task(
        Mask(mask),
        channels,
        partial(_filled, known=mask),
        guess=partial(fill_smoothly, known=mask),
        follows=partial(passed_on, known=mask),
    )


def _colourise(size: Size, channels: int, known: Known) -> Task:
    if channels != 3:
        raise UsageError("a model of grey images knows no colours")
    return Task(ChannelMix(torch.tensor([LUMA])), 1, partial(torch.Tensor.repeat, repeats=(1, 3, 1, 1)))


def _deblur_by(kernel: Tensor, size: Size, channels: int) -> Task:
    height, width = kernel.shape
    if height > size[0] or width > size[1]:
        raise UsageError(
            f"the kernel has {width} x {height} pixels, the image {size[1]} x {size[0]}",
            hint="a kernel is no larger than the image",
        )
    blur = Convolution(size, kernel)
    return Task(blur, channels, torch.clone, partial(_tapered, blur=blur, reach=(height // 2, width // 2)))


def _tapered(y: Tensor, blur: Convolution, reach: Size) -> Tensor:
    """Blurred pictures whose borders, which were blurred with what lay outside, go over into a blur around
    the edge; within the kernel's reach of it only, by half a cosine."""
    weight = torch.ones(y.shape[-2:])
    for dim, (n, near) in enumerate(zip(y.shape[-2:], reach, strict=True)):
        edge = torch.minimum(torch.arange(n), torch.arange(n).flip(0))
        share = 0.5 - 0.5 * torch.cos(math.pi * ((edge + 1) / (near + 1)).clamp(max=1))
        weight = weight * (share[:, None] if dim == 0 else share)
    return torch.lerp(blur.apply(y), y, weight.to(y))


_BUILDERS: dict[str, Callable[[Size, int, Known], Task]] = {
    "denoise": _denoise,
    "super-resolve": _super_resolve,
    "deblur": _deblur,
    "inpaint": _inpaint,
    "colourise": _colourise,
}
JPEG = "jpeg"
TASKS = (*_BUILDERS, JPEG)
_USED_BY = {
    "factor": ("super-resolve",),
    "reduction": ("super-resolve",),
    "std": ("deblur",),
    "length": ("deblur",),
    "angle": ("deblur",),
    "kernel": ("deblur",),
    "mask": ("inpaint",),
    "invert_mask": ("inpaint",),
    "noise_std": tuple(_BUILDERS),
    "quality": (JPEG,),
}
_ALIASES = {"colorize": "colourise", "colorise": "colourise", "colourize": "colourise"}


def task_name(op: str | None) -> str | None:
    """Return the name of what happened to images as tasks are called; others as they are."""
    return op if op is None else _ALIASES.get(op, op)


def check_used(op: str | None, **options: object) -> None:
    """Refuse options that say of a degradation what another one, or none that was named, needs to know.

    Args:
        op: as of :func:`task_name`.
        options: by name; None where omitted.

    Raises:
        UsageError: one was given that the op has no use for.
    """
    for name, value in options.items():
        tasks = _USED_BY[name]
        if value is None or op in tasks:
            continue
        what = f"{name} (--{name.replace('_', '-')}) is for op {', '.join(tasks)}"
        if op is None:
            raise UsageError(f"{what}, and none was given", hint="give op (--op), or leave it out")
        raise UsageError(f"{what}, not for {op}", hint="leave it out")


REDUCTIONS: Mapping[str, ResizeMatrix] = {"area": matrices.area, "bilinear": matrices.resize}
"""How small pictures came about: means of squares, or the antialiased bilinear halvings of [SSD]."""


def _shrink(size: Size, factor: int, resize: ResizeMatrix) -> Factored:
    """The chain of progressive_downsample that the published SSD makes, as far as the factor is a power of
    two."""
    if factor < 2 or any(n % factor for n in size):
        pixels = f"{size[0]}" if size[0] == size[1] else f"{size[1]} x {size[0]}"
        raise UsageError(f"a factor of {factor} does not divide {pixels} pixels", hint="choose a divisor")
    result: Factored | None = None
    large = is_large(size)
    while factor > 1:
        step = 2 if factor % 2 == 0 else factor
        smaller = (size[0] // step, size[1] // step)
        shrunk = resize_step(size, smaller, resize, large=large)
        result = shrunk if result is None else follow(result, shrunk)
        size, factor = smaller, factor // step
    assert result is not None, "the factor is at least 2"
    return result


def _check_mask(mask: Tensor | None, size: Size) -> Tensor:
    """(H, W) of known pixels; all but the middle of half the sides where none is given."""
    height, width = size
    if mask is None:
        mask = torch.ones(size)
        top, left = height // 4, width // 4
        mask[top : height - top, left : width - left] = 0
    if tuple(mask.shape) != size or not 0 < float(mask.mean()) < 1:
        raise UsageError(
            f"the mask must be {width} x {height} pixels, with some known and some missing",
            hint="black is known, white is missing",
        )
    return mask


def _filled(y: Tensor, known: Tensor) -> Tensor:
    """Missing pixels get the mean of the known ones, channel by channel."""
    mask = known.to(y)
    mean = (y * mask).sum((-2, -1), keepdim=True) / mask.sum()
    return torch.where(mask > 0, y, mean)
