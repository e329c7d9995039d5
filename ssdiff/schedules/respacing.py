"""Which timesteps a shortened chain keeps, from what ``--steps`` takes; no torch, as presets hold it too.

Three forms: a number; a list ``10,15,20``, timesteps of each of equal sections, from the clean end on; and
``ddim50``, a whole stride [docs/math.md, section 5; Nichol & Dhariwal 2021].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from ssdiff.errors import ProcessError, UsageError

Steps: TypeAlias = int | str
"""A number of steps, or one of the texts ``"10,15,20"`` and ``"ddim50"``."""
Crossing: TypeAlias = Literal["step", "timestep"]
"""What a resolution transition is crossed by: a step of the chain as any other, or a single timestep."""

FORMS = "a whole number, a list as '10,15,20', or 'ddim50'"
_LIST, _STRIDED = re.compile(r"\d{1,9}(,\d{1,9})*"), re.compile(r"ddim(\d{1,9})")


def parse_steps(value: object) -> Steps:
    """Return steps in the form that a plan takes: a number, also one of a text, or a text without spaces.

    Raises:
        UsageError: it is none of the three forms, or a number in it is 0.

    >>> parse_steps("50"), parse_steps("10, 15, 20"), parse_steps("ddim50")
    (50, '10,15,20', 'ddim50')
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value.replace(" ", "").lower() if isinstance(value, str) else ""
    if (_LIST.fullmatch(text) or _STRIDED.fullmatch(text)) and min(_numbers(text)) > 0:
        return int(text) if text.isdecimal() else text
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,9}", text):
        return int(text)
    shown = repr(value)
    raise UsageError(f"steps must be {FORMS}, not {shown if len(shown) <= 40 else f'{shown[:37]}...'}")


def kept_timesteps(total: int, steps: Steps) -> list[int]:
    """Return the timesteps that a chain of 1..total keeps, increasing, as the published code picks them.

    A number is a list of one section. In a section of n timesteps k are kept, the first and the last of them
    and others at multiples of (n - 1) / (k - 1), added up in floating point and rounded half to even. A
    number 1 keeps ``total`` alone: the published code keeps timestep 1, from which no image comes.

    Args:
        total: T, or where the chain begins.
        steps: as from :func:`parse_steps`.

    Raises:
        ProcessError: more than there are, or no whole stride gives so many.
        UsageError: none of the three forms.

    >>> kept_timesteps(1000, 5), kept_timesteps(10, "ddim5"), kept_timesteps(10, "2,3")
    ([1, 251, 501, 750, 1000], [1, 3, 5, 7, 9], [1, 5, 6, 8, 10])
    """
    steps = parse_steps(steps)
    if isinstance(steps, str) and (strided := _STRIDED.fullmatch(steps)):
        return _strided(total, int(strided[1]))
    counts = [steps] if isinstance(steps, int) else _numbers(steps)
    if isinstance(steps, int) and not 1 <= steps <= total:
        raise ProcessError(f"steps must be between 1 and {total}, not {steps}")
    return [total] if counts == [1] else list(_by_sections(total, counts))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.removeprefix("ddim").split(",")]


def _by_sections(total: int, counts: Sequence[int]) -> Iterator[int]:
    """Timesteps of equal sections, of which the first ``total`` mod n have one more."""
    size, longer = divmod(total, len(counts))
    first = 1
    for number, count in enumerate(counts):
        length = size + (number < longer)
        if count > length:
            raise ProcessError(
                f"steps {','.join(map(str, counts))}: section {number + 1} has {length} timesteps, not "
                f"{count}",
                hint="ask for fewer in it",
            )
        stride, position = (length - 1) / max(count - 1, 1), 0.0
        for _ in range(count):
            yield first + round(position)
            position += stride
        first += length


def _strided(total: int, count: int) -> list[int]:
    """Timesteps 1, 1 + n, 1 + 2 n, ... of the whole stride n that gives exactly ``count`` of them."""
    lengths = {-(-total // stride): stride for stride in range(total, 0, -1)}
    if count not in lengths:
        near = sorted(sorted(lengths, key=lambda length: abs(length - count))[:2])
        raise ProcessError(
            f"steps ddim{count}: no whole stride takes {count} of {total} timesteps",
            hint=f"the nearest are {' and '.join(f'ddim{length}' for length in near)}",
        )
    return list(range(1, total + 1, lengths[count]))
