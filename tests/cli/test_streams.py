"""Streams whose readers go away, or that cannot show a name: the work is done all the same."""

import os
import subprocess
import sys

import pytest

from ssdiff.errors import printable


def piped(line, folder, **environment):
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.format(ssdiff=f"{sys.executable} -u -m ssdiff")],
        capture_output=True,
        cwd=folder,
        timeout=120,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    "line",
    [
        "{ssdiff} degrade a.png --t 1 --out b.png 2>&1 | true",
        "{ssdiff} degrade a.png --t 1 --out b.png 2> >(true)",
    ],
)
def test_work_goes_on_when_nobody_reads(line, picture):
    done = piped(line, picture.parent)
    assert done.returncode == 0 and (picture.parent / "b.png").is_file()


@pytest.mark.parametrize("name", [b"caf\xe9.png", "日本.png".encode()])
def test_any_file_name_can_be_told(name, picture):
    os.rename(picture, os.path.join(os.fsencode(picture.parent), name))
    done = piped("{ssdiff} degrade *.png --t 1 --out o/", picture.parent, PYTHONIOENCODING="cp1252:strict")
    assert done.returncode == 0, done.stderr
    assert len(list((picture.parent / "o").iterdir())) == 1


def test_what_controls_a_terminal_is_spelt_out():
    assert printable("a\x1b]0;x\x07b\nc") == "a\\x1b]0;x\\x07b\nc"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9" and printable("日本 é") == "日本 é"


@pytest.fixture
def picture(tmp_path):
    from PIL import Image

    path = tmp_path / "a.png"
    Image.new("RGB", (16, 16), (1, 9, 9)).save(path)
    return path
