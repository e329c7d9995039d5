"""Sampling options made into a chain of timesteps and the rule of a step."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch

from ssdiff.config import Preset, SamplingSettings
from ssdiff.errors import UsageError, did_you_mean
from ssdiff.process.base import Process
from ssdiff.sampling.registry import SAMPLERS, Sampler, samplers
from ssdiff.sampling.walk import Variance
from ssdiff.schedules.resolution import respace, with_transitions
from ssdiff.schedules.respacing import Crossing, Steps, kept_timesteps, parse_steps


@dataclass(frozen=True)
class Plan:
    """How to walk down: a chain of timesteps and the rule of a step.

    Attributes:
        timesteps: decreasing, down to 0.
        sampler: its own name, never an alias.
        eta: share of fresh noise, 0..1.
        guidance: weight of the class, 1 is off.
        variance: of the fresh noise, ``posterior`` or ``fixed_large``, see
            :meth:`ssdiff.sampling.walk.Walk.step`.
        guided: timesteps at which the weight counts; None for all.
        correction: share of the variance that its steps lose which they give back, 0..1.
        crossing: of a resolution transition.
    """

    timesteps: list[int]
    sampler: str
    eta: float
    guidance: float
    variance: Variance = "posterior"
    guided: range | None = None
    correction: float = 0.0
    crossing: Crossing = "step"

    @property
    def severities(self) -> list[int]:
        """The timesteps, by their name of cold diffusion."""
        return self.timesteps

    @property
    def evaluations(self) -> int:
        """Steps, each one evaluation of the network for most samplers (and two with guidance)."""
        return len(self.timesteps) - 1

    def guidance_at(self, t: int) -> float:
        """Return the weight of the class at a timestep: 1 where guidance does not count."""
        return self.guidance if self.guided is None or t in self.guided else 1.0

    @property
    def passes(self) -> tuple[int, ...]:
        """Evaluations of the network for one prediction at each step: two with guidance, else one."""
        return tuple(1 if self.guidance_at(t) == 1 else 2 for t in self.timesteps[:-1])

    @property
    def told(self) -> dict[str, object]:
        """The rule of its steps in plain values, for reports and recipes.

        The chain's timesteps at which guidance counts, a correction and the crossing are there only where
        they are not all, none and that of any step.
        """
        told: dict[str, object] = {"eta": self.eta, "variance": self.variance, "guidance": self.guidance}
        if self.guided is not None and self.guidance != 1:
            told["guided_timesteps"] = [t for t in self.timesteps[:-1] if t in self.guided]
        if self.correction:
            told["correction"] = self.correction
        if self.crossing != "step":
            told["crossing"] = self.crossing
        return told

    @property
    def guidance_place(self) -> str:
        """At how many steps the weight of the class counts, in words; nothing where at all of them."""
        told = self.told.get("guided_timesteps")
        return f" at {len(told)} of them" if isinstance(told, list) else ""

    @property
    def network_evaluations(self) -> int:
        """Evaluations of the network for an image."""
        return sum(self.passes) * SAMPLERS.get(self.sampler).evaluations


def make_plan(
    preset: Preset,
    process: Process,
    steps: Steps | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    guidance: float | None = None,
    t: int | None = None,
) -> Plan:
    """Return :func:`plan_for` the process of a preset, omitted options from the preset."""
    return plan_for(process, preset.sampling, steps, sampler, eta, guidance, t, classes=preset.model.classes)


def plan_for(
    process: Process,
    defaults: SamplingSettings,
    steps: Steps | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    guidance: float | None = None,
    t: int | None = None,
    *,
    classes: int = 0,
) -> Plan:
    """Return the chain of timesteps and the step rule of sampling options; omitted ones are the defaults.

    Args:
        process: to walk down.
        defaults: of a preset.
        steps: a number, 1..t, or timesteps of the whole chain as a text, ``"10,15,20"`` or ``"ddim50"``
            [docs/math.md, section 5]; every resolution transition is kept besides. Without ``t`` a
            process that ends in noise begins where they do.
        sampler: a name of :func:`ssdiff.samplers`.
        eta: share of fresh noise, 0..1, where the sampler takes it.
        guidance: weight of the class, 1 is off.
        t: timestep to begin at; T where omitted.
        classes: of the network; 0 for one that takes none.

    Raises:
        UsageError: for options that are out of range or do not go together.
    """
    top = process.T if t is None else t
    if not _whole(top) or not 1 <= top <= process.T:
        raise UsageError(f"timestep {top} is outside 1..{process.T}")
    rule = _rule(process, defaults.sampler if sampler is None else sampler)
    guidance = defaults.guidance if guidance is None else guidance
    if not _number(guidance) or not 0 <= guidance < math.inf:
        raise UsageError(f"guidance must be finite, at least 0, not {guidance}")
    if guidance != 1 and not classes:
        raise UsageError("guidance needs a class-conditional model", hint="leave --guidance out")
    wanted = parse_steps(defaults.steps if steps is None else steps)
    if steps is None and rule.spacing == "log-noise" and isinstance(wanted, str):
        wanted = len(kept_timesteps(process.T, wanted))  # as many; they lie elsewhere
    if steps is None and isinstance(wanted, int):
        wanted = min(wanted, top)
    from_top = t is not None or not process.noisy or defaults.terminal_prior is not None
    # A step of one timestep tells the second order of the steps even in noise nothing of where it leads.
    crossing: Crossing = defaults.crossing if rule.spacing == "timesteps" else "step"
    chain = _chain(process, rule, top, wanted, from_top, crossing)
    variance = _variance(process, defaults, rule)
    return Plan(
        chain,
        rule.name,
        _eta(process, defaults, rule, eta),
        guidance,
        variance,
        None if guidance == 1 else guided_timesteps(process, defaults),
        _correction(process, defaults, rule, chain, variance),
        crossing if process.changes_resolution else "step",
    )


def guided_timesteps(process: Process, defaults: SamplingSettings) -> range | None:
    """Return the timesteps whose log-SNR lies in ``sampling.guidance_interval``; None where that is unset.

    The log-SNR is that of the content that every size has [docs/math.md, equation (24)], so guidance in an
    interval [Kynkaanniemi et al. 2024] knows no jump where the size changes.

    Raises:
        UsageError: none lies there, or the process has no noise.
    """
    if defaults.guidance_interval is None:
        return None
    low, high = defaults.guidance_interval
    levels = -2 * process.log_noise() if process.noisy else torch.empty(0)
    inside = ((levels >= low) & (levels <= high)).nonzero().flatten() + 1
    if not len(inside):
        known = f"its log-SNRs are {levels[-1]:.3g} to {levels[0]:.3g}" if len(levels) else "it has no noise"
        raise UsageError(
            f"sampling.guidance_interval = [{low:g}, {high:g}] holds no timestep of the process: {known}",
            hint="give another interval, or leave it out",
        )
    return range(int(inside[0]), int(inside[-1]) + 1)


@dataclass(frozen=True, slots=True)
class FewSteps:
    """A sampler and steps that draw nearly as good images in a fraction of the time.

    Attributes:
        sampler: its name.
        steps: to ask for.
        evaluations: steps with those that resolution transitions need.
    """

    sampler: str
    steps: int
    evaluations: int


def few_steps(process: Process, plan: Plan) -> FewSteps | None:
    """Return what draws in far fewer steps than a plan; None if it has few, or the process is not for it.

    DDIM in 25 steps: of networks trained for long, at 16 and 32 px, its images were as near to the data as
    those of 50 to 250 ancestral steps, and nearer than those of dpm++ in as many (docs/laboratory.md, Few
    steps).

    Args:
        process: to walk down.
        plan: of a chain that is held to be long.
    """
    if not process.noisy or _FEW.sampler not in samplers(process):
        return None
    defaults = SamplingSettings(sampler=_FEW.sampler, steps=_FEW.steps)
    quick = plan_for(process, defaults, t=plan.timesteps[0])
    if plan.evaluations < _MANY * quick.evaluations:
        return None
    return replace(_FEW, evaluations=quick.evaluations)


_FEW = FewSteps("ddim", 25, 25)
_MANY = 3  # times as many steps are worth a word


def refuse_useless_steps(steps: Steps | None, sampler: str) -> None:
    """Refuse steps that were asked for of a sampler that has one.

    Raises:
        UsageError: then.
    """
    if steps not in (None, 1) and SAMPLERS.get(sampler).spacing == "once":
        raise UsageError(
            f"sampler {sampler} makes one prediction, steps change nothing", hint="leave --steps out"
        )


def _whole(value: object) -> bool:
    """Whether a caller gave a whole number, whatever the annotation says."""
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rule(process: Process, name: str) -> Sampler:
    """The sampler of a name, if it fits the process."""
    known = samplers(process)
    found = SAMPLERS.get(name) if name in SAMPLERS.names() else None
    if found is None or found.name not in known:
        kind = "noisy" if process.noisy else "cold"
        raise UsageError(
            f"unknown sampler {name!r} for this {kind} process", hint=did_you_mean(str(name), known)
        )
    return found


def _chain(
    process: Process, rule: Sampler, top: int, steps: Steps, from_top: bool, crossing: Crossing
) -> list[int]:
    """Timesteps from ``top`` down to 0, as a sampler wants them spaced."""
    number = {size: i for i, size in enumerate(dict.fromkeys(state.size for state in process.states))}
    sizes = torch.tensor([number[state.size] for state in process.states[1 : top + 1]])
    if rule.spacing == "log-noise":
        return respace(sizes, steps, _seen_noise(process)[:top])
    if rule.spacing != "once" and isinstance(steps, int):
        return respace(sizes, steps, crossing=crossing)
    if rule.spacing != "once":
        kept = {t for t in kept_timesteps(process.T, steps) if t <= top}
        return with_transitions(sizes, kept | {top} if from_top or not kept else kept, crossing)
    if process.states[top - 1].size != process.states[0].size:
        others = [name for name in samplers(process) if name != rule.name]
        raise UsageError(
            f"a {rule.name} prediction from timestep {top} is smaller than the image",
            hint=f"choose one of {', '.join(others)}",
        )
    return [top, 0]


def _seen_noise(process: Process) -> torch.Tensor:
    """(T,) log(sigma / a), but no more than hides a whole image [docs/math.md, section 7].

    Some schedules end far above it [Lu et al. 2022]: steps up there predict what is known without a network,
    and are missing below. Half the bound costs more at the first step than it saves (docs/laboratory.md).
    """
    return process.log_noise().clamp(max=math.log(_HIDING * math.sqrt(math.prod(process.states[0].size))))


_HIDING = 8.0  # sigma / a for each pixel of a side, at which an image's mean, of std 0.4, has an SNR of 1/400


def _eta(process: Process, defaults: SamplingSettings, rule: Sampler, eta: float | None) -> float:
    """The share of fresh noise that a sampler takes; a process without noise has none."""
    takes = rule.takes_eta and process.noisy
    if eta is None:
        chosen = defaults.eta if takes and defaults.sampler == rule.name else None
        return rule.eta if chosen is None else chosen
    if eta != rule.eta and not takes:
        able = [name for name in samplers(process) if process.noisy and SAMPLERS.get(name).takes_eta]
        raise UsageError(
            f"sampler {rule.name} has a fixed eta",
            hint=f"use --sampler {able[0]} to choose eta" if able else "leave eta out",
        )
    if not _number(eta) or not 0 <= eta <= 1:
        raise UsageError(f"eta must be in [0, 1], not {eta}")
    return eta


def _variance(process: Process, defaults: SamplingSettings, rule: Sampler) -> Variance:
    """That of the settings for the sampler that they name; another has its own."""
    if defaults.variance == "posterior" or rule.name != SAMPLERS.get(defaults.sampler).name:
        return "posterior"
    if rule.name != "ancestral" or process.changes_resolution or not process.isotropic:
        raise UsageError(
            f"sampling.variance = {defaults.variance!r} is for the ancestral sampler of plain diffusion",
            hint="set it to 'posterior'",
        )
    return defaults.variance


def _correction(
    process: Process, defaults: SamplingSettings, rule: Sampler, chain: list[int], variance: Variance
) -> float:
    """The share that steps give back, where a sampler and a chain have steps that lose something."""
    states = process.states
    loses = any(s > 0 and states[t].size == states[s].size for t, s in itertools.pairwise(chain))
    if not (defaults.correction and rule.corrects and process.noisy and loses):
        return 0.0
    if not process.isotropic or variance != "posterior":
        raise UsageError(
            "sampling.correction is for plain and scale-space diffusion with the posterior's variance",
            hint="set it to 0",
        )
    return defaults.correction
