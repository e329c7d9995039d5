"""Run a piece of a test in a child process that may be killed or limited."""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOBODY = 65534


def take_over_threads() -> None:
    """Renew PyTorch's pool of threads in a forked child, which its first two threads would do at once."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(torch.get_num_threads())


def in_child(action: Callable[[], Any]) -> tuple[int, Any]:
    """Exit code of a forked child (negative: the signal that killed it) and what ``action`` gave there.

    Forked, not started anew, so that a child costs milliseconds and not an import of torch.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            take_over_threads()
            with os.fdopen(writing, "wb") as stream:
                stream.write(pickle.dumps(action()))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        sent = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, pickle.loads(sent) if sent else None


def die() -> None:
    """End as kill -9 ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)


def enter_read_only(folder: Path) -> None:
    """Go into a folder as somebody who may not write there; for a child, it cannot be undone."""
    os.chdir(folder)
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
