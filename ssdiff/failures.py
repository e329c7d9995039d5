"""What an exception means to a user: an exit code and one line, whoever raised it."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from importlib import metadata

from ssdiff import plugins
from ssdiff.errors import SsdiffError, UsageError, one_line, out_of_memory

_MEMORY_HINT = "take a smaller batch where there is one (--batch), or smaller images"
_BUG, _RESOURCES, _INTERRUPTED = 1, 6, 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)
_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ)


@dataclass(frozen=True, slots=True)
class Failure:
    """How a command ends.

    Attributes:
        code: exit code, as in docs/faults.md.
        message: what is wrong, where, and how to mend it; one line.
        path: the file or folder concerned.
        hint: what to do about it, a part of the message.
    """

    code: int
    message: str
    path: str | None = None
    hint: str | None = None

    @property
    def is_bug(self) -> bool:
        """Whether nobody expected it, so that a traceback is worth keeping."""
        return self.code == _BUG


def explain(error: BaseException) -> Failure:
    """Return what an exception means: of ssdiff, of the system, of PyTorch or of a plugin; a bug otherwise.

    Args:
        error: caught where a command, or a run, ends.
    """
    if isinstance(error, SsdiffError):
        return Failure(error.code, str(error), error.path, error.hint)
    if isinstance(error, KeyboardInterrupt):
        return Failure(_INTERRUPTED, "interrupted")
    if isinstance(error, Exception) and out_of_memory(error):
        return Failure(_RESOURCES, f"out of memory: {one_line(error)}; {_MEMORY_HINT}", None, _MEMORY_HINT)
    if isinstance(error, RuntimeError) and (loop := re.match("Symlink loop from '(.*)'", str(error))):
        error = OSError(errno.ELOOP, os.strerror(errno.ELOOP), loop[1])  # of pathlib before Python 3.13
    if isinstance(error, OSError) and (found := _of_the_system(error)):
        return found
    if found := _of_torch(error):
        return found
    what = f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, Exception) and (place := plugins.place_of(error)):
        return Failure(UsageError.code, f"plugin {place}: {what}")
    return Failure(_BUG, f"a bug in ssdiff: {what}")


def _of_the_system(error: OSError) -> Failure | None:
    name = None if error.filename is None else str(error.filename)
    where = f" ({name})" if name else ""
    if error.errno in _PATHS:
        hint = "choose another name"
        return Failure(UsageError.code, f"{error.strerror}{where}; {hint}", name, hint)
    if error.errno in (*_FULL, *_REFUSED):
        hint = "free some space" if error.errno in _FULL else "check permissions and the disk"
        return Failure(_RESOURCES, f"{error.strerror}{where}; {hint} and try again", name, hint)
    if error.errno == errno.ENOENT and name is None:
        # Only the working folder has no name in the system's answer.
        hint = "change to a folder that exists"
        return Failure(_RESOURCES, f"the working folder has vanished; {hint}", None, hint)
    return None


def _of_torch(error: BaseException) -> Failure | None:
    """Builds that do not belong together: PyTorch's libraries, or torchvision's operators, are not found."""
    words = str(error)
    foreign = isinstance(error, RuntimeError | AttributeError) and "torchvision" in words
    if not foreign and not (isinstance(error, ImportError) and "torch" in words.lower()):
        return None
    builds = " and ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision"))
    hint = "install both from one place (`ssdiff doctor` shows the command)"
    said = f"{builds} do not belong together, or one is damaged: {one_line(error)}"
    return Failure(_RESOURCES, f"{said}; {hint}", None, hint)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(absent)"
