"""Give the commands damaged files and odd values; each has to end in one line and a documented code."""

import random
from pathlib import Path

from PIL import Image

from tests.campaign.commands import KNOWN_CODES, Outcome, run
from tests.campaign.inputs import inputs, special
from tests.campaign.lines import line
from tests.campaign.mutations import mutate
from tests.campaign.scenarios import Workplace, staged, unexpected

_LINES = 0.2  # of the trials are odd command lines
_SHARE = 0.05  # of `eval`, which takes seconds, beside commands that take none
_MEMORY = 700  # MB that no command of such small inputs may need
_DOCUMENTED = KNOWN_CODES - {75, 130}


class Fuzz:
    """Trials of damaged files and odd command lines.

    Args:
        workplace: where.
        seed: decides every trial, with its number.
    """

    each = 10

    def __init__(self, workplace: Workplace, seed: int) -> None:
        self._workplace, self._seed, self._inputs = workplace, seed, inputs(workplace)
        self._contents = [one.content for one in self._inputs]

    def __str__(self) -> str:
        return f"{len(self._inputs)} kinds of files, damaged, and odd command lines"

    def trial(self, number: int) -> list[str]:
        """Return what is wrong with how a command takes it."""
        choice, workplace = random.Random(f"{self._seed} fuzz {number}"), self._workplace
        workplace.fresh()
        if choice.random() < _LINES:
            arguments, what = line(choice), "line"
        else:
            one = choice.choice(self._inputs)
            place = workplace.here / one.name
            place.parent.mkdir(parents=True, exist_ok=True)
            one.beside(workplace.here)
            place.unlink(missing_ok=True)
            shares = [_SHARE if command[0] == "eval" else 1.0 for command in one.commands]
            [arguments], what = choice.choices(one.commands, shares), one.name
            if (kind := special(choice, place)) is not None:
                what = f"{one.name}: {kind}"
            else:
                place.write_bytes(mutate(choice, one.content, self._contents))
        before = set(workplace.here.rglob("*"))
        done = run(workplace.call(arguments))
        faults = [*unexpected(done, _DOCUMENTED), *self._wrong(done, before)]
        return [f"{what}, {' '.join(arguments)[:300]!r}: {fault}" for fault in faults]

    def _wrong(self, done: Outcome, before: set[Path]) -> list[str]:
        """What is wrong with what the command left or needed."""
        faults = [f"{done.memory} MB: {done}"] if done.memory > _MEMORY else []
        if left := [name for name in staged(self._workplace) if self._workplace.here / name not in before]:
            faults.append(f"left over: {left[0]}")
        made = [path for path in self._workplace.here.glob("out*") if path not in before]
        if done.code not in (0, 7) and any(path.is_file() for path in made):
            faults.append(f"{made[0].name} was written, code {done.code}")
        for path in (
            path for folder in made for path in (folder, *folder.rglob("*.png")) if path.suffix == ".png"
        ):
            with Image.open(path) as picture:
                picture.load()
        if done.code == 0 and done.err:
            faults.append(f"code 0, and on stderr: {done.err[:200]}")
        if any(not (character.isprintable() or character in "\n\t") for character in done.err):
            faults.append(f"not printable: {done.err!r:.200}")
        return faults
