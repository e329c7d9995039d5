"""Sampling options made into a chain of timesteps and the rule of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ssdiff.config import Preset, SamplingSettings
from ssdiff.errors import UsageError
from ssdiff.process.base import Process
from ssdiff.schedules.resolution import respace

_ALIASES = {"posterior": "ancestral"}


@dataclass(frozen=True)
class Plan:
    """How to walk down: a chain of timesteps and the rule of a step."""

    timesteps: list[int]
    sampler: str
    eta: float
    guidance: float

    @property
    def severities(self) -> list[int]:
        """The timesteps, by their name of cold diffusion."""
        return self.timesteps

    @property
    def evaluations(self) -> int:
        """Steps, each one evaluation of the network (two with guidance)."""
        return 1 if self.sampler == "direct" else len(self.timesteps) - 1


def samplers(preset: Preset, process: Process) -> tuple[str, ...]:
    """Rules of a step that a process has."""
    if not process.noisy:
        return ("alg1", "alg2", "direct", *(["ddim"] if process.generates else []))
    # DPM-Solver++ needs a log-SNR that changes along the chain, heat dissipation's does not.
    return ("ancestral", "ddim", *([] if preset.process.kind == "heat" else ["dpm++"]), "direct")


def make_plan(
    preset: Preset,
    process: Process,
    steps: int | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    guidance: float | None = None,
    t: int | None = None,
) -> Plan:
    """The chain of timesteps and the step rule of sampling options; omitted ones come from the preset.

    Args:
        preset: gives the defaults.
        process: of the preset.
        steps: 1..t; every resolution transition is kept besides.
        sampler: with noise: ``ancestral`` or ``posterior`` (eta 1), ``ddim`` (eta 0 unless given), ``dpm++``
            (2M, steps even in log-SNR); cold: ``alg1``, ``alg2``, and ``ddim`` where noise is mixed in;
            ``direct`` is one prediction.
        eta: share of fresh noise, 0..1, for ``ddim``.
        guidance: weight of the class, 1 is off.
        t: timestep to begin at; T where omitted.

    Raises:
        UsageError: for options that are out of range or do not go together.
    """
    defaults, top = preset.sampling, process.T if t is None else t
    name = _ALIASES.get(sampler or "", sampler) or defaults.sampler
    known = samplers(preset, process)
    if name not in known:
        message = f"unknown sampler {name!r} for a model of kind {preset.process.kind}"
        raise UsageError(message, hint=f"choose one of {', '.join(known)}")
    if not 1 <= top <= process.T:
        raise UsageError(f"timestep {top} is outside 1..{process.T}")
    guidance = defaults.guidance if guidance is None else guidance
    if not 0 <= guidance < math.inf:
        raise UsageError(f"guidance must be finite, at least 0, not {guidance}")
    if guidance != 1 and not preset.model.classes:
        raise UsageError("guidance needs a class-conditional model", hint="leave --guidance out")
    sizes = torch.tensor([state.resolution for state in process.states[1 : top + 1]])
    if name == "direct" and process.states[top - 1].resolution != process.states[0].resolution:
        raise UsageError(
            f"a direct prediction from timestep {top} is smaller than the image",
            hint=f"choose one of {', '.join(rule for rule in known if rule != 'direct')}",
        )
    spacing = None
    if name == "dpm++":
        spacing = process.log_noise()[:top]
    wanted = min(defaults.steps, top) if steps is None else steps
    cold = not process.noisy
    return Plan(respace(sizes, wanted, spacing), name, _eta(defaults, name, eta, cold), guidance)


def _eta(defaults: SamplingSettings, sampler: str, eta: float | None, cold: bool) -> float:
    """The share of fresh noise that a sampler takes."""
    own = 1.0 if sampler == "ancestral" else 0.0
    if eta is None:
        preset = defaults.eta if sampler == "ddim" == defaults.sampler else None
        return own if preset is None else preset
    if eta != own and (sampler != "ddim" or cold):
        raise UsageError(f"sampler {sampler} has a fixed eta", hint="use --sampler ddim to choose eta")
    if not 0 <= eta <= 1:
        raise UsageError(f"eta must be in [0, 1], not {eta}")
    return eta
