"""Let the disk fail at an operation, or be full, and go on once there is room again."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.campaign.commands import run
from tests.campaign.operations import Strike
from tests.campaign.scenarios import SCENARIOS, Workplace, completed, half_written, staged, unexpected

_ERRORS = ("ENOSPC", "ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES")
_RESOURCES = 6


class Disk:
    """Trials of a disk that is full, fails or may not be written.

    Args:
        workplace: where.
        seed: decides every trial, with its number.
    """

    each = 1

    def __init__(self, workplace: Workplace, seed: int) -> None:
        self._workplace, self._seed = workplace, seed
        self._moments = [
            (scenario, number, kind)
            for scenario in SCENARIOS
            for number, (kind, _) in enumerate(workplace.operations(scenario))
        ]
        random.Random(f"{seed} disk").shuffle(self._moments)
        self._mounts = _can_mount(workplace)

    def __str__(self) -> str:
        full = "small file systems" if self._mounts else "no small file systems, which need rights of root"
        return f"ENOSPC, EDQUOT, EIO, EROFS and EACCES at {len(self._moments)} operations, file sizes, {full}"

    def trial(self, number: int) -> list[str]:
        """Return what is wrong after a fault of the disk; the operations take turns."""
        choice, workplace = random.Random(f"{self._seed} disk {number}"), self._workplace
        scenario, at, kind = self._moments[number % len(self._moments)]
        workplace.fresh()
        if number % 4 == 3:
            room = round(200_000 * choice.random() ** 3)
            what = f"no file over {room} bytes"
            done = run(workplace.call(scenario.arguments, file_size=room))
            faults = self._wrong(done)
        elif number % 8 == 1 and self._mounts:
            pages = choice.randrange(1, 80)
            what = f"a file system of {pages} pages"
            with _small(workplace, pages):
                done = run(workplace.call(scenario.arguments))
                faults = self._wrong(done)
                _enlarge(workplace)
                return self._told(scenario.name, what, faults + completed(workplace, scenario))
        else:
            how, torn = choice.choice(_ERRORS), kind == "write" and choice.random() < 0.5
            strike = Strike(at, how, torn, lasting=choice.random() < 0.5)
            what = f"{strike} at {kind}"
            done = run(workplace.call(scenario.arguments, strike=strike))
            faults = self._wrong(done, lasting=strike.lasting)
        return self._told(scenario.name, what, faults + completed(workplace, scenario))

    def _wrong(self, done, lasting: bool = False) -> list[str]:
        faults = [*unexpected(done, {0, _RESOURCES}), *half_written(self._workplace)]
        if left := staged(self._workplace):
            faults.append(f"left over: {left[0]}")
        return faults

    def _told(self, name: str, what: str, faults: list[str]) -> list[str]:
        return [f"{name}, {what}: {fault}" for fault in faults]


@contextmanager
def _small(workplace: Workplace, pages: int) -> Iterator[None]:
    """A file system of a few pages in place of the folder where commands run."""
    size = f"size={4096 * pages}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", workplace.here], check=True)
    try:
        with suppress(OSError):
            workplace.fill()
        yield
    finally:
        subprocess.run(["umount", "-l", workplace.here], check=True)


def _enlarge(workplace: Workplace) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", workplace.here], check=True)
    workplace.fill()


def _can_mount(workplace: Workplace) -> bool:
    if os.geteuid() != 0:
        return False
    workplace.fresh()
    try:
        with _small(workplace, 8):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
