"""Files that are whole or not there at all, and on the disk when the call returns.

Everything that ssdiff writes to stay goes through here: images, reports and exported weights by
:func:`write_atomic`, the files of a run by :func:`replace_file`; checkpoints and prepared data, which are
folders of files, sync each file and rename the folder.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import select
import shutil
import socket
import stat
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ssdiff.arguments import as_path
from ssdiff.errors import OutputError, ResourceError, UsageError

MOST = 2**30
"""Bytes that a file read as a whole may have, where nothing else limits them."""

_PART = 2**20  # bytes that are read at a time
_STAGED = re.compile(r"\..{1,40}\.(?P<host>[0-9a-f]{8})(?P<writer>[0-9a-f]{8})[0-9a-f]{16}", re.DOTALL)
_swept: set[Path] = set()

Content = bytes | Callable[[BinaryIO], object]
"""What to write: the bytes, or a function that writes them to a binary stream."""


def check_output(path: Path | str, overwrite: bool = False, suffixes: Sequence[str] | None = None) -> Path:
    """Refuse a bad output before the work that would fill it.

    Args:
        path: where the file shall go; its folder is created.
        overwrite: whether a file there may be replaced.
        suffixes: allowed endings, lower case; None allows any.

    Returns:
        The path.

    Raises:
        UsageError: it is no path, or its ending is not one of suffixes.
        OutputError: something is there already.
        ResourceError: the folder cannot be made or written.
    """
    path = as_path("out", path)
    if suffixes is not None and path.suffix.lower() not in suffixes:
        ending = f"ending {path.suffix!r}" if path.suffix else "no ending"
        raise UsageError(f"{path} has {ending}", path=path, hint=f"supported are {', '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"{path} is a folder", path=path, hint="name a file")
    if not overwrite and os.path.lexists(path):
        raise OutputError(f"{path} exists", path=path, hint="choose another name or pass --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    if not os.access(path.parent, os.W_OK):
        raise ResourceError(f"cannot write in {path.parent}: permission denied", path=path)
    return path


def check_outputs(folder: Path | str, names: Iterable[str], overwrite: bool = False) -> list[Path]:
    """Refuse bad outputs in a folder before the work that would fill them; nothing is created.

    Args:
        folder: where the files shall go; it may be missing.
        names: of the files.
        overwrite: whether files there may be replaced.

    Returns:
        The paths.

    Raises:
        OutputError: one of them exists, or the folder is none.
        ResourceError: the folder cannot be made or written.
    """
    folder = as_path("out", folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is no folder", path=folder, hint="name a folder")
    paths = [folder / name for name in names]
    for path in paths:
        if path.is_dir():
            raise OutputError(f"{path} is a folder", path=path, hint="name another folder")
        if not overwrite and os.path.lexists(path):
            raise OutputError(f"{path} exists", path=path, hint="choose another name or pass --overwrite")
    nearest = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ResourceError(f"cannot write in {nearest}: permission denied", path=folder)
    return paths


def write_atomic(path: Path | str, content: Content, overwrite: bool = False) -> Path:
    """Write a file that is complete or not there, even if the power fails.

    Args:
        path: where the file shall go; its folder is created.
        content: the bytes, or a function that writes them to a binary stream.
        overwrite: whether a file there may be replaced.

    Returns:
        The path.

    Raises:
        OutputError: something is there already.
        ResourceError: the folder cannot be written or the disk is full.
    """
    path = check_output(path, overwrite)
    try:
        replace_file(path, content, overwrite)
    except FileExistsError:
        raise OutputError(f"{path} exists", path=path, hint="it appeared in the meantime") from None
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def open_input(path: Path, pipes: bool = False) -> BinaryIO:
    """Open a file that a user named, and that may be something else: a pipe, a device, a folder.

    Args:
        path: of the file.
        pipes: whether a pipe will do; it is opened whether anybody writes to it or not.

    Raises:
        OSError: it cannot be opened, or is no file; ``strerror`` says what it is.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(handle).st_mode
    if not (stat.S_ISREG(kind) or (pipes and stat.S_ISFIFO(kind))):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe" if stat.S_ISFIFO(kind) else "a device"
        raise OSError(errno.EINVAL, f"it is {what}, not a file", str(path))
    return os.fdopen(handle, "rb", buffering=0 if pipes else -1)


def read_input(path: Path, most: int, pipes: bool = False) -> bytes:
    """Read a whole file that a user named, and that may be something else, or without end.

    Args:
        path: of the file.
        most: bytes that may be in it.
        pipes: whether a pipe that somebody writes to will do.

    Raises:
        OSError: it cannot be read, is longer, or is no file; ``strerror`` says what it is.
    """
    parts: list[bytes] = []
    left = most + 1
    with open_input(path, pipes) as stream:
        while left:
            part: bytes | None = stream.read(min(left, _PART))
            if part is None:  # of a pipe whose writer is not ready
                select.select([stream], [], [])
            elif part:
                parts.append(part)
                left -= len(part)
            else:
                break
        if not parts and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe that nobody writes to", str(path))
    if not left:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return b"".join(parts)


def replace_file(path: Path, content: Content, overwrite: bool = True) -> None:
    """Give a file new contents, so that it has the old ones or the new ones, whatever happens.

    They go to a temporary file in the same folder, named by :func:`staging_name`, are flushed to the disk and
    renamed; if anything fails the temporary file is removed.

    Args:
        path: the file; its folder must exist.
        content: the bytes, or a function that writes them to a binary stream.
        overwrite: whether a file there may be replaced.

    Raises:
        FileExistsError: something is there and may not be replaced.
        OSError: it cannot be written; what was there is still there.
    """
    staging = path.with_name(staging_name(path.name))
    sweep(path.parent)
    try:
        with staging.open("xb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content)
            sync(stream)
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(path)
        os.replace(staging, path)
    except BaseException:
        with suppress(OSError):
            staging.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # a folder that may be written, but not read, cannot be opened
        sync_folder(path.parent)


def staging_name(name: str) -> str:
    """Return a fresh hidden name beside a file or folder, for what will have its name when it is whole.

    It is `.NAME.` and 32 digits, with long names cut off; the digits tell this machine and process, for
    :func:`sweep`.
    """
    return f".{name[:40]}.{_this_machine():08x}{os.getpid():08x}{secrets.token_hex(8)}"


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left in a folder; looked for once in the life of a process.

    Left alone is what another machine wrote, which alone knows whether the writer lives, and what cannot be
    removed.

    Args:
        folder: where this process is about to write.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError):
        for path in [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(".")]:
            staged = _STAGED.fullmatch(path.name)
            if staged is None or int(staged["host"], 16) != _this_machine():
                continue
            if writer_is_alive(int(staged["writer"], 16)) is False:
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _this_machine() -> int:
    return zlib.crc32(socket.gethostname().encode("utf-8", "replace"))


def sync(stream: BinaryIO) -> None:
    """Bring what was written to a stream to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, so that a new one outlasts the power; no-op on Windows.

    Raises:
        OSError: the folder cannot be read, or the disk fails.
    """
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def writer_is_alive(pid: int) -> bool | None:
    """Return whether the process that left a file is alive; None on Windows, where asking would end it.

    Args:
        pid: its number on this machine; another process may have it by now.
    """
    if os.name == "nt":
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is alive, but somebody else's
    return True


def _cannot_write(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"cannot write {path}: {error.strerror or error}", path=path)
