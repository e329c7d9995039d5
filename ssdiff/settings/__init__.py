"""The fields of a preset, their ranges and the rules that tie them together; no torch.

Every model is frozen, refuses unknown fields and takes finite numbers only. `ssdiff.presets` reads TOML
files into these models and words the errors.
"""

from ssdiff.settings.preset import Preset
from ssdiff.settings.process import (
    BlurNoiseSettings,
    BlurringSettings,
    ConvexDecay,
    CosineNoise,
    DegradationSettings,
    Equal,
    ExplicitChanges,
    HeatSettings,
    LinearNoise,
    LogSnrChanges,
    LogSnrNoise,
    ProcessSettings,
    SigmoidLike,
    TanhLike,
)
from ssdiff.settings.sections import (
    DataSettings,
    ModelSettings,
    SamplingSettings,
    StartSettings,
    TrainingSettings,
)

__all__ = [
    "BlurNoiseSettings",
    "BlurringSettings",
    "ConvexDecay",
    "CosineNoise",
    "DataSettings",
    "DegradationSettings",
    "Equal",
    "ExplicitChanges",
    "HeatSettings",
    "LinearNoise",
    "LogSnrChanges",
    "LogSnrNoise",
    "ModelSettings",
    "Preset",
    "ProcessSettings",
    "SamplingSettings",
    "SigmoidLike",
    "StartSettings",
    "TanhLike",
    "TrainingSettings",
]
