"""What a degradation D(x, t) promises, and the two kinds that most of them are: linear, and a mixture.

Severities run from t = 0, the image itself, to T, the most degraded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.devices import to_device
from ssdiff.errors import ProcessError, UsageError
from ssdiff.operators.algebra import quotient
from ssdiff.operators.base import Constants, Operator, Scale, Size
from ssdiff.operators.stacked import Stacked
from ssdiff.process.base import Other, Process, Timestep

DENSE = 256
"""Pixels a side up to which dense matrices are as quick as an FFT, and stack in a batch."""

_PRODUCTS_LIMIT = 1024  # pixels a side: the products of T matrices are computed and kept
_PRODUCTS_HELD = 2**27  # numbers in the products that are kept, 1 GB in float64
_HELD_VALUES = (
    2**25
)  # numbers that the cached operators of one degradation may hold, about; 256 MB in float64


class Degradation(Protocol):
    """A family of degradations of images of one size, ordered by severity."""

    @property
    def size(self) -> Size:
        """(H, W) of the images that it takes."""

    @property
    def T(self) -> int:
        """The highest severity."""

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t).

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: one severity, 0..T, where 0 returns ``x0``; or (B,) severities on the CPU, 1..T.
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
        operator: t in 1..T to M_t, the operator of D(., t); what ``between`` gives from 0 where omitted.
        between: (s, t) to M_{s:t}, the operator from severity s to a higher one t, M_t = M_{s:t} M_s; the
            quotient of M_t and M_s where omitted, see :func:`ssdiff.operators.algebra.quotient`.

    Raises:
        UsageError: neither of the two is given.
    """

    def __init__(
        self,
        size: Size,
        T: int,
        operator: Callable[[int], Operator] | None = None,
        *,
        between: Callable[[int, int], Operator] | None = None,
    ) -> None:
        if operator is None and between is None:
            raise UsageError(
                "a linear degradation needs its operators", hint="give operator(t), or between(s, t)"
            )
        self.size, self._top, self._operator, self._part = size, T, operator, between
        held = max(1, _HELD_VALUES // (size[0] ** 2 + size[1] ** 2))
        self._make = lru_cache(maxsize=held)(self._whole)
        self._between = lru_cache(maxsize=held)(self._divided)

    @property
    def T(self) -> int:
        """The highest severity."""
        return self._top

    def operator(self, t: int) -> Operator:
        """Return M_t, the operator of D(., t); the identity for t = 0."""
        check_severity(t, self.T)
        return self._make(t) if t else Scale()

    def between(self, s: int, t: int) -> Operator:
        """Return M_{s:t}, with M_t = M_{s:t} M_s [docs/math.md, equation (70)].

        Args:
            s: severity, 0..t.
            t: severity, up to T.

        Raises:
            ProcessError: M_t is no function of M_s, or has no quotient in closed form.
        """
        check_severity(t, self.T)
        check_severity(s, t)
        return self._between(s, t)

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t), as :meth:`Degradation.degrade`; the image numbers do not matter."""
        check_size(x0, self.size)
        if isinstance(t, int):
            return self.operator(t).apply(x0)
        check_severity(t, self.T)
        return self._stacked.apply(x0, t - 1)

    def _whole(self, t: int) -> Operator:
        return self._operator(t) if self._operator else self.between(0, t)

    def _divided(self, s: int, t: int) -> Operator:
        if s == t:
            return Scale()
        if self._part is not None:
            return self._part(s, t)
        if s == 0:
            return self.operator(t)
        try:
            return quotient(self.operator(t), self.operator(s))
        except ProcessError as error:
            gives = "between(s, t), the operator from s to t" if "closed form" in str(error) else ""
            raise ProcessError(
                f"severity {t} does not follow from severity {s}: {error}",
                hint=f"give {gives}" if gives else "what is lost at a severity must stay lost at higher ones",
            ) from None

    @cached_property
    def _stacked(self) -> Stacked:
        return Stacked([self._make(t) for t in range(1, self.T + 1)])


class Mixture:
    """x_t = a_t D(x_0, t) + sigma_t z with one z for each image, the same at every severity of a size.

    z is noise [CD, section 5.1, fixed noise] or an image of another kind (animorphosis) [CD, section 5.2].

    Args:
        inner: D, what happens to the image apart from the mixing.
        signal: (T + 1,) a_t, 1 at t = 0.
        sigma: (T + 1,) sigma_t, 0 at t = 0, in units of the [-1, 1] image.
        other: gives z by image number.
        morphs: whether z is an image of a second set, not noise.

    Attributes:
        morphs: as given.
    """

    def __init__(
        self,
        inner: Degradation,
        signal: Sequence[float],
        sigma: Sequence[float],
        other: Other,
        *,
        morphs: bool = False,
    ) -> None:
        self.size, self.morphs = inner.size, morphs
        self._inner, self._other = inner, other
        self._tables = Constants(
            signal=torch.tensor(signal, dtype=torch.float64), sigma=torch.tensor(sigma, dtype=torch.float64)
        )

    @property
    def T(self) -> int:
        """The highest severity."""
        return self._inner.T

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t) mixed with z, as :meth:`Degradation.degrade`."""
        reduced = self._inner.degrade(x0, t, images)
        if isinstance(t, int) and t == 0:
            return reduced
        z = self._other(image_numbers(x0, images), tuple(reduced.shape[1:])).to(reduced)
        return self._value("signal", t, x0) * reduced + self._value("sigma", t, x0) * z

    def mixing(self, other: Other) -> Mixture:
        """Return the same mixture with another z."""
        mixture = copy.copy(self)
        mixture._other = other
        return mixture

    def redegrade(self, x_t: Tensor, x0: Tensor, t: int, s: int) -> Tensor:
        """Return D(x_0, s) with the z that explains x_t: 'estimated noise' [CD, section 5.1], which is DDIM.

        x_s = a_s D(x_0, s) + (sigma_s / sigma_t) (x_t - a_t D(x_0, t)) [docs/math.md, equation (51)].

        Args:
            x_t: (B, C, h, w) at severity ``t``, 1..T.
            x0: (B, C, H, W) the image that is believed to be behind it.
            t: severity of ``x_t``.
            s: severity wanted, 0..t.
        """
        z_t = x_t - self._value("signal", t, x0) * self._inner.degrade(x0, t)
        ratio = self._value("sigma", s, x0) / self._value("sigma", t, x0)
        return self._value("signal", s, x0) * self._inner.degrade(x0, s) + ratio * z_t

    def _value(self, name: str, t: Timestep, like: Tensor) -> Tensor:
        table = self._tables.like(like)[name]
        return table[t] if isinstance(t, int) else table[to_device(t, table.device)][:, None, None, None]


class FixedNoise:
    """A process of one size as a degradation: one draw of noise an image, the same at every severity.

    Args:
        process: gives x_t.
        size: (H, W) of its images.
        noise: by image number.
    """

    def __init__(self, process: Process, size: Size, noise: Other) -> None:
        self.size, self._process, self._noise = size, process, noise

    @property
    def T(self) -> int:
        """The highest severity."""
        return self._process.T

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t), as :meth:`Degradation.degrade`."""
        check_size(x0, self.size)
        check_severity(t, self.T)
        if isinstance(t, int) and t == 0:
            return x0
        noise = self._noise(image_numbers(x0, images), tuple(x0.shape[1:])).to(x0)
        return self._process.marginal(x0, t, noise)


def random_noise(seed: int) -> Other:
    """Draw standard normal z, a pure function of (seed, image number, size)."""
    key = rng.derive(seed, "degrade/noise")

    def draw(images: Tensor, shape: tuple[int, ...]) -> Tensor:
        # Channel by channel, so that the random words of a large photograph need a third of the memory.
        planes = [rng.normal(key, images, channel, shape[1:]) for channel in range(shape[0])]
        return torch.stack(planes, dim=1)

    return draw


def image_numbers(x0: Tensor, images: Tensor | None) -> Tensor:
    """Return (B,) image numbers on the device of ``x0``; 0..B-1 where none are given."""
    numbers = torch.arange(len(x0)) if images is None else images
    return to_device(numbers, x0.device)


def check_severity(t: Timestep, T: int) -> None:
    """Refuse one severity outside 0..T, or several outside 1..T."""
    low, high, least = (t, t, 0) if isinstance(t, int) else (int(t.min()), int(t.max()), 1)
    if not least <= low <= high <= T:
        raise ProcessError(f"severity {low if low < least else high} is outside {least}..{T}")


def check_size(x0: Tensor, size: Size) -> None:
    """Refuse images of another size."""
    if tuple(x0.shape[-2:]) != tuple(size):
        raise ProcessError(f"the degradation is for {size} pixels, the images have {tuple(x0.shape[-2:])}")


def dense_fits(size: Size, T: int) -> bool:
    """Return whether T dense matrices for rows and columns can be computed and kept."""
    return max(size) <= _PRODUCTS_LIMIT and T * (size[0] ** 2 + size[1] ** 2) <= _PRODUCTS_HELD


def check_dense(size: Size, T: int, instead: str) -> None:
    """Refuse T dense matrices for rows and columns, each the product of those before, where that is too much.

    Args:
        size: (H, W).
        T: how many.
        instead: what to do then.

    Raises:
        UsageError: then.
    """
    if not dense_fits(size, T):
        raise UsageError(
            f"{T} steps one after the other at {size[0]} x {size[1]} pixels are too much", hint=instead
        )


def check_choice(name: str, value: object, choices: Sequence[str | bool]) -> None:
    """Refuse an option that is none of its choices; those of (True, False) are true and false.

    Raises:
        UsageError: then.
    """
    if type(value) is not type(choices[0]) or value not in choices:
        known = [str(choice).lower() if isinstance(choice, bool) else repr(choice) for choice in choices]
        raise UsageError(f"{name} must be {', '.join(known[:-1])} or {known[-1]}, not {value!r}")


def positive_pixels(name: str, value: float | None, default: float) -> float:
    """Return an option in pixels, or its default where it is not given.

    Raises:
        UsageError: it is not positive and finite.
    """
    if value is None:
        return default
    if not 0 < value < math.inf:
        raise UsageError(f"{name} must be a positive number of pixels, not {value}")
    return value
