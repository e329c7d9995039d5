"""A home of their own for the tests, and one small trained run for all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
from programs import Program

from ssdiff import cli

# The first example of a test imports and warms up, and the cores may be busy.
hypothesis.settings.register_profile("ssdiff", deadline=None)
hypothesis.settings.load_profile("ssdiff")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores, so that each has one

TINY = Path(__file__).parent / "assets" / "tiny.toml"
CPU = ("--device", "cpu")
_COLD = """
[process]
kind = "cold"
T = 4
levels = 1
snr_preserving = 0.0
degradation = {{ {degradation} }}

[model]
classes = 0

[training]
steps = 2
loss = "l1"

[sampling]
sampler = "alg2"
"""


def train(preset, folder, *options):
    """A finished run of a preset; returns its folder."""
    arguments = ["train", "--preset", preset, "--out", folder, *CPU, "--quiet", *options]
    assert cli.run([str(argument) for argument in arguments]) == 0
    return folder


def train_cold(folder, degradation):
    """A finished run of two steps that undoes a degradation; returns its folder."""
    preset = folder.parent / f"{folder.name}.toml"
    preset.write_text(f'extends = "{TINY.as_posix()}"\n{_COLD.format(degradation=degradation)}')
    return train(preset, folder)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """SSDIFF_HOME: runs, logs and the cache of prepared data."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("SSDIFF_HOME")
    os.environ["SSDIFF_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["SSDIFF_HOME"]
    else:
        os.environ["SSDIFF_HOME"] = before


@pytest.fixture
def ssdiff(capfd):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        capfd.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def result(ssdiff):
    """Run a command that must succeed with --json; its result."""

    def call(*arguments):
        code, out, err = ssdiff(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, home):
    """A finished run of tests/assets/tiny.toml."""
    return train(TINY, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def cold_folder(tmp_path_factory, home):
    """A finished run that removes blur of images of 16 pixels."""
    return train_cold(tmp_path_factory.mktemp("runs") / "cold", 'kind = "blur", kernel = 5, first = 1.5')


def run_command(*arguments, processes=1, cwd=None, fork=True):
    """Run the real command in a process of its own, or in several; returns the finished process."""
    if processes == 1:
        return Program(("-m", "ssdiff"), arguments, cwd=cwd, fork=fork).finished()
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [*start, str(processes), "-m", "ssdiff", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=cwd)


@pytest.fixture(scope="session")
def shell():
    """Run the real command in a process of its own, or in several; returns the finished process."""
    return run_command


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Spell bytes that are no UTF-8, as in names of files, which no worker can send in its report."""
    report = yield
    report.sections = [(title, _sendable(text)) for title, text in report.sections]
    if report.failed and _sendable(str(report.longrepr)) != str(report.longrepr):
        report.longrepr = _sendable(str(report.longrepr))
    return report


def _sendable(text):
    return text.encode("utf-8", "backslashreplace").decode()
