"""A trained model with its process: predict, sample, restore."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ssdiff import rng
from ssdiff.config import Preset
from ssdiff.devices import autocast
from ssdiff.errors import UsageError
from ssdiff.images.convert import Output, check_output_form, convert
from ssdiff.priors.coarse_mixture import CoarseMixture
from ssdiff.priors.high_frequency import HighFrequencySpectrum
from ssdiff.process.base import Process, degradation_streams
from ssdiff.progress import Counter, Progress
from ssdiff.sampling.plan import Plan, make_plan
from ssdiff.sampling.registry import SAMPLERS
from ssdiff.sampling.walk import Noise, Predict, Renoise, Walk


@dataclass
class Pipeline:
    """A network with the process that it was trained for.

    Attributes:
        preset: the settings of both.
        process: degrades, and gives posteriors where there is noise.
        model: the network, in evaluation mode.
        class_names: names of the labels, empty for an unconditional model or unnamed classes.
        origin: where the weights come from, in words.
        start: where generation begins, for processes that do not end in noise.
        details: spectra of the training images, for ``sampling.renoise = "spectral"``.
    """

    preset: Preset
    process: Process
    model: nn.Module
    class_names: tuple[str, ...] = ()
    origin: str = ""
    step: int | None = None
    precision: torch.dtype = field(default=torch.float32)
    start: CoarseMixture | None = None
    details: HighFrequencySpectrum | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def predict_x0(self, x_t: Tensor, t: int, labels: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """The clean image that the network sees in x_t, one timestep down.

        Args:
            x_t: (B, C, r_t, r_t) at timestep ``t``, 1..T.
            t: timestep.
            labels: (B,) classes; the unconditional class where omitted.
            guidance: weight of the class, 1 is plain conditioning [Ho & Salimans 2022].

        Returns:
            (B, C, r_{t-1}, r_{t-1}) about [-1, 1], clamped to it if the preset's ``sampling.clip_denoised``
            says so.
        """
        classes = self.preset.model.classes
        if classes and labels is None:
            labels = torch.full((len(x_t),), classes, device=x_t.device)
        if labels is not None and guidance != 1.0:
            blank = self._network(x_t, t, torch.full_like(labels, classes))
            clean = torch.lerp(blank, self._network(x_t, t, labels), guidance)
        else:
            clean = self._network(x_t, t, labels)
        return clean.clamp(-1, 1) if self.preset.sampling.clip_denoised else clean

    def _network(self, x_t: Tensor, t: int, labels: Tensor | None) -> Tensor:
        index = torch.full((len(x_t),), t - 1, device=x_t.device)
        with autocast(x_t.device, self.precision):
            output: Tensor = self.model(x_t, index, self.process.states[t - 1].resolution, labels)
        output = output.to(x_t.dtype)
        if self.preset.process.predict == "eps" and self.process.noisy:
            return self.process.clean_from_noise(x_t, output, t)
        return output

    def plan(
        self,
        steps: int | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        t: int | None = None,
    ) -> Plan:
        """TimestepSampler and step rule of sampling options, as :func:`ssdiff.sampling.plan.make_plan`."""
        return make_plan(self.preset, self.process, steps, sampler, eta, guidance, t)

    def walk(
        self,
        images: Tensor,
        plan: Plan,
        seed: int = 0,
        labels: Tensor | None = None,
        *,
        x: Tensor | None = None,
        refine: Callable[[Predict], Predict] | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """States of sampling: (t, x_t) first, then one (s, x_s) a step, down to (0, x_0).

        Args:
            images: (B,) image numbers on the pipeline's device; with the seed they decide all noise, so an
                image is the same in any batch.
            plan: from :meth:`plan`.
            seed: any integer.
            labels: (B,) classes.
            x: (B, C, h, w) at the plan's first timestep; drawn where omitted.
            refine: makes predictions agree with what is known of the clean images; no details are then added.
        """
        key = rng.derive(seed, "sample")

        def draw(timestep: int, shape: tuple[int, ...]) -> Tensor:
            return rng.normal(key, images, timestep, shape)

        def predict(x_t: Tensor, t: int) -> Tensor:
            return self.predict_x0(x_t, t, labels, plan.guidance)

        top = plan.timesteps[0]
        if x is None:
            x = self._begin(images, seed, top, draw)
        yield top, x
        yield from SAMPLERS.get(plan.sampler)(
            Walk(
                self.process,
                refine(predict) if refine else predict,
                x,
                plan.timesteps,
                draw,
                plan.eta,
                degradation_streams(images, seed),
                None if refine else self._added(plan, images, seed),
            )
        )

    def _added(self, plan: Plan, images: Tensor, seed: int) -> Renoise | None:
        """HighFrequencySpectrum with the spectra of the training images, if the settings ask for them."""
        process, details = self.process, self.details
        sizes = {process.states[s].size for s in plan.timesteps if s > 0}
        if self.preset.sampling.renoise == "none" or len(sizes) == 1:
            return None
        if details is None:
            raise UsageError(
                "sampling.renoise = 'spectral' needs spectra that are taken in training",
                hint="train with it, or set it to 'none'",
            )
        key = rng.derive(seed, "sample/details")
        return lambda t, s: details.draw(process, t, s, key, images)

    def _begin(self, images: Tensor, seed: int, top: int, draw: Noise) -> Tensor:
        """The most degraded state of an image that does not exist yet."""
        state, channels = self.process.states[top], self.preset.data.channels
        if self.start is not None:
            noise = draw(top, (channels, *state.size))
            settings = self.preset.sampling.terminal_prior
            coarse = self.start.draw(rng.derive(seed, "sample/start"), images)
            spread = state.sigma + (settings.noise if settings else 0.0)
            return coarse + spread * noise
        if self.process.generates:
            return self.process.start(images, seed, channels=channels, t=top)
        raise UsageError(
            f"{self.preset.name} is a restoration model and cannot sample unconditionally",
            hint="use `ssdiff restore IMAGE`",
        )

    def degrade(self, x0: Tensor, t: int, *, seed: int = 0, images: Tensor | None = None) -> Tensor:
        """x_t of clean images, noise and signal scale included, as :meth:`restore` takes it.

        Args:
            x0: (B, C, R, R) in [-1, 1].
            t: timestep, 1..T.
            seed: as in :meth:`restore`; the same seed and image numbers make the same random degradation.
            images: (B,) image numbers; 0..B-1 where omitted.

        Returns:
            (B, C, r_t, r_t) on the pipeline's device.
        """
        numbers = (torch.arange(len(x0)) if images is None else images).to(self.device)
        return self.process.corrupt(x0.to(self.device), t, numbers, seed)

    def restore(
        self,
        x_t: Tensor,
        t: int | None = None,
        sampler: str | None = None,
        *,
        steps: int | None = None,
        eta: float | None = None,
        seed: int = 0,
        images: Tensor | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Clean images from degraded ones.

        Args:
            x_t: (B, C, h_t, w_t) at timestep ``t`` of the process, noise and signal scale included.
            t: timestep; T where omitted.
            sampler: as in :meth:`plan`.
            steps: as in :meth:`plan`; all timesteps of a cold process where omitted.
            eta: as in :meth:`plan`.
            seed: of the noise, and of a random degradation.
            images: (B,) image numbers; 0..B-1 where omitted. A random degradation draws by them, so give
                those by which ``x_t`` was degraded.
            on_step: called after each step with the number of images.

        Returns:
            (B, C, R, R) float32 on the CPU in [-1, 1].

        Raises:
            UsageError: for options out of range or images of another size.
        """
        plan = self.plan(steps, sampler, eta, t=t)
        size = (self.preset.data.channels, *self.process.states[plan.timesteps[0]].size)
        if tuple(x_t.shape[1:]) != size:
            raise UsageError(f"images at timestep {plan.timesteps[0]} are {size}, not {tuple(x_t.shape[1:])}")
        numbers = torch.arange(len(x_t)) if images is None else images
        for timestep, x in self.walk(numbers.to(self.device), plan, seed, x=x_t.to(self.device)):
            if on_step is not None and timestep < plan.timesteps[0]:
                on_step(len(x))
        return x.clamp(-1, 1).float().cpu()

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
        output: Output = "pt",
        progress: Progress | None = None,
    ) -> Any:
        """Draw images number ``first`` to ``first + n - 1`` of a seed.

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
            output: ``"pt"`` for a tensor, ``"pil"`` for Pillow images, ``"np"`` for an array of bytes.
            progress: called as progress("sampling", done, n).

        Returns:
            (n, C, R, R) float32 on the CPU in [-1, 1]; or :class:`ssdiff.images.Pictures`, a list that a
            notebook shows as a grid; or (n, R, R, C) uint8.

        Raises:
            UsageError: for options out of range.
        """
        check_counts(n, first, batch)
        check_output_form(output)
        plan = self.plan(steps, sampler, eta, guidance)
        size = batch or self.preset.sampling.batch
        count = Counter(progress, "sampling", n, steps=plan.evaluations)
        numbers = torch.arange(first, first + n)
        chosen = self.choose_labels(numbers, labels)
        result = torch.empty(n, self.preset.data.channels, *self.process.states[0].size)
        for start in range(0, n, size):
            part = slice(start, start + size)
            images = numbers[part].to(self.device)
            given = None if chosen is None else chosen[part].to(self.device)
            for timestep, x in self.walk(images, plan, seed, given):
                if timestep < plan.timesteps[0]:
                    count(len(images))
                    if on_step is not None:
                        on_step(len(images))
                if timestep == 0:
                    result[part] = x.clamp(-1, 1).cpu()
        return convert(result, output)

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


def check_counts(n: object, first: object = 0, batch: object = None) -> None:
    """Refuse numbers of images that make no sense.

    Raises:
        UsageError: then.
    """
    for name, value, least in (("n", n, 1), ("first", first, 0), ("batch", batch, 1)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise UsageError(f"{name} must be a whole number, at least {least}, not {value!r}")
