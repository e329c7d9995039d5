"""Hostile values for every option of every command end in one line and a documented code."""

import os
from dataclasses import replace

import pytest
from boundary import ENDS, ORDINARY, Place, Try, attempt, commands, find_faults, matrix, ready, sample

TRIES, SEED = 60, 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    ready()
    before = os.environ["SSDIFF_HOME"]
    yield Place(tmp_path_factory.mktemp("boundary"))
    os.environ["SSDIFF_HOME"] = before


def test_every_command_has_an_ordinary_line():
    assert sorted(ORDINARY) == sorted(commands())


def test_ordinary_lines_succeed(place):
    """Otherwise a hostile value would be refused for something else."""
    ended = [attempt(Try(name, "", "", line.split()), place) for name, line in ORDINARY.items()]
    failed = [one for one in ended if one.faults or one.code != ENDS.get(one.command, 0)]
    assert [(one.command, one.code, one.err) for one in failed] == []


def test_hostile_values_end_in_one_line(place):
    tries = matrix() if os.environ.get("SSDIFF_BOUNDARY") == "all" else sample(TRIES, SEED)
    ended = [attempt(one, place, as_json=number % 2 == 1) for number, one in enumerate(tries)]
    assert [str(one) for one in ended if one.faults] == []


@pytest.mark.parametrize(
    ("code", "told", "words"),
    [
        (1, "ssdiff: error: a bug in ssdiff: x", "exit code 1"),
        (-9, "", "exit code -9"),
        (2, "ssdiff: error: x\nand more", "no message"),
        (2, "ssdiff: error: x\nssdiff: error: y", "2 lines"),
        (2, "", "no message"),
        (2, "Traceback (most recent call last):", "Traceback"),
        (2, "ssdiff: error: \x1b[31m", "control codes"),
        (2, f"ssdiff: error: {'x' * 2000}", "letters"),
        (0, "UserWarning: x", "Warning"),
    ],
)
def test_what_is_wrong_is_found(code, told, words):
    assert any(words in fault for fault in find_faults(code, 0, "", told, as_json=False))


def test_json_and_hanging_are_looked_at():
    message = "ssdiff: error: x"
    assert list(find_faults(2, 0, '{"code": 2}', message, as_json=True)) == []
    assert list(find_faults(2, 0, "", message, as_json=True)) != []
    assert list(find_faults(-9, 3, "", "", as_json=False)) == ["hangs"]


def test_a_command_that_litters_is_found(place):
    """`export` that is told to write into the working folder, as if it had failed."""
    one = Try("export", "--out", "x", ["{run}", "--out", "x.safetensors"])
    assert attempt(one, place).faults == []
    assert "working folder" in attempt(replace(one, option="--note"), place).faults[0]
