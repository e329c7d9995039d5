"""The fields of a preset, their ranges and the rules that tie them together; no torch.

Every model is frozen, refuses unknown fields and takes finite numbers only. `ssdiff.config.load` reads TOML
files into these models and words the errors.
"""

from ssdiff.config.preset import Preset
from ssdiff.config.process import (
    BlurNoiseSettings,
    BlurringSettings,
    ConvexDecay,
    DegradationSettings,
    Equal,
    ExplicitTransitions,
    HeatSettings,
    LogSnrTransitions,
    NoiseSettings,
    ProcessSettings,
    SigmoidLike,
    StageSettings,
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
    "DataSettings",
    "DegradationSettings",
    "Equal",
    "ExplicitTransitions",
    "HeatSettings",
    "LogSnrTransitions",
    "ModelSettings",
    "NoiseSettings",
    "Preset",
    "ProcessSettings",
    "SamplingSettings",
    "SigmoidLike",
    "StageSettings",
    "TanhLike",
    "TerminalPriorSettings",
    "TrainingSettings",
]
