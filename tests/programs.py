"""Run a Python program in a process of its own, which may be killed."""

import atexit
import importlib
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from children import take_over_threads

_IMPORTED = ("torch._dynamo", "ssdiff.training.run", "ssdiff.generation", "ssdiff.evaluation")  # seconds, too


class Program:
    """A Python program in a process of its own, much as from :class:`subprocess.Popen`, but forked.

    It finds what this process has imported, and else all as a new interpreter would, which it is where it
    cannot be forked. What it prints is kept.

    Args:
        what: a script's path, or ``("-m", module)``.
        arguments: of its command line.
        environment: what differs from that of this process.
        cwd: where it runs.
        fork: whether it may find what this process has imported and registered.
    """

    def __init__(
        self,
        what: Path | tuple[str, str],
        arguments: Sequence[object] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        fork: bool = True,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._texts = [Path(self._folder.name, name) for name in ("out", "err")]
        for text in self._texts:
            text.touch()
        self.args = [*((str(what),) if isinstance(what, Path) else what), *map(str, arguments)]
        self.returncode: int | None = None
        changes = {"OMP_NUM_THREADS": "1"} | dict(environment or {})
        self._process = None
        if fork and _can_fork():
            for name in _IMPORTED:
                importlib.import_module(name)
            sys.stdout.flush()
            sys.stderr.flush()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
                self.pid = os.fork()
            if self.pid == 0:
                self._become(what, changes, cwd)
            return
        with self._texts[0].open("wb") as out, self._texts[1].open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, *self.args],
                env=os.environ | changes,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.pid = self._process.pid

    def _become(self, what: Path | tuple[str, str], changes: Mapping[str, str], cwd: Path | None) -> None:
        """Be the program, in the child, and end with it."""
        code = 1
        try:
            atexit._clear()  # what this process has to do at its end is not the program's
            for number, kind in (
                (signal.SIGINT, signal.default_int_handler),
                (signal.SIGTERM, signal.SIG_DFL),
            ):
                signal.signal(number, kind)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for target, text in enumerate(self._texts, 1):
                os.dup2(os.open(text, os.O_WRONLY), target)
            sys.stdin, sys.stdout, sys.stderr = (
                os.fdopen(k, "w" if k else "r", closefd=False) for k in range(3)
            )
            os.environ.update(changes)
            os.chdir(cwd or os.curdir)
            take_over_threads()
            sys.path[:0] = changes.get("PYTHONPATH", "").split(os.pathsep)
            code = _run(what, self.args)
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """Exit code, negative for a signal, or None while it runs."""
        if self.returncode is None and self._process is not None:
            self.returncode = self._process.poll()
        elif self.returncode is None:
            child, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if child else None
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Exit code, once there is one."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        """Send it, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """All that was printed, once it has ended."""
        self.wait(timeout)
        return self._texts[0].read_text(), self._texts[1].read_text()

    def finished(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Exit code and texts, once it has ended."""
        out, err = self.communicate(timeout)
        return subprocess.CompletedProcess(self.args, self.wait(), out, err)


def _can_fork() -> bool:
    """Whether a fork is whole: threads of PyTorch and what a GPU keeps do not come along.

    A new interpreter costs seconds, most of them for importing PyTorch, which comes after the number of
    threads is set.
    """
    if sys.platform != "linux":
        return False
    import torch

    return torch.get_num_threads() == 1 and not torch.cuda.is_available()


def _run(what: Path | tuple[str, str], arguments: Sequence[str]) -> int:
    """Exit code of a program that is run here."""
    try:
        if isinstance(what, Path):
            sys.argv, sys.path[:0] = list(arguments), [str(what.parent)]
            runpy.run_path(str(what), run_name="__main__")
        else:
            sys.argv = list(arguments[1:])
            runpy.run_module(what[1], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
