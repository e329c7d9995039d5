"""What a message tells people to type exists: on the command that it names, or that it comes from."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from boundary import commands

PACKAGE = Path(__file__).parents[1] / "ssdiff"
OPTION = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
COMMAND = re.compile(r"(`?)ssdiff ([a-z-]+(?: [a-z][a-z-]*)?)([^`;.,:]*)")
# Of pip, and of style sheets.
FOREIGN = {"--force-reinstall", "--no-deps", "--help", "--version"}
STYLES = {"reporting/html.py"}
# Which commands can raise what a module raises; of the others several may.
OF = {
    "cli/sample.py": ("sample",),
    "cli/train.py": ("train",),
    "cli/degrade.py": ("degrade",),
    "cli/restore.py": ("restore",),
    "cli/data.py": ("data prepare",),
    "cli/weights.py": ("import", "export"),
    "cli/presets.py": ("presets list", "presets show"),
    "cli/eval/cost.py": ("eval cost",),
    "cli/eval/report.py": ("eval report",),
    "cli/eval/restoration.py": ("eval restore",),
    "cli/eval/schedule.py": ("eval schedule",),
    "cli/eval/scale_space.py": ("eval scale-space",),
    "cli/eval/distances.py": ("eval fid",),
    "generation.py": ("sample", "restore"),
    "image_folder.py": ("sample",),
    "degradation.py": ("degrade",),
    "restoration/": ("restore", "eval restore"),
    "training/": ("train",),
    "runs/": ("train",),
    "analysis/schedule": ("eval schedule",),
    "analysis/scale_space": ("eval scale-space",),
    "evaluation/generative.py": ("eval fid",),
    "evaluation/distances.py": ("eval fid",),
    "evaluation/restoration.py": ("eval restore", "restore"),
    "evaluation/cost.py": ("eval cost", "train"),
    "evaluation/timing.py": ("eval cost", "eval report", "train"),
    "reporting/": ("eval report",),
    "weights/convert.py": ("import", "export", "sample"),  # it says how to go on
    "weights/released.py": ("import",),
    "data/inputs.py": ("degrade", "restore"),
}


def said(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every text of a module but docstrings; what is filled in stands as `{}`."""
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            parts.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, "".join(map(str, texts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value


@cache
def options(command: str) -> frozenset[str]:
    return frozenset(name for one in commands()[command].params for name in (*one.opts, *one.secondary_opts))


def wrong(name: str, text: str) -> list[str]:
    """Options that a text of a module tells people to type, and that are not there."""
    everywhere = frozenset().union(*map(options, commands()))
    faults = [option for option in OPTION.findall(text) if option not in everywhere | FOREIGN]
    spoken_for = set()
    for quoted, words, rest in COMMAND.findall(text):
        command = next((known for known in (words, words.split()[0]) if known in commands()), None)
        if command is None:
            if quoted and words.split()[0] not in {known.split()[0] for known in commands()}:
                faults.append(f"ssdiff {words}")
            continue
        named = set(OPTION.findall(words + rest))
        spoken_for |= named
        faults += [f"{option} of {command}" for option in sorted(named - options(command) - FOREIGN)]
    here = [those for module, those in OF.items() if name.startswith(module)]
    if here:
        own = frozenset().union(*map(options, here[0]))
        others = set(OPTION.findall(text)) - spoken_for - FOREIGN
        faults += [f"{option} of {' or '.join(here[0])}" for option in sorted(others - own)]
    return faults


def test_what_messages_tell_to_type_exists():
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in STYLES:
            for line, text in said(ast.parse(path.read_text(encoding="utf-8"))):
                faults += [f"{name}:{line}: {fault} in {text[:80]!r}" for fault in wrong(name, text)]
    assert faults == []


def test_modules_of_a_command_are_there():
    assert [part for part in OF if not (PACKAGE / part).exists() and not list(PACKAGE.glob(f"{part}*"))] == []


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("errors.py", "raise the limit with --most-pixels", "--most-pixels"),
        ("errors.py", "use `ssdiff export --steps 5`", "--steps of export"),
        ("errors.py", "see `ssdiff sampel`", "ssdiff sampel"),
        ("training/run.py", "choose one with --max-std", "--max-std of train"),
        ("generation.py", "lower --batch", None),
        ("training/run.py", "then `ssdiff sample --columns 3`", None),
    ],
)
def test_what_is_not_there_is_found(name, text, fault):
    assert wrong(name, text) == [fault] * bool(fault)


def test_texts_are_read_with_gaps_and_without_docstrings():
    tree = ast.parse('"""--doc"""\nx = f"a {b} --out {c}"\nraise E("d", hint="--e")')
    assert {text for _, text in said(tree)} == {"a {} --out {}", "d", "--e"}
