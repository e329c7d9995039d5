"""Try until the time is up, tell what was found, and end with 1 if that is anything."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

KINDS = ("kills", "signals", "fuzz", "disk")


class Kind(Protocol):
    """Trials of one kind; `each` of them make a round with those of other kinds."""

    each: int

    def trial(self, number: int) -> list[str]:
        """Return what is wrong, in words."""
        ...


def main() -> int:
    """Run the campaign."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported: threads do not outlive a fork
    options = _options()
    record = _Record(options.json)
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        kinds = _kinds(options.kinds or KINDS, Path(folder), options.seed)
        for name, kind in kinds.items():
            record.begin(name, str(kind), options.seed)
        if options.only:
            for name, kind in kinds.items():
                record.tell(name, {number: kind.trial(number) for number in options.only})
            return 0
        began, tried = time.monotonic(), 0
        while tried < options.rounds if options.rounds else time.monotonic() - began < 60 * options.minutes:
            tried += 1
            for name, kind in kinds.items():
                for _ in range(kind.each):
                    record.take(name, kind.trial)
    print(record)
    return 1 if record.found(kinds) else 0


class _Record:
    """What was tried and found, in a file if one is named, so that parts add up."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kinds = json.loads(path.read_text()) if path and path.exists() else {}

    def begin(self, name: str, about: str, seed: int) -> None:
        """Open the account of a kind."""
        mine = self._kinds.setdefault(name, {"seed": seed, "trials": 0, "seconds": 0.0, "found": {}})
        if mine["seed"] != seed:
            raise SystemExit(f"{self._path} is of seed {mine['seed']}: name another file")
        mine["about"] = about

    def take(self, name: str, trial: Callable[[int], list[str]]) -> None:
        """Do the next trial of a kind."""
        mine, began = self._kinds[name], time.monotonic()
        number = mine["trials"]
        faults = trial(number)
        mine["trials"], mine["seconds"] = number + 1, mine["seconds"] + time.monotonic() - began
        if faults:
            mine["found"][number] = faults
            self.tell(name, {number: faults})
        if self._path:
            self._path.write_text(json.dumps(self._kinds, indent=1))

    def tell(self, name: str, faults: dict[int, list[str]]) -> None:
        """Print what was found."""
        for number, found in faults.items():
            print(f"{name} {number}: {'; '.join(found) or 'nothing'}", flush=True)

    def found(self, names: object) -> bool:
        """Return whether anything was."""
        return any(mine["found"] for mine in self._kinds.values())

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {mine['trials']} trials in {mine['seconds']:.0f} s, {len(mine['found'])} with faults; "
            f"{mine['about']}"
            for name, mine in self._kinds.items()
        )


def _kinds(names: list[str] | tuple[str, ...], folder: Path, seed: int) -> dict[str, Kind]:
    from tests.campaign.disk import Disk
    from tests.campaign.fuzz import Fuzz
    from tests.campaign.kills import Kills
    from tests.campaign.scenarios import Workplace
    from tests.campaign.signals import Signals

    began, workplace = time.monotonic(), Workplace(folder)
    made = dict(zip(KINDS, (Kills, Signals, Fuzz, Disk), strict=True))
    kinds = {name: made[name](workplace, seed) for name in names}
    print(f"ready after {time.monotonic() - began:.0f} s", file=sys.stderr)
    return kinds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; default: all")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="so many instead")
    parser.add_argument("--seed", type=int, default=0, help="decides every trial, with its number")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="repeat these trials")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results; the next call goes on from there")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"no kind {min(unknown)!r}; choose from {', '.join(KINDS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
