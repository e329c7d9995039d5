"""What commands share: messages, progress, interruption, the model to use."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ssdiff.errors import DataError, PartialFailure, UsageError, printable, readable
from ssdiff.importing import quick_imports
from ssdiff.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from ssdiff.data.inputs import FailedFile
    from ssdiff.pipeline import Pipeline


class Terminal:
    """Messages to stderr, results to stdout.

    Args:
        quiet: say nothing but errors.
        as_json: results as one JSON object.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet, self.as_json = quiet, as_json

    @cached_property
    def console(self) -> Console:
        """Where messages go."""
        from rich.console import Console  # it would take a fifth of the time that --help has

        return Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line on stderr."""
        if not self.quiet:
            self.console.print(printable(text), markup=False)

    def result(self, text: str, values: dict[str, Any]) -> None:
        """Print what the command was run for: ``values`` as JSON if asked, ``text`` otherwise."""
        if self.as_json:
            print(json.dumps(values))
        elif text and not self.quiet:
            print(printable(text))

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
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

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
    """Turns SIGTERM, SIGHUP and the first Ctrl-C into a question of the work; a second Ctrl-C ends it."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        """Return whether somebody asked to stop."""
        return self.requested

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle the signals for the length of a block."""
        signals = [signal.SIGTERM, signal.SIGINT]
        hangup = getattr(signal, "SIGHUP", None)
        # Whoever began us with nohup wants it ignored.
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
            signals.append(hangup)
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


def split_classes(given: list[str] | None) -> list[str] | None:
    """Return the classes of ``--class`` options, each of which may name several."""
    return ",".join(given).split(",") if given else None


def positive(value: int, option: str) -> int:
    """Return the value of an option, if it is at least 1.

    Raises:
        UsageError: otherwise.
    """
    if value < 1:
        raise UsageError(f"{option} must be at least 1, not {value}")
    return value


def torchrun_rank() -> int:
    """Return the number of this process under torchrun; 0 without, whatever a scheduler has left behind."""
    size, rank = (os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK"))
    return int(rank) if size.isdecimal() and rank.isdecimal() and int(size) > 1 else 0


def find_model(path: Path | None, terminal: Terminal, *, zero_shot: bool = False) -> Path:
    """Find the model to use by :func:`ssdiff.weights.load.find_model`, and say which was chosen."""
    from ssdiff.weights import load

    found = load.find_model(path, zero_shot=zero_shot)
    if found.chosen == "bundled" and zero_shot:
        terminal.say("no run fits: using the prior of photographs that ships with ssdiff")
    elif found.chosen == "bundled":
        terminal.say("no run yet: using the small model that ships with ssdiff (drawn shapes)")
    elif found.chosen == "newest":
        terminal.say(f"using the newest run, {found.path}")
    return found.path


def load_pipeline(
    ckpt: Path | None,
    weights: str,
    device: str,
    precision: str,
    terminal: Terminal,
    other: str | None = None,
    *,
    zero_shot: bool = False,
) -> Pipeline:
    """Load the pipeline asked for, of the newest run, or the bundled one; ``other`` is its second set, and
    ``zero_shot`` says that it shall restore what it was not trained for."""
    with quick_imports():
        from ssdiff.weights.load import load

    found = find_model(ckpt, terminal, zero_shot=zero_shot)
    return load(found, weights=weights, device=device, precision=precision, other=other)


def publish(result: dict[str, Any], text: str, out: Path | None, overwrite: bool, terminal: Terminal) -> None:
    """Say a result and its warnings, and write it as JSON where it is asked for.

    Args:
        result: with its ``warnings``, if there are any.
        text: for people.
        out: file, or None.
        overwrite: whether a file there may be replaced.
        terminal: for messages.
    """
    from ssdiff.files import write_atomic

    for warning in result.get("warnings", ()):
        terminal.say(f"warning: {warning}")
    if out is not None:
        write_atomic(out, json.dumps(result, indent=1).encode() + b"\n", overwrite)
    terminal.result(text, result)


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
        print(f"ssdiff: error: {readable(f'{about}{one.error}')}", file=sys.stderr)
    if failed:
        message = f"{len(failed)} of {done + len(failed)} images failed, each named above"
        raise PartialFailure(message) if done else DataError(message)
