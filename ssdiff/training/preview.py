"""What a training run shows of itself while it lasts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ssdiff import images
from ssdiff.config import Preset
from ssdiff.pipeline import Pipeline
from ssdiff.process.base import Process
from ssdiff.progress import Progress

_MOST_COLUMNS = 16  # of a grid with one class a column
_RESTORED = 12  # images of a grid of restorations


class _Abandoned(Exception):
    """Somebody asked to stop."""


def preview_steps(preset: Preset, process: Process) -> int:
    """Return the sampling steps of a picture."""
    return min(preset.training.sample_steps, process.T)


def preview(pipeline: Pipeline, data: np.ndarray, stop: Callable[[], bool]) -> Tensor | None:
    """Draw a picture of what the model does: samples, or, if it cannot sample unconditionally, restorations.

    Args:
        pipeline: of the averaged weights.
        data: (N, C, S, S) uint8, the training images; the first few are restored, in rows clean, degraded and
            restored.
        stop: asked after every step; True abandons the picture.

    Returns:
        (H, W, C) uint8; None if it was abandoned.
    """

    def ask(stage: str, done: float, total: int | None) -> None:
        if stop():
            raise _Abandoned

    try:
        return _picture(pipeline, data, ask)
    except _Abandoned:
        return None


def _picture(pipeline: Pipeline, data: np.ndarray, progress: Progress) -> Tensor:
    preset, process = pipeline.required_preset(), pipeline.process
    settings = preset.training
    steps = preview_steps(preset, process)
    if preset.generates:
        classes = preset.model.classes
        columns = classes if 1 < classes <= _MOST_COLUMNS else None
        drawn = pipeline.sample(settings.sample_count, steps, seed=settings.seed, progress=progress)
        return images.grid(drawn, columns)
    clean = images.from_uint8(torch.tensor(data[: min(_RESTORED, settings.sample_count)]))
    degraded = pipeline.degrade(clean, process.T, seed=settings.seed)
    restored = pipeline.restore(degraded, process.T, steps=steps, seed=settings.seed, progress=progress)
    return images.grid(torch.cat([clean, degraded.cpu().clamp(-1, 1), restored]), len(clean))
