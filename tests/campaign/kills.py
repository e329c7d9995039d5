"""Kill a command at an operation on files or at any moment, kill what goes on with it, and compare."""

import random
import signal

from tests.campaign.commands import run
from tests.campaign.operations import Strike
from tests.campaign.scenarios import SCENARIOS, Workplace, completed, half_written, inspected


class Kills:
    """Trials of kill -9.

    Args:
        workplace: where.
        seed: decides every trial, with its number.
    """

    each = 1

    def __init__(self, workplace: Workplace, seed: int) -> None:
        self._workplace, self._seed = workplace, seed
        self._moments = [
            (scenario, number, torn)
            for scenario in SCENARIOS
            for number, (kind, _) in enumerate(workplace.operations(scenario))
            for torn in ((False, True) if kind == "write" else (False,))
        ]
        random.Random(f"{seed} kills").shuffle(self._moments)
        self._seconds = {scenario.name: workplace.seconds(scenario) for scenario in SCENARIOS}

    def __str__(self) -> str:
        return f"kill -9 at each of {len(self._moments)} operations on files, and at random moments"

    def trial(self, number: int) -> list[str]:
        """Return what is wrong after one or a few kills; two of three trials take the operations in turn."""
        choice, workplace = random.Random(f"{self._seed} kills {number}"), self._workplace
        scenario, at, torn = self._moments[(number - number // 3) % len(self._moments)]
        faults: list[str] = []
        workplace.fresh()
        arguments = scenario.arguments
        for again in range(1 + choice.choice((0, 0, 1, 2))):
            if again:
                arguments, at, torn = scenario.again, choice.randrange(at + 40), choice.random() < 0.5
            if number % 3 == 2:
                later = choice.uniform(0, self._seconds[scenario.name])
                call = workplace.call(arguments, signals=[(later, signal.SIGKILL)])
            else:
                call = workplace.call(arguments, strike=Strike(at, "SIGKILL", torn))
            done = run(call)
            if done.code not in (-signal.SIGKILL, 0) or done.err:
                faults.append(f"killed: {done}")
            faults += half_written(workplace)
            if scenario.resumable:
                faults += inspected(workplace)
        return [f"{scenario.name}: {fault}" for fault in (*faults, *completed(workplace, scenario))]
