"""The command line: ``ssdiff COMMAND``; one file a command.

Nothing here imports torch: commands do, when they run, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from ssdiff import __version__
from ssdiff.cli import data, doctor, info, presets, sample, train, weights
from ssdiff.errors import SsdiffError

app = typer.Typer(
    name="ssdiff",
    help="Scale-space and cold diffusion: train, sample, degrade, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("sample")(sample.sample)
app.command("import")(weights.import_weights)
app.command("export")(weights.export)
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)
app.add_typer(presets.app, name="presets")
app.add_typer(data.app, name="data")

_BUG, _BAD_USAGE, _RESOURCES, _INTERRUPTED = 1, 2, 6, 130
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


def main() -> None:
    """Run the command line and exit with one of the documented codes."""
    raise SystemExit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; errors become one line on stderr and an exit code, never a traceback.

    Args:
        arguments: what follows ``ssdiff``.

    Returns:
        0 done, 1 a bug, 2 usage, 3 data, 4 checkpoint, 5 not finite, 6 resources, 7 some items failed, 75
        interrupted and resumable, 130 interrupted.
    """
    try:
        code = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SsdiffError as error:
        return _report(arguments, str(error), error.code, error.path, error.hint)
    except _USAGE as error:
        return _usage(arguments, error)
    except (typer.Abort, KeyboardInterrupt):
        return _report(arguments, "interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the boundary: everything else is reported here
        return _unexpected(arguments, error)


def _usage(arguments: list[str], error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help page
        print(error.format_message(), file=sys.stderr)
        return _BAD_USAGE
    where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
    return _report(arguments, error.format_message() + where, _BAD_USAGE)


def _unexpected(arguments: list[str], error: Exception) -> int:
    if _out_of_memory(error):
        hint = "lower --batch or training.batch, raise training.accumulate, or set model.checkpointing = true"
        return _report(arguments, f"out of memory: {_first_line(error)}; {hint}", _RESOURCES, None, hint)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _report(
            arguments, f"no space left: {error}; free some and try again", _RESOURCES, error.filename
        )
    if isinstance(error, ImportError) and "torch" in str(error).lower():
        message = f"PyTorch or torchvision cannot be imported: {_first_line(error)}; run `ssdiff doctor`"
        return _report(arguments, message, _RESOURCES)
    log = _keep_traceback()
    return _report(
        arguments, f"a bug in ssdiff: {type(error).__name__}: {_first_line(error)}; traceback in {log}", _BUG
    )


def _out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _report(
    arguments: list[str], message: str, code: int, path: str | None = None, hint: str | None = None
) -> int:
    if "--json" in arguments:
        print(json.dumps({"error": message, "code": code, "path": path, "hint": hint}))
    print(f"ssdiff: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _keep_traceback() -> str:
    import time

    from ssdiff.rundir import default_home

    try:
        folder = default_home() / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        traceback.print_exc()
        return "the lines above"
    return str(path)
