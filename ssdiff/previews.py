"""What a training run shows of itself while it lasts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssdiff import images
from ssdiff.pipeline import Pipeline
from ssdiff.preparing import to_float

_MOST_COLUMNS = 16  # of a grid with one class a column
_RESTORED = 12  # images of a grid of restorations


def preview(pipeline: Pipeline, data: np.ndarray) -> Tensor:
    """A picture of what the model does: samples, or, if it cannot invent images, restorations.

    Args:
        pipeline: of the averaged weights.
        data: (N, C, S, S) uint8, the training images; the first few are restored, in rows clean, degraded and
            restored.

    Returns:
        (H, W, C) uint8.
    """
    preset, process = pipeline.preset, pipeline.process
    settings = preset.training
    steps = min(settings.sample_steps, process.T)
    if preset.generates:
        classes = preset.model.classes
        columns = classes if 1 < classes <= _MOST_COLUMNS else None
        drawn = pipeline.sample(settings.sample_count, steps, seed=settings.seed)
        return images.grid(drawn, columns)
    clean = to_float(data[: min(_RESTORED, settings.sample_count)])
    degraded = pipeline.degrade(clean, process.T, seed=settings.seed)
    restored = pipeline.restore(degraded, process.T, steps=steps, seed=settings.seed)
    return images.grid(torch.cat([clean, degraded.cpu().clamp(-1, 1), restored]), len(clean))
