"""Linear operators on image batches: what they promise, composition, and the trivial ones.

An operator maps (B, C, H, W) to (B, C', h, w), never changes state, and works on any device and
floating-point
type: its constants are kept in float64 and converted once for each device and type that it meets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from torch import Tensor

from ssdiff.errors import ProcessError

Size: TypeAlias = tuple[int, int]


class Constants:
    """Named float64 tensors, converted once for each (device, dtype) that asks for them."""

    def __init__(self, **tensors: Tensor) -> None:
        self._exact = {name: value.to("cpu", torch.float64) for name, value in tensors.items()}
        self._cast: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self._exact[name]

    def like(self, x: Tensor) -> dict[str, Tensor]:
        """Return all tensors on the device and in the type of ``x``."""
        key = (x.device, x.dtype)
        if key not in self._cast:
            self._cast[key] = {name: value.to(*key) for name, value in self._exact.items()}
        return self._cast[key]


class Operator(ABC):
    """A linear map A of images; subclasses give ``apply`` and ``adjoint``.

    Attributes:
        in_size: (H, W) of the images that ``apply`` takes, None where any size will do.
        out_size: (h, w) of the images that it returns, None where the size stays.
        in_channels: channels that ``apply`` takes, None where any number will do.
    """

    in_size: Size | None = None
    out_size: Size | None = None
    in_channels: int | None = None

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Return A x: (B, C, H, W) to (B, C', h, w)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y: (B, C', h, w) to (B, C, H, W), with <A x, y> = <x, A^T y>."""

    def norm(self) -> float:
        """Return the spectral norm ||A||_2: of the kinds of ssdiff up to rounding, else by power iteration.

        Power iteration on A^T A ends where a step changes the result by a relative 1e-12 at most; it needs
        ``in_size``, and ``in_channels`` unless A does the same to every channel.
        """
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(
            1, self.in_channels or 1, *(self.in_size or (1, 1)), dtype=torch.float64, generator=generator
        )
        estimate = 0.0
        for _ in range(1000):
            x = self.adjoint(self.apply(x / x.norm()))
            previous, estimate = estimate, float(x.norm())
            if estimate == 0 or abs(estimate - previous) <= 1e-12 * estimate:
                break
        return math.sqrt(estimate)

    def __matmul__(self, inner: Operator) -> Operator:
        """The composition: ``(a @ b).apply(x) == a.apply(b.apply(x))``."""
        return Composed(self, inner)


class Scale(Operator):
    """Multiplication by one number; ``Scale(1.0)`` is the identity."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = float(factor)

    def apply(self, x: Tensor) -> Tensor:
        """Return factor * x; ``x`` itself for factor 1."""
        return x if self.factor == 1.0 else x * self.factor

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the same as ``apply``: the operator is symmetric."""
        return self.apply(y)

    def norm(self) -> float:
        """Return |factor|."""
        return abs(self.factor)


class Composed(Operator):
    """``outer`` after ``inner``."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        if outer.in_size and inner.out_size and outer.in_size != inner.out_size:
            raise ProcessError(
                f"cannot compose operators: one returns {inner.out_size}, the next takes {outer.in_size}"
            )
        self.outer, self.inner = outer, inner
        self.in_size = inner.in_size or outer.in_size
        self.out_size = outer.out_size or inner.out_size
        self.in_channels = inner.in_channels or outer.in_channels

    def apply(self, x: Tensor) -> Tensor:
        """Return outer(inner(x))."""
        return self.outer.apply(self.inner.apply(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return inner^T(outer^T(y))."""
        return self.inner.adjoint(self.outer.adjoint(y))
