"""Weights that a training begins with: another model's, as far as they fit the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from ssdiff.build import outline_model
from ssdiff.config import Preset
from ssdiff.config.load import differences, override
from ssdiff.errors import CheckpointError, UsageError
from ssdiff.models.branched_unet import branched_weights
from ssdiff.weights import single_file
from ssdiff.weights.load import find_model

_SHOWN = 5  # tensors and settings that are named; of more it is said how many
_KINDS = {"ema": "averaged", "raw": "raw"}
# Of a network, what no weight's shape depends on and what is none of its function.
_WITHOUT_MEANING = ("model.dropout:", "model.activation_checkpointing:", "model.own:")


@dataclass(frozen=True, slots=True)
class InitialRequest:
    """Which weights to begin with.

    Attributes:
        model: run, checkpoint or single-file model, or the name of a bundled one.
        partial: take the tensors that fit and leave the others.
        weights: ``ema`` (averaged) or ``raw``.
    """

    model: str
    partial: bool = False
    weights: str = "ema"

    @property
    def key(self) -> str:
        """What the model is called wherever the process runs: an absolute path, or a bundled model's name."""
        found = find_model(self.model).path
        return self.model if found == single_file.bundled(self.model) else str(found.absolute())


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run's first weights came from, as it is kept with the run.

    Attributes:
        model: as :attr:`InitialRequest.key` has it.
        preset: name of the model's preset.
        step: training steps behind it; None where that is not known.
        weights: ``ema`` or ``raw``.
        sha256: of all weights of the model, their names, types and shapes.
        taken: how many tensors of the network began with the model's.
        tensors: how many it has.
        left: tensors of the model that were not taken.
        fresh: tensors of the network that began at random.
    """

    model: str
    preset: str
    step: int | None
    weights: str
    sha256: str
    taken: int
    tensors: int
    left: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        return {**asdict(self), "left": list(self.left), "fresh": list(self.fresh)}

    @classmethod
    def from_dict(cls, values: object) -> Origin | None:
        """Return what :meth:`to_dict` told; None for anything else."""
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError:
            return None

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        part = f"all {self.tensors}" if self.taken == self.tensors else f"{self.taken} of {self.tensors}"
        which = _KINDS.get(self.weights, self.weights)
        return f"{which} weights of {self.model} ({self.preset}{step}), {part} tensors, SHA-256 {self.sha256}"

    def lines(self) -> list[str]:
        """Return what people are told of it: what was taken, and what was not."""
        told = [f"begins with {self}; optimiser, steps and average begin anew"]
        rest = [f"{_listed(self.left)} of the model not taken"] if self.left else []
        rest += [f"{_listed(self.fresh)} begun at random"] if self.fresh else []
        return [*told, "; ".join(rest)] if rest else told


@dataclass(frozen=True, slots=True)
class Initial:
    """Weights to begin with, found to fit.

    Attributes:
        origin: whose they are.
        weights: those that are taken, by name.
        class_names: names of the model's labels.
        notes: what a user should know of them beside the origin.
    """

    origin: Origin
    weights: Mapping[str, Tensor]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return all that people are told."""
        return [*self.origin.lines(), *self.notes]

    @torch.no_grad()
    def fill(self, network: nn.Module) -> None:
        """Copy the weights into the network that they were found to fit."""
        state = network.state_dict()
        for name, value in self.weights.items():
            state[name].copy_(value)


def choose_initial(
    asked: InitialRequest,
    preset: Preset | None,
    overrides: Mapping[str, object],
    source: str | Path | None = None,
) -> tuple[Preset, Initial]:
    """Return the settings of a run that begins with another model's weights, and those weights.

    Args:
        asked: which.
        preset: settings of the run; None takes the model's own with ``overrides``.
        overrides: by dotted name, of the model's settings.
        source: the run's data set, where one is named: a list of images that the model was trained with is
            none of its.

    Raises:
        CheckpointError: the model is absent or damaged; tensors do not fit, and not ``asked.partial``; or
            none does. Names the first ones that differ [docs/faults.md, row 69].
        UsageError: the model is no path, or the weights are unknown.
        PresetError: overrides that the model's settings do not take.
    """
    stored = single_file.read(find_model(asked.model).path, asked.weights)
    if preset is None:
        anew: dict[str, object] = {}
        if source is not None and stored.preset.data.list:
            anew = {"data.list": None, "data.part": None}
        if stored.preset.model.own:
            anew["training.own_after"] = 0.0  # it has branched
        changes = {**anew, **overrides}
        preset = override(stored.preset, changes) if changes else stored.preset
    if stored.preset.model.own and preset.training.own_after:
        raise CheckpointError(
            f"the sizes of {asked.model} have weights of their own (model.own = {stored.preset.model.own}), "
            "they cannot begin shared",
            path=asked.model,
            hint="set training.own_after=0",
        )
    if stored.preset.model.own and not preset.model.own:
        raise CheckpointError(
            f"{asked.model} has weights of their own for its largest sizes (model.own = "
            f"{stored.preset.model.own}), which one network for all sizes cannot begin with",
            path=asked.model,
            hint=f"set model.own={stored.preset.model.own}",
        )
    expected = {name: value.shape for name, value in outline_model(preset).state_dict().items()}
    weights = branched_weights(stored.weights, iter(expected)) if preset.model.own else stored.weights
    found = {name: value.shape for name, value in weights.items()}
    taken = [name for name in expected if found.get(name) == expected[name]]
    left = tuple(name for name in found if expected.get(name) != found[name])
    fresh = tuple(name for name in expected if found.get(name) != expected[name])
    if left or fresh:
        _refuse(asked, preset, _differing(found, expected), bool(taken))
    digest = single_file.digest_weights(stored.weights)
    origin = Origin(
        asked.key,
        stored.preset.name,
        stored.step,
        asked.weights,
        digest,
        len(taken),
        len(expected),
        left,
        fresh,
    )
    notes = _conventions(stored.preset, preset, whole=not (left or fresh))
    return preset, Initial(origin, {name: weights[name] for name in taken}, stored.class_names, notes)


def _refuse(asked: InitialRequest, preset: Preset, differing: Sequence[str], some: bool) -> None:
    """Raise what is wrong with weights that do not fit as a whole, unless a part of them is asked for."""
    if asked.partial and some:
        return
    more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    none = "" if some else "not one tensor fits: "
    raise CheckpointError(
        f"the weights of {asked.model} do not fit the network of {preset.name}: {none}"
        f"{'; '.join(differing[:_SHOWN])}{more}",
        path=asked.model,
        hint="take those that fit with --init-partial (init_partial=True from Python), or leave --preset and "
        "--set out to take the model's own settings"
        if some
        else "leave --preset out to take the model's own settings",
    )


def _differing(found: Mapping[str, torch.Size], expected: Mapping[str, torch.Size]) -> list[str]:
    """What does not fit: tensors of another shape first, then those that the network or the model lacks."""
    shapes = [
        f"{name} is {tuple(found[name])}, the network has {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    lacking = [f"{name} is not in the model" for name in expected if name not in found]
    return [*shapes, *lacking, *(f"{name} is not in the network" for name in found if name not in expected)]


def _conventions(then: Preset, now: Preset, *, whole: bool) -> tuple[str, ...]:
    """A note if the network will be asked otherwise than it was: its weights then mean something else."""
    sections = ("data", "process", "model") if whole else ("data", "process")
    differing = [
        line
        for line in differences(then, now, sections)
        if line.startswith(("data.size:", "process.", "model.")) and not line.startswith(_WITHOUT_MEANING)
    ]
    if not differing:
        return ()
    more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    what = "the weights were trained for other settings, so that they mean something else (then != now)"
    return (f"{what}: {'; '.join(differing[:_SHOWN])}{more}",)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})"


def check_request(asked: InitialRequest | None, partial: bool, weights: str, resume: str | None) -> None:
    """Refuse options of initial weights without a model, and a model beside a run to go on with.

    Raises:
        UsageError: then.
    """
    if asked is None and (partial or weights != "ema"):
        named = "init_partial (--init-partial)" if partial else "init_weights (--init-weights)"
        raise UsageError(f"{named} is of a model to begin with, and none was given", hint="give --init MODEL")
    if asked is not None and resume not in (None, "auto"):
        raise UsageError(
            "init (--init) begins a run, resume (--resume) goes on with one, whose weights are its own",
            hint="leave one of them out, or give --resume auto, which begins where nothing is to be resumed",
        )
