"""Nothing heavy is imported before it is used: `ssdiff --help` has half a second."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "torch_fidelity", "numpy", "PIL")
PACKAGE = Path(__file__).resolve().parent.parent / "ssdiff"
COMMANDS = ["ssdiff.cli"] if (PACKAGE / "cli").exists() else []


def heavy_after(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after running the code."""
    report = f"\nimport sys\nsys.exit(','.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return set(filter(None, done.stderr.strip().split(",")))


@pytest.mark.parametrize("module", ["ssdiff", "ssdiff.config.load", *COMMANDS])
def test_import_is_light(module):
    assert heavy_after(f"import {module}") == set()


def test_using_presets_is_light():
    code = "import ssdiff\nfor name in dir(ssdiff): pass\n"
    code += "for name in ssdiff.presets(): ssdiff.load_preset(name).to_toml()"
    assert heavy_after(code) == set()


def test_the_check_can_fail():
    assert heavy_after("import torch") >= {"torch"}


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_light_and_quick(module):
    code = (
        f"import sys\nsys.argv = ['ssdiff', '--help']\nfrom {module} import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code"
    )
    before = os.times()
    assert heavy_after(code) == set()
    after = os.times()
    # Half a second is the aim; processor time, and a bound that forgives a busy machine but not an import of
    # torch.
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 2


def test_public_names():
    import ssdiff

    assert set(ssdiff.__all__) <= set(dir(ssdiff))
    assert ssdiff.__version__ == "0.2.0"
    with pytest.raises(AttributeError, match="no attribute 'lod_preset'"):
        ssdiff.lod_preset  # noqa: B018
