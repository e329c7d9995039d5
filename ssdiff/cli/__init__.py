"""The command line: ``ssdiff COMMAND``; one file a command.

Nothing here imports torch: commands do, when they run, so that ``--help`` is quick.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from ssdiff import __version__
from ssdiff.cli import (
    completion,
    data,
    degrade,
    doctor,
    examples,
    info,
    presets,
    restore,
    sample,
    train,
    weights,
)
from ssdiff.cli import eval as evaluation
from ssdiff.cli.common import torchrun_rank
from ssdiff.cli.streams import make_lasting
from ssdiff.errors import EmulatedPrecision, RenamedSetting, SkippedCheckpoint, SsdiffError, readable
from ssdiff.failures import explain

app = typer.Typer(
    name="ssdiff",
    help="Scale-space and cold diffusion: train, sample, degrade, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("sample")(sample.sample)
app.command("degrade")(degrade.degrade)
app.command("restore")(restore.restore)
app.command("import")(weights.import_weights)
app.command("export")(weights.export)
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)
app.add_typer(presets.app, name="presets")
app.add_typer(data.app, name="data")
app.add_typer(evaluation.app, name="eval")
examples.add_examples(app)
if "_SSDIFF_COMPLETE" in os.environ:  # a shell asks what may follow
    completion.add_values(app)

_BAD_USAGE, _INTERRUPTED = 2, 130
_BUSY = 0.25  # share of the processors that others use
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
_ALLOCATION = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
# Typer brings Click along under a name of its own in some versions; this is its UsageError in all of them.
_USAGE: type[Any] = typer.BadParameter.__bases__[0]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ssdiff {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def program() -> None:
    """Run :func:`main` as all that a process is for, which ends without taking PyTorch apart.

    What is registered for the end of the interpreter is done; then the system frees at once what would take a
    third of a second piece by piece.
    """
    codes: list[int] = []
    if sys.gettrace() is None:  # coverage and debuggers have an end of their own
        atexit.register(_end, codes)  # the last to run, because it is the first
    try:
        main()
    except SystemExit as stop:
        if isinstance(stop.code, int):
            codes.append(stop.code)
        raise


def _end(codes: list[int]) -> None:
    """End the process with a code, if there is one and all that was printed has arrived."""
    if not codes:
        return
    logging.shutdown()  # registered before, when logging was imported
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(codes[0])


def main() -> None:
    """Run the command line and exit with one of the documented codes."""
    make_lasting()
    _hush_libraries()
    _share_processors()
    _keep_memory()
    code = run(sys.argv[1:])
    if "WORLD_SIZE" in os.environ:
        # Gloo's threads may still free tensors; while the interpreter is torn down, that aborts the process
        # (pytorch issue 190489).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def _hush_libraries() -> None:
    """Keep what libraries log off stderr, unless the user has set how PyTorch logs; errors are raised."""
    os.environ.setdefault("TORCH_LOGS", "-all")  # read when PyTorch is imported: errors alone
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger().addHandler(logging.NullHandler())  # or Python prints warnings that nobody handles


def _share_processors() -> None:
    """Let threads that wait for one another sleep soon where other programs want the processors, too.

    GNU OpenMP's spin for milliseconds, which with two threads and a busy processor makes sampling take three
    times as long as with one. The number is the one that it takes by itself for more threads than processors;
    what is computed does not depend on it, and what the user has set counts.
    """
    if "OMP_WAIT_POLICY" in os.environ or not hasattr(os, "getloadavg"):
        return
    try:
        busy = os.getloadavg()[0]
    except OSError:
        return
    if busy > _BUSY * (os.cpu_count() or 1):
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when PyTorch is imported


def _keep_memory() -> None:
    """Let glibc keep what tensors have freed for those that come.

    By itself it gives the memory of large ones back to the system, which fills it with zeros page by page for
    the next: half of the time that a large network takes to look at images on a processor. What the user has
    set counts; other C libraries have no such call.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in _ALLOCATION):
        if allow := getattr(ctypes.CDLL(None), "mallopt", None):
            allow(_MMAP_THRESHOLD, 1 << 30) or allow(_MMAP_THRESHOLD, 1 << 25)  # the most that old ones take
            allow(_TRIM_THRESHOLD, -1)


def run(arguments: list[str]) -> int:
    """Run a command; errors become one line on stderr and an exit code, never a traceback.

    Args:
        arguments: what follows ``ssdiff``.

    Returns:
        0 done, 1 a bug, 2 usage, 3 data, 4 checkpoint, 5 not finite, 6 resources, 7 some items failed, 75
        interrupted and resumable, 130 interrupted.
    """
    try:
        with _warnings(quiet="--quiet" in arguments or "-q" in arguments):
            code = app(args=arguments, prog_name="ssdiff", standalone_mode=False)
        sys.stdout.flush()
        # Typer makes a number of Ctrl-C, older versions an exception.
        return _interrupted(arguments) if code == _INTERRUPTED else code if isinstance(code, int) else 0
    except _USAGE as error:
        return _usage(arguments, error)
    except typer.Abort as error:
        # Typer makes one of Ctrl-C, and of the end of a file that was read.
        cause = error.__cause__ or error.__context__
        return _failed(arguments, cause) if isinstance(cause, EOFError) else _interrupted(arguments)
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # Typer's own answer to it
            return _nobody_reads()
        raise
    except (Exception, KeyboardInterrupt) as error:  # the boundary: everything else is reported here
        return _failed(arguments, error)


@contextmanager
def _warnings(quiet: bool) -> Iterator[None]:
    """Show a warning of ssdiff as one line on stderr; those of libraries go to the log of the run."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, RenamedSetting | SkippedCheckpoint | EmulatedPrecision):
            logging.getLogger("ssdiff").info("%s: %s (%s:%d)", category.__name__, message, filename, lineno)
        elif not quiet and torchrun_rank() == 0:
            print(f"ssdiff: note: {readable(str(message))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _interrupted(arguments: list[str]) -> int:
    return _report(arguments, "interrupted", _INTERRUPTED)


def _nobody_reads() -> int:
    """Whoever read our output has gone; nobody is left to tell, and what was written is complete."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _usage(arguments: list[str], error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help page
        print(error.format_message(), file=sys.stderr)
        return _BAD_USAGE
    where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
    return _report(arguments, error.format_message() + where, _BAD_USAGE)


def _failed(arguments: list[str], error: BaseException) -> int:
    found = explain(error)
    message = f"{found.message}; traceback in {_keep_traceback()}" if found.is_bug else found.message
    return _report(arguments, message, found.code, found.path, found.hint)


def _report(
    arguments: list[str], message: str, code: int, path: str | None = None, hint: str | None = None
) -> int:
    main, message = torchrun_rank() == 0, readable(message)
    try:
        if "--json" in arguments and main:
            print(json.dumps({"error": message, "code": code, "path": path, "hint": hint}))
        sys.stdout.flush()
    except OSError:  # full, or nobody reads: stderr still tells
        _nobody_reads()
    rank = "" if main else f"rank {torchrun_rank()}: "
    print(f"ssdiff: error: {rank}{message}", file=sys.stderr)
    return code


def _keep_traceback() -> str:
    """Write the traceback to a file in the home folder, or a temporary one; its path."""
    import tempfile
    import time

    from ssdiff.home import default_home

    name = f"bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for place in (default_home, tempfile.gettempdir):
        try:
            folder = Path(place()) / "logs"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        except (OSError, SsdiffError):
            continue
        return str(folder / name)
    return "no file: no folder can be written"
