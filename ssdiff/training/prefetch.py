"""What the next steps need, made by a thread while this one computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Prefetch(Generic[_T]):
    """A function of a counter, whose next values one thread computes while the last one is in use.

    Because each value depends on its counter alone, they are those of the function itself, in any order and
    after any jump. What the function raises is raised by the call that asks for that counter.

    Args:
        function: of a counter; only the thread calls it, one call at a time.
        ahead: values that may wait, at least 1.
    """

    def __init__(self, function: Callable[[int], _T], ahead: int) -> None:
        assert ahead >= 1, "without waiting values call the function"
        self._function, self._ahead = function, ahead
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._waiting: deque[tuple[int, Future[_T]]] = deque()

    def __call__(self, counter: int) -> _T:
        """Return the function's value, which is there already if the last call was for the one before."""
        if self._waiting and self._waiting[0][0] != counter:
            self._drop()
        following = self._waiting[-1][0] + 1 if self._waiting else counter
        for later in range(following, counter + self._ahead + 1):
            self._waiting.append((later, self._pool.submit(self._function, later)))
        _, future = self._waiting.popleft()
        return future.result()

    def close(self) -> None:
        """End the thread after what it is at; what waits is dropped."""
        self._drop()
        self._pool.shutdown()

    def _drop(self) -> None:
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
