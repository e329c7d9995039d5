"""The streams that messages and results go to: whatever becomes of them, the work goes on."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


class Lasting:
    """A text stream that outlives its reader: once nobody reads, what is written to it is dropped.

    Args:
        stream: of the process.
        number: its file descriptor.
    """

    def __init__(self, stream: TextIO, number: int) -> None:
        self._stream, self._number = stream, number

    def write(self, text: str) -> int:
        """Write text to the stream, or drop it."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Give on what was written, or drop it."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._number)
        os.close(null)


def make_lasting() -> None:
    """Let stdout and stderr outlive their readers, print every name, and be there if they were closed."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever began us; no file of ours may get its number
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names may be any bytes
        setattr(sys, name, Lasting(stream, number))
