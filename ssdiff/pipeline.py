"""A trained network with its process: predict, sample, degrade, restore."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdiff import rng
from ssdiff.arguments import require_type, require_whole
from ssdiff.build import build_sampling_process
from ssdiff.config import DataSettings, Preset, SamplingSettings
from ssdiff.devices import autocast
from ssdiff.errors import UsageError, did_you_mean
from ssdiff.images.convert import Output, check_output_form, check_range, to_output
from ssdiff.models.adapter import adapt
from ssdiff.models.branched_unet import BranchedUNet
from ssdiff.models.flexi_unet import FlexiUNet
from ssdiff.operators.base import Size
from ssdiff.priors.coarse_mixture import CoarseMixture
from ssdiff.priors.image_spectrum import ImageSpectrum
from ssdiff.priors.linear_lift import LinearLift
from ssdiff.process.base import Process, degradation_streams
from ssdiff.process.prediction import prediction
from ssdiff.progress import Counter, Progress
from ssdiff.sampling.plan import Plan, guided_timesteps, plan_for
from ssdiff.sampling.registry import SAMPLERS
from ssdiff.sampling.walk import Correct, Noise, Predict, Renoise, Walk
from ssdiff.schedules.respacing import Steps
from ssdiff.second_set import OtherImages, find_second_set
from ssdiff.tiling import TiledNetwork, Tiling, activation_bytes, choose_tile, unit_of

_OVERLAP = 64  # pixels of tiles that are larger than four times that


class Pipeline:
    """A network with the process that it was trained for.

    The network is called as ``model(x_t, index, resolution, labels)``: x_t (B, C, h_t, w_t), index (B,)
    int64 of t - 1, the pixels a side that its output shall have, those of timestep t - 1, and (B,) classes or
    None.

    Args:
        process: degrades, and gives posteriors where there is noise.
        model: the network, in evaluation mode; one of another signature, such as forward(x, t), is adapted,
            see :func:`ssdiff.models.adapter.adapt`.
        preset: the settings that both were made from; it gives all that follows up to ``sampling``.
        channels: of the images; 3 where neither this nor a preset is given.
        classes: that the network knows, 0 for an unconditional one; class number ``classes`` stands for none.
        predict: what the network's output stands for, a name of :mod:`ssdiff.process.prediction`.
        sampling: defaults of steps, sampler, eta, guidance, batch, clipping and renoising.
        name: of the model, in messages.
        class_names: names of the labels, empty for an unconditional model or unnamed classes.
        origin: where the weights come from, in words.
        step: of the training, where known.
        precision: of the network's mixed precision.
        terminal_prior: p(x_T) fitted to data, for processes that do not end in noise.
        spectrum: power spectra and mean of the training images, for ``sampling.renoise = "spectral"`` and
            ``sampling.correction``.
        lift: linear maps of the training images, for ``sampling.lift = "linear"``.
        other: what a process of animorphosis turns images into, as :meth:`with_other` takes it; a process
            that was built with it needs it no more.

    Attributes:
        All arguments but ``other`` are attributes of the same names; ``preset`` is None where none is given.
        path: run, checkpoint or file that it was loaded from; None otherwise.

    Raises:
        UsageError: for a prediction that is unknown or does not go with the process, a network that cannot be
            called so, or an argument of another type.

    Example:
        >>> import ssdiff, torch
        >>> class Grey(torch.nn.Module):
        ...     def forward(self, x, index, resolution, labels=None):
        ...         return torch.zeros(len(x), x.shape[1], resolution, resolution)
        >>> process = ssdiff.build_process(ssdiff.load_preset("shapes32"))
        >>> ssdiff.Pipeline(process, Grey()).sample(2, steps=5).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        process: Process,
        model: nn.Module,
        *,
        preset: Preset | None = None,
        channels: int | None = None,
        classes: int | None = None,
        predict: str | None = None,
        sampling: SamplingSettings | None = None,
        name: str | None = None,
        class_names: tuple[str, ...] = (),
        origin: str = "",
        step: int | None = None,
        precision: torch.dtype = torch.float32,
        terminal_prior: CoarseMixture | None = None,
        spectrum: ImageSpectrum | None = None,
        lift: LinearLift | None = None,
        other: OtherImages | None = None,
    ) -> None:
        _check_parts(process, model)
        if preset is not None:
            require_type("preset", preset, Preset, "load one: ssdiff.load_preset(name)")
        if sampling is not None:
            require_type("sampling", sampling, SamplingSettings, "give preset.sampling of a preset")
        require_type("precision", precision, torch.dtype, "give torch.float32 or torch.bfloat16")
        for what, count, least in (("channels", channels, 1), ("classes", classes, 0)):
            if count is not None:
                require_whole(what, count, least)
        self.process, self.model = process, adapt(model)
        self.channels, self.classes, self.predict, self.name = 3, 0, "x0", "the model"
        self.sampling = SamplingSettings(sampler="ancestral" if process.noisy else "alg2")
        self._preset: Preset | None = None
        if preset is not None:
            self.preset = preset
        self.channels = self.channels if channels is None else channels
        self.classes = self.classes if classes is None else classes
        self.predict = self.predict if predict is None else predict
        self.sampling = self.sampling if sampling is None else sampling
        self.name = self.name if name is None else name
        self.class_names, self.origin, self.step, self.precision = class_names, origin, step, precision
        self.terminal_prior, self.spectrum, self.lift = terminal_prior, spectrum, lift
        self.path: Path | None = None
        self._tiles: TiledNetwork | None = None
        self._told: Callable[[float], None] | None = None
        if other is not None:
            self.process = self._mixing(other)
        if self.sampling.clip_denoised and not prediction(self.predict).clips:
            raise UsageError(
                f"predict {self.predict!r} means images that leave [-1, 1]",
                hint="give sampling=SamplingSettings(clip_denoised=False)",
            )
        solved = process.noisy and process.invertible and not process.changes_resolution
        if prediction(self.predict).of_noise and not solved:
            raise UsageError(
                f"predict {self.predict!r} needs a process with noise and one size that loses nothing else",
                hint="use 'x0', or a process with one level",
            )

    @property
    def preset(self) -> Preset | None:
        """The settings that process and model were made from; setting them sets what follows from them."""
        return self._preset

    @preset.setter
    def preset(self, preset: Preset) -> None:
        self._preset, self.sampling, self.name = preset, preset.sampling, preset.name
        self.channels, self.classes = preset.data.channels, preset.model.classes
        self.predict = preset.process.predict

    def required_preset(self) -> Preset:
        """Return the preset, for what cannot do without.

        Raises:
            UsageError: the pipeline was made without one.
        """
        if self._preset is None:
            raise UsageError(
                "this needs a pipeline with a preset", hint="give Pipeline(..., preset=...), or load a model"
            )
        return self._preset

    @property
    def generates(self) -> bool:
        """Whether images come from nothing, because the process ends in noise or there is a fitted prior."""
        if self._preset is not None:
            return self._preset.generates
        return self.process.generates or self.terminal_prior is not None

    def with_other(self, other: OtherImages) -> Pipeline:
        """Return the pipeline with another second set, of animorphosis; the network is the same.

        Args:
            other: a data set (folder, zip file or name), images as in :func:`ssdiff.degrade`, or a function
                from (B,) image numbers and (C, H, W) to (B, C, H, W).

        Raises:
            UsageError: the process mixes in no images, or these have another size or other channels.
            DataError: a set that is missing, empty or damaged.
        """
        return self._with_process(self._mixing(other))

    def check_other(self) -> None:
        """Open the second set of animorphosis, before anything is written.

        Raises:
            UsageError: it is not known.
            DataError: it is missing, empty or damaged.
        """
        if self.process.morphs:
            self.process.start(torch.zeros(1, dtype=torch.int64), 0, channels=self.channels)

    def _mixing(self, other: OtherImages) -> Process:
        process = self.process
        if not process.morphs:
            raise UsageError(
                f"other (--with) is for animorphosis, {self.name} mixes no second set in", hint="leave it out"
            )
        if self._preset is not None:
            settings, seed = self._preset.data, self._preset.training.seed
        else:
            size, channels = process.states[0].resolution, self.channels
            settings, seed = DataSettings().model_copy(update={"size": size, "channels": channels}), 0
        return process.mixing(find_second_set(other, settings, seed))

    def _with_process(self, process: Process) -> Pipeline:
        pipeline = copy.copy(self)
        pipeline.process = process
        return pipeline

    def at_size(
        self,
        size: Size,
        *,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> Pipeline:
        """Return the pipeline for whole pictures of another size.

        The process is that of the preset at this size, lengths in pixels as before: a state is the whole
        picture, its noise a function of seed, image number and step as ever. The network, which knows images
        of its own size, runs on overlapping square tiles, and every prediction is blended of them before
        anything else is done with it, so that all tiles agree after each step. What draws images from nothing
        by what was fitted to training images, a terminal prior or spectra, is not carried over; linear maps
        of ``sampling.lift`` are, without what they know of places.

        Args:
            size: (H, W) of the pictures. A process with noise is built a little larger, below and on the
                right, where its resolutions or a tile need that: see ``process.states[0].size``.
            tile: pixels a side of a tile, a multiple of the model's size. Omitted: the model's size for a
                network with attention, else as large as the memory allows, up to 512.
            overlap: pixels that neighbours share, below ``tile``; a quarter of the tile where omitted, at
                most 64.

        Raises:
            UsageError: a pipeline without a preset, a process that is for one size, or a tile or an overlap
                that does not fit.
        """
        preset = self.required_preset()
        for what, number in (("height", size[0]), ("width", size[1])):
            require_whole(what, number, 1)
        states = self.process.states
        if self._tiles is not None or any(state.size[0] != state.size[1] for state in states):
            raise UsageError(
                f"{self.name} makes images that are not square of square ones, and takes no other sizes",
                hint="crop and resize the images",
            )
        native = [state.resolution for state in build_sampling_process(preset).states]
        side, at_once = choose_tile(size, native[0], self.model, self._cost, tile)
        unit = unit_of(native)
        share = min(side // 4, _OVERLAP) if overlap is None else overlap
        if not 0 <= share <= side // 2:
            raise UsageError(
                f"tiles of {side} pixels overlap by 0 to {side // 2} pixels, not {share}",
                hint="give another overlap (--overlap), or leave it out",
            )
        full = (size[0], size[1])
        if self.process.noisy:
            full = (max(side, -(-size[0] // unit) * unit), max(side, -(-size[1] // unit) * unit))
        pipeline = self._with_process(build_sampling_process(preset, full, in_pixels=True))
        pipeline.process.squares = False
        pipeline.terminal_prior = pipeline.spectrum = None
        share = -(-share // unit) * unit
        pipeline._tiles = TiledNetwork(Tiling(full, side, share, unit), native, at_once)
        return pipeline

    def watched(self, told: Callable[[float], None] | None) -> Pipeline:
        """Return the pipeline with somebody who is told how far its network is.

        Args:
            told: called with the share of one evaluation that each call was, 1 where it is the whole.
        """
        pipeline = copy.copy(self)
        pipeline._told = told
        return pipeline

    @property
    def tiling(self) -> Tiling | None:
        """Where the tiles of pictures lie, of a pipeline from :meth:`at_size`; None for the model's own."""
        return None if self._tiles is None else self._tiles.tiling

    def _cost(self) -> int:
        """Bytes that the network's activations take for one image of its own size, about."""
        t, size = 1, self.process.states[1].size
        x = torch.zeros(1, self.channels, *size, device=self.device)
        return activation_bytes(self.model, lambda: self.predict_x0(x, t))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        weights = next(self.model.parameters(), next(self.model.buffers(), None))
        return torch.device("cpu") if weights is None else weights.device

    @torch.no_grad()
    def predict_x0(self, x_t: Tensor, t: int, labels: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Predict the clean image that the network sees in x_t, one timestep down.

        Args:
            x_t: (B, C, r_t, r_t) at timestep ``t``, 1..T.
            t: timestep.
            labels: (B,) classes; the unconditional class where omitted.
            guidance: weight of the class, 1 is plain conditioning [Ho & Salimans 2022; docs/math.md, equation
                (36)]; it counts within ``sampling.guidance_interval``.

        Returns:
            (B, C, r_{t-1}, r_{t-1}) about [-1, 1], clamped to it if ``sampling.clip_denoised`` says so.

        Raises:
            UsageError: for a timestep out of range, or images or labels that do not fit.
        """
        self._check_timestep(t)
        x_t = self._images("x_t", x_t, t)
        labels = self._labels(labels, len(x_t), most=self.classes)
        labels = labels if labels is None else labels.to(self.device)
        if guidance != 1.0 and not self.classes:
            raise UsageError("guidance needs a class-conditional model", hint="leave guidance out")
        guided = None if guidance == 1.0 else guided_timesteps(self.process, self.sampling)
        return self._predict(x_t, t, labels, guidance if guided is None or t in guided else 1.0)

    def _predict(self, x_t: Tensor, t: int, labels: Tensor | None, guidance: float) -> Tensor:
        """The clean image, of arguments that fit; no step of a sampler waits for a check of labels."""
        if labels is not None and guidance != 1.0:
            # x^ = x^_none + g (x^_class - x^_none)
            blank = self._network(x_t, t, self._no_class(x_t))
            clean = torch.lerp(blank, self._network(x_t, t, labels), guidance)
        else:
            clean = self._network(x_t, t, self._no_class(x_t) if labels is None else labels)
        return clean.clamp(-1, 1) if self.sampling.clip_denoised else clean

    def _predict_noise(self, x_t: Tensor, t: int, labels: Tensor | None, guidance: float) -> Tensor:
        """The noise, of arguments that fit; the network's own where its clean image needs no clipping."""
        meant = prediction(self.predict)
        if not meant.of_noise:
            return self.process.noise_from_clean(x_t, self._predict(x_t, t, labels, guidance), t)
        output = self._output(x_t, t, self._no_class(x_t) if labels is None else labels)
        if labels is not None and guidance != 1.0:
            output = torch.lerp(self._output(x_t, t, self._no_class(x_t)), output, guidance)
        noise = meant.noise(self.process, x_t, output, t)
        if not self.sampling.clip_denoised:
            return noise
        clean = meant.clean(self.process, x_t, output, t)
        a, sigma = self.process.coefficients(t, x_t)
        # What is cut off the clean image is noise: x_t = a clean + sigma noise still holds.
        return noise + self.process.synthesis(a * self.process.analysis(clean - clean.clamp(-1, 1)) / sigma)

    def _no_class(self, x: Tensor) -> Tensor | None:
        """(B,) of the class that stands for none; None for a network without classes."""
        return torch.full((len(x),), self.classes, device=x.device) if self.classes else None

    def _network(self, x_t: Tensor, t: int, labels: Tensor | None) -> Tensor:
        output = self._output(x_t, t, labels)
        if self.lifts(t):
            if self.lift is None:
                raise UsageError(
                    "sampling.lift = 'linear' needs maps that are fitted in training",
                    hint="fit them by ssdiff train --resume RUN --set sampling.lift=linear, or set it "
                    "to 'network'",
                )
            side = None if self._tiles is None else self._tiles.native[t]
            output = self.lift.enlarge(output, side).to(x_t.dtype)
        return prediction(self.predict).clean(self.process, x_t, output, t)

    def lifts(self, t: int) -> bool:
        """Return whether a step from t to a larger size is one of the linear map, not of the network."""
        states = self.process.states
        return states[t].size != states[t - 1].size and self.sampling.lift == "linear"

    def _output(self, x_t: Tensor, t: int, labels: Tensor | None) -> Tensor:
        weight, given = next(self.model.parameters(), x_t), self.process.network_input(x_t, t)
        given = given.to(weight.dtype) if weight.is_floating_point() else given
        below = t if self.lifts(t) else t - 1
        then = self.process.states[below]
        if self._tiles is None:
            output = self._call(given, t, labels, then.resolution)
            if self._told is not None:
                self._told(1.0)
            return self.process.network_output(output.to(x_t.dtype), t)
        native = self._tiles.native[t], self._tiles.native[below]

        def call(tiles: Tensor, wanted: int) -> Tensor:
            copies = len(tiles) // len(x_t)
            return self._call(tiles, t, labels if labels is None else labels.repeat(copies), wanted, native)

        output = self._tiles.run(call, given, t, then.size, self._told, below)
        return self.process.network_output(output.to(x_t.dtype), t)

    def _call(
        self, x: Tensor, t: int, labels: Tensor | None, side: int, native: tuple[int, int] | None = None
    ) -> Tensor:
        """The network on squares; ``native`` are the sides now and then of images of the model's own size."""
        index = torch.full((len(x),), t - 1, device=x.device)
        # A Flexi-UNet takes the size of an image for its resolution, unless it is told.
        told = native not in (None, (x.shape[-1], side)) and _chooses(self.model)
        known = {"native": native} if told else {}
        with autocast(x.device, self.precision):
            output: Tensor = self.model(x, index, side, labels, **known)
        expected = (*x.shape[:2], side, side)
        if tuple(output.shape) != expected:
            raise UsageError(
                f"the network makes {tuple(output.shape)} of timestep {t}, not {expected}",
                hint="its output has the size of timestep t - 1, which it is given as `resolution`",
            )
        return output

    def plan(
        self,
        steps: Steps | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        t: int | None = None,
    ) -> Plan:
        """Return timesteps and step rule of sampling options, as :func:`ssdiff.sampling.plan.plan_for`."""
        return plan_for(self.process, self.sampling, steps, sampler, eta, guidance, t, classes=self.classes)

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
        """Yield the states of sampling: (t, x_t) first, then one (s, x_s) a step, down to (0, x_0).

        Args:
            images: (B,) image numbers on the pipeline's device; with the seed they decide all noise, so an
                image is the same in any batch.
            plan: from :meth:`plan`.
            seed: any integer.
            labels: (B,) classes.
            x: (B, C, h, w) at the plan's first timestep; drawn where omitted.
            refine: makes predictions agree with what is known of the clean images; nothing is renoised or
                corrected then.

        Raises:
            UsageError: for numbers, labels or images that do not fit.
        """
        top, images = plan.timesteps[0], self._numbers(images)
        self._check_timestep(top)
        labels = self._labels(labels, len(images), most=self.classes)
        given = labels if labels is None else labels.to(self.device)
        key = rng.derive(seed, "sample")

        def draw(timestep: int, shape: tuple[int, ...]) -> Tensor:
            return rng.normal(key, images, timestep, shape)

        @torch.no_grad()
        def predict(x_t: Tensor, t: int) -> Tensor:
            return self._predict(x_t, t, given, plan.guidance_at(t))

        @torch.no_grad()
        def predict_noise(x_t: Tensor, t: int) -> Tensor:
            return self._predict_noise(x_t, t, given, plan.guidance_at(t))

        x = self._begin(images, seed, top, draw) if x is None else self._images("x", x, top, len(images))
        yield top, x
        walked = SAMPLERS.get(plan.sampler)(
            Walk(
                self.process,
                refine(predict) if refine else predict,
                x,
                plan.timesteps,
                draw,
                plan.eta,
                degradation_streams(images, seed),
                None if refine else self._renoise(plan, images, seed),
                None if refine else predict_noise,
                plan.variance,
                None if refine else self._correct(plan),
            )
        )
        for s in plan.timesteps[1:]:
            yield s, self._state(next(walked, None), s, len(images), plan.sampler)

    def _state(self, found: object, s: int, count: int, sampler: str) -> Tensor:
        """x_s as a sampler, perhaps a plugin's, yields it with s."""
        shape = (count, self.channels, *self.process.states[s].size)
        match found:
            case (int(timestep), Tensor() as x) if timestep == s and tuple(x.shape) == shape:
                return x
            case (int(timestep), Tensor() as x):
                said = f"images {tuple(x.shape)} of timestep {timestep}"
            case _:
                said = "nothing" if found is None else f"a {type(found).__name__}"
        raise UsageError(
            f"sampler {sampler} yields {said}, where images {shape} of timestep {s} are due",
            hint="yield (s, x_s) for each `t, s in walk.steps`",
        )

    def _renoise(self, plan: Plan, images: Tensor, seed: int) -> Renoise | None:
        """High frequencies with the spectra of the training images, if the settings ask for them."""
        process, spectrum = self.process, self.spectrum
        sizes = {process.states[s].size for s in plan.timesteps if s > 0}
        if self.sampling.renoise == "none" or len(sizes) == 1 or self._tiles is not None:
            return None
        if spectrum is None:
            raise UsageError(
                "sampling.renoise = 'spectral' needs spectra that are taken in training",
                hint="train with it, or set it to 'none'",
            )
        key = rng.derive(seed, "sample/details")
        return lambda t, s: spectrum.draw(process, t, s, key, images)

    def _correct(self, plan: Plan) -> Correct | None:
        """What steps lose of the training images' variance, given back if the settings ask for it."""
        share, spectrum = plan.correction, self.spectrum
        if not share or self._tiles is not None:
            return None
        if spectrum is None or spectrum.mean is None:
            raise UsageError(
                "sampling.correction needs spectra that are taken in training",
                hint=f"resume its run by ssdiff train --resume RUN --set sampling.correction={share:g}, or "
                "set it to 0",
            )
        return lambda x, t, s: spectrum.correct(self.process, x, t, s, plan.eta, share)

    def _begin(self, images: Tensor, seed: int, top: int, draw: Noise) -> Tensor:
        """The most degraded state of an image that does not exist yet."""
        if self.terminal_prior is not None:
            state, settings = self.process.states[top], self.sampling.terminal_prior
            coarse = self.terminal_prior.draw(rng.derive(seed, "sample/start"), images)
            spread = state.sigma + (settings.noise if settings else 0.0)
            return coarse + spread * draw(top, (self.channels, *state.size))
        if self.process.generates:
            x = self.process.start(images, seed, channels=self.channels, t=top)
            return self._disturbed(x, top, draw)
        if self.sampling.terminal_prior is not None:
            raise UsageError(
                f"{self.name} begins at degraded images, which released weights do not come with",
                hint="import them with --data SET (data=... from Python), or use `ssdiff restore IMAGE`",
            )
        raise UsageError(
            f"{self.name} is a restoration model and cannot sample unconditionally",
            hint="use `ssdiff restore IMAGE`",
        )

    def _disturbed(self, x: Tensor, top: int, draw: Noise) -> Tensor:
        """The first state of a cold process with the extra noise that the settings ask for, or as it is."""
        std = self.sampling.start_noise
        return x + std * draw(top, tuple(x.shape[1:])) if std else x

    def degrade(self, x0: Tensor, t: int, *, seed: int = 0, images: Tensor | None = None) -> Tensor:
        """Return x_t of clean images, noise and signal scale included, as :meth:`restore` takes it.

        Args:
            x0: (B, C, R, R) in [-1, 1].
            t: timestep, 1..T.
            seed: as in :meth:`restore`; the same seed and image numbers make the same random degradation.
            images: (B,) image numbers; 0..B-1 where omitted.

        Returns:
            (B, C, r_t, r_t) on the pipeline's device.

        Raises:
            UsageError: for a timestep out of range, or images of another shape or range.
        """
        self._check_timestep(t)
        clean = self._images("x0", x0, 0)
        check_range(clean, "x0", clean=False)
        return self.process.corrupt(clean, t, self._numbers(images, len(clean)), seed)

    def restore(
        self,
        x_t: Tensor,
        t: int | None = None,
        sampler: str | None = None,
        *,
        steps: Steps | None = None,
        eta: float | None = None,
        seed: int = 0,
        images: Tensor | None = None,
        labels: Sequence[int] | Tensor | None = None,
        guidance: float | None = None,
        at_start: bool | None = None,
        other: OtherImages | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Return clean images of degraded ones.

        Where noise or another image z is mixed in, ``alg1`` and ``alg2`` need it: it is that of the image
        numbers, which :meth:`degrade` mixed in, or ``x_t`` itself (``at_start``). ``ddim`` solves for it.

        Args:
            x_t: (B, C, h_t, w_t) at timestep ``t`` of the process, noise and signal scale included.
            t: timestep; T where omitted.
            sampler: as in :meth:`plan`.
            steps: as in :meth:`plan`; all timesteps of a cold process where omitted.
            eta: as in :meth:`plan`.
            seed: of the noise, and of a random degradation.
            images: (B,) image numbers; 0..B-1 where omitted. A random degradation draws by them, so give
                those by which ``x_t`` was degraded.
            labels: one class an image; the class that stands for none where omitted.
            guidance: weight of the class, with ``labels``; the preset's where omitted.
            at_start: whether ``x_t`` is what is mixed in, noise or images of the second set, as generation
                begins; omitted, images of animorphosis without numbers are at T.
            other: another second set, as in :meth:`with_other`.
            progress: called as progress("restoring", done, B).

        Returns:
            (B, C, R, R) float32 on the CPU in [-1, 1].

        Raises:
            UsageError: for options out of range, or images of another shape or range.
        """
        pipeline = self if other is None else self.with_other(other)
        if labels is None and guidance is not None:
            raise UsageError(
                "guidance weighs a class, and none was given", hint="give labels, or leave it out"
            )
        weight = 1.0 if labels is None else guidance
        plan = self.plan(steps, sampler, eta, weight, t=self.process.T if t is None else t)
        top = plan.timesteps[0]
        given = self._images("x_t", x_t, top)
        check_range(given, "x_t", clean=False)
        numbers = self._numbers(images, len(given))
        classes = self._labels(labels, len(given), most=self.classes)
        if at_start is None:
            at_start = self.process.morphs and images is None and top == self.process.T
        if at_start:
            pipeline, given = pipeline._begun(given, top, numbers, seed)
        count = Counter(progress, "restoring", len(given), steps=plan.evaluations)
        for timestep, x in pipeline.walk(numbers, plan, seed, classes, x=given):
            if timestep < top:
                count(len(x))
        return x.clamp(-1, 1).float().cpu()

    def _begun(self, x: Tensor, top: int, numbers: Tensor, seed: int) -> tuple[Pipeline, Tensor]:
        """The pipeline that mixes x in, and x as generation begins with it."""
        key = rng.derive(seed, "sample")
        start = self._disturbed(x, top, lambda t, shape: rng.normal(key, numbers, t, shape))
        return self._with_process(self.process.mixing(x)), start

    def sample(
        self,
        n: int,
        steps: Steps | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        seed: int = 0,
        *,
        batch: int | None = None,
        labels: Sequence[int] | Tensor | None = None,
        guidance: float | None = None,
        first: int = 0,
        t: int | None = None,
        other: OtherImages | None = None,
        output: Output = "pt",
        progress: Progress | None = None,
    ) -> Any:
        """Draw images number ``first`` to ``first + n - 1`` of a seed.

        They begin at the terminal prior: noise, what is fitted to the training images, or (animorphosis) an
        image of the second set, each chosen by image number.

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
            t: timestep to begin at; T where omitted.
            other: another second set, as in :meth:`with_other`.
            output: ``"pt"`` for a tensor, ``"pil"`` for Pillow images, ``"np"`` for an array of bytes.
            progress: called as progress("sampling", done, n).

        Returns:
            (n, C, R, R) float32 on the CPU in [-1, 1]; or :class:`ssdiff.images.Pictures`, a list that a
            notebook shows as a grid; or (n, R, R, C) uint8.

        Raises:
            UsageError: for options out of range, or a model that cannot sample.
        """
        check_counts(n, first, batch)
        check_output_form(output)
        pipeline = self if other is None else self.with_other(other)
        plan = self.plan(steps, sampler, eta, guidance, t)
        size = self.sampling.batch if batch is None else batch
        numbers = torch.arange(first, first + n)
        chosen = self.choose_labels(numbers, labels)
        result = torch.empty(n, self.channels, *self.process.states[0].size)
        count = Counter(progress, "sampling", n, steps=plan.evaluations)
        for start in range(0, n, size):
            part = slice(start, start + size)
            images = numbers[part].to(self.device)
            given = None if chosen is None else chosen[part].to(self.device)
            for timestep, x in pipeline.walk(images, plan, seed, given):
                if timestep < plan.timesteps[0]:
                    count(len(images))
                if timestep == 0:
                    result[part] = x.clamp(-1, 1).cpu()
        return to_output(result, output)

    def choose_labels(self, numbers: Tensor, labels: Sequence[int] | Tensor | None = None) -> Tensor | None:
        """Return (n,) classes: the given ones, checked, or in turn by number; None for a model without."""
        if labels is None:
            return numbers % self.classes if self.classes else None
        return self._labels(labels, len(numbers), most=self.classes - 1)

    def class_numbers(self, given: Sequence[str | int] | None) -> list[int] | None:
        """Return the numbers of classes given by name, or else by number; None for none.

        Raises:
            UsageError: the model has none, or not this one.
        """
        if not given:
            return None
        count, names = self.classes, list(self.class_names)
        if not count:
            raise UsageError("this model has no classes", hint="leave --class out")
        result = []
        for word in (str(part).strip() for part in given):
            if word in names:  # before numbers, which are names in many sets
                result.append(names.index(word))
            elif word.isascii() and word.isdecimal() and len(word) < 10 and int(word) < count:
                result.append(int(word))
            else:
                known = did_you_mean(word, names) if names else f"choose from 0..{count - 1}"
                raise UsageError(f"unknown class {word!r}", hint=known)
        return result

    @property
    def knows_no_class(self) -> bool:
        """Whether the network was trained without the class of some images, or knows none at all."""
        return not self.classes or self._preset is None or self._preset.training.label_dropout > 0

    def _check_timestep(self, t: object) -> None:
        if isinstance(t, bool) or not isinstance(t, int) or not 1 <= t <= self.process.T:
            raise UsageError(f"timestep {t} is outside 1..{self.process.T}")

    def _images(self, name: str, x: Any, t: int, count: int | None = None) -> Tensor:
        """Images at a timestep, on the network's device."""
        size = self.process.states[t].size
        expected = f"({'B' if count is None else count}, {self.channels}, {size[0]}, {size[1]})"
        if not isinstance(x, Tensor):
            raise UsageError(
                f"{name} must be a tensor of shape {expected}, not a {type(x).__name__}",
                hint="make it one with values in [-1, 1]",
            )
        if x.ndim != 4 or tuple(x.shape[1:]) != (self.channels, *size) or count not in (None, len(x)):
            raise UsageError(
                f"images at timestep {t} are {expected}, not {tuple(x.shape)}",
                hint=f"resize {name}, or give another timestep",
            )
        if not x.is_floating_point():
            raise UsageError(
                f"{name} must be floats in [-1, 1], not {str(x.dtype).removeprefix('torch.')}",
                hint="bytes become floats by x / 127.5 - 1",
            )
        if x.is_meta:
            raise UsageError(f"{name} is on the device meta and has no values", hint="load its values")
        return x.to(self.device)

    def _numbers(self, images: Any, count: int | None = None) -> Tensor:
        """(B,) image numbers on the network's device."""
        if images is None and count is not None:
            images = torch.arange(count)
        if not isinstance(images, Tensor) or images.ndim != 1 or not _whole(images):
            raise UsageError("images must be a tensor of (B,) image numbers", hint="give torch.arange(B)")
        if count not in (None, len(images)):
            raise UsageError(f"{len(images)} image numbers for {count} images", hint="give one an image")
        return images.to(self.device)

    def _labels(self, labels: Any, count: int, most: int) -> Tensor | None:
        """(count,) classes within 0..most; None where none are given."""
        if labels is None:
            return None
        if not self.classes:
            raise UsageError("this model has no classes", hint="leave --class out")
        try:
            chosen = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError):
            chosen = torch.empty(0, 0)
        fits = chosen.shape == (count,) and (_whole(chosen) or not count) and not chosen.is_meta
        if not fits or (count and (int(chosen.min()) < 0 or int(chosen.max()) > most)):
            raise UsageError(f"labels must be {count} classes in 0..{self.classes - 1}")
        return chosen.to(torch.int64)


def _chooses(network: nn.Module) -> bool:
    """Whether a network's layers depend on the resolution."""
    return isinstance(network, FlexiUNet | BranchedUNet)


def _check_parts(process: object, model: object) -> None:
    """Refuse what is no process or no network, e.g. both in the other order."""
    for part, kind, name in ((process, Process, "process"), (model, nn.Module, "model")):
        if not isinstance(part, kind):
            raise UsageError(
                f"the {name} of a pipeline is a {kind.__name__}, not a {type(part).__name__}",
                hint="write Pipeline(process, model, preset=preset)",
            )


def _whole(numbers: Tensor) -> bool:
    return not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)


_MOST_IMAGES = 2**53  # numbers up to here are exact in JSON, and leave room for what is added to them


def check_counts(n: object, first: object = 0, batch: object = None) -> None:
    """Refuse numbers of images that make no sense.

    Raises:
        UsageError: then.
    """
    require_whole("n", n, 1, _MOST_IMAGES)
    require_whole("first", first, 0, _MOST_IMAGES)
    if batch is not None:
        require_whole("batch", batch, 1)
