"""The page of faults: every situation that went wrong once is held by a test that exists."""

import re
from pathlib import Path

from test_conformance import missing_tests

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
HEADER = ["situation", "test"]


def situations(page: str) -> list[list[str]]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"
    ]
    start = rows.index(HEADER)
    return rows[start + 2 :]


def problems(page: str) -> list[str]:
    found = []
    rows = situations(page)
    for row in rows:
        found += [f"{row} has {len(row)} cells"] if len(row) != 2 else missing_tests(row[1])
    names = [row[0] for row in rows]
    return found + [f"twice: {name}" for name in sorted({name for name in names if names.count(name) > 1})]


def test_every_situation_is_held_by_a_test():
    page = PAGE.read_text(encoding="utf-8")
    assert problems(page) == [] and len(situations(page)) >= 50


def test_rows_are_numbered_without_gaps():
    numbers = re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8").partition("## Faults")[2], re.M)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))


def test_what_is_not_held_is_found():
    table = "| situation | test |\n| --- | --- |\n{}\n"
    here = "tests/test_faults_page.py::test_what_is_not_held_is_found"
    assert problems(table.format(f"| a | {here} |")) == []
    assert problems(table.format("| a | tests/test_gone.py::test_x |")) == [
        "no test tests/test_gone.py::test_x"
    ]
    assert problems(table.format(f"| a | {here} |\n| a | {here} |")) == ["twice: a"]
