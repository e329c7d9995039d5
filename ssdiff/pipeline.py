"""A trained model with its process: predict, sample, load, save."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdiff import rng, storage
from ssdiff.build import build_model, build_process
from ssdiff.devices import autocast, pick_device, pick_precision
from ssdiff.errors import CheckpointError, UsageError
from ssdiff.importing import read_weights
from ssdiff.models import official
from ssdiff.presets import load_preset
from ssdiff.process.gaussian import GaussianProcess
from ssdiff.samplers.gaussian import sample as walk
from ssdiff.schedules.resolution import respace
from ssdiff.settings import Preset

SAMPLERS = ("ancestral", "ddim", "dpm++")


@dataclass(frozen=True)
class Plan:
    """How to walk from noise to images: a chain of severities and the rule of a step."""

    severities: list[int]
    eta: float
    second_order: bool
    guidance: float

    @property
    def evaluations(self) -> int:
        """Steps, each one evaluation of the network (two with guidance)."""
        return len(self.severities) - 1


@dataclass
class Pipeline:
    """A network with the process that it was trained for.

    Attributes:
        preset: the settings of both.
        process: gives marginals and posteriors.
        model: the network, in evaluation mode.
        class_names: names of the labels, empty for an unconditional model or unnamed classes.
        origin: where the weights come from, in words.
    """

    preset: Preset
    process: GaussianProcess
    model: nn.Module
    class_names: tuple[str, ...] = ()
    origin: str = ""
    step: int | None = None
    precision: torch.dtype = field(default=torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def predict_x0(self, x_t: Tensor, t: int, labels: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """The clean image that the network sees in x_t, one severity down.

        Args:
            x_t: (B, C, r_t, r_t) at severity ``t``, 1..T.
            t: severity.
            labels: (B,) classes; the unconditional class where omitted.
            guidance: weight of the class, 1 is plain conditioning [Ho & Salimans 2022].

        Returns:
            (B, C, r_{t-1}, r_{t-1}) about [-1, 1], clamped to it if the preset's ``sampling.clip`` says so.
        """
        classes = self.preset.model.classes
        if classes and labels is None:
            labels = torch.full((len(x_t),), classes, device=x_t.device)
        if labels is not None and guidance != 1.0:
            blank = self._network(x_t, t, torch.full_like(labels, classes))
            clean = torch.lerp(blank, self._network(x_t, t, labels), guidance)
        else:
            clean = self._network(x_t, t, labels)
        return clean.clamp(-1, 1) if self.preset.sampling.clip else clean

    def _network(self, x_t: Tensor, t: int, labels: Tensor | None) -> Tensor:
        index = torch.full((len(x_t),), t - 1, device=x_t.device)
        with autocast(x_t.device, self.precision):
            output: Tensor = self.model(x_t, index, self.process.states[t - 1].resolution, labels)
        output = output.to(x_t.dtype)
        return (
            self.process.clean_from_noise(x_t, output, t) if self.preset.process.predict == "eps" else output
        )

    def plan(
        self,
        steps: int | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        guidance: float | None = None,
    ) -> Plan:
        """The chain of severities and the step rule of sampling options; omitted ones come from the preset.

        Args:
            steps: 1..T; every change of resolution is kept besides.
            sampler: ``ancestral`` (eta 1), ``ddim`` (eta 0 unless given) or ``dpm++`` (2M, steps even in
                log-SNR).
            eta: share of fresh noise, 0..1, for ``ddim``.
            guidance: weight of the class, 1 is off.

        Raises:
            UsageError: for options that are out of range or do not go together.
        """
        defaults = self.preset.sampling
        steps, name = defaults.steps if steps is None else steps, sampler or defaults.sampler
        guidance = defaults.guidance if guidance is None else guidance
        if name not in SAMPLERS:
            raise UsageError(f"unknown sampler {name!r}", hint=f"choose one of {', '.join(SAMPLERS)}")
        own = 1.0 if name == "ancestral" else 0.0
        if eta is None:
            eta = defaults.eta if name == "ddim" == defaults.sampler and defaults.eta is not None else own
        elif name != "ddim" and eta != own:
            raise UsageError(f"sampler {name} has a fixed eta", hint="use --sampler ddim to choose eta")
        if not 0 <= eta <= 1 or not 0 <= guidance < math.inf:
            raise UsageError(
                f"eta must be in [0, 1] and guidance finite, at least 0, not {eta} and {guidance}"
            )
        if guidance != 1 and not self.preset.model.classes:
            raise UsageError("guidance needs a class-conditional model", hint="leave --guidance out")
        resolutions = torch.tensor([state.resolution for state in self.process.states[1:]])
        spacing = self.process.log_noise_distance() if name == "dpm++" else None
        return Plan(respace(resolutions, steps, spacing), eta, name == "dpm++", guidance)

    def walk(
        self, images: Tensor, plan: Plan, seed: int = 0, labels: Tensor | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """States of sampling from pure noise: (T, x_T), then one (s, x_s) a step, down to (0, x_0).

        Args:
            images: (B,) image numbers on the pipeline's device; with the seed they decide all noise, so an
                image is the same in any batch.
            plan: from :meth:`plan`.
            seed: any integer.
            labels: (B,) classes.
        """
        key = rng.derive(seed, "sample")

        def draw(severity: int, shape: tuple[int, ...]) -> Tensor:
            return rng.normal(key, images, severity, shape)

        start = plan.severities[0]
        state = self.process.states[start]
        x = state.sigma * draw(start, (self.preset.data.channels, *state.size))
        yield start, x
        yield from walk(
            lambda x_t, t: self.predict_x0(x_t, t, labels, plan.guidance),
            self.process,
            x,
            plan.severities,
            draw,
            eta=plan.eta,
            second_order=plan.second_order,
        )

    def sample(
        self,
        n: int,
        steps: int | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        seed: int = 0,
        *,
        batch: int | None = None,
        labels: Sequence[int] | Tensor | None = None,
        guidance: float | None = None,
        first: int = 0,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Images number ``first`` to ``first + n - 1`` of a seed.

        Args:
            n: how many.
            steps: see :meth:`plan`, likewise ``sampler``, ``eta`` and ``guidance``.
            sampler: rule of a step.
            eta: share of fresh noise.
            seed: any integer.
            batch: images drawn at once; changes the memory, not the images.
            labels: one class an image; classes in turn by image number where a conditional model gets none.
            guidance: weight of the class.
            first: number of the first image.
            on_step: called after each step with the number of images in the batch.

        Returns:
            (n, C, R, R) float32 on the CPU in [-1, 1].
        """
        plan = self.plan(steps, sampler, eta, guidance)
        size = batch or self.preset.sampling.batch
        numbers = torch.arange(first, first + n)
        chosen = self.choose_labels(numbers, labels)
        result = torch.empty(n, self.preset.data.channels, *self.process.states[0].size)
        for start in range(0, n, size):
            part = slice(start, start + size)
            images = numbers[part].to(self.device)
            given = None if chosen is None else chosen[part].to(self.device)
            for severity, x in self.walk(images, plan, seed, given):
                if on_step is not None and severity < plan.severities[0]:
                    on_step(len(images))
                if severity == 0:
                    result[part] = x.clamp(-1, 1).cpu()
        return result

    def choose_labels(self, numbers: Tensor, labels: Sequence[int] | Tensor | None = None) -> Tensor | None:
        """(n,) classes of images: the given ones, checked, or in turn by number; None for a model without."""
        classes = self.preset.model.classes
        if labels is None:
            return numbers % classes if classes else None
        chosen = torch.as_tensor(labels, dtype=torch.int64)
        if not classes:
            raise UsageError("this model has no classes", hint="leave --class out")
        if chosen.shape != numbers.shape or chosen.min() < 0 or chosen.max() >= classes:
            raise UsageError(f"labels must be {len(numbers)} classes in 0..{classes - 1}")
        return chosen


def load(
    source: str | Path, *, weights: str = "ema", device: str = "auto", precision: str = "auto"
) -> Pipeline:
    """A pipeline from a run folder, one of its checkpoints, or an exported ``.safetensors`` file.

    Args:
        source: path.
        weights: ``ema`` (averaged) or ``raw``; an exported file holds averaged ones only.
        device: see :func:`ssdiff.devices.pick_device`.
        precision: ``auto``, ``fp32`` or ``bf16`` for the network.

    Raises:
        CheckpointError: absent, damaged, or not of the model that its own preset describes.
    """
    stored = storage.read(Path(source), weights)
    place = pick_device(device)
    pipeline = assemble(stored.preset, stored.weights, place, pick_precision(precision, place))
    pipeline.class_names, pipeline.origin, pipeline.step = stored.class_names, stored.origin, stored.step
    return pipeline


def import_official(
    source: Mapping[str, Tensor] | str | Path,
    preset: Preset | str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
) -> Pipeline:
    """A pipeline from weights in the layout of the authors' code [SSD] or of guided-diffusion's UNet.

    Args:
        source: a state dict, or a file of one (``.pt`` files are read through the guard of
            :func:`ssdiff.importing.read_weights`).
        preset: the settings that the weights were trained with, e.g. ``"celeba64"``.
        device: as in :func:`load`.
        precision: as in :func:`load`.

    Raises:
        CheckpointError: not such weights, or of another architecture; names keys and shapes.
    """
    state = source if isinstance(source, Mapping) else read_weights(Path(source))
    settings = preset if isinstance(preset, Preset) else load_preset(preset)
    place = pick_device(device)
    with torch.device("meta"):
        outline = build_model(settings)
    weights = official.convert(state, outline)
    pipeline = assemble(settings, weights, place, pick_precision(precision, place))
    pipeline.origin = "official weights" if isinstance(source, Mapping) else f"official weights {source}"
    return pipeline


def assemble(
    preset: Preset, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Pipeline:
    """A pipeline from a preset and the weights of its model."""
    with torch.device("meta"):
        model = build_model(preset)
    _check_weights(model.state_dict(), weights)
    # The device's own copy, never the memory-mapped file: weights outlive the file they came from.
    moved = {name: value.to(device, torch.float32, copy=True) for name, value in weights.items()}
    model.load_state_dict(moved, assign=True)
    model.requires_grad_(False).eval()
    if device.type != "mps":
        model.to(memory_format=torch.channels_last)
    return Pipeline(preset, build_process(preset), model, precision=dtype)


def _check_weights(expected: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    """Row 21 of the fault table: what differs, named."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = [
        f"{name} is {tuple(found[name].shape)}, the preset needs {tuple(expected[name].shape)}"
        for name in expected.keys() & found.keys()
        if expected[name].shape != found[name].shape
    ]
    problems = sorted(shapes)[:1]
    problems += [
        f"{len(names)} weights {word}, e.g. {names[0]}"
        for word, names in (("missing", missing), ("unknown", extra))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"the weights do not fit the preset: {'; '.join(problems)}",
            hint="give the preset that the weights were trained with",
        )
