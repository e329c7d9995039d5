"""The degradation that a model was trained for, from a timestep down."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import UsageError
from ssdiff.pipeline import Pipeline
from ssdiff.restoration.options import Options
from ssdiff.sampling.registry import SAMPLERS


class Trained:
    """The model's own degradation, from timestep t down.

    Args:
        pipeline: any model.
        t: timestep; T where omitted.
        options: of the sampler.
        given: the images are degraded already. What is mixed into them is then not known: at T it is the
            image itself, as where generation begins, below T only ``ddim`` and ``direct`` can do without it.
    """

    def __init__(self, pipeline: Pipeline, t: int | None, options: Options, *, given: bool = False) -> None:
        self._pipeline, self._options = pipeline, options
        self._t = pipeline.plan(t=pipeline.process.T if t is None else t).timesteps[0]
        mixes = not pipeline.process.noisy and pipeline.process.has_posterior
        if not given:
            pipeline.check_other()
        self._at_start = given and mixes and self._t == pipeline.process.T
        self._unknown = given and mixes and not self._at_start
        self.size, self.channels = pipeline.process.states[self._t].size, pipeline.channels
        if not pipeline.process.noisy:
            if options.draws > 1:
                raise UsageError("a cold model restores an image in one way only", hint="leave --draws out")
            algorithms = () if self._unknown else ("alg2", "alg1")
            self.samplers: tuple[str, ...] = (*algorithms, *(("ddim",) if mixes else ()), "direct")
        else:
            full = pipeline.process.states[self._t - 1].size == pipeline.process.states[0].size
            self.samplers = ("ancestral", "ddim", *(["direct"] if full else []))

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

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Return x_t, noise and signal scale included."""
        return self._pipeline.degrade(clean, self._t, seed=self._options.seed, images=numbers)

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Return the images scaled, and with the noise that a state has."""
        process, device = self._pipeline.process, self._pipeline.device
        return process.from_degraded(given.to(device), self._t, numbers.to(device), self._options.seed)

    def baseline(self, degraded: Tensor) -> Tensor:
        """Return the images without the signal scale, pixels repeated."""
        full = self._pipeline.process.states[0].size
        unscaled = degraded.cpu() / self._pipeline.process.states[self._t].signal
        return F.interpolate(unscaled, full, mode="nearest-exact")

    def restore(self, degraded: Tensor, numbers: Tensor, sampler: str | None) -> Tensor:
        """Return images sampled down from t."""
        options = self._options
        eta = options.eta if sampler is None or SAMPLERS.get(sampler).takes_eta else None
        return options.mean(
            lambda seed: self._pipeline.restore(
                degraded,
                self._t,
                sampler,
                steps=options.steps,
                eta=eta,
                seed=seed,
                images=numbers,
                at_start=self._at_start,
            )
        )
