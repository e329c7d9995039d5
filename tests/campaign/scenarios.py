"""Commands that write, what must come of them whatever happened on the way, and where they are tried."""

import json
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ssdiff import checkpoints
from ssdiff.errors import SsdiffError
from ssdiff.runs import is_run
from tests.campaign.commands import Call, Outcome, import_everything, import_what, operations, run

PRESET = """
summary = "the campaign's"

[data]
size = 8

[process]
T = 8
levels = 1
snr_preserving = 1.0

[model]
width = 8
multipliers = [1]
blocks = 1
attention = []
heads = 1

[training]
batch = 2
steps = 4
checkpoint_every = 1
max_checkpoints = 2
log_every = 3
sample_every = 2
sample_count = 2
sample_steps = 2

[sampling]
steps = 2
"""
CPU = ("--device", "cpu", "--quiet")
_RUN = ("train", "--preset", "tiny.toml", "--data", "../data", "--out", "run", "--resume", "auto", *CPU)
# Commands that import what training does not.
_IMPORTING = (
    ("presets", "list"),
    ("sample", "--ckpt", "run", "-n", "1", "--out", "x.gif", *CPU),
)
_VOLATILE = ("train.log", "run.lock", "status.json")
_TIMES = ("seconds", "images_per_second")


@dataclass(frozen=True)
class Scenario:
    """A command that writes.

    Attributes:
        name: of the scenario.
        arguments: of the command.
        again: of the command that completes what an interruption left.
        resumable: a signal lets it save and say so, with 75.
    """

    name: str
    arguments: tuple[str, ...]
    again: tuple[str, ...]
    resumable: bool = False


_PREPARE = ("data", "prepare", "../data", "--size", "8", "--quiet")
_SAMPLE = ("sample", "--ckpt", "../model.safetensors", "-n", "5", "--batch", "2", "--out", "many/")
SCENARIOS = (
    Scenario("train", _RUN, _RUN, resumable=True),
    Scenario("prepare", _PREPARE, _PREPARE),
    Scenario("sample", (*_SAMPLE, "--quiet"), (*_SAMPLE, "--quiet")),
    *(
        Scenario(name, (*arguments, "--quiet"), (*arguments, "--quiet", "--overwrite"))
        for name, arguments in {
            "export": ("export", "../trained/run", "--out", "model.safetensors"),
            "renew": _SAMPLE,
            "grid": ("sample", "--ckpt", "../model.safetensors", "-n", "2", "--out", "grid.npz"),
            "degrade": ("degrade", "../data", "--t", "500", "--out", "degraded/"),
        }.items()
    ),
)


class Workplace:
    """A folder in which commands are tried, one after the other, always under the same path.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.here, self.data = root, root / "here", root / "data"
        self.fresh()
        self._draw_data()
        import_everything()
        import_what([self.call(arguments) for arguments in (SCENARIOS[0].arguments, *_IMPORTING)])
        shutil.move(self.here, root / "trained")
        self.fresh()
        self.must("export", "../trained/run", "--out", "../model.safetensors", "--quiet")
        self._references: dict[str, dict[str, bytes]] = {}
        self._operations: dict[str, list[tuple[str, str]]] = {}
        self._seconds: dict[str, float] = {}

    def fresh(self) -> None:
        """Empty the folder in which commands run."""
        shutil.rmtree(self.here, ignore_errors=True)
        self.here.mkdir()
        self.fill()

    def fill(self) -> None:
        """Write there what the commands take."""
        (self.here / "tiny.toml").write_text(PRESET)

    def call(self, arguments: tuple[str, ...], **more: object) -> Call:
        """Return a command that will run here."""
        return Call(arguments, self.here, **more)

    def must(self, *arguments: str) -> None:
        """Run a command that has to succeed.

        Raises:
            RuntimeError: it did not.
        """
        if (done := run(self.call(arguments))).code:
            raise RuntimeError(f"{' '.join(arguments)}: {done}")

    def operations(self, scenario: Scenario) -> list[tuple[str, str]]:
        """Return what a scenario does to files when nothing happens, in order."""
        self._try_undisturbed(scenario)
        return self._operations[scenario.name]

    def reference(self, scenario: Scenario) -> dict[str, bytes]:
        """Return the files that a scenario leaves when nothing happens."""
        self._try_undisturbed(scenario)
        return self._references[scenario.name]

    def seconds(self, scenario: Scenario) -> float:
        """Return how long a scenario takes when nothing happens, about."""
        self._try_undisturbed(scenario)
        return self._seconds[scenario.name]

    def contents(self) -> dict[str, bytes]:
        """Return every file here that must not depend on time, by name; folders end in a slash."""
        found = {}
        for path in self.here.rglob("*"):
            name = path.relative_to(self.here).as_posix()
            if path.is_dir():
                found[f"{name}/"] = b""
            elif path.name == "metrics.jsonl":
                found[name] = _without_times(path.read_text())
            elif path.suffix != ".lock" and path.name not in _VOLATILE:
                found[name] = path.read_bytes()
        return found

    def _try_undisturbed(self, scenario: Scenario) -> None:
        if scenario.name not in self._references:
            self.fresh()
            began = time.monotonic()
            self._operations[scenario.name] = operations(self.call(scenario.arguments))
            self._seconds[scenario.name] = time.monotonic() - began
            self._references[scenario.name] = self.contents()

    def _draw_data(self) -> None:
        numbers = random.Random(0)
        self.data.mkdir()
        for number in range(6):
            Image.frombytes("RGB", (8, 8), numbers.randbytes(192)).save(self.data / f"{number}.png")


def differences(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Return what differs between two sets of files, in words."""
    faults = [f"left over: {name}" for name in sorted(found.keys() - wanted.keys())]
    faults += [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    return faults + [f"differs: {name}" for name in sorted(wanted) if found.get(name, b"") != wanted[name]]


def _without_times(log: str) -> bytes:
    records = [json.loads(line) for line in log.splitlines()]
    kept = [{key: value for key, value in record.items() if key not in _TIMES} for record in records]
    return json.dumps(kept).encode()


def half_written(workplace: Workplace) -> list[str]:
    """Return what is published here and not whole, after any kind of interruption."""
    faults = []
    folder = workplace.here / "run"
    for path in checkpoints.list_steps(folder / "checkpoints"):
        try:
            checkpoints.verify(path)
        except SsdiffError as error:
            faults.append(f"published and damaged: {error}")
    for name in ("status.json", "owner.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_bytes())
    for path in workplace.here.rglob("[!.]*.png"):
        with Image.open(path) as picture:
            picture.load()
    return faults


def staged(workplace: Workplace) -> list[str]:
    """Return what is here under a name that only an unfinished file or folder has, but for what the next
    command goes on with: half of a folder of samples, and of prepared data."""
    found = (
        path
        for path in workplace.here.rglob(".*")
        if not path.name.startswith(".samples-") and path.suffix != ".partial"
    )
    return sorted(path.relative_to(workplace.here).as_posix() for path in found)


def completed(workplace: Workplace, scenario: Scenario) -> list[str]:
    """Run what completes a scenario; return what then differs from one that nothing happened to."""
    done = run(workplace.call(scenario.again))
    if done.code or done.err:
        return [f"{' '.join(scenario.again[:2])} after it: {done}"]
    faults = differences(workplace.contents(), workplace.reference(scenario))
    if scenario.name == "train":
        status = json.loads((workplace.here / "run" / "status.json").read_bytes())
        if (status["state"], status["step"]) != ("finished", 4):
            faults.append(f"status.json says {status}")
    return faults


def unexpected(done: Outcome, codes: frozenset[int] | set[int]) -> list[str]:
    """Return what is wrong with how a command ended: its code, and more than one line on stderr."""
    faults = [] if done.code in codes and not done.hung else [f"{done}"]
    lines = done.err.splitlines()
    said = [line for line in lines if not line.startswith(("ssdiff: error: ", "ssdiff: note: "))]
    if said:
        faults.append(f"on stderr: {said[0][:200]}")
    if "a bug in ssdiff" in done.err or "Traceback" in done.err:
        faults.append(f"{lines[-1][:300]}")
    return faults


def inspected(workplace: Workplace) -> list[str]:
    """Look at a run that was interrupted, as its user would; return what is wrong."""
    if not is_run(workplace.here / "run"):
        return []
    done = run(workplace.call(("info", "run", "--json")))
    return unexpected(done, {0})
