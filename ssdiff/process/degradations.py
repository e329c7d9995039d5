"""Degradations D(x, t) of images of any size, by name: t = 0 is the image itself, t = T the most degraded.

To add one: write a builder that takes (size, T) and its own keyword options and returns a
:class:`Degradation` (for a linear one a :class:`LinearDegradation` around a function from t to an operator),
and give it a name in :data:`DEGRADATIONS`. A builder with a ``seed`` option is random: it draws by image
number, so that one image keeps one draw at every severity. A builder's other options, with their checks, are
all that it needs to reach the command line.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.errors import ProcessError, UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Scale, Size
from ssdiff.operators.direct import Blocks, Mirrored, gaussian_response, heat_response
from ssdiff.operators.separable import Separable
from ssdiff.process.gaussian import GaussianProcess
from ssdiff.schedules import noise, resolution

_HELD_VALUES = (
    2**25
)  # numbers that the cached operators of one degradation may hold, about; 256 MB in float64
_COARSEST = 8  # pixels of the shorter side below which the published models do not go


class Degradation(Protocol):
    """A family of degradations of images of one size, ordered by severity.

    Attributes:
        size: (H, W) of the images that it takes.
    """

    size: Size

    @property
    def T(self) -> int:
        """The highest severity."""

    def degrade(self, x0: Tensor, t: int, images: Tensor | None = None) -> Tensor:
        """D(x_0, t).

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: severity, 0..T; 0 returns ``x0``.
            images: (B,) image numbers, by which a random degradation draws; 0..B-1 where omitted.

        Returns:
            (B, C, h, w), not clipped.

        Raises:
            ProcessError: for a severity out of range or images of another size.
        """


class LinearDegradation:
    """A degradation that is one linear operator a severity, so that its cost does not grow with t.

    Operators are made when first used; the last few are kept, as many as fit into about 256 MB.

    Args:
        size: (H, W) of the clean images.
        T: the highest severity.
        operator: t in 1..T to the operator of D(., t).
    """

    def __init__(self, size: Size, T: int, operator: Callable[[int], Operator]) -> None:
        self.size, self._top = size, T
        held = max(1, _HELD_VALUES // (size[0] ** 2 + size[1] ** 2))
        self._make = lru_cache(maxsize=held)(operator)

    @property
    def T(self) -> int:
        """The highest severity."""
        return self._top

    def operator(self, t: int) -> Operator:
        """The operator of D(., t); the identity for t = 0."""
        _check_severity(t, self.T)
        return self._make(t) if t else Scale()

    def degrade(self, x0: Tensor, t: int, images: Tensor | None = None) -> Tensor:
        """D(x_0, t), as :meth:`Degradation.degrade`; the image numbers do not matter."""
        _check_size(x0, self.size)
        return self.operator(t).apply(x0)


class Noise:
    """x_t = a_t D(x_0, t) + sigma_t z with one z for each image [CD, section 5.1, fixed noise].

    z is a pure function of (seed, image number, size): the same at every severity of that size, in any batch
    and order.

    Args:
        inner: D, what happens to the image apart from the noise.
        signal: (T + 1,) a_t, 1 at t = 0.
        sigma: (T + 1,) sigma_t, 0 at t = 0, in units of the [-1, 1] image.
        seed: any integer.
    """

    def __init__(
        self, inner: Degradation, signal: Sequence[float], sigma: Sequence[float], seed: int
    ) -> None:
        self.size, self._inner = inner.size, inner
        self._signal, self._sigma = signal, sigma
        self._key = rng.derive(seed, "degrade/noise")

    @property
    def T(self) -> int:
        """The highest severity."""
        return self._inner.T

    def degrade(self, x0: Tensor, t: int, images: Tensor | None = None) -> Tensor:
        """D(x_0, t) with noise, as :meth:`Degradation.degrade`."""
        reduced = self._inner.degrade(x0, t, images)
        if t == 0:
            return reduced
        if images is None:
            images = torch.arange(len(x0))
        # Channel by channel, so that the random words of a large photograph need a third of the memory.
        planes = [
            rng.normal(self._key, images.to(x0.device), channel, reduced.shape[-2:])
            for channel in range(reduced.shape[1])
        ]
        return self._signal[t] * reduced + self._sigma[t] * torch.stack(planes, dim=1).to(reduced)


def downsample(size: Size, T: int) -> LinearDegradation:
    """Smaller and smaller, by the published schedule: halvings at convex-decay times, gamma 0.5 [SSD,
    section 4].

    Bilinear antialiased halvings follow one another while the shorter side keeps 8 pixels (at least one
    halving, if there are two pixels). The result has its true size.
    """
    halvings = max((min(size) // _COARSEST).bit_length() - 1, 1 if min(size) > 1 else 0)
    sizes = [(max(1, round(size[0] / 2**k)), max(1, round(size[1] / 2**k))) for k in range(halvings + 1)]
    return _pyramid(sizes, [0, *resolution.convex_decay(T, len(sizes)).tolist()])


def preset_process(
    process: GaussianProcess, size: Size, *, noisy: bool = False, seed: int = 0
) -> Degradation:
    """A process of square images carried over to images of any size: the same ratios of its sizes, the same
    severities of their changes, the same signal and noise.

    Unlike a process built for the size, this takes no SVD, so photographs cost no minutes.

    Args:
        process: from a preset, at its own size.
        size: (H, W) of the clean images.
        noisy: x_t with the process's signal scale and noise instead of R_t x_0.
        seed: of the noise.
    """
    full = process.states[0].size
    chain = list(dict.fromkeys(state.size for state in process.states))
    sizes = [(max(1, round(size[0] * h / full[0])), max(1, round(size[1] * w / full[1]))) for h, w in chain]
    clean = _pyramid(sizes, [chain.index(state.size) for state in process.states])
    if not noisy:
        return clean
    states = process.states
    return Noise(clean, [state.signal for state in states], [state.sigma for state in states], seed)


def blur(size: Size, T: int, *, max_std: float | None = None) -> LinearDegradation:
    """Gaussian blur with reflect padding; its std rises geometrically from 0.3 px at t = 1.

    The kernel reaches 4 standard deviations, at most the image's side less one each way, like
    :func:`ssdiff.operators.matrices.gaussian_blur`.

    Args:
        size: (H, W).
        T: the highest severity.
        max_std: std at T in pixels; a quarter of the shorter side where omitted.
    """
    stds = _geometric(0.3, _positive("max_std", max_std, min(size) / 4), T)

    def operator(t: int) -> Operator:
        return Mirrored(
            gaussian_response(size[0], stds[t]), gaussian_response(size[1], stds[t]), repeat_edge=False
        )

    return LinearDegradation(size, T, operator)


def dct_blur(size: Size, T: int, *, max_std: float | None = None) -> LinearDegradation:
    """Heat dissipation: DCT-II coefficients times exp(-(pi k / n)^2 std^2 / 2) [IHDM, section 2].

    The std rises geometrically from 0.5 px at t = 1, as published; so does its end, half the longer side.

    Args:
        size: (H, W).
        T: the highest severity.
        max_std: std at T in pixels; half the longer side where omitted.
    """
    stds = _geometric(0.5, _positive("max_std", max_std, max(size) / 2), T)

    def operator(t: int) -> Operator:
        return Mirrored(heat_response(size[0], stds[t]), heat_response(size[1], stds[t]), repeat_edge=True)

    return LinearDegradation(size, T, operator)


def fixed_noise(size: Size, T: int, *, seed: int = 0) -> Noise:
    """Variance-preserving noise with linear betas, one draw an image [CD, section 5.1; Ho et al. 2020]."""
    nu = noise.linear(T)
    signal = (1 + nu.square()).rsqrt()
    clean = LinearDegradation(size, T, lambda t: Scale())
    return Noise(clean, [1.0, *signal.tolist()], [0.0, *(signal * nu).tolist()], seed)


def pixelate(size: Size, T: int) -> LinearDegradation:
    """Blocks of one colour at the full size.

    The side of a block rises geometrically from 1 px at t = 0 to a quarter of the shorter side at T.
    """
    largest = max(1.0, min(size) / 4)

    def operator(t: int) -> Operator:
        side = largest ** (t / T)
        return Blocks(size, (max(1, round(size[0] / side)), max(1, round(size[1] / side))))

    return LinearDegradation(size, T, operator)


Builder: TypeAlias = Callable[..., Degradation]

DEGRADATIONS: Mapping[str, Builder] = MappingProxyType(
    {
        "downsample": downsample,
        "blur": blur,
        "dct-blur": dct_blur,
        "noise": fixed_noise,
        "pixelate": pixelate,
    }
)
"""Name to builder(size, T, **options)."""


def build_degradation(
    name: str, size: Size, T: int = 1000, *, seed: int = 0, **options: object
) -> Degradation:
    """The degradation of a name for images of one size.

    Args:
        name: one of :data:`DEGRADATIONS`.
        size: (H, W) of the clean images, pixels.
        T: the highest severity, at least 1.
        seed: for the random ones; the others ignore it.
        options: keyword options of the builder, e.g. ``max_std`` of blur.

    Raises:
        UsageError: for an unknown name (it gives the nearest ones), a size or T below 1, or an option that
            this degradation has not or that is out of range.
    """
    builder = DEGRADATIONS.get(name)
    if builder is None:
        nearest = get_close_matches(name, DEGRADATIONS, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(nearest)}?" if nearest else f"choose from {', '.join(DEGRADATIONS)}"
        )
        raise UsageError(f"unknown degradation {name!r}", hint=hint)
    if T < 1 or min(size) < 1:
        raise UsageError(f"a degradation needs T >= 1 and pixels, not T = {T} and size {tuple(size)}")
    known = list(inspect.signature(builder).parameters)[2:]
    for option in options:
        if option not in known:
            own = ", ".join(key for key in known if key != "seed") or "none"
            raise UsageError(f"{name} has no option {option!r}", hint=f"its options are: {own}")
    return builder(size, T, **options, **({"seed": seed} if "seed" in known else {}))


def _pyramid(sizes: Sequence[Size], levels: Sequence[int]) -> LinearDegradation:
    """Resizes down to ``sizes[levels[t]]``, each the product of the single changes of size on the way."""

    @cache
    def composed(level: int) -> Operator:
        (h_in, w_in), (h_out, w_out) = sizes[level - 1], sizes[level]
        step = Separable(matrices.resize(h_in, h_out), matrices.resize(w_in, w_out))
        return step @ composed(level - 1) if level > 1 else step

    return LinearDegradation(
        sizes[0], len(levels) - 1, lambda t: composed(levels[t]) if levels[t] else Scale()
    )


def _geometric(first: float, last: float, T: int) -> list[float]:
    """T + 1 numbers, index 0 unused: from ``first`` at 1 (or ``last`` if smaller) to ``last`` at T."""
    ratio = last / min(first, last)
    return [0.0, *(last * ratio ** ((t - T) / max(1, T - 1)) for t in range(1, T + 1))]


def _positive(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not 0 < value < math.inf:
        raise UsageError(f"{name} must be a positive number of pixels, not {value}")
    return value


def _check_severity(t: int, T: int) -> None:
    if not 0 <= t <= T:
        raise ProcessError(f"severity {t} is outside 0..{T}")


def _check_size(x0: Tensor, size: Size) -> None:
    if tuple(x0.shape[-2:]) != tuple(size):
        raise ProcessError(f"the degradation is for {size} pixels, the images have {tuple(x0.shape[-2:])}")
