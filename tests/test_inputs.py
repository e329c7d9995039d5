"""What a user names for a file may be a pipe, a device or without end: said at once, never waited for."""

import ast
import os
import threading
from pathlib import Path

import pytest

import ssdiff
from ssdiff.data.lists import read_list
from ssdiff.errors import DataError
from ssdiff.files import open_input, read_input
from ssdiff.images.picture import read_picture
from ssdiff.images.read import alpha_of, read_image
from ssdiff.restoration.kernels import read_kernel

CHECKED = {
    *("checkpoints/manifest.py", "checkpoints/store.py", "weights/untrusted.py", "image_folder.py"),
    *(
        "runs/folder.py",
        "runs/paths.py",
        "reporting/sections.py",
        "reporting/scale_space.py",
        "training/run.py",
    ),
}
"""Modules that look at what a file is before they open it, or are asked for one of a run."""
OWN = {"config/load.py", "evaluation/features.py", "evaluation/timing.py"}
"""Modules that read what belongs to the program or to the system."""


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_a_file_is_read_up_to_a_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 9000)
    assert read_input(path, 256 * 9000) == path.read_bytes()
    with pytest.raises(OSError, match="more than 2303999 bytes"):
        read_input(path, 256 * 9000 - 1)
    with open_input(path) as stream:
        assert stream.read(3) == b"\0\1\2"


def test_what_is_no_file_is_named(tmp_path, fifo):
    for path, words in ((tmp_path, "a folder"), (fifo, "a pipe, not a file"), ("/dev/zero", "a device")):
        with pytest.raises(OSError, match=words):
            read_input(path, 9)
        with pytest.raises(OSError, match=words):
            open_input(path)


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(fifo):
    with pytest.raises(OSError, match="nobody writes"):
        read_input(fifo, 9, pipes=True)


def test_a_pipe_is_read_to_its_end_however_slow_its_writer(fifo):
    def write():
        with fifo.open("wb", buffering=0) as stream:
            begun.set()
            for part in (b"a" * 3, b"b" * 100_000):
                later.wait(0.1)
                stream.write(part)

    begun, later = threading.Event(), threading.Event()
    keeper = os.open(fifo, os.O_RDWR)  # so that the writer does not wait for a reader to open
    thread = threading.Thread(target=write)
    thread.start()
    assert begun.wait(9)
    os.close(keeper)
    assert read_input(fifo, 10**6, pipes=True) == b"a" * 3 + b"b" * 100_000
    thread.join()


@pytest.mark.parametrize("ending", ["", ".txt"])
def test_pictures_masks_and_kernels_are_files(fifo, ending):
    named = fifo.rename(fifo.with_name(f"fifo{ending}"))
    reads = (read_image, alpha_of, lambda path: read_picture(path, channels=3), read_kernel)
    for read in reads if not ending else (read_kernel,):
        with pytest.raises(DataError, match="a pipe, not a file"):
            read(named)


def opens(source):
    """What of a module opens files for reading past `ssdiff.files`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if node.func.attr in ("read_text", "read_bytes") or (node.func.attr == "open" and modes == ["rb"]):
            yield node.lineno


def test_files_of_others_are_opened_in_one_place():
    root = Path(ssdiff.__file__).parent
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if [*opens(path.read_text())]}
    assert found <= CHECKED | OWN | {"images/read.py"}  # which reads a list of libraries
    assert [*opens('with path.open("rb") as x: pass')] == [*opens("x.read_text()")] == [1]
    assert not [*opens('x.open("xb"), self.open(3)')]


@pytest.mark.parametrize("command", ["presets show {}", "degrade {} --t 1", "info --plugin {}"])
def test_commands_say_so(ssdiff, fifo, command):
    code, _, err = ssdiff(*command.format(fifo).split())
    assert code in (2, 3) and "pipe" in err and err.count("\n") == 1


def test_a_list_may_come_out_of_a_pipe(fifo):
    keeper = os.open(fifo, os.O_RDWR)
    os.write(keeper, b"a.png 0\nb.png 1\n")
    os.close(keeper)
    with pytest.raises(DataError, match="nobody writes"):
        read_list(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with open(fifo, "wb") as writer:
        writer.write(b"a.png 0\nb.png 1\n")
    assert read_list(fifo, 1).names == {"b.png"}
    os.close(reader)
