"""The same words for the same thing in the help of all commands, in the same panels."""

import shlex
import typing
from collections import defaultdict

import pytest
import typer

from ssdiff.cli import app
from ssdiff.cli.options import PANELS

# An option of a name that other commands have too, and of another meaning: its command, and what it means.
OWN_MEANING = {
    ("--seed", "train"): "a setting of the preset, which a run keeps",
    ("--steps", "train"): "steps of training",
    ("--batch", "train"): "images of a training step: it changes the result",
    ("--batch", "eval cost"): "what is measured, halved where it takes too long",
    ("--steps", "eval schedule"): "a list, each compared",
    ("--eta", "eval schedule"): "a list, each compared",
    ("--count", "eval restore"): "images that are read, not drawn",
    ("--op", "restore"): "four of the names are tasks that need no training",
    ("--set", "degrade"): "options of a degradation, of which no preset knows",
    ("--t", "sample"): "where sampling begins, not how degraded given images are",
    ("--strip", "degrade"): "a number of severities, not three pictures side by side",
    ("--precision", "train"): "a setting of the preset, which a probe may decide and a run keeps",
    ("--with", "degrade"): "images, not a set to train on",
    ("--truth", "eval restore"): "takes a .zip too, and then IMAGES are not degraded",
    ("--out", "train"): "a run folder",
    ("--out", "sample"): "four kinds of picture",
    ("--out", "eval scale-space"): "a folder of tables and pictures",
    ("--out", "eval schedule"): "a folder with a preset",
    ("--out", "eval report"): "a page",
    ("--out", "degrade"): "a picture beside each image",
    ("--out", "restore"): "a picture beside each image",
    ("--out", "import"): "a model",
    ("--out", "export"): "a model",
}


def callbacks(group, path=""):
    for info in group.registered_commands:
        yield f"{path}{info.name or info.callback.__name__}", info.callback
    for info in group.registered_groups:
        yield from callbacks(info.typer_instance, f"{path}{info.name} ")


def options(group):
    """(option, command, what it takes and says) of every option of every command."""
    for command, callback in callbacks(group):
        for parameter, hint in typing.get_type_hints(callback, include_extras=True).items():
            for info in getattr(hint, "__metadata__", ()):
                if isinstance(info, typer.models.OptionInfo):
                    # Typer takes the first name of an annotated option for its default until it builds it.
                    declared = (info.default, *(info.param_decls or ()))
                    names = [name for name in declared if str(name).startswith("--")]
                    name = names[0] if names else f"--{parameter.replace('_', '-')}"
                    yield name, command, (kind(hint), info.help, info.metavar, info.rich_help_panel)


def kind(hint):
    """The type of a value; whether it may be left out is not part of it, and a path is typed as text is."""
    inner = [part for part in typing.get_args(typing.get_args(hint)[0]) if part is not type(None)]
    found = inner[0] if inner else typing.get_args(hint)[0]
    return "text" if getattr(found, "__name__", "") in ("str", "Path") else found


def differing(found):
    said = defaultdict(set)
    for name, command, about in found:
        if (name, command) not in OWN_MEANING:
            said[name].add(about)
    return {name for name, texts in said.items() if len(texts) > 1}


def test_an_option_of_one_name_is_one_thing_everywhere():
    found = list(options(app))
    assert len(found) > 150
    assert differing(found) == set()
    assert {(name, command) for name, command, _ in found} >= OWN_MEANING.keys()
    about = dict((name, about) for name, _, about in found)
    for place, other in enumerate((float, "Where.", "WORD", "Elsewhere")):
        changed = (*about["--device"][:place], other, *about["--device"][place + 1 :])
        assert differing([*found, ("--device", "x", changed)]) == {"--device"}


def test_what_is_excused_differs():
    """An exception that is none any more is taken off the list."""
    found = list(options(app))
    for excused in OWN_MEANING:
        mine = next(about for name, command, about in found if (name, command) == excused)
        others = [about for name, command, about in found if name == excused[0] and command != excused[1]]
        assert any(about != mine for about in others), excused


def test_every_option_has_a_panel_and_panels_have_one_order():
    panels = defaultdict(list)
    for name, command, (_, text, _, panel) in options(app):
        assert panel in PANELS and text, f"{command} {name}"
        panels[command].append(PANELS.index(panel))
    assert {command: places for command, places in panels.items() if places != sorted(places)} == {}


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
