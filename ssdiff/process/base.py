"""What a forward process is: a chain of states, a degradation, and what samplers and training ask of them."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.operators.base import Size
from ssdiff.operators.factored import Factored
from ssdiff.operators.separable import Separable
from ssdiff.sampling.registry import samplers

Timestep = int | Tensor
"""One timestep, or (B,) timesteps of one size."""
Other = Callable[[Tensor, tuple[int, ...]], Tensor]
"""Image numbers (B,) and (C, h, w) to (B, C, h, w): what an image is mixed with."""


@dataclass(frozen=True, slots=True)
class State:
    """The process at one timestep: x_t = signal * R x_0 + sigma * eps, R the resize to ``size``."""

    size: Size  # (height, width), pixels
    signal: float  # a_t, no unit
    sigma: float  # noise standard deviation, in units of the [-1, 1] image

    @property
    def resolution(self) -> int:
        """Pixels a side of the images that a network sees: the longer side."""
        return max(self.size)

    @property
    def snr(self) -> float:
        """(a_t / sigma_t)^2, infinite for the clean image."""
        return (self.signal / self.sigma) ** 2 if self.sigma else float("inf")


@dataclass(frozen=True, slots=True)
class Posterior:
    """p(x_s | x_t, x_0) = N(mean, C), a normal distribution over (B, C, h_s, w_s)."""

    mean: Tensor
    root: Callable[[Tensor], Tensor]  # applies C^{1/2}, symmetric, to a batch at the size of s

    def sample(self, noise: Tensor) -> Tensor:
        """Return mean + C^{1/2} noise, for standard normal ``noise`` of the mean's shape."""
        return self.mean + self.root(noise)


@dataclass(frozen=True, slots=True)
class ResolutionLevel:
    """The timesteps at one resolution.

    Attributes:
        resolution: pixels a side; the longer one where they differ.
        first: the first timestep of it.
        last: the last one.
        log_snr: of the first and of the last; None where there is no noise.
        size: (height, width) where they differ; None for squares.
    """

    resolution: int
    first: int
    last: int
    log_snr: tuple[float | None, float | None]
    size: Size | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "resolution": self.resolution,
            **({"size": list(self.size)} if self.size else {}),
            "first": self.first,
            "last": self.last,
            "log_snr": list(self.log_snr),
        }


class Process(ABC):
    """A forward process x_0, ..., x_T: what training, samplers and analysis ask of one.

    Of x_t = A_t x_0 + n_t a subclass gives the states and D(x_0, t), that is A_t x_0 without its scale.
    A noisy one gives its marginal and its posterior too; training, the samplers and restoration are then had
    for nothing. The defaults are those of images whose size never changes, with the signal and the noise of
    the states. What a process cannot do raises a ProcessError that says so.

    Attributes:
        states: sizes, signals and noise of t = 0..T; state 0 is the clean image.
        noisy: whether x_t has Gaussian noise of its own: then there are marginals, posteriors and an eta.
        isotropic: whether a state is one signal and one noise for all frequencies, apart from a resize.
        coloured: whether signal and noise share the variance of each coefficient, as in blur diffusion, so
            that there is a step :meth:`unsharp`.
        invertible: whether the clean image at the size of x_t follows from x_t and its noise, so that a
            network may predict the noise.
        refreshes: whether a step draws fresh noise at one size too, whatever eta: for what x_t does not see.
        squares: whether a network sees images whose sides differ as squares, as it was trained to.

    Shapes:
        x0 is (B, C, H, W) in [-1, 1], x_t is (B, C, h_t, w_t) with (h_t, w_t) = ``states[t].size``.
    """

    states: tuple[State, ...]
    noisy: bool = True
    isotropic: bool = False
    coloured: bool = False
    invertible: bool = True
    refreshes: bool = False
    squares: bool = True

    @property
    def T(self) -> int:
        """The highest timestep (of a cold process: severity)."""
        return len(self.states) - 1

    @property
    def changes_resolution(self) -> bool:
        """Whether there is a resolution transition."""
        return any(state.size != self.states[0].size for state in self.states)

    @property
    def generates(self) -> bool:
        """Whether p(x_T) can be drawn, so that images come from nothing."""
        return self.noisy

    @property
    def morphs(self) -> bool:
        """Whether images turn into those of a second set, where generation begins [CD, section 5.2]."""
        return False

    @property
    def has_posterior(self) -> bool:
        """Whether p(x_s | x_t, x_0) exists, or what is left of it without fresh noise."""
        return self.noisy

    def samplers(self) -> tuple[str, ...]:
        """Return the names of the samplers that fit, as :func:`ssdiff.samplers`."""
        return samplers(self)

    # The forward process.

    @abstractmethod
    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t): no noise, no signal scale.

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: one timestep, 0..T, or (B,) timesteps of one size.
            images: (B,) image numbers, by which a random degradation draws; 0..B-1 where omitted.

        Returns:
            (B, C, h_t, w_t).
        """

    def marginal(self, x0: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return x_t of clean images and noise, a draw of p(x_t | x_0).

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: one timestep, 0..T, or (B,) timesteps of one size.
            noise: (B, C, h_t, w_t) standard normal.

        Raises:
            ProcessError: if the process has no noise.
        """
        self._cannot("draw a marginal", "use degrade")

    def scale(self, degraded: Tensor, t: int, noise: Tensor) -> Tensor:
        """Return x_t of what is degraded already, as by :meth:`degrade`: scaled, with noise.

        Args:
            degraded: (B, C, h_t, w_t).
            t: timestep.
            noise: (B, C, h_t, w_t) standard normal.
        """
        return self.states[t].signal * degraded + self.pure_noise(t, noise)

    def pure_noise(self, t: int, noise: Tensor) -> Tensor:
        """Return x_t of a grey image: the noise alone, (B, C, h_t, w_t)."""
        return self.marginal(noise.new_zeros(*noise.shape[:2], *self.states[0].size), t, noise)

    def corrupt(self, x0: Tensor, t: int, images: Tensor, seed: int) -> Tensor:
        """Return x_t as the network sees it, a pure function of the image, its number and the seed.

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: timestep, 1..T.
            images: (B,) image numbers, on the device of ``x0``.
            seed: any integer.
        """
        return self.marginal(x0, t, self._restoration_noise(x0, t, images, seed))

    def from_degraded(self, degraded: Tensor, t: int, images: Tensor, seed: int) -> Tensor:
        """Return the same x_t as :meth:`corrupt` from images that are degraded already, D(x_0, t)."""
        return self.scale(degraded, t, self._restoration_noise(degraded, t, images, seed))

    # The network.

    def network_input(self, x_t: Tensor, t: Timestep) -> Tensor:
        """Return what the network is given for (B, C, h_t, w_t) x_t: itself, unless its range is another.

        Where height and width differ it is a square of the longer side, pixels repeated along the shorter,
        if the process ``squares``.
        """
        state = self.states[t if isinstance(t, int) else int(t[0])]
        square = (state.resolution, state.resolution)
        same = state.size == square or not self.squares
        return x_t if same else _repeats(state.size, state.resolution).apply(x_t)

    def network_output(self, output: Tensor, t: int) -> Tensor:
        """Return what the network gives for x_t at the size of t - 1.

        Where height and width differ it gives a square of the longer side; pixels are averaged along the
        shorter.
        """
        state = self.states[t - 1]
        square = (state.resolution, state.resolution)
        same = state.size == square or not self.squares
        return output if same else _averages(state.size, state.resolution).apply(output)

    # Training.

    def target(self, x0: Tensor, t: Timestep) -> Tensor:
        """Return the clean image that a network learns to predict from x_t, at the size of t - 1."""
        return x0

    def noised(self, target: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return x_t of clean images that are at the size of t - 1 already, as from :meth:`target`."""
        return self.marginal(target, t, noise)

    def snr(self, t: Tensor) -> Tensor:
        """Return (a_t / sigma_t)^2 of (B,) timesteps, float32, on the device of ``t``."""
        return torch.tensor([state.snr for state in self.states], device=t.device)[t]

    def clean_from_noise(self, x_t: Tensor, noise: Tensor, t: Timestep) -> Tensor:
        """Return D(x_0, t) from x_t and its noise, both (B, C, h_t, w_t)."""
        self._cannot("be solved for a clean image", "predict x0")

    def sharpen(self, degraded: Tensor, t: Timestep) -> Tensor:
        """Return x_0 of D(x_0, t), of what is not lost."""
        self._cannot("be turned back without a network", "predict x0")

    def noise_from_clean(self, x_t: Tensor, clean: Tensor, t: Timestep) -> Tensor:
        """Return the (B, C, h_t, w_t) noise in x_t of a clean image of its size."""
        a, sigma = self.coefficients(t, x_t)
        return self.synthesis((self.analysis(x_t) - a * self.analysis(clean)) / sigma)

    # Sampling.

    def posterior(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, eta: float = 1.0) -> Posterior:
        """Return p(x_s | x_t, x_0), or a less random relative of the eta family.

        Args:
            x_t: (B, C, h_t, w_t).
            x0_s: (B, C, h_s, w_s) clean image (or prediction) at the size of s, unscaled, about [-1, 1].
            t: timestep of ``x_t``.
            s: timestep wanted, 0 <= s < t; 0 returns ``x0_s`` without noise.
            eta: 1 is the exact posterior, 0 keeps every known noise component (DDIM).

        Raises:
            ProcessError: if the process has none, s, t or eta is out of range, or a size does not fit.
        """
        self._cannot("have a posterior", "use the samplers of cold diffusion")

    def unsharp(self, x_t: Tensor, noise: Tensor, t: int, s: int, fresh: Tensor | None) -> Tensor:
        """Return x_s by an Euler step of the reverse equation, from the noise that the network sees in x_t.

        Args:
            x_t: (B, C, h_t, w_t).
            noise: (B, C, h_t, w_t) prediction.
            t: timestep of ``x_t``.
            s: timestep wanted, 0 <= s < t.
            fresh: (B, C, h_t, w_t) standard normal noise, or None.

        Raises:
            ProcessError: if the process has no such step.
        """
        self._cannot("be sharpened", "use ancestral, or a process of kind blur-noise")

    def transition_deviation(self, t: int, s: int) -> float:
        """Return the standard deviation of x_t given x_s, s < t, of one size; the same for all pixels.

        Raises:
            ProcessError: if it is no single number.
        """
        self._cannot("say the noise of a transition in one number", "take the variance of the posterior")

    def mixing(self, z: Tensor | Other) -> Process:
        """Return the same process with another z mixed in, noise or images.

        Args:
            z: (B, C, H, W), the same for every batch; or from (B,) image numbers and (C, H, W).

        Raises:
            ProcessError: if nothing is mixed in.
        """
        self._cannot("mix other images in", "leave them out")

    def start(self, images: Tensor, seed: int, *, channels: int, t: int | None = None) -> Tensor:
        """Draw the terminal prior p(x_T), where sampling from nothing begins, by image number.

        Args:
            images: (B,) image numbers; sets the device.
            seed: any integer.
            channels: of the images.
            t: timestep to begin at; T where omitted.

        Returns:
            (B, channels, h_t, w_t) float32.

        Raises:
            ProcessError: if what is left at T cannot be drawn.
        """
        top = self.T if t is None else t
        return self.pure_noise(top, self.sampling_noise(images, seed, top, channels))

    def sampling_noise(self, images: Tensor, seed: int, t: int, channels: int) -> Tensor:
        """Draw (B, channels, h_t, w_t) standard normal noise of a sampler's step to t, by image number."""
        return rng.normal(rng.derive(seed, "sample"), images, t, (channels, *self.states[t].size))

    def log_noise(self) -> Tensor:
        """Return (T,) log(sigma_t / a_t) of the content that every size has; never falls with t."""
        return torch.tensor([-math.log(state.snr) / 2 for state in self.states[1:]], dtype=torch.float64)

    # Resolution transitions.

    def resize(self, x: Tensor, s: int, t: int) -> Tensor:
        """Return R_{s:t} x: (B, C, h_s, w_s) to (B, C, h_t, w_t), no signal scale."""
        return x

    def reduction(self, size: Size) -> Factored:
        """Return R from full size to a smaller one of the process.

        Raises:
            ProcessError: no timestep has that size.
        """
        raise ProcessError(f"no timestep has {size} pixels by a resolution transition")

    def lift(self, x: Tensor, s: int, t: int) -> Tensor:
        """Return R_{s:t}^T x / ||R_{s:t}||^2: (B, C, h_t, w_t) to (B, C, h_s, w_s)."""
        return x

    def high_frequencies(self, x: Tensor, s: int, t: int) -> Tensor:
        """Return x - R_{s:t}^+ R_{s:t} x: what of (B, C, h_s, w_s) images is not seen at the size of t."""
        return torch.zeros_like(x)

    # Analysis.

    def analysis(self, x: Tensor) -> Tensor:
        """Return coefficients of (..., H, W) pixels in the orthonormal basis where noise is independent."""
        return x

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """Return the pixels of (..., H, W) coefficients, the inverse of :meth:`analysis`."""
        return coefficients

    def coefficients(self, t: Timestep, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return the signal and noise of x_t, coefficient by coefficient of :meth:`analysis`.

        They broadcast against (B, C, h_t, w_t); numbers where all coefficients have the same.

        Args:
            t: one timestep, or (B,) timesteps of one size.
            like: gives device and type.
        """
        self._cannot("be written by coefficients", "use degrade")

    def noise_deviations(self, t: int) -> Tensor:
        """Return (h_t, w_t) standard deviations of the noise in the basis in which it is independent."""
        state = self.states[t]
        return torch.full(state.size, state.sigma, dtype=torch.float64)

    def pixel_deviations(self, t: int) -> Tensor:
        """Return (h_t, w_t) standard deviations of the noise of x_t, pixel by pixel."""
        return self.noise_deviations(t)

    def _restoration_noise(self, like: Tensor, t: int, images: Tensor, seed: int) -> Tensor:
        shape = (like.shape[1], *self.states[t].size)
        return rng.normal(rng.derive(seed, "restore/noise"), images, t, shape)

    def _check_step(self, t: int, s: int, eta: float) -> None:
        """Refuse a step of a sampler that is out of range."""
        if not 0 <= s < t <= self.T or not 0 <= eta <= 1:
            raise ProcessError(
                f"a posterior needs 0 <= s < t <= {self.T} and eta in [0, 1], not s={s}, t={t}, eta={eta}"
            )

    def levels(self) -> list[ResolutionLevel]:
        """Return the timesteps of each resolution, 1..T, from the largest to the smallest."""
        timesteps = range(1, self.T + 1)
        found = []
        for size, group in itertools.groupby(timesteps, lambda t: self.states[t].size):
            first, *others = group
            last = others[-1] if others else first
            ends = [self.states[t] for t in (first, last)]
            low, high = (round(math.log(state.snr), 3) if state.sigma else None for state in ends)
            other = None if size[0] == size[1] else size
            found.append(ResolutionLevel(max(size), first, last, (low, high), other))
        return found

    def _cannot(self, what: str, instead: str) -> NoReturn:
        raise ProcessError(f"a {type(self).__name__} cannot {what}", hint=instead)


@lru_cache(maxsize=64)
def _repeats(size: Size, side: int) -> Separable:
    """From (h, w) pixels to a square, pixels repeated."""
    return Separable(*(matrices.nearest(n, side) for n in size))


@lru_cache(maxsize=64)
def _averages(size: Size, side: int) -> Separable:
    """From a square to (h, w) pixels, means of equal intervals."""
    return Separable(*(matrices.area(side, n) for n in size))


def degradation_streams(images: Tensor, seed: int) -> Tensor:
    """Return (B,) numbers by which a random degradation draws for a seed, from image numbers."""
    return images + (rng.derive(seed, "restore") >> 2)
