"""Refuse arguments of the wrong type or range, which Python itself finds late or never; no torch."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import UnionType

from ssdiff.errors import UsageError


def require_type(name: str, value: object, kinds: type | UnionType, hint: str) -> None:
    """Refuse a value of another type.

    Args:
        name: of the argument.
        value: that was given.
        kinds: that it may have.
        hint: what to give.

    Raises:
        UsageError: then.
    """
    if not isinstance(value, kinds):
        raise UsageError(f"{name} is of type {type(value).__name__}", hint=hint)


def require_whole(name: str, value: object, least: int | None = None, most: int | None = None) -> None:
    """Refuse what is no int, or one out of range.

    Raises:
        UsageError: then.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} must be a whole number, not {value!r}")
    if least is not None and value < least:
        raise UsageError(f"{name} must be at least {least}, not {value}")
    if most is not None and value > most:
        raise UsageError(f"{name} must be at most {most}, not {value}")


def require_number(name: str, value: object) -> None:
    """Refuse what is no number, or not finite.

    Raises:
        UsageError: then.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{name} must be a number, not {value!r}")


def require_callable(name: str, value: object) -> None:
    """Refuse what cannot be called; None stands for nothing to call.

    Raises:
        UsageError: then.
    """
    if value is not None and not callable(value):
        raise UsageError(f"{name} is of type {type(value).__name__}", hint="give a function, or leave it out")


def as_path(name: str, value: object) -> Path:
    """Return a path that was given as text or as an object of pathlib, a leading ``~`` as the home folder.

    Raises:
        UsageError: it is neither, holds a NUL, or begins with the ``~`` of nobody.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"{name} is of type {type(value).__name__}", hint="give a path")
    path = Path(value)
    if "\0" in str(path):
        raise UsageError(f"{name}: a path cannot hold a NUL: {str(path)!r}", hint="give another one")
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(
            f"{name}: {path} begins with {path.parts[0]}, whose home folder is not known",
            path=path,
            hint="write the path out",
        ) from None
