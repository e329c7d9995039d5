"""A linear degradation that happens in stages: blur, then resize, then take the colours away.

This is what ``process.stages`` of a preset of kind ``linear`` says. A stage is one of :data:`KINDS`, or any
linear degradation of the registry, a plugin's too. See docs/math.md, equation (70).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ssdiff.errors import ProcessError, UsageError, did_you_mean
from ssdiff.operators import matrices
from ssdiff.operators.algebra import simplify
from ssdiff.operators.base import Operator, Scale, Size
from ssdiff.operators.fft import Mirrored, heat_response
from ssdiff.operators.filters import Filter, cosines
from ssdiff.operators.separable import Separable
from ssdiff.process.degradations.base import DENSE, LinearDegradation
from ssdiff.process.degradations.registry import DEGRADATIONS, build_degradation

Pair: TypeAlias = float | Sequence[float]
"""One number for both, or (down, across)."""

_FILTERS = MappingProxyType({"area": matrices.area, "bilinear": matrices.resize, "bicubic": matrices.bicubic})
_COMMUTE = 1e-8  # relative difference of two orders that counts as none


@dataclass(frozen=True, slots=True)
class Stage:
    """What happens to images from one timestep to a later one.

    Attributes:
        kind: one of :data:`KINDS`, or the name of a linear degradation.
        first: timestep that it begins after.
        last: timestep that it is complete at.
        options: of the kind.
    """

    kind: str
    first: int
    last: int
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} of timesteps {self.first + 1}..{self.last}"

    def progress(self, t: int) -> int:
        """Return its own severity at timestep t, 0..last - first."""
        return min(max(t - self.first, 0), self.last - self.first)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a stage has to know besides its options.

    Attributes:
        grid: (H, W) of the images when it begins.
        full: (H, W) of the clean images.
        meant: (H, W) of the clean images that the options are meant for; lengths are scaled from it.
    """

    grid: Size
    full: Size
    meant: Size

    @property
    def scale(self) -> float:
        """Pixels of an image for one pixel that the options speak of."""
        return min(self.full) / min(self.meant)


def blur_by_heat(scene: Scene, T: int, *, std: Pair) -> LinearDegradation:
    """Blur by heat dissipation, as cosines fade: a blur after a blur is a blur, so M_{s:t} is one too.

    Args:
        scene: sizes.
        T: timesteps that it takes; the std grows linearly.
        std: at the end, in pixels of the image as it is then; two numbers blur down and across.
    """
    ends = [value * scene.scale for value in _pair("std", std)]
    if not all(0 <= end < math.inf for end in ends) or not any(ends):
        raise UsageError(f"std must be positive pixels, not {std}")

    def between(s: int, t: int) -> Operator:
        # Variances of blurs add up.
        rows, columns = (end * math.sqrt(t**2 - s**2) / T for end in ends)
        height, width = scene.grid
        if max(scene.grid) > DENSE:
            return Mirrored(heat_response(height, rows), heat_response(width, columns), repeat_edge=True)
        sides = ((height, rows), (width, columns))
        gains = [heat_response(n, value)[:n] for n, value in sides]
        return Filter(cosines(scene.grid), (gains[0], gains[1]))

    return LinearDegradation(scene.grid, T, between=between)


def shrink_to(scene: Scene, T: int, *, size: int | Sequence[int], filter: str = "area") -> LinearDegradation:
    """Shrink the image, both sides or one.

    Args:
        scene: sizes.
        T: 1: it happens at once.
        size: pixels a side, or (height, width).
        filter: area, bilinear (anti-aliased) or bicubic.
    """
    if T != 1:
        raise UsageError("a resize happens at once", hint="give at in place of from and to")
    wanted = _pair("size", size)
    if not all(isinstance(n, int) and n >= 1 for n in wanted):
        raise UsageError(f"size must be whole pixels, not {size}")
    if filter not in _FILTERS:
        raise UsageError(f"unknown filter {filter!r}", hint=did_you_mean(filter, list(_FILTERS)))
    new = [
        max(1, round(n * full / meant))
        for n, full, meant in zip(wanted, scene.full, scene.meant, strict=True)
    ]
    if any(after > before for after, before in zip(new, scene.grid, strict=True)):
        raise UsageError(f"size {size} is larger than the {scene.grid} pixels before; an image only shrinks")
    make = _FILTERS[filter]
    operator = Separable(*(make(n, after) for n, after in zip(scene.grid, new, strict=True)))
    return LinearDegradation(scene.grid, 1, lambda t: operator)


def cut_frequencies(scene: Scene, T: int, *, keep: float) -> LinearDegradation:
    """Cut away cosine frequencies, the highest first.

    Args:
        scene: sizes.
        T: timesteps that it takes; the radius of what is kept shrinks linearly.
        keep: radius that is kept at the end, 1 is the highest frequency of a row of pixels.
    """
    if not 0 <= keep < math.sqrt(2):
        raise UsageError(f"keep must be a radius of 0 or more, below 1.41, not {keep}")
    height, width = scene.grid
    down, across = torch.arange(height).double() / height, torch.arange(width).double() / width
    radius = (down[:, None] ** 2 + across**2).sqrt()

    def between(s: int, t: int) -> Operator:
        limit = math.sqrt(2) + (keep - math.sqrt(2)) * t / T
        return Filter(cosines(scene.grid), (radius <= limit).double())

    return LinearDegradation(scene.grid, T, between=between)


KINDS: Mapping[str, Callable[..., LinearDegradation]] = MappingProxyType(
    {"blur": blur_by_heat, "resize": shrink_to, "dct-cut": cut_frequencies}
)
"""Kinds of stages that are no degradations of the registry."""


def staged(
    size: Size, T: int, stages: Sequence[Stage], *, meant: Size | None = None, channels: int = 3
) -> LinearDegradation:
    """Return stages one after the other as one degradation, M_{s:t} the product of their parts.

    Args:
        size: (H, W) of the clean images.
        T: the highest timestep.
        stages: in the order in which they begin; two may overlap in time if it does not matter which is
            first, as for a blur and a loss of colour.
        meant: (H, W) that lengths in the options are meant for; ``size`` where omitted.
        channels: of the images.

    Raises:
        UsageError: an unknown kind, wrong options, or a degradation that is not linear.
        ProcessError: stages that overlap and do not commute.
    """
    built: list[tuple[Stage, LinearDegradation]] = []
    grid = size
    for number, stage in enumerate(stages):
        where = f"stage {number + 1} ({stage.kind})"
        try:
            made = _build(stage, Scene(grid, size, meant or size))
        except UsageError as error:
            raise type(error)(f"{where}: {error}") from None
        for other, before in built:
            # One shared step is no matter: within it the stages are applied in their order.
            if other.last > stage.first + 1 and not _commute(before, made, channels):
                raise ProcessError(
                    f"{other} and {stage} overlap, and it matters which is first",
                    hint=f"let {stage.kind} begin where {other.kind} ends",
                )
        built.append((stage, made))
        grid = made.operator(made.T).out_size or grid

    def between(s: int, t: int) -> Operator:
        result: Operator = Scale()
        for stage, part in built:
            before, after = stage.progress(s), stage.progress(t)
            if before < after:
                result = part.between(before, after) @ result
        return simplify(result)

    return LinearDegradation(size, T, between=between)


def _build(stage: Stage, scene: Scene) -> LinearDegradation:
    steps = stage.last - stage.first
    if stage.kind in KINDS:
        make = KINDS[stage.kind]
        known = list(inspect.signature(make).parameters)[2:]
        for option in stage.options:
            if option not in known:
                raise UsageError(f"no option {option!r}", hint=f"its options are: {', '.join(known)}")
        for option, parameter in list(inspect.signature(make).parameters.items())[2:]:
            if parameter.default is parameter.empty and option not in stage.options:
                raise UsageError(f"needs {option}")
        try:
            return make(scene, steps, **stage.options)
        except TypeError:
            shown = ", ".join(f"{key} = {value!r}" for key, value in stage.options.items())
            raise UsageError(f"an option has a value of the wrong kind: {shown}") from None
    known = [*KINDS, *DEGRADATIONS.names()]
    if stage.kind not in known:
        raise UsageError(
            "unknown kind",
            hint=f"{did_you_mean(stage.kind, known)} (or give its plugin with --plugin FILE.py)",
        )
    found = build_degradation(stage.kind, scene.grid, steps, **stage.options)
    if not isinstance(found, LinearDegradation):
        raise UsageError(
            "is not linear, or another operator for each image",
            hint="choose one that is linear and the same for all",
        )
    return found


def _commute(a: LinearDegradation, b: LinearDegradation, channels: int) -> bool:
    """Whether the order of two degradations does not matter, by a random image half-way and at the end."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, *a.size, generator=generator, dtype=torch.float64)
    for share in (0.5, 1.0):
        one, two = (part.operator(max(1, round(share * part.T))) for part in (a, b))
        try:
            first, second = two.apply(one.apply(x)), one.apply(two.apply(x))
        except (ProcessError, RuntimeError):  # sizes that do not fit
            return False
        if first.shape != second.shape or not _close(first, second):
            return False
    return True


def _close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).norm()) <= _COMMUTE * float(a.norm())


def _pair(name: str, value: object) -> tuple[float, float]:
    """Two numbers of one or two."""
    both: list[Any] = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(both) != 2 or any(isinstance(n, bool) or not isinstance(n, int | float) for n in both):
        raise UsageError(f"{name} must be a number, or a list of two (down, across), not {value!r}")
    return both[0], both[1]
