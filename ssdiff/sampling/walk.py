"""What a sampler gets: a process, predictions of a network, a chain of timesteps, noise by image number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.process.base import Process

Predict: TypeAlias = "Callable[[Tensor, int], Tensor]"
"""x_t and t to the clean image at the size of timestep t - 1."""
Noise: TypeAlias = "Callable[[int, tuple[int, ...]], Tensor]"
"""Timestep and (C, h, w) to (B, C, h, w) standard normal noise."""
Renoise: TypeAlias = "Callable[[int, int], Tensor]"
"""t and s of a resolution transition to (B, C, h_s, w_s) high frequencies that x_s gains."""
Correct: TypeAlias = "Callable[[Tensor, int, int], Tensor]"
"""x_s, t and s of one size to x_s with the variance that the step lost."""
Variance: TypeAlias = Literal["posterior", "fixed_large"]
"""Of the fresh noise of an ancestral step."""


@dataclass(frozen=True, eq=False)
class Walk:
    """One batch on its way down a chain of timesteps.

    Attributes:
        process: gives posteriors or degradations.
        predict: the network, (x_t, t) to the clean image at the size of t - 1, which is that of s.
        x: (B, C, h, w) at ``timesteps[0]``.
        timesteps: decreasing, down to 0, each resolution transition kept, as from
            :func:`ssdiff.schedules.resolution.respace`.
        noise: fresh noise for a timestep, a function of image numbers and seed; ask for it once a timestep.
        eta: share of fresh noise: 1 is ancestral, 0 is DDIM.
        images: (B,) numbers by which a random degradation draws, the same along the chain.
        renoise: high-frequency renoising, or None.
        noise_prediction: the network, (x_t, t) to the noise that it sees in x_t; None to take it from
            ``predict``.
        correct: gives a step at one size back the variance that it loses, or None.
        variance: of the fresh noise; ``fixed_large`` needs a process of one size and eta = 1.
    """

    process: Process
    predict: Predict
    x: Tensor
    timesteps: Sequence[int]
    noise: Noise
    eta: float = 0.0
    images: Tensor | None = None
    renoise: Renoise | None = None
    noise_prediction: Predict | None = None
    variance: Variance = "posterior"
    correct: Correct | None = None

    @property
    def steps(self) -> Iterator[tuple[int, int]]:
        """Pairs (t, s) of neighbouring timesteps, t > s, the last of them with s = 0."""
        return itertools.pairwise(self.timesteps)

    def same_size(self, t: int, s: int) -> bool:
        """Return whether a step is no resolution transition."""
        return self.process.states[t].size == self.process.states[s].size

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        """Return the (B, C, h, w) noise that the network sees in x_t, of a process of one size.

        Args:
            x: (B, C, h, w), x_t.
            t: timestep of ``x``.
        """
        if self.noise_prediction is not None:
            return self.noise_prediction(x, t)
        return self.process.noise_from_clean(x, self.predict(x, t), t)

    def step(self, x: Tensor, clean: Tensor, t: int, s: int, eta: float | None = None) -> Tensor:
        """Return x_s = mu_s + B (x_t - M mu_s) + C^{1/2} eps [docs/math.md, equation (12)].

        At a resolution transition high frequencies are added, if the walk has any [docs/math.md, equation
        (29)]. The step to 0 returns ``clean``. With the variance ``fixed_large`` the noise has that of the
        transition from s to t [docs/math.md, section 4].

        Args:
            x: (B, C, h_t, w_t), x_t.
            clean: (B, C, h_s, w_s), a prediction of the clean image; mu_s = a_s clean.
            t: timestep of ``x``.
            s: timestep wanted.
            eta: share of fresh noise; the walk's where omitted.
        """
        eta = self.eta if eta is None else eta
        same_size = self.same_size(t, s)
        posterior = self.process.posterior(x, clean, t, s, eta)
        # Where nothing is random no noise is drawn; what x_t does not see, as of a larger grid, always is.
        random = s > 0 and (eta > 0 or not same_size or self.process.refreshes)
        if random and self.variance == "fixed_large":
            large = self.process.transition_deviation(t, s)
            return posterior.mean + large * self.noise(s, tuple(clean.shape[1:]))
        x = posterior.sample(self.noise(s, tuple(clean.shape[1:]))) if random else posterior.mean
        if self.renoise and s > 0 and not same_size:
            x = x + self.renoise(t, s)
        return x
