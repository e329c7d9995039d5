"""Linear operators that a model was not trained for.

An unconditional model of a noisy process restores what any linear operator did to an image, by making every
prediction agree with the measurement [DDNM, section 3; DDRM, section 4].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ssdiff import rng
from ssdiff.arguments import require_number, require_whole
from ssdiff.errors import UsageError
from ssdiff.images import from_uint8, to_uint8
from ssdiff.operators.base import Operator, Size
from ssdiff.pipeline import Pipeline
from ssdiff.restoration.options import Options
from ssdiff.restoration.tasks import Known, build_task
from ssdiff.sampling.data_consistency import Measurement, predict_consistent

_ROUNDING = 2 / 255 / 12**0.5  # std of the rounding to bytes, in units of the [-1, 1] image


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
    full_size: Callable[[Tensor], Tensor]
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
    made = build_task(task, process.states[0].size, pipeline.channels, Known(factor, std, mask))
    return ZeroShot(pipeline, made.operator, made.channels, made.full_size, noise_std, options)
