"""The page of what is published and held: every row names a test that exists."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "conformance.md"
HEADER = ("feature", "source", "state", "test")
STATES = ("exact", "law", "own", "absent")
SYSTEMS = ("Scale Space Diffusion", "Cold Diffusion", "Blur diffusion", "probabilistic scale-spaces")


def problems(page: str) -> list[str]:
    """What is wrong with the tables of a page, one line each."""
    found = []
    for number, line in enumerate(page.splitlines(), 1):
        if not line.startswith("|"):
            continue
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        if cells == HEADER or set("".join(cells)) <= {"-", " "}:
            continue
        if len(cells) != len(HEADER):
            found.append(f"line {number}: {len(cells)} cells, not {len(HEADER)}")
            continue
        feature, source, state, test = cells
        word, _, reason = state.partition(": ")
        if word not in STATES:
            found.append(f"line {number}: unknown state {word!r}")
        if (word in ("own", "absent")) != bool(reason):
            found.append(f"line {number}: 'own' and 'absent' give a reason, the others none")
        if not feature or not source:
            found.append(f"line {number}: without feature or source")
        if word == "absent":
            found += [f"line {number}: what is absent has no test"] * bool(test)
        else:
            found += [f"line {number}: {what}" for what in missing_tests(test)]
    return found


def missing_tests(cell: str) -> list[str]:
    """Tests of a cell, one or several with commas, that do not exist."""
    result = []
    for test in cell.split(", "):
        file, separator, name = test.partition("::")
        if not separator or name not in _functions(ROOT / file):
            result.append(f"no test {test or '(none)'}")
    return result


@cache
def _functions(file: Path) -> frozenset[str]:
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_row_is_held_by_a_test():
    page = PAGE.read_text(encoding="utf-8")
    assert problems(page) == []
    sections = re.findall(r"^## (.+)$", page, re.M)
    missing = [name for name in SYSTEMS if not any(name.lower() in title.lower() for title in sections)]
    assert missing == []


def test_what_is_not_held_is_found():
    row = "| a | [SSD] | {} | {} |"
    here = "tests/test_conformance.py::test_what_is_not_held_is_found"
    assert problems(row.format("exact", here)) == []
    assert problems(row.format("absent: needs a GPU", "")) == []
    assert problems(row.format("exact", "tests/test_conformance.py::test_gone")) == [
        "line 1: no test tests/test_conformance.py::test_gone"
    ]
    assert problems(row.format("exact", "")) == ["line 1: no test (none)"]
    assert problems(row.format("done", here)) == ["line 1: unknown state 'done'"]
    assert problems(row.format("own", here)) == ["line 1: 'own' and 'absent' give a reason, the others none"]
    assert problems(row.format("absent: later", here)) == ["line 1: what is absent has no test"]
    assert problems("| a | b | exact |") == ["line 1: 3 cells, not 4"]
