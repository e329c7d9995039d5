"""Run commands in forked children of one process that has imported PyTorch, with limits and strikes."""

import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import typer.main

import ssdiff
from ssdiff import cli
from tests.campaign.operations import Strike, Watch
from tests.children import in_child, take_over_threads

KNOWN_CODES = frozenset((0, 2, 3, 4, 5, 6, 7, 75, 130))  # of docs/faults.md, without that of a bug
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MEMORY = 3 << 30  # bytes of address space beyond what the parent has
_PATIENCE, _WORK = 300, 60  # seconds, and seconds of computing, until a command counts as hung


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: its exit code; negative, the signal that ended it.
        out: what it printed.
        err: likewise, on stderr.
        seconds: how long it took.
        hung: it had to be ended.
        memory: MB beyond what the parent has.
    """

    code: int
    out: str
    err: str
    seconds: float
    hung: bool = False
    memory: int = 0

    def __str__(self) -> str:
        said = self.err.strip().splitlines()
        return f"{'hung' if self.hung else f'code {self.code}'}: {said[-1][:300] if said else 'no word'}"


@dataclass(frozen=True)
class Call:
    """A command that is to be run.

    Attributes:
        arguments: what follows `ssdiff`.
        folder: where it runs; its home is `home` there.
        strike: what happens at one of its operations on files below the folder.
        signals: (seconds, signal) sent from outside.
        file_size: bytes that no file may exceed, as a full disk.
        environment: what is set besides.
    """

    arguments: Sequence[str]
    folder: Path
    strike: Strike | None = None
    signals: Sequence[tuple[float, int]] = ()
    file_size: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    seen: Callable[[str, str], None] | None = None


def import_everything() -> None:
    """Import all of ssdiff and build its commands, so that a forked child does neither."""
    for module in pkgutil.walk_packages(ssdiff.__path__, "ssdiff."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    cli.app = typer.main.get_command(cli.app)


def import_what(calls: Sequence[Call]) -> None:
    """Import what commands import when they run, found by having a child run each of them.

    Raises:
        RuntimeError: one of them does not succeed.
    """
    for call in calls:

        def names(call: Call = call) -> list[str]:
            if _be_the_command(call, [os.open(os.devnull, os.O_WRONLY) for _ in range(2)]):
                raise RuntimeError(" ".join(call.arguments))
            return list(sys.modules)

        code, found = in_child(names)
        if code:
            raise RuntimeError(
                f"{' '.join(call.arguments)} must succeed, or its children import what it does"
            )
        for name in found:
            if name not in sys.modules:
                with suppress(Exception):
                    importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child that collects garbage would copy every page of ours


def run(call: Call) -> Outcome:
    """Run a command in a forked child and wait for it."""
    began, hung = time.monotonic(), False
    reading, writing = zip(*(os.pipe() for _ in range(2)), strict=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _be_the_command(call, writing)
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
    for number in writing:
        os.close(number)
    pending, texts = sorted(call.signals), {number: b"" for number in reading}
    open_ones = set(reading)
    while open_ones:
        until = pending[0][0] if pending else _PATIENCE
        left = max(0.0, min(0.5, until - (time.monotonic() - began)))
        for number in select.select(list(open_ones), (), (), left)[0]:
            if piece := os.read(number, 1 << 16):
                texts[number] += piece
            else:
                open_ones.discard(number)
        now = time.monotonic() - began
        if pending and now >= pending[0][0]:
            os.kill(child, pending.pop(0)[1])
        elif now > _PATIENCE and not hung:
            os.kill(child, signal.SIGKILL)
            hung = True
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    more = used.ru_maxrss - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in reading:
        os.close(number)
    out, err = (texts[number].decode(errors="replace") for number in reading)
    return Outcome(code, out, err, time.monotonic() - began, hung, max(0, more >> 10))


def environment(call: Call) -> dict[str, str]:
    """Return the environment in which a command runs."""
    return {**os.environ, "SSDIFF_HOME": str(call.folder / "home"), **call.environment}


def operations(call: Call) -> list[tuple[str, str]]:
    """Run a command that must succeed; what it does to files, in order."""
    log = call.folder.with_name("operations.log")
    with log.open("w") as stream:
        done = run(
            Call(
                call.arguments,
                call.folder,
                seen=lambda *what: print(json.dumps(what), file=stream, flush=True),
            )
        )
    if done.code:
        raise RuntimeError(f"{' '.join(call.arguments)}: {done}")
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()]


def _be_the_command(call: Call, streams: Sequence[int]) -> int:
    """What `ssdiff` does in a process of its own; returns its exit code."""
    for number, opened in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    for number in _ASKING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    take_over_threads()
    os.chdir(call.folder)
    os.environ.update(environment(call))
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (used + _WORK, used + _WORK))
    if call.file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (call.file_size,) * 2)
    if call.strike is not None or call.seen is not None:
        Watch(call.folder, call.strike, call.seen).install()
    sys.argv = ["ssdiff", *call.arguments]
    code: object = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
        cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else 0 if code is None else 1
