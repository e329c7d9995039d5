"""What a scale-space analysis finds: points of curves, and measured properties."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one curve.

    Attributes:
        process: name.
        t: timestep, 0..T; diffusion time in squared pixels for image filters.
        time: position along the process, 0 (clean) to 1.
        quantity: what the value is, e.g. ``"information"``.
        value: finite; entropies and information in nats per pixel of the full grid, grey in [-1, 1].
    """

    process: str
    t: float
    time: float
    quantity: str
    value: float


@dataclass(frozen=True, slots=True)
class Check:
    """How far a process is from a property of scale-spaces.

    Attributes:
        process: name.
        law: the property, in words.
        deviation: 0 where the property holds exactly.
        tolerance: the largest deviation that passes.
        note: what the numbers need to be understood, or nothing.
    """

    process: str
    law: str
    deviation: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the property holds; never for a deviation that is not a number."""
        return self.deviation <= self.tolerance


def ordered(values: list[float], rising: bool) -> float:
    """How far a sequence is from monotone: the largest step in the wrong direction, 0 if there is none."""
    steps = [(a - b if rising else b - a) for a, b in pairwise(values)]
    return max([0.0, *steps])
