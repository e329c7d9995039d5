"""The exceptions that ssdiff raises for its users, each with the exit code of the command line.

A message is one line that says what is wrong, where, and how to fix it.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class SsdiffError(Exception):
    """Base of every error that a user can meet.

    Args:
        message: what is wrong and where, one line.
        path: the file or folder concerned, for machine-readable output.
        hint: what to do about it; printed after the message.
    """

    code: ClassVar[int] = 1

    def __init__(self, message: str, *, path: Path | str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.path = str(path) if path is not None else None
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}; {self.hint}" if self.hint else message


class UsageError(SsdiffError):
    """A wrong option or argument."""

    code = 2


class PresetError(UsageError):
    """A preset that does not exist, does not parse or does not hold together."""


class ProcessError(UsageError):
    """States, operators or timesteps that do not make a process."""


class OutputError(UsageError):
    """An output that would overwrite something."""


class DataError(SsdiffError):
    """Images, archives or data sets that cannot be used."""

    code = 3


class CheckpointError(SsdiffError):
    """A checkpoint or weights file that is absent, damaged, unsafe or of another model."""

    code = 4


class NonFiniteError(SsdiffError):
    """A loss or gradient that is not a finite number."""

    code = 5


class ResourceError(SsdiffError):
    """A device, disk, lock or package that is not available."""

    code = 6


class PartialFailure(SsdiffError):
    """Some items of a batch failed; the others were written."""

    code = 7


class Interrupted(SsdiffError):
    """Stopped on request after saving; the run can be resumed."""

    code = 75
