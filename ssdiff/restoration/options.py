"""How to restore: options of the sampler, and what a way to restore offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ssdiff import rng
from ssdiff.arguments import require_whole
from ssdiff.errors import UsageError
from ssdiff.operators.base import Size
from ssdiff.schedules.respacing import Steps


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


def two_truths() -> UsageError:
    """Return what to say when the truth is given twice."""
    message = "truth (--truth) does not go with degrade (--degrade), whose images are the truth"
    return UsageError(message, hint="leave one out")
