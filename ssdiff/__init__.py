"""Scale Space Diffusion: diffusion models whose steps change resolution.

The public names load on first use, so ``import ssdiff`` is fast and does not import torch.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdiff.analysis.scale_space import ScaleSpace as ScaleSpace
    from ssdiff.analysis.scale_space import scale_space as scale_space
    from ssdiff.analysis.schedule_plan import SchedulePlan as SchedulePlan
    from ssdiff.analysis.schedule_plan import plan_schedule as plan_schedule
    from ssdiff.build import build_model as build_model
    from ssdiff.build import build_process as build_process
    from ssdiff.config.load import load_preset as load_preset
    from ssdiff.config.load import presets as presets
    from ssdiff.degradation import degrade as degrade
    from ssdiff.evaluation.cost import Cost as Cost
    from ssdiff.evaluation.cost import cost as cost
    from ssdiff.evaluation.generative import Evaluation as Evaluation
    from ssdiff.evaluation.generative import evaluate as evaluate
    from ssdiff.evaluation.restoration import RestorationEvaluation as RestorationEvaluation
    from ssdiff.evaluation.restoration import evaluate_restoration as evaluate_restoration
    from ssdiff.models.registry import register_model as register_model
    from ssdiff.pipeline import Pipeline as Pipeline
    from ssdiff.plugins import load_plugin as load_plugin
    from ssdiff.process.degradations.registry import degradations as degradations
    from ssdiff.process.degradations.registry import register_degradation as register_degradation
    from ssdiff.process.prediction import register_prediction as register_prediction
    from ssdiff.reporting.run_report import report as report
    from ssdiff.restoration.results import RestoreResult as RestoreResult
    from ssdiff.restoration.verb import restore as restore
    from ssdiff.sampling.registry import register_sampler as register_sampler
    from ssdiff.sampling.registry import samplers as samplers
    from ssdiff.schedules.noise import register_noise_schedule as register_noise_schedule
    from ssdiff.training.run import TrainResult as TrainResult
    from ssdiff.training.run import train as train
    from ssdiff.weights.load import import_official as import_official
    from ssdiff.weights.load import load as load

__version__ = "0.2.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # else its warnings go to stderr

_MODULES = {
    "Cost": "ssdiff.evaluation.cost",
    "Evaluation": "ssdiff.evaluation.generative",
    "Pipeline": "ssdiff.pipeline",
    "RestorationEvaluation": "ssdiff.evaluation.restoration",
    "RestoreResult": "ssdiff.restoration.results",
    "ScaleSpace": "ssdiff.analysis.scale_space",
    "SchedulePlan": "ssdiff.analysis.schedule_plan",
    "TrainResult": "ssdiff.training.run",
    "build_model": "ssdiff.build",
    "build_process": "ssdiff.build",
    "cost": "ssdiff.evaluation.cost",
    "degradations": "ssdiff.process.degradations.registry",
    "degrade": "ssdiff.degradation",
    "evaluate": "ssdiff.evaluation.generative",
    "evaluate_restoration": "ssdiff.evaluation.restoration",
    "import_official": "ssdiff.weights.load",
    "load": "ssdiff.weights.load",
    "load_plugin": "ssdiff.plugins",
    "load_preset": "ssdiff.config.load",
    "plan_schedule": "ssdiff.analysis.schedule_plan",
    "presets": "ssdiff.config.load",
    "register_degradation": "ssdiff.process.degradations.registry",
    "register_model": "ssdiff.models.registry",
    "register_noise_schedule": "ssdiff.schedules.noise",
    "register_prediction": "ssdiff.process.prediction",
    "register_sampler": "ssdiff.sampling.registry",
    "report": "ssdiff.reporting.run_report",
    "restore": "ssdiff.restoration.verb",
    "samplers": "ssdiff.sampling.registry",
    "scale_space": "ssdiff.analysis.scale_space",
    "train": "ssdiff.training.run",
}

__all__ = [
    "Cost",
    "Evaluation",
    "Pipeline",
    "RestorationEvaluation",
    "RestoreResult",
    "ScaleSpace",
    "SchedulePlan",
    "TrainResult",
    "__version__",
    "build_model",
    "build_process",
    "cost",
    "degradations",
    "degrade",
    "evaluate",
    "evaluate_restoration",
    "import_official",
    "load",
    "load_plugin",
    "load_preset",
    "plan_schedule",
    "presets",
    "register_degradation",
    "register_model",
    "register_noise_schedule",
    "register_prediction",
    "register_sampler",
    "report",
    "restore",
    "samplers",
    "scale_space",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
