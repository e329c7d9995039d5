"""Of which classes restored images are, for models that know classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.pipeline import Pipeline
from ssdiff.restoration.options import Options
from ssdiff.sampling.plan import guided_timesteps
from ssdiff.sampling.walk import Predict


@dataclass(frozen=True, slots=True)
class Condition:
    """What a network is told of the images.

    Attributes:
        classes: used in turn by image number; None for the class that stands for none.
        guidance: weight of the class, 1 is plain.
        guided: timesteps at which that counts; None for all.
    """

    classes: tuple[int, ...] | None = None
    guidance: float = 1.0
    guided: range | None = None

    def labels(self, numbers: Tensor) -> Tensor | None:
        """Return (B,) classes of images by their numbers; None where none is told."""
        if self.classes is None:
            return None
        return torch.tensor(self.classes, device=numbers.device)[numbers % len(self.classes)]

    def predictor(self, pipeline: Pipeline, numbers: Tensor) -> Predict:
        """Return a network's prediction of the clean images that have these numbers."""
        return partial(pipeline.predict_x0, labels=self.labels(numbers), guidance=self.guidance)

    def evaluations(self, timesteps: Sequence[int]) -> int:
        """Return how often the network is asked for one prediction at each of the timesteps."""
        if self.guidance == 1:
            return len(timesteps)
        return sum(2 if self.guided is None or t in self.guided else 1 for t in timesteps)


def choose_condition(pipeline: Pipeline, options: Options) -> Condition:
    """Return the classes that were asked for, else the label-free one, without guidance.

    Raises:
        UsageError: a class that the model does not know, or guidance without one.
    """
    chosen = pipeline.class_numbers(options.classes)
    if chosen is None:
        if options.guidance is not None:
            raise UsageError(
                "guidance weighs a class, and none was given",
                hint="give --class (classes=... from Python), or leave guidance out",
            )
        return Condition()
    guidance = pipeline.sampling.guidance if options.guidance is None else options.guidance
    guided = None if guidance == 1 else guided_timesteps(pipeline.process, pipeline.sampling)
    return Condition(tuple(chosen), guidance, guided)


def require_label_free(pipeline: Pipeline, condition: Condition) -> None:
    """Refuse to restore without a class by a network that never saw an image without one.

    Raises:
        UsageError: then.
    """
    if condition.classes is None and not pipeline.knows_no_class:
        raise UsageError(
            f"{pipeline.name} was trained with the class of every image (training.label_dropout = 0)",
            hint="name the class of the images: --class NAME (classes=... from Python)",
        )
