"""Count what a process does to files, and strike at one of these operations."""

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CALLS = (
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "rename",
    "replace",
    "rmdir",
    "symlink",
    "truncate",
    "unlink",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Strike:
    """What happens at an operation.

    Attributes:
        at: number of the operation, from 0.
        how: a signal, e.g. SIGKILL, that the process sends itself; or an error, e.g. ENOSPC, that it gets.
        torn: a write reaches the disk by half before it happens.
        lasting: later operations of the same kind get the error, too, as on a disk that stays full.
    """

    at: int
    how: str
    torn: bool = False
    lasting: bool = False


class Watch:
    """Counts the operations on files below a folder; to be installed in a child, for it cannot be undone.

    Args:
        root: the folder; what is done elsewhere does not count.
        strike: what happens at one of them, or None.
        seen: told of each operation: its kind and its path.
    """

    def __init__(
        self, root: Path, strike: Strike | None = None, seen: Callable[[str, str], None] | None = None
    ) -> None:
        self._root, self._strike, self._seen = f"{root.resolve()}/", strike, seen
        self._done = 0
        self._struck: str | None = None

    def install(self) -> None:
        """Put the watch between Python and the system."""
        for name in _CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))
        os.remove = os.unlink
        os.open = self._watched_open(os.open)
        os.write = self._watched_write(os.write)
        builtins.open = io.open = self._watched_stream(io.open)

    def inside(self, target: Any, folder: int | None = None) -> str | None:
        """Return the path of a name or descriptor, if it is below the folder."""
        try:
            if isinstance(target, int):
                path = os.readlink(f"/proc/self/fd/{target}")
            else:
                base = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
                path = os.path.normpath(os.path.join(base, os.fsdecode(target)))
        except (OSError, TypeError, ValueError):
            return None
        return path if path.startswith(self._root) else None

    def step(self, kind: str, path: str, half: Callable[[], object] | None = None) -> None:
        """Count an operation that is about to happen, and strike if it is its turn."""
        number, self._done, strike = self._done, self._done + 1, self._strike
        if self._seen is not None:
            self._seen(kind, path)
        if strike is None or number < strike.at:
            return
        if number > strike.at and not (strike.lasting and _takes_room(kind)):
            return
        if strike.torn and half is not None:
            half()
        if strike.how.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, strike.how))
        elif strike.how not in ("ENOSPC", "EDQUOT") or _takes_room(kind):
            code = getattr(errno, strike.how)
            raise OSError(code, os.strerror(code), path)

    def _watched(self, kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **options: Any) -> Any:
            folder = options.get("dir_fd", options.get("src_dir_fd"))
            if (path := self.inside(target, folder)) is not None:
                self.step(kind, path)
            return original(target, *args, **options)

        return call

    def _watched_open(self, original: Callable[..., int]) -> Callable[..., int]:
        def call(target: Any, flags: int, *args: Any, **options: Any) -> int:
            path = self.inside(target, options.get("dir_fd")) if flags & _WRITING else None
            if path is not None:
                self.step("open", path)
            return original(target, flags, *args, **options)

        return call

    def _watched_write(self, original: Callable[..., int]) -> Callable[..., int]:
        def call(number: int, data: Any) -> int:
            if (path := self.inside(number)) is not None:
                self.step("write", path, lambda: original(number, bytes(data)[: len(data) // 2]))
            return original(number, data)

        return call

    def _watched_stream(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            path = self.inside(file) if set(mode) & set("wax+") else None
            if path is None:
                return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
            self.step("open", path)
            raw = _Watched(file, mode.translate({ord("b"): None, ord("t"): None}), closefd, opener)
            raw.tell_of_writing = lambda half: self.step("write", path, half)
            if buffering == 0:
                return raw
            size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
            stream = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, size)
            if "b" in mode:
                return stream
            text = io.TextIOWrapper(stream, encoding, errors, newline, buffering == 1)
            text.mode = mode
            return text

        return call


class _Watched(io.FileIO):
    """A file that tells of what reaches the system."""

    tell_of_writing: Callable[[Callable[[], object]], None]

    def write(self, data: Any) -> int:
        view, keep = memoryview(data).cast("B"), super().write
        self.tell_of_writing(lambda: keep(view[: len(view) // 2]))
        return keep(view)


def _takes_room(kind: str) -> bool:
    """Whether a full disk refuses it."""
    return kind in ("open", "write", "mkdir", "link", "symlink")
