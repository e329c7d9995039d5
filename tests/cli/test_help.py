"""The same words for the same thing in the help of all commands."""

import shlex
from collections import defaultdict

import pytest
import typer

from ssdiff.cli import app

# These say something else where the command does something else; their kind of value is the same, but for the
# second row's.
OF_THE_COMMAND = {"--preset", "--data", "--steps", "--batch", "--count", "--sampler", "--op", "--t", "--size"}
OF_THE_COMMAND |= {"--images", "--extractor"}
ANOTHER_VALUE = {"--out", "--with", "--set", "--strip", "--truth", "--eta", "--steps"}


def options(command, path="ssdiff"):
    for option in command.params:
        for name in getattr(option, "opts", ()):
            if name.startswith("--"):
                yield name, path, option.help, option.metavar
    for name, inner in getattr(command, "commands", {}).items():
        yield from options(inner, f"{path} {name}")


def differing(found):
    helps, values = defaultdict(set), defaultdict(set)
    for name, _, text, metavar in found:
        helps[name].add(text)
        values[name].add(metavar)
    faults = {name for name, texts in helps.items() if len(texts) > 1} - OF_THE_COMMAND - ANOTHER_VALUE
    return faults | ({name for name, kinds in values.items() if len(kinds) > 1} - ANOTHER_VALUE)


def test_an_option_of_one_name_is_explained_alike_everywhere():
    found = list(options(typer.main.get_command(app)))
    assert len(found) > 100
    assert differing(found) == set()
    assert differing([*found, ("--device", "ssdiff x", "Where.", None)]) == {"--device"}
    assert differing([*found, ("--preset", "ssdiff x", "Settings.", "WORD")]) == {"--preset"}


def commands(command, path=()):
    inner = getattr(command, "commands", {})
    for name, one in inner.items():
        yield from commands(one, (*path, name))
    if not inner:
        yield path, command


@pytest.mark.parametrize(("path", "command"), list(commands(typer.main.get_command(app))))
def test_a_command_ends_its_help_with_an_example_that_it_takes(path, command):
    assert command.epilog is not None and command.epilog.startswith("Example: ssdiff ")
    words = shlex.split(command.epilog)[2:]
    assert tuple(words[: len(path)]) == path
    command.make_context("ssdiff", words[len(path) :])  # raises where an option or argument is unknown
