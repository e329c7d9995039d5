"""Tell whoever asked for work how far it is: a callable, so that the caller decides what to show."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ssdiff.arguments import require_callable

Progress: TypeAlias = Callable[[str, float, int | None], None]
"""(stage, done, total): a word such as "sampling", how many of the whole are done (a fraction where an image
is on its way), and how many there are, None if that is not known."""


class Counter:
    """Count the work of one stage, and report it.

    Args:
        progress: is told; None: nobody.
        stage: a word such as "sampling".
        total: items in all, None if unknown.
        steps: parts of an item that are counted, e.g. the sampling steps of an image.
        ranks: processes that work at the same pace, of which each counts its own share only.

    Raises:
        UsageError: progress cannot be called.
    """

    def __init__(
        self, progress: Progress | None, stage: str, total: int | None, *, steps: int = 1, ranks: int = 1
    ) -> None:
        require_callable("progress", progress)
        self._progress, self._stage, self._total = progress, stage, total
        self._share, self._counted = ranks / steps, 0.0
        self(0)

    def __call__(self, count: float = 1) -> None:
        """Report that so many items are a step further."""
        self.reach(self._counted + count)

    def reach(self, counted: float) -> None:
        """Report how many steps are done in all."""
        self._counted = counted
        if self._progress is not None:
            done = self._counted * self._share
            self._progress(self._stage, done if self._total is None else min(done, self._total), self._total)


def stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    """Return what to tell of (done, total) alone, for one stage; None if nobody is to be told."""
    require_callable("progress", progress)
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)
