"""How to restore: options of the sampler, and what a way to restore offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from ssdiff import rng
from ssdiff.arguments import require_whole
from ssdiff.errors import UsageError
from ssdiff.images.picture import Form
from ssdiff.operators.base import Size
from ssdiff.schedules.respacing import Steps

Told: TypeAlias = Callable[[float], None]
"""Called with the share of one evaluation of the network that is done."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to sample; omitted ones come from the preset.

    Attributes:
        draws: restorations of each image, of which the mean is taken: the more, the nearer to the true image
            in the mean square, and the smoother.
        tile: of pictures of another size than the model's, as of :meth:`ssdiff.Pipeline.at_size`.
        overlap: of the tiles, likewise.
        classes: of the images, by name or number, used in turn by image number; where omitted, a model of
            classes restores by the one that stands for none.
        guidance: weight of the class.
    """

    steps: Steps | None = None
    eta: float | None = None
    seed: int = 0
    draws: int = 1
    tile: int | None = None
    overlap: int | None = None
    classes: Sequence[str | int] | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        require_whole("draws", self.draws, 1)
        if self.tile is not None:
            require_whole("tile", self.tile, 1)
        if self.overlap is not None:
            require_whole("overlap", self.overlap, 0)

    def mean(self, restore: Callable[[int], Tensor]) -> Tensor:
        """Return the mean over the draws of a restoration by seed."""
        total = restore(self.seed)
        for k in range(1, self.draws):
            total = total + restore(rng.derive(self.seed, f"restore/draw/{k}"))
        return total / self.draws if self.draws > 1 else total


class Method(Protocol):
    """A way to restore images of one size."""

    @property
    def size(self) -> Size:
        """Return (h, w) of the degraded images that it takes."""

    @property
    def full(self) -> Size:
        """Return (H, W) of the restored images."""

    @property
    def channels(self) -> int:
        """Return the channels of the degraded images."""

    @property
    def notes(self) -> list[str]:
        """Return what the user should hear of the pictures restored so far; emptied by who says it."""

    @property
    def as_stored(self) -> bool:
        """Return whether degraded pictures are wanted as files store them: neither upright nor in sRGB."""

    @property
    def granule(self) -> int:
        """Return what height and width of clean images must be multiples of."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """Return those that :meth:`restore` knows, the best first."""

    def at(self, full: Size) -> Method:
        """Return the same for pictures of another size, (H, W) restored; itself for its own.

        Raises:
            UsageError: it cannot be done at that size.
        """

    def of(self, form: Form, name: str) -> Method:
        """Return the same for the degraded picture of a file, which may say what was done to it.

        Args:
            form: of the file.
            name: of the file.

        Raises:
            DataError: it does not say what is needed.
            UsageError: what it says was given, too.
        """

    def full_of(self, size: Size) -> Size:
        """Return (H, W) of the restored pictures of degraded ones of (h, w)."""

    def evaluations(self, sampler: str | None) -> int:
        """Return how often the network is asked in one restoration."""

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Return degraded images of clean (B, C, H, W) ones."""

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Return what :meth:`degrade` would have made, from degraded images out of files."""

    def baseline(self, degraded: Tensor) -> Tensor:
        """Return (B, C, H, W): the degraded images at full size, enlarged or filled in without a model."""

    def restore(
        self, degraded: Tensor, numbers: Tensor, sampler: str | None, told: Told | None = None
    ) -> Tensor:
        """Return (B, C, H, W) restored images on the CPU."""


def check_tile(full: Size, options: Options) -> None:
    """Refuse pictures of another size than the model's that are smaller than the tile that was asked for.

    Raises:
        UsageError: then.
    """
    if options.tile is not None and options.tile > min(full):
        raise UsageError(
            f"the picture has {full[1]} x {full[0]} pixels, fewer than a tile of {options.tile} (--tile)",
            hint="leave the tile out, or give a smaller one",
        )


def two_truths() -> UsageError:
    """Return what to say when the truth is given twice."""
    message = "truth (--truth) does not go with degrade (--degrade), whose images are the truth"
    return UsageError(message, hint="leave one out")
