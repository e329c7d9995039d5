"""A run folder: layout, lock, status, metrics log."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from ssdiff.errors import OutputError, ResourceError, SsdiffError
from ssdiff.files import MOST, open_input, read_input, replace_file, sync, writer_is_alive

State = Literal["running", "finished", "interrupted", "failed"]
# A folder that has nothing else is still empty: it was locked, but no run began.
_OWN = ("run.lock", "owner.json", "checkpoints", "samples")
# What a killed writer leaves (ssdiff.files.staging_name).
_UNFINISHED = re.compile(r"\.(preset\.toml|(owner|status|init)\.json|metrics\.jsonl)\.[0-9a-f]{32}")
_BLOCK = 4096  # bytes, that a file takes on a disk at least
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A training run on the disk.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def preset(self) -> Path:
        """The resolved settings; a folder with this file is a run."""
        return self.path / "preset.toml"

    @property
    def init(self) -> Path:
        """What the run began with, where that are another model's weights; JSON."""
        return self.path / "init.json"

    @property
    def checkpoints(self) -> Path:
        """Folder for :mod:`ssdiff.checkpoints`."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Folder of the grids drawn while training."""
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, each with a ``step``."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What happened, in words, with tracebacks."""
        return self.path / "train.log"

    @property
    def status(self) -> Path:
        """How the run stands, for schedulers; JSON."""
        return self.path / "status.json"

    @classmethod
    def create(cls, path: Path | str, preset_toml: str, resume: bool = False) -> RunFolder:
        """Make a run folder, or open one to continue it; nothing in it is deleted.

        Args:
            path: the folder; made if absent.
            preset_toml: resolved settings of a new run. Those of a run that is resumed stay as they are until
                :meth:`write_preset`.
            resume: accept a folder that holds a run.

        Raises:
            OutputError: it holds another run that has begun, or something that is no run.
            ResourceError: it cannot be written, or another process trains there.
        """
        folder = cls(Path(path))
        try:
            folder._refuse_foreign()
            folder.path.mkdir(parents=True, exist_ok=True)
            with folder.lock():
                if not resume:
                    folder.refuse_begun()
                for left in filter(lambda entry: _UNFINISHED.fullmatch(entry.name), folder.path.iterdir()):
                    left.unlink()
                folder.checkpoints.mkdir(exist_ok=True)
                folder.samples.mkdir(exist_ok=True)
                if not is_run(folder.path):
                    replace_file(folder.preset, preset_toml.encode())
        except OSError as error:
            raise _cannot_write(folder.path, error) from error
        return folder

    def write_preset(self, preset_toml: str) -> None:
        """Record the settings with which the run goes on; for whoever holds :meth:`lock`.

        Raises:
            ResourceError: they cannot be written.
        """
        settings = preset_toml.encode()
        try:
            if not self.preset.is_file() or self.preset.read_bytes() != settings:
                replace_file(self.preset, settings)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def write_init(self, origin: Mapping[str, object] | None) -> None:
        """Record what the run begins with, None for random weights; for whoever holds :meth:`lock`.

        Raises:
            ResourceError: it cannot be written.
        """
        try:
            if origin is None:
                self.init.unlink(missing_ok=True)
            else:
                replace_file(self.init, _encode(origin))
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def read_init(self) -> dict[str, Any] | None:
        """Return what :meth:`write_init` wrote; None if there is nothing to read."""
        return _read(self.init)

    def refuse_begun(self) -> None:
        """Refuse to begin where a run has begun.

        Raises:
            OutputError: then.
        """
        if self.has_begun():
            raise OutputError(
                f"{self.path} already holds a run",
                path=self.path,
                hint="continue it with --resume auto, or choose a new folder with --out",
            )

    def check_new(self) -> None:
        """Refuse a folder in which no run could begin; nothing is made.

        Raises:
            OutputError: it holds a run that has begun, or something that is no run.
        """
        self._refuse_foreign()
        self.refuse_begun()

    def has_begun(self) -> bool:
        """Return whether a step was recorded or saved here; a run that failed before that may be started
        anew."""
        recorded = self.metrics.is_file() and self.metrics.stat().st_size > 0
        return recorded or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here; the lock goes with the process, however it ends.

        Raises:
            ResourceError: another process holds it (says which), or the folder cannot be written.
        """
        lock = FileLock(self.path / "run.lock", timeout=0)
        try:
            lock.acquire()
            try:
                replace_file(self._owner, _encode({**_whoami(), "lock": uuid.uuid4().hex}))
            except OSError:
                lock.release()
                raise
        except Timeout:
            raise self._busy() from None
        except (OSError, NotImplementedError) as error:
            raise _cannot_write(self.path, error) from error
        try:
            yield
        finally:
            with suppress(OSError):
                self._owner.unlink()
            lock.release()

    def write_status(self, state: State, step: int, **more: object) -> None:
        """Replace ``status.json`` at once, so that a reader never sees half of it.

        Of several failures under one lock the first stays: it is the cause, the others follow from it.

        Args:
            state: running, finished, interrupted or failed.
            step: training steps done.
            more: JSON values, e.g. ``code`` and ``reason`` of a failure.

        Raises:
            ResourceError: it cannot be written. Not for a run that ends badly: why it ended matters more.
        """
        if state not in get_args(State):
            raise ValueError(f"unknown state {state!r}")
        last, lock = self.read_status() or {}, (_read(self._owner) or {}).get("lock")
        # Not by the time: clocks are set back, and differ between machines.
        if state == last.get("state") == "failed" and lock is not None and last.get("lock") == lock:
            return
        content = _encode({"state": state, "step": step, **_whoami(), "lock": lock, **more})
        try:
            replace_file(self.status, content)
        except OSError as error:
            if state in ("running", "finished"):
                raise _cannot_write(self.path, error) from error
            _log.warning("cannot write %s: %s", self.status, error)
            with suppress(OSError):  # a full disk still takes the room that the file has
                _overwrite(self.status, content)

    def read_status(self) -> dict[str, Any] | None:
        """Return what :meth:`write_status` wrote last; None if there is nothing to read."""
        return _read(self.status)

    def was_killed(self) -> bool:
        """Return whether a run that calls itself running is no more; not asked of another machine."""
        status = self.read_status() or {}
        if status.get("state") != "running" or status.get("host") != socket.gethostname():
            return False
        pid = status.get("pid")
        return isinstance(pid, int) and pid > 0 and writer_is_alive(pid) is False

    def append_metrics(self, values: Mapping[str, object]) -> None:
        """Add a line to the metrics log and hand it to the system at once.

        Args:
            values: JSON values and a ``step``; numbers that are not finite become null, which JSON can say.

        Raises:
            ResourceError: it cannot be written.
        """
        line = json.dumps(_finite(values), allow_nan=False).encode() + b"\n"
        try:
            with self.metrics.open("ab") as stream:
                stream.write(line)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of the metrics log, without one that was cut off."""
        return [record for _, record in _records(self.metrics)]

    def truncate_metrics(self, after_step: int) -> int:
        """Drop what was logged after a step, and lines that were cut off, before going on from that step.

        Returns:
            How many lines were dropped.

        Raises:
            ResourceError: it cannot be written; the log is then as before.
        """
        try:
            lines = [line for line, record in _records(self.metrics) if not _later(record, after_step)]
            before = b""
            if self.metrics.exists():
                with open_input(self.metrics) as stream:
                    before = stream.read()
            if (kept := b"".join(lines)) != before:
                replace_file(self.metrics, kept)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        return len(before.splitlines()) - len(lines)

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file", path=self.path, hint="choose a folder with --out")
        if not self.path.is_dir() or is_run(self.path):
            return
        others = [entry.name for entry in self.path.iterdir() if entry.name not in _OWN]
        if seen := sorted(name for name in others if not name.startswith(".")):
            raise OutputError(
                f"{self.path} is not empty and not a run (it holds {seen[0]})",
                path=self.path,
                hint="choose a new or empty folder with --out",
            )

    @property
    def _owner(self) -> Path:
        # Beside the lock: to look for a lock's owner must not touch it, and some systems lock reading, too.
        return self.path / "owner.json"

    def _busy(self) -> ResourceError:
        record = _read(self._owner) or {}
        who = f"process {record.get('pid', '?')} on {record.get('host', '?')}"
        return ResourceError(
            f"{who} is already training in {self.path}",
            path=self.path,
            hint="wait for it or stop it, or choose a new folder with --out",
        )


def is_run(path: Path | str) -> bool:
    """Return whether a folder holds a run."""
    return RunFolder(Path(path)).preset.is_file()


def _whoami() -> dict[str, object]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "time": now}


def _encode(content: Mapping[str, object]) -> bytes:
    return json.dumps(_finite(content), indent=1, allow_nan=False).encode() + b"\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _overwrite(path: Path, content: bytes) -> None:
    """Replace the contents of a file in place, for want of room beside it."""
    with path.open("r+b") as stream:
        room = len(stream.read())
        if len(content) > max(room, _BLOCK):
            return
        stream.seek(0)
        stream.write(content.ljust(room))
        sync(stream)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(read_input(path, MOST))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Lines with their contents; those that are not whole are left out."""
    if not path.exists():
        return
    with open_input(path) as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and line.endswith(b"\n"):
                yield line, record


def _later(record: Mapping[str, Any], step: int) -> bool:
    found = record.get("step")
    return isinstance(found, int | float) and found > step


def _cannot_write(path: Path, error: Exception) -> SsdiffError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, NotADirectoryError | FileExistsError):
        what = f"a file is in the way of the folder {path}"
        return OutputError(what, path=path, hint="choose another --out")
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "free some space" if full else "choose a folder that is writable with --out"
    return ResourceError(f"cannot write to the run folder {path}: {reason}", path=path, hint=hint)
