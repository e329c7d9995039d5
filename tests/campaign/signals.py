"""Ask a command to stop, at an operation on its files or at any moment, and go on with it."""

import json
import random
import signal
import subprocess
import sys
import time

from tests.campaign.commands import Outcome, environment, run
from tests.campaign.operations import Strike
from tests.campaign.scenarios import (
    SCENARIOS,
    Scenario,
    Workplace,
    completed,
    half_written,
    inspected,
    staged,
    unexpected,
)

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP")
_AFRESH = 10  # every tenth trial starts a process of its own, so that a signal may come while it imports
_INTERRUPTED, _RESUMABLE = 130, 75


class Signals:
    """Trials of SIGTERM, SIGINT and SIGHUP.

    Args:
        workplace: where.
        seed: decides every trial, with its number.
    """

    each = 1

    def __init__(self, workplace: Workplace, seed: int) -> None:
        self._workplace, self._seed = workplace, seed
        self._seconds = {scenario.name: workplace.seconds(scenario) for scenario in SCENARIOS}

    def __str__(self) -> str:
        return "SIGTERM, SIGINT and SIGHUP, once or twice, at operations on files and at random moments"

    def trial(self, number: int) -> list[str]:
        """Return what is wrong after a signal; every other one comes at an operation on files."""
        choice, workplace = random.Random(f"{self._seed} signals {number}"), self._workplace
        scenario = choice.choice((SCENARIOS[0], *SCENARIOS)) if number % _AFRESH else SCENARIOS[0]
        names = [choice.choice(_NAMES) for _ in range(choice.choice((1, 1, 1, 2)))]
        workplace.fresh()
        if number % _AFRESH == 0:
            names = names[:1]
            done = self._afresh(scenario, names[0], choice.uniform(0, 8))
        elif number % 2:
            at = choice.randrange(len(workplace.operations(scenario)))
            names = names[:1]
            done = run(workplace.call(scenario.arguments, strike=Strike(at, names[0])))
        else:
            later = sorted(choice.uniform(0, self._seconds[scenario.name]) for _ in names)
            sent = [(moment, getattr(signal, name)) for moment, name in zip(later, names, strict=True)]
            done = run(workplace.call(scenario.arguments, signals=sent))
        faults = [*self._wrong(scenario, names, done), *half_written(workplace)]
        if scenario.resumable:
            faults += inspected(workplace)
        faults += completed(workplace, scenario)
        return [f"{scenario.name}, {' and '.join(names)}: {fault}" for fault in faults]

    def _wrong(self, scenario: Scenario, names: list[str], done: Outcome) -> list[str]:
        """What is wrong with how the command ended, and with what it left."""
        by_itself = {0, *(-getattr(signal, name) for name in names)}
        if "SIGINT" in names:
            by_itself |= {_INTERRUPTED}
        faults = unexpected(done, by_itself | ({_RESUMABLE} if scenario.resumable else set()))
        if done.code >= 0 and (left := staged(self._workplace)):
            faults.append(f"left over: {left[0]}")
        status = self._workplace.here / "run" / "status.json"
        if done.code in (0, _RESUMABLE) and status.exists():
            said, wanted = json.loads(status.read_bytes()), "finished" if done.code == 0 else "interrupted"
            if said["state"] != wanted or (done.code and said["code"] != done.code):
                faults.append(f"status.json says {said} after {done.code}")
        return faults

    def _afresh(self, scenario: Scenario, name: str, later: float) -> Outcome:
        """The same in a process that has to import everything."""
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "ssdiff", *scenario.arguments],
            cwd=self._workplace.here,
            env=environment(self._workplace.call(scenario.arguments)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: [signal.signal(getattr(signal, other), signal.SIG_DFL) for other in _NAMES],
        )
        try:
            process.wait(later)
        except subprocess.TimeoutExpired:
            process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=120)
        return Outcome(process.returncode, out, err, time.monotonic() - began)
