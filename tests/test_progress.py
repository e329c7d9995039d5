"""How far work is, told by a callable, and the one bar that shows it."""

import pytest
from rich.console import Console

from ssdiff.cli.common import Terminal
from ssdiff.progress import Counter, stage


def test_steps_of_images_on_several_ranks_count_as_images():
    told = []
    count = Counter(lambda *what: told.append(what), "sampling", 8, steps=4, ranks=2)
    count(4)
    count(4)
    assert told == [("sampling", 0, 8), ("sampling", 2, 8), ("sampling", 4, 8)]


def test_no_more_is_done_than_there_is():
    told = []
    count = Counter(lambda *what: told.append(what), "sampling", 5, ranks=2)
    count(3)
    assert told[-1] == ("sampling", 5, 5)


def test_nobody_is_told():
    Counter(None, "sampling", None)(3)
    assert stage(None, "preparing") is None


def test_a_stage_of_its_own():
    told = []
    tell = stage(lambda *what: told.append(what), "preparing")
    tell(3, 7)
    assert told == [("preparing", 3, 7)]


@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_is_for_terminals_only(shown, capsys):
    terminal = Terminal(quiet=not shown)
    terminal.console = Console(force_terminal=True, width=150, stderr=True)
    with terminal.progress_callback("step", preparing="img") as progress:
        for done in (0, 10):  # a rate counts from the first report
            progress("preparing", done, 20)
            progress("fitting", done, None)
    err = capsys.readouterr().err
    assert all((word in err) == shown for word in ("preparing", "10/20", "img/s", "fitting", "step/s"))
