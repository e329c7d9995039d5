"""Restoring images: by the degradation that a model was trained for, or by one that it never saw.

An unconditional model of a noisy process restores what any linear operator did to an image, by making every
prediction agree with the measurement [DDNM, section 3; DDRM, section 4].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff import rng
from ssdiff.errors import UsageError
from ssdiff.images import from_uint8, to_uint8
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Size
from ssdiff.operators.colour import LUMA
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable
from ssdiff.pipeline import Pipeline
from ssdiff.sampling.data_consistency import Measurement, predict_consistent

TASKS = ("super-resolve", "deblur", "inpaint", "colourise")
_ROUNDING = 2 / 255 / 12**0.5  # std of the rounding to bytes, in units of the [-1, 1] image


@dataclass(frozen=True, slots=True)
class Options:
    """How to sample; omitted ones come from the preset.

    Attributes:
        draws: restorations of each image, of which the mean is taken: the more, the nearer to the true image
            in the mean square, and the smoother.
    """

    steps: int | None = None
    eta: float | None = None
    seed: int = 0
    draws: int = 1

    def mean(self, restore: Callable[[int], Tensor]) -> Tensor:
        """The mean over the draws of a restoration by seed."""
        total = restore(self.seed)
        for k in range(1, self.draws):
            total = total + restore(rng.derive(self.seed, f"restore/draw/{k}"))
        return total / self.draws


class Method(Protocol):
    """A way to restore."""

    @property
    def size(self) -> Size:
        """(h, w) of the degraded images that it takes."""

    @property
    def channels(self) -> int:
        """Of the degraded images."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those that :meth:`restore` knows, the best first."""

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Degraded images of clean (B, C, R, R) ones."""

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """What :meth:`degrade` would have made, from degraded images out of files."""

    def look(self, degraded: Tensor) -> Tensor:
        """(B, C, R, R): the degraded images at full size, enlarged or filled in by a baseline."""

    def restore(self, degraded: Tensor, numbers: Tensor, sampler: str | None) -> Tensor:
        """(B, C, R, R) restored images on the CPU."""


class Trained:
    """The model's own degradation, from timestep t down.

    Args:
        pipeline: any model.
        t: timestep; T where omitted.
        options: of the sampler.
    """

    def __init__(self, pipeline: Pipeline, t: int | None, options: Options) -> None:
        self._pipeline, self._options = pipeline, options
        self._t = pipeline.plan(t=t).timesteps[0]
        self.size, self.channels = pipeline.process.states[self._t].size, pipeline.preset.data.channels
        if not pipeline.process.noisy:
            if options.draws > 1:
                raise UsageError("a cold model restores an image in one way only", hint="leave --draws out")
            self.samplers: tuple[str, ...] = ("alg2", "alg1", "direct")
        else:
            full = pipeline.process.states[self._t - 1].size == pipeline.process.states[0].size
            self.samplers = ("ancestral", "ddim", *(["direct"] if full else []))

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """x_t, noise and signal scale included."""
        return self._pipeline.degrade(clean, self._t, seed=self._options.seed, images=numbers)

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Scaled, and with the noise that a state has."""
        process, device = self._pipeline.process, self._pipeline.device
        return process.from_degraded(given.to(device), self._t, numbers.to(device), self._options.seed)

    def look(self, degraded: Tensor) -> Tensor:
        """Without the signal scale, pixels repeated."""
        full = self._pipeline.process.states[0].size
        unscaled = degraded.cpu() / self._pipeline.process.states[self._t].signal
        return F.interpolate(unscaled, full, mode="nearest-exact")

    def restore(self, degraded: Tensor, numbers: Tensor, sampler: str | None) -> Tensor:
        """Sampled down from t."""
        options = self._options
        eta = options.eta if sampler in (None, "ddim") else None
        return options.mean(
            lambda seed: self._pipeline.restore(
                degraded, self._t, sampler, steps=options.steps, eta=eta, seed=seed, images=numbers
            )
        )


@dataclass(frozen=True)
class ZeroShot:
    """A linear operator that the model was not trained for.

    Attributes:
        pipeline: of kind ssd or ddpm.
        operator: A, from full-size images.
        channels: of A's results.
        baseline: A's results to full-size images of the baseline.
        noise_std: of the measurement, in units of the [-1, 1] image; no less than the rounding to bytes.
        options: of the sampler.
    """

    pipeline: Pipeline
    operator: Operator
    channels: int
    baseline: partial[Tensor]
    noise_std: float = 0.0
    options: Options = field(default_factory=Options)
    samplers: tuple[str, ...] = ("ancestral", "ddim")

    @property
    def size(self) -> Size:
        """(h, w) of the measurement."""
        return self.operator.out_size or self.pipeline.process.states[0].size

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """y = A x + n, in bytes as a file would hold it."""
        key = rng.derive(self.options.seed, "restore/measurement")
        y = self.operator.apply(clean)
        noisy = y + self.noise_std * rng.normal(key, numbers.to(y.device), 0, tuple(y.shape[1:]))
        return from_uint8(to_uint8(noisy))

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """As they are."""
        return given

    def look(self, degraded: Tensor) -> Tensor:
        """The baseline."""
        return self.baseline(degraded)

    def restore(self, degraded: Tensor, numbers: Tensor, sampler: str | None) -> Tensor:
        """Sampled from noise, every prediction made to agree with the measurement."""
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
    """A task by name.

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
    channels = pipeline.preset.data.channels
    if not (process.noisy and process.isotropic) or pipeline.preset.model.classes:
        raise UsageError(
            f"{task} without training needs an unconditional model of kind ssd or ddpm",
            hint="use a model that was trained for this degradation",
        )
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
