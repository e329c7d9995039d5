"""Linear operators that a model was not trained for.

An unconditional model of a noisy process restores what any linear operator did to an image, by making every
prediction agree with the measurement [DDNM, section 3; DDRM, section 4].
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from ssdiff import rng
from ssdiff.arguments import require_number, require_whole
from ssdiff.errors import UsageError
from ssdiff.images import from_uint8, to_uint8
from ssdiff.operators.base import Operator, Size
from ssdiff.operators.cut import Cut
from ssdiff.pipeline import Pipeline
from ssdiff.restoration.masks import GivenMask
from ssdiff.restoration.options import Options, Told, check_tile
from ssdiff.restoration.tasks import Known, Task, build_task, check_task, enlargement, measured_channels
from ssdiff.sampling.data_consistency import Measurement, predict_consistent

_ROUNDING = 2 / 255 / 12**0.5  # std of the rounding to bytes, in units of the [-1, 1] image


@dataclass(frozen=True)
class ZeroShot:
    """A linear operator that the model was not trained for.

    The operator acts on pictures of ``full`` pixels. Where the process is a little larger, it does not see
    the rest, which the model makes up and which is cut off.

    Attributes:
        pipeline: of kind ssd or ddpm, at the size of the pictures.
        name: of the task.
        full: (H, W) of the restored pictures.
        known: of what was done to the images.
        given: mask of inpainting; None for a rectangle in the middle.
        noise_std: of the measurement, in units of the [-1, 1] image; no less than the rounding to bytes.
        options: of the sampler.
        own: the pipeline at the model's own size.
    """

    pipeline: Pipeline
    name: str
    full: Size
    known: Known
    given: GivenMask | None = None
    noise_std: float = 0.0
    options: Options = field(default_factory=Options)
    own: Pipeline | None = None
    samplers: tuple[str, ...] = ("ancestral", "ddim")

    @cached_property
    def task(self) -> Task:
        """The operator at this size.

        Raises:
            UsageError: it cannot be had at this size.
        """
        known = self.known
        if self.given is not None:
            known = replace(known, mask=self.given.known(self.full, resized=self.own is None))
        return build_task(self.name, self.full, self.pipeline.channels, known)

    @cached_property
    def operator(self) -> Operator:
        """A, from images of the process's size."""
        whole = self.pipeline.process.states[0].size
        return self.task.operator if whole == self.full else Cut(self.task.operator, whole, self.full)

    @property
    def channels(self) -> int:
        """Channels of the measurement."""
        return measured_channels(self.name, self.pipeline.channels)

    @property
    def granule(self) -> int:
        """What height and width of clean images must be multiples of."""
        return enlargement(self.name, self.known)

    @property
    def size(self) -> Size:
        """(h, w) of the measurement."""
        return self.task.operator.out_size or self.full

    def full_of(self, size: Size) -> Size:
        """Return (H, W) of the restored pictures of degraded ones of (h, w)."""
        return size[0] * self.granule, size[1] * self.granule

    def at(self, full: Size) -> ZeroShot:
        """Return the same for pictures of (H, W) pixels.

        Raises:
            UsageError: the task, or a tile, cannot be had at that size.
        """
        own = self.own or self.pipeline
        if full == own.process.states[0].size:
            return self if self.own is None else replace(self, pipeline=own, full=full, own=None)
        check_tile(full, self.options)
        pipeline = own.at_size(full, tile=self.options.tile, overlap=self.options.overlap)
        method = replace(self, pipeline=pipeline, full=full, own=own)
        _ = method.task  # what does not fit is found before anything is computed
        return method

    def evaluations(self, sampler: str | None) -> int:
        """Return how often the network is asked in one restoration."""
        plan = self.pipeline.plan(self.options.steps, sampler, self.options.eta)
        return plan.evaluations * self.options.draws

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Return y = A x + n, rounded to bytes as a file would hold it."""
        key = rng.derive(self.options.seed, "restore/measurement")
        y = self.task.operator.apply(clean)
        noisy = y + self.noise_std * rng.normal(key, numbers.to(y.device), 0, tuple(y.shape[1:]))
        return from_uint8(to_uint8(noisy))

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Return them as they are."""
        return given

    def baseline(self, degraded: Tensor) -> Tensor:
        """Return the measurement enlarged or filled in without a model."""
        return self.task.full_size(degraded)

    def restore(
        self, degraded: Tensor, numbers: Tensor, sampler: str | None, told: Told | None = None
    ) -> Tensor:
        """Return images sampled from noise, every prediction made to agree with the measurement."""
        pipeline = self.pipeline.watched(told)
        process, device = pipeline.process, pipeline.device
        plan = pipeline.plan(self.options.steps, sampler, self.options.eta)
        known = Measurement(self.operator, degraded.to(device), max(self.noise_std, _ROUNDING), process)

        def draw(seed: int) -> Tensor:
            x = degraded
            for _, state in pipeline.walk(
                numbers.to(device), plan, seed, refine=lambda predict: predict_consistent(predict, known)
            ):
                x = state
            return x[..., : self.full[0], : self.full[1]].clamp(-1, 1).float().cpu()

        return self.options.mean(draw)


def zero_shot(
    pipeline: Pipeline,
    task: str,
    options: Options,
    *,
    factor: int = 4,
    std: float = 2.0,
    mask: Tensor | GivenMask | None = None,
    noise_std: float = 0.0,
) -> ZeroShot:
    """Return a way to undo a task by name, with a model that was not trained for it.

    Args:
        pipeline: the model.
        task: one of :data:`ssdiff.restoration.tasks.TASKS`.
        options: of the sampler.
        factor: of super-resolution, 2 or more.
        std: of the blur, pixels.
        mask: (H, W), 1 where the image is known and 0 where it is missing, or as it was given; a rectangle in
            the middle is missing where omitted.
        noise_std: of the measurement, in units of the [-1, 1] image.

    Raises:
        UsageError: an unknown task, a number out of range, or a model that cannot do it.
    """
    process = pipeline.process
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
    given = mask if isinstance(mask, GivenMask) else None
    known = Known(factor, std, mask if isinstance(mask, Tensor) else None)
    check_task(task, pipeline.channels, known)
    full = process.states[0].size
    return ZeroShot(pipeline, task, full, known, given, noise_std, options)
