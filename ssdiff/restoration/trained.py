"""The degradation that a model was trained for, from a timestep down."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.images.picture import Form
from ssdiff.operators.base import Size
from ssdiff.pipeline import Pipeline
from ssdiff.restoration.condition import choose_condition
from ssdiff.restoration.options import Options, Told, check_tile
from ssdiff.sampling.registry import SAMPLERS
from ssdiff.tiling import mirrored


class Trained:
    """The model's own degradation, from timestep t down.

    Pictures of another size than the model's are whole states of the process at their size. Where a
    process with noise is a little larger, they are continued by their mirror image and cut in the end.

    Args:
        pipeline: any model.
        t: timestep; T where omitted.
        options: of the sampler.
        given: the images are degraded already. What is mixed into them is then not known: at T it is the
            image itself, as where generation begins, below T only ``ddim`` and ``direct`` can do without it.
    """

    granule = 1
    as_stored = False

    def __init__(self, pipeline: Pipeline, t: int | None, options: Options, *, given: bool = False) -> None:
        self._own = self._pipeline = pipeline
        self._options, self._condition = options, choose_condition(pipeline, options)
        self.notes: list[str] = []
        if self._condition.classes is None and not pipeline.knows_no_class:
            why = "(training.label_dropout = 0), and none is known here"
            self.notes.append(f"{pipeline.name} was trained with the class of every image {why}")
        self._t = pipeline.plan(t=pipeline.process.T if t is None else t).timesteps[0]
        mixes = not pipeline.process.noisy and pipeline.process.has_posterior
        self._given = given
        if not given:
            pipeline.check_other()
        self._at_start = given and mixes and self._t == pipeline.process.T
        self._unknown = given and mixes and not self._at_start
        self.full, self.channels = pipeline.process.states[0].size, pipeline.channels
        if not pipeline.process.noisy:
            if options.draws > 1:
                raise UsageError("a cold model restores an image in one way only", hint="leave --draws out")
            algorithms = () if self._unknown else ("alg2", "alg1")
            self.samplers: tuple[str, ...] = (*algorithms, *(("ddim",) if mixes else ()), "direct")
        else:
            full = pipeline.process.states[self._t - 1].size == pipeline.process.states[0].size
            self.samplers = ("ancestral", "ddim", *(["direct"] if full else []))

    @property
    def size(self) -> Size:
        """(h, w) of the degraded images."""
        native, now = (self._own.process.states[s].size for s in (0, self._t))
        height, width = (-(-n * side // whole) for n, side, whole in zip(self.full, now, native, strict=True))
        return height, width

    def full_of(self, size: Size) -> Size:
        """Return (H, W) of the restored pictures of degraded ones of (h, w)."""
        native, now = (self._own.process.states[s].size for s in (0, self._t))
        height, width = (n * whole // side for n, side, whole in zip(size, now, native, strict=True))
        return height, width

    def at(self, full: Size) -> Trained:
        """Return the same for pictures of (H, W) pixels.

        Raises:
            UsageError: the process, or a tile, cannot be had at that size.
        """
        if full == self._own.process.states[0].size:
            return self
        if not self._given and self._own.process.morphs:
            raise UsageError(
                "animorphosis turns images of the model's size into others",
                hint="leave --whole out; images that are given at T may have any size",
            )
        check_tile(full, self._options)
        method = copy.copy(self)
        method.full = full
        method._pipeline = self._own.at_size(full, tile=self._options.tile, overlap=self._options.overlap)
        return method

    def of(self, form: Form, name: str) -> Trained:
        """Return itself: no file says what was done to its picture."""
        return self

    def check(self, sampler: str) -> None:
        """Refuse a sampler that needs what is mixed into the images, if nobody knows it.

        Raises:
            UsageError: then.
        """
        if self._unknown and sampler in ("alg1", "alg2"):
            raise UsageError(
                f"{sampler} needs what is mixed into the images, which is known at t = "
                f"{self._pipeline.process.T} only, not at {self._t}",
                hint=f"choose one of {', '.join(self.samplers)}",
            )

    def evaluations(self, sampler: str | None) -> int:
        """Return how often the network is asked in one restoration."""
        options, guidance = self._options, self._condition.guidance
        plan = self._pipeline.plan(options.steps, sampler, self._eta(sampler), guidance, self._t)
        return plan.network_evaluations * options.draws

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Return x_t, noise and signal scale included."""
        whole = mirrored(clean, *self._pipeline.process.states[0].size)
        return self._pipeline.degrade(whole, self._t, seed=self._options.seed, images=numbers)

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Return the images scaled, and with the noise that a state has."""
        process, device = self._pipeline.process, self._pipeline.device
        whole = mirrored(given.to(device), *process.states[self._t].size)
        return process.from_degraded(whole, self._t, numbers.to(device), self._options.seed)

    def baseline(self, degraded: Tensor) -> Tensor:
        """Return the images without the signal scale, pixels repeated."""
        process = self._pipeline.process
        unscaled = degraded.cpu() / process.states[self._t].signal
        return self._cut(F.interpolate(unscaled, process.states[0].size, mode="nearest-exact"))

    def restore(
        self, degraded: Tensor, numbers: Tensor, sampler: str | None, told: Told | None = None
    ) -> Tensor:
        """Return images sampled down from t."""
        options, pipeline = self._options, self._pipeline.watched(told)
        labels = self._condition.labels(numbers)
        restored = options.mean(
            lambda seed: pipeline.restore(
                degraded,
                self._t,
                sampler,
                steps=options.steps,
                eta=self._eta(sampler),
                seed=seed,
                images=numbers,
                labels=labels,
                guidance=None if labels is None else self._condition.guidance,
                at_start=self._at_start,
            )
        )
        return self._cut(restored)

    def _eta(self, sampler: str | None) -> float | None:
        return self._options.eta if sampler is None or SAMPLERS.get(sampler).takes_eta else None

    def _cut(self, x: Tensor) -> Tensor:
        return x[..., : self.full[0], : self.full[1]]
