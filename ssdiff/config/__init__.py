"""The fields of a preset, their ranges and the rules that tie them together; no torch.

Every model is frozen, refuses unknown fields and takes finite numbers only. `ssdiff.config.load` reads TOML
files into these models and words the errors.
"""

from ssdiff.config.preset import Preset
from ssdiff.config.process import (
    BlurNoiseSettings,
    BlurringSettings,
    ConvexDecay,
    CosineNoise,
    DegradationSettings,
    Equal,
    ExplicitTransitions,
    HeatSettings,
    LinearNoise,
    LogSnrNoise,
    LogSnrTransitions,
    ProcessSettings,
    SigmoidLike,
    TanhLike,
)
from ssdiff.config.sections import (
    DataSettings,
    ModelSettings,
    SamplingSettings,
    TerminalPriorSettings,
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
    "ExplicitTransitions",
    "HeatSettings",
    "LinearNoise",
    "LogSnrNoise",
    "LogSnrTransitions",
    "ModelSettings",
    "Preset",
    "ProcessSettings",
    "SamplingSettings",
    "SigmoidLike",
    "TanhLike",
    "TerminalPriorSettings",
    "TrainingSettings",
]
