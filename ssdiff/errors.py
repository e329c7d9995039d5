"""The exceptions that ssdiff raises for its users, each with the exit code of the command line.

A message is one line that says what is wrong, where, and how to fix it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


class ChannelError(ProcessError):
    """An operator for other channels than the image has."""


class OutputError(UsageError):
    """An output that would overwrite something."""


class DataError(SsdiffError):
    """Images, archives or data sets that cannot be used."""

    code = 3


class CheckpointError(SsdiffError):
    """A checkpoint or weights file that is absent, damaged, unsafe or of another model."""

    code = 4


class NonFiniteError(SsdiffError):
    """A loss, gradient or image that is not of finite numbers."""

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


class RenamedSetting(FutureWarning):
    """A preset key was given by its former name; it is read, but a later version may not."""


class SkippedCheckpoint(UserWarning):
    """The newest checkpoint of a run is damaged; one before it is taken."""


class EmulatedPrecision(UserWarning):
    """bf16 was asked for on a processor that does not multiply it natively; it works, slowly."""


_LISTED = 40  # names in a hint
_SAID = 200  # letters of another library's message
_MESSAGE = 900  # letters of a message: what people read is not a screenful
_WORD = 240  # letters of a word in a message, such as a path; most names are shorter


def did_you_mean(name: str, names: Iterable[str], *, prefix: str = "", most: int = 3) -> str:
    """Return the hint for an unknown name: the nearest of the known ones, or all of them.

    Args:
        name: what was given.
        names: what is known, in the order in which a person wants to read them.
        prefix: stands before each name that is proposed: the table of a key.
        most: at most so many are proposed.
    """
    known = list(names)
    near = nearest_names(name, known, most)
    if near:
        return f"did you mean {' or '.join(prefix + found for found in near)}?"
    return f"choose from {', '.join(known[:_LISTED])}{', ...' if len(known) > _LISTED else ''}"


def nearest_names(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that may have been meant, the nearest first."""
    from difflib import get_close_matches  # not at import: only errors need it

    return get_close_matches(str(name), list(names), n=most, cutoff=0.5)


def one_line(error: BaseException | str) -> str:
    """Return what an error says, or its type, as one line of at most 200 letters."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= _SAID else f"{said[:_SAID]}..."


def printable(text: str) -> str:
    """Return text that a terminal shows and does not obey: what controls it, or is no letter, is spelt out.

    Names of files and of members of archives come from strangers; they may hold escape codes, and bytes that
    are no UTF-8.
    """
    return "".join(c if c.isprintable() or c == "\n" else _spelt(c) for c in text)


def readable(text: str) -> str:
    """Return a message as :func:`printable` text on one line; it and long words are cut in the middle."""
    told = printable(" ".join(_cut(word, _WORD) for word in text.split()))
    return _cut(told, _MESSAGE)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most * 2 // 3]}...{text[-most // 4 :]}"


def _spelt(letter: str) -> str:
    raw = 0xDC80 <= ord(letter) <= 0xDCFF  # a byte that is no UTF-8, as Python keeps it in a name
    return f"\\x{ord(letter) - 0xDC00:02x}" if raw else letter.encode("unicode_escape").decode()


def out_of_memory(error: Exception) -> bool:
    """Return whether PyTorch or Python ran out of memory, whatever they call it."""
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("allocate memory" in words or "out of memory" in words))
    )


@contextmanager
def memory_for(what: str, hint: str) -> Iterator[None]:
    """Say what was too large when memory runs out in a block.

    Raises:
        ResourceError: then.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise ResourceError(f"out of memory with {what} ({one_line(error)})", hint=hint) from error
