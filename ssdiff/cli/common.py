"""What commands share: options, messages, progress, interruption."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from ssdiff.errors import DataError, PartialFailure, UsageError
from ssdiff.errors import memory_for as memory_for
from ssdiff.errors import out_of_memory as out_of_memory
from ssdiff.progress import Progress

if TYPE_CHECKING:
    from ssdiff.data.inputs import FailedFile

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No messages, no progress; errors only.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Seed = Annotated[int, typer.Option(help="Decides every random number.")]
Weights = Annotated[str, typer.Option(help="ema (averaged) or raw.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Change a setting of the preset; repeatable."),
]


def _load_plugins(context: typer.Context, files: list[Path] | None) -> list[Path] | None:
    """Import plugins while options are read, so that every option and preset may name their parts."""
    if files and not context.resilient_parsing:
        from ssdiff.plugins import load_plugin

        for file in files:
            load_plugin(file)
    return files


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        callback=_load_plugins,
        help="Networks, degradations, samplers or schedules of your own. Runs the file's code; repeatable.",
    ),
]

MEMORY_HINT = (
    "lower --batch or training.batch, raise "
    "training.grad_accum_steps, or set model.activation_checkpointing = true"
)


class Terminal:
    """Messages to stderr, results to stdout.

    Args:
        quiet: say nothing but errors.
        as_json: results as one JSON object.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet, self.as_json = quiet, as_json
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line on stderr."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def result(self, text: str, values: dict[str, Any]) -> None:
        """Print what the command was run for: ``values`` as JSON if asked, ``text`` otherwise."""
        if self.as_json:
            print(json.dumps(values))
        elif text and not self.quiet:
            print(text)

    @contextmanager
    def progress_callback(self, unit: str = "img", **units: str) -> Iterator[Progress]:
        """Yield what a verb of the library takes as ``progress``: a bar a stage, with rate and time left.

        Args:
            unit: what is counted.
            units: by stage, for stages that count something else, e.g. ``preparing="img"``.
        """
        tasks: dict[str, TaskID] = {}
        began: dict[str, tuple[float, float]] = {}
        with self._bar("{task.fields[rate]}") as bar:

            def show(stage: str, done: float, total: int | None) -> None:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage, total=total, rate="", note="")
                    began[stage] = time.perf_counter(), done
                seconds, first = time.perf_counter() - began[stage][0], began[stage][1]
                rate = f"{(done - first) / seconds:.3g} {units.get(stage, unit)}/s" if done > first else ""
                bar.update(tasks[stage], completed=done, total=total, rate=rate)

            yield show

    @contextmanager
    def _bar(self, rate: str) -> Iterator[Bar]:
        shown = self.console.is_terminal and not self.quiet
        bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(rate),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not shown,
        )
        with (
            bar if shown else nullcontext()
        ):  # Rich before 13.8 ends one that is not shown with an empty line
            yield bar


class StopRequest:
    """Turns SIGTERM and the first Ctrl-C into a question that the work asks; a second Ctrl-C ends it."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        """Return whether somebody asked to stop."""
        return self.requested

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle the signals for the length of a block."""
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._handle) for number in signals}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


def parse_sets(sets: list[str] | None) -> dict[str, object]:
    """Return the overrides of ``--set a.b=c`` options."""
    from ssdiff.config.load import parse_override

    return dict(parse_override(text) for text in sets or [])


def with_options(
    overrides: dict[str, object], options: Mapping[str, tuple[str, object]]
) -> dict[str, object]:
    """Add settings that have an option of their own to those of ``--set``.

    Args:
        overrides: from :func:`parse_sets`.
        options: by option, the setting that it means and its value, None if it is not given.

    Raises:
        UsageError: both are given, and differ.
    """
    merged = dict(overrides)
    for option, (name, value) in options.items():
        if value is None:
            continue
        if name in merged and merged[name] != value:
            raise UsageError(
                f"{option} {value} and --set {name}={merged[name]} say different things",
                hint="give one of them",
            )
        merged[name] = value
    return merged


def positive(value: int, option: str) -> int:
    """Return the value of an option, if it is at least 1.

    Raises:
        UsageError: otherwise.
    """
    if value < 1:
        raise UsageError(f"{option} must be at least 1, not {value}")
    return value


def is_main_process() -> bool:
    """Return whether this is the process that prints: always, but for torchrun's others."""
    return os.environ.get("RANK", "0") == "0"


def find_model(path: Path | None, terminal: Terminal) -> Path:
    """Find the model to use by :func:`ssdiff.weights.load.find_model`, and say which was chosen."""
    from ssdiff.weights import load

    found = load.find_model(path)
    if found.chosen == "bundled":
        terminal.say("no run yet: using the small model that ships with ssdiff (drawn shapes)")
    elif found.chosen == "newest":
        terminal.say(f"using the newest run, {found.path}")
    return found.path


def raise_failures(failed: Sequence[FailedFile], done: int) -> None:
    """Name the images that failed on stderr, after the result.

    Args:
        failed: each with what was wrong.
        done: how many did not fail.

    Raises:
        DataError: all failed.
        PartialFailure: some did.
    """
    for one in failed:
        about = "" if one.file.source in str(one.error) else f"{one.file.source}: "
        print(f"ssdiff: error: {about}{one.error}", file=sys.stderr)
    if failed:
        message = f"{len(failed)} of {done + len(failed)} images failed, each named above"
        raise PartialFailure(message) if done else DataError(message)
