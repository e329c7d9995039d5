"""The error boundary: every public command, with hostile values for each of its options and arguments.

The commands and their options come from the application itself, so that a new option is tried from its first
day. Each try is a forked child in an empty working folder, so that thousands take minutes. By hand,
``python -m tests.boundary`` tries all of them, ``python -m tests.boundary sample --out`` those of an option;
the tests try a part that is drawn by a seed, and all with ``SSDIFF_BOUNDARY=all``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

sys.path.insert(0, str(Path(__file__).parent))

import torch
import typer
from children import in_child, take_over_threads
from officialweights import official
from PIL import Image

from ssdiff import cli

TINY = Path(__file__).parent / "assets" / "tiny.toml"
CODES = {0, 2, 3, 4, 5, 6, 7, 75, 130}
PATIENCE = 5.0  # seconds of computing until a command that works on is asked to stop, twice, and ended
STUCK = 120.0  # seconds without that much computing: it waits for something
MEMORY = 3 * 2**30  # bytes that a child may take beside what it begins with
LONGEST = 1000  # letters of a message: what people read is not a screenful

_TRAIN = "--set training.steps=1 --set training.checkpoint_every=1 --set training.sample_count=1 --device cpu"
_EVAL = "{set} --reference {other} --extractor boundary:Means --device cpu"
ORDINARY = {
    "train": f"--preset {{preset}} --data shapes {_TRAIN} --out {{out}}/run",
    "sample": "--ckpt {run} -n 1 --steps 1 --out {out}/x.png --device cpu",
    "degrade": "{picture} --t 1 --out {out}/x.png",
    "restore": "{picture} --ckpt {cold} --out {out}/x.png --device cpu",
    "import": "{released} --preset {flexi} --out {out}/x.safetensors",
    "export": "{run} --out {out}/x.safetensors",
    "info": "{run}",
    "doctor": "",
    "presets list": "",
    "presets show": "{preset}",
    "data prepare": "{set} --size 8",
    "eval fid": _EVAL,
    "eval kid": f"{_EVAL} --subset-size 2",
    "eval prc": _EVAL,
    "eval is": "{set} --weights-file {absent} --device cpu",
    "eval mind": _EVAL,
    "eval cost": "{preset} --no-timing --device cpu",
    "eval report": "{run} --samples 0 --out {out}/x.html --device cpu",
    "eval restore": "{set} --ckpt {cold} --device cpu",
    "eval scale-space": "heat --data {set} --size 8 --images 8 --points 2 --out {out}/s",
    "eval schedule": "--data {set} --images 3 --preset {preset} --steps 2 --eta 0 --out {out}/s",
}
"""Of each command, what makes it do a little work and succeed."""
ENDS = {"eval is": 6}
"""The exit code of those that cannot succeed: Inception's weights are not there."""

NUMBERS = (
    *("", " ", "0", "-1", "1.5", ".999", "True", "nan", "inf", "-inf", "1e308", "1e-320", "1_000", "0x10"),
    *(
        "2147483648",
        "9223372036854775807",
        "9223372036854775808",
        "9" * 5000,
        "\u0661",
        "\u00b2",
        "1,2",
        "one",
    ),
    *("\x1b[31m1", "\0", "\udcff"),
)
WORDS = (
    *("", " ", ".", "..", "/", "-", "~", "~nobodyx/x", "x" * 300, "x/" * 3000, "a\0b", "caf\udce9", "\ud83d"),
    *(
        "\x1b]0;owned\x07\x1b[31m",
        "[red]x[/nothing]",
        "%s{0}",
        "True",
        ".999",
        "nan",
        "9" * 5000,
        "a=b",
        "=",
        "a.b=",
    ),
    *(
        "training.steps=" + "9" * 5000,
        "data=" + "[" * 9000,
        "a." * 5000 + "a=1",
        "x:y",
        "os:path",
        ":",
        "\n",
        "日本",
    ),
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/stdin", "/proc/self/mem", "/proc/nothing/x"),
    *(
        "{absent}",
        "{set}",
        "{empty}",
        "{loop}",
        "{fifo}",
        "{secret}",
        "{picture}",
        "{picture}/x",
        "{run}",
        "{model}",
    ),
    *("{deep.toml}", "{deep.json}", "{wide.toml}", "{bytes}", "{zip}"),
)


@dataclass(frozen=True)
class Try:
    """A command with a hostile value, and what became of it."""

    command: str
    option: str
    value: str
    arguments: list[str]
    code: int | None = None
    seconds: float = 0.0
    out: str = ""
    err: str = ""
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        value = ascii(
            self.value if len(self.value) < 60 else f"{self.value[:40]}... ({len(self.value)} letters)"
        )
        return f"{self.command} {self.option} {value}: {'; '.join(self.faults)}"


class Means(torch.nn.Module):
    """Features that cost nothing."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(-1).flatten(1)


@cache
def commands() -> dict[str, Any]:
    """Every command of the application by its words."""

    def walk(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*words, name))
            else:
                yield " ".join((*words, name)), command

    return dict(walk(typer.main.get_command(cli.app), ()))


def _numbers(group: typer.Typer = cli.app, path: str = "") -> Iterator[tuple[str, str]]:
    """(command, parameter) wherever a number is taken; Typer's own objects say it in every version anew."""
    for info in group.registered_commands:
        hints = get_type_hints(info.callback, include_extras=True)
        for name, hint in hints.items():
            if {int, float} & {kind for part in get_args(hint)[:1] for kind in (part, *get_args(part))}:
                yield f"{path}{info.name}", name
    for part in group.registered_groups:
        assert part.typer_instance
        yield from _numbers(part.typer_instance, f"{path}{part.name} ")


def matrix() -> list[Try]:
    """Every command with every hostile value for each of its options and arguments."""
    found, numbers = [], set(_numbers())
    for name, command in commands().items():
        ordinary = ORDINARY[name].split()
        for parameter in command.params:
            if parameter.name == "help":
                continue
            option = max(parameter.opts, key=len) if parameter.param_type_name == "option" else ""
            for value in hostile(parameter, (name, parameter.name) in numbers):
                given = [option] * bool(option) + [value] * (not getattr(parameter, "is_flag", False))
                if option and len(given) == 2 and value.startswith("-"):
                    given = [f"{option}={value}"]
                found.append(
                    Try(name, option or parameter.name, value, [*_without(ordinary, option), *given])
                )
    return found


def hostile(parameter: Any, number: bool) -> Sequence[str]:
    """What a parameter of this type may be given by mistake or malice."""
    if getattr(parameter, "is_flag", False):
        return ("",)
    return NUMBERS if number else WORDS


def _without(ordinary: list[str], option: str) -> list[str]:
    """The ordinary arguments, but for the one that a hostile value replaces."""
    if option in ordinary and option != "--set":
        where = ordinary.index(option)
        return ordinary[:where] + ordinary[where + 2 :]
    return (
        ordinary if option else [word for word in ordinary[1:]] if ordinary[:1] != ["--preset"] else ordinary
    )


class Place:
    """Files of every kind, a small run, and the folders that a try works in.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.inputs = root, root / "inputs"
        self.inputs.mkdir()
        os.environ["SSDIFF_HOME"] = str(root / "home")
        self.names = {name: str(self.inputs / name) for name in ("set", "other", "empty", "absent")}
        for folder in ("set", "other"):
            for number in range(8):
                picture = self.inputs / folder / f"{number}.png"
                picture.parent.mkdir(exist_ok=True)
                Image.linear_gradient("L").resize((16, 16)).rotate(90 * number).convert("RGB").save(picture)
        (self.inputs / "empty").mkdir()
        for name, text in (
            ("deep.toml", "x = " + "[" * 10**5),
            ("deep.json", "[" * 10**5),
            ("wide.toml", "a." * 20000 + "a=1\n"),
            ("preset", f'extends = "{TINY.as_posix()}"\nsummary = "tests"\n'),
        ):
            self._file(name if "." in name else "tiny.toml", text.encode(), name)
        torch.save({f"module.{key}": value for key, value in official().items()}, self.inputs / "released.pt")
        flexi = "[data]\nsize = 32\n[model]\nwidth = 32\nmultipliers = [1, 2, 4]\nblocks = 2\n"
        flexi += "attention = [16, 8]\n[process]\nlevels = 3\n"
        self._file("flexi.toml", f'extends = "celeba64"\n{flexi}'.encode(), "flexi")
        self.names["released"] = str(self.inputs / "released.pt")
        self._file("bytes.bin", bytes(range(256)) * 9, "bytes")
        self._file("broken.zip", b"PK\x03\x04" + bytes(99), "zip")
        self._file("secret.png", b"secret", "secret").chmod(0)
        self._file("picture.png", (self.inputs / "set" / "1.png").read_bytes(), "picture")
        (self.inputs / "loop").symlink_to("loop")
        os.mkfifo(self.inputs / "fifo")
        self.names |= {name: str(self.inputs / name) for name in ("loop", "fifo", "run", "cold")}
        self.names["model"] = str(self.inputs / "model.safetensors")
        self._train()

    def _file(self, name: str, content: bytes, key: str) -> Path:
        path = self.inputs / name
        path.write_bytes(content)
        self.names[key] = str(path)
        return path

    def _train(self) -> None:
        cold = 'process.degradation={ kind = "blur", kernel = 5, first = 1.5 }'
        more = ("process.kind=cold", "process.T=4", "process.levels=1", "process.snr_preserving=0.0", cold)
        more += ("model.classes=0", "sampling.sampler=alg2")
        sets = [part for one in more for part in ("--set", one)]
        for run, options in (("run", []), ("cold", sets)):
            line = (
                f"train --preset {TINY} {_TRAIN} --set model.width=8 --quiet --out {self.names[run]}".split()
            )
            assert in_child(lambda line=line, options=options: cli.run([*line, *options])) == (0, 0)
        line = f"export {self.names['run']} --out {self.names['model']} --quiet".split()
        assert in_child(lambda: cli.run(line)) == (0, 0)

    def fill(self, text: str, out: Path) -> str:
        """Replace `{name}` by the path of that file."""
        for name, path in (*self.names.items(), ("out", str(out))):
            text = text.replace("{" + name + "}", path)
        return text


def attempt(one: Try, place: Place, as_json: bool = False) -> Try:
    """Run a try in a child; returns it with its end and what was wrong with it."""
    work = Path(tempfile.mkdtemp(dir=place.root, prefix="work-"))
    out = Path(tempfile.mkdtemp(dir=place.root, prefix="out-"))
    arguments = [*one.command.split(), *(place.fill(word, out) for word in one.arguments)]
    names = {option for parameter in commands()[one.command].params for option in parameter.opts}
    arguments += [
        extra
        for extra, wanted in (("--quiet", True), ("--json", as_json))
        if wanted and extra in names and extra not in arguments
    ]
    streams = [place.root / "stdout", place.root / "stderr"]
    before = _state(place.inputs)
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        take_over_threads()
        _be_child(arguments, work, streams)
    code, asked = _wait(child, began)
    seconds = time.perf_counter() - began
    said, told = (stream.read_text(encoding="utf-8", errors="backslashreplace") for stream in streams)
    faults = list(find_faults(code, asked, said, told, as_json and "--json" in names))
    if _state(place.inputs) != before and "{absent}" not in one.value:
        faults.append(f"changed its inputs: {_state(place.inputs) ^ before}")
    left = sorted(path.name for path in work.rglob("*"))
    if left and not (code == 0 and one.option == "--out"):
        faults.append(f"left {left[:3]} in the working folder")
    if half := [path.name for path in out.rglob(".*") if not path.name.startswith(".samples-")]:
        faults.append(f"left {half[:3]}")
    for folder in (work, out, Path(place.names["absent"])):
        _remove(folder)
    return Try(one.command, one.option, one.value, arguments, code, seconds, said, told, faults)


def _be_child(arguments: list[str], work: Path, streams: list[Path]) -> None:
    """Never returns."""
    code = 1
    try:
        for number, path in ((0, os.devnull), *enumerate(streams, 1)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        cli.make_lasting()
        os.chdir(work)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = cli.run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    finally:
        os._exit(code)


def _wait(child: int, began: float) -> tuple[int, int]:
    """Its exit code, and how often it had to be asked to stop."""
    asked = 0
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), asked
        stuck = time.perf_counter() - began > STUCK
        if stuck or _computed(child) > PATIENCE * (asked + 1):
            os.kill(child, signal.SIGKILL if stuck or asked == 2 else signal.SIGINT)
            asked = 3 if stuck else asked + 1
        time.sleep(0.005)


def _computed(child: int) -> float:
    """Seconds of computing; not of waiting for others who compute on this machine."""
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def find_faults(code: int, asked: int, said: str, told: str, as_json: bool) -> Iterator[str]:
    """What is wrong with how a command ended: its code, whether it had to be killed, stdout and stderr."""
    if asked == 3:
        yield "hangs"
        return
    if code not in CODES:
        yield f"exit code {code}"
    for word in ("Traceback", "a bug in ssdiff", "Warning:"):
        if word in told or word in said:
            yield f"says {word!r}: {told[-300:]}"
    lines = told.splitlines()
    if code and (not lines or not all(line.startswith("ssdiff: ") for line in lines)):
        yield f"stderr is no message: {told[:300]!r}"
    if code not in (0, 3, 7) and len(lines) > 1:
        yield f"{len(lines)} lines on stderr: {told[:300]!r}"
    if max(map(len, lines), default=0) > LONGEST:
        yield f"a message of {max(map(len, lines))} letters: {told[:200]!r}"
    if any(ord(letter) < 32 and letter not in "\n\t" for letter in told + said):
        yield f"gives control codes to the terminal: {(told + said)[:200]!r}"
    if as_json and code:
        try:
            if json.loads(said)["code"] != code and code not in (3, 7):
                yield f"--json says {said[:99]!r}"
        except (ValueError, KeyError, TypeError):
            if code not in (3, 7):
                yield f"--json gives {said[:99]!r}"


def _state(folder: Path) -> set[tuple[str, int, int]]:
    """Name, size and time of every file that is nobody's lock."""
    found = set()
    for path in folder.rglob("*"):
        about = path.lstat()
        if path.suffix != ".lock" and not path.is_dir():
            found.add((str(path.relative_to(folder)), about.st_size, about.st_mtime_ns))
    return found


def _remove(folder: Path) -> None:
    if not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


def sample(count: int, seed: int) -> list[Try]:
    """A part of the matrix, in which every command and every hostile value has its turn if there is room."""
    rest = matrix()
    random.Random(seed).shuffle(rest)
    seen: set[tuple[str, str]] = set()
    first, others = [], []
    for one in rest:
        keys = {("command", one.command), ("value", one.value)}
        (others if keys <= seen else first).append(one)
        seen |= keys
    return (first + others)[:count]


def ready() -> None:
    """Import what commands need, so that children begin with it."""
    torch.set_num_threads(1)
    import matplotlib.pyplot
    import rich.console
    import rich.progress
    import torchvision
    from torch import _dynamo

    import ssdiff.analysis
    import ssdiff.evaluation.generative
    import ssdiff.reporting.run_report
    import ssdiff.training.run

    modules = (matplotlib.pyplot, rich.console, rich.progress, _dynamo, torchvision, ssdiff.analysis)
    assert all(modules)
    Image.init()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="words of a command, then perhaps an option")
    parser.add_argument("--sample", type=int, help="so many tries, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="print each try, with its end")
    known, options = parser.parse_known_args()
    wanted = " ".join(known.only)
    tries = sample(known.sample, known.seed) if known.sample else matrix()
    tries = [
        one for one in tries if one.command.startswith(wanted) and (not options or one.option in options)
    ]
    ready()
    bad, codes, began = 0, Counter[int | None](), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        for number, one in enumerate(tries):
            done = attempt(one, place, as_json=number % 2 == 1)
            codes[done.code] += 1
            bad += bool(done.faults)
            if done.faults or known.all or done.code in (75, 130):
                print(done, "" if done.faults else f"{done.code} {done.err[:150].strip()!r}", flush=True)
    ends = ", ".join(f"{count} with {code}" for code, count in sorted(codes.items()))
    print(f"{len(tries)} tries in {time.perf_counter() - began:.0f} s, {bad} faults; ended: {ends}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
