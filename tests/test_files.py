"""Files that are whole or not there: what killed writers leave, and what is no file."""

import os
import subprocess
import sys

import pytest

from ssdiff import files
from ssdiff.files import staging_name, sweep, write_atomic


@pytest.fixture
def gone():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_writer_left_goes_with_the_next_one_of_any_name(tmp_path, monkeypatch, gone):
    monkeypatch.setattr(os, "getpid", lambda: gone)
    left, folder = tmp_path / staging_name("x.png"), tmp_path / staging_name("many")
    monkeypatch.undo()
    left.write_bytes(b"half")
    folder.mkdir()
    (folder / "0.png").touch()
    kept = [tmp_path / staging_name("y.png"), tmp_path / ".hidden", tmp_path / f".x.png.{'0' * 32}"]
    monkeypatch.setattr(files.socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr(os, "getpid", lambda: gone)
    kept.append(tmp_path / staging_name("z.png"))  # of another machine
    monkeypatch.undo()
    for path in kept:
        path.touch()
    write_atomic(tmp_path / "other.png", b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "other.png"])


def test_a_folder_is_swept_once(tmp_path, monkeypatch, gone):
    sweep(tmp_path)
    monkeypatch.setattr(os, "getpid", lambda: gone)
    left = tmp_path / staging_name("x.png")
    monkeypatch.undo()
    left.touch()
    sweep(tmp_path)
    assert left.exists()  # not looked for with each of a thousand images
    sweep(tmp_path / "absent")


def test_long_names_are_cut_off_and_found(tmp_path):
    name = staging_name("n" * 250)
    assert len(name) < 80 and files._STAGED.fullmatch(name) and staging_name("x") != staging_name("x")
