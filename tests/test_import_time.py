"""Nothing heavy is imported before it is used: `ssdiff --help` has half a second."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "torch_fidelity", "numpy", "PIL")
NOT_TO_SAMPLE = (
    *("torch._dynamo", "torch._inductor", "torch.onnx", "sympy", "triton"),  # PyTorch's compiler
    *("torchvision", "torch_fidelity", "scipy", "matplotlib", "tifffile", "pandas", "tensorboard"),
    *("ssdiff.training", "ssdiff.evaluation", "ssdiff.analysis", "ssdiff.reporting", "ssdiff.restoration"),
)
PACKAGE = Path(__file__).resolve().parent.parent / "ssdiff"
COMMANDS = ["ssdiff.cli"] if (PACKAGE / "cli").exists() else []


def heavy_after(code: str, heavy: tuple[str, ...] = HEAVY) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after running the code."""
    report = f"\nimport sys\nsys.exit(','.join(name for name in {heavy!r} if name in sys.modules))"
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


def test_sampling_imports_what_it_needs_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path / "home"))
    arguments = ["sample", "-n", "1", "--steps", "1", "--quiet", "--out", str(tmp_path / "drawn.png")]
    code = (
        f"import gc, torch\nfrom ssdiff.cli import run\nassert run({arguments!r}) == 0\nassert gc.isenabled()"
    )
    # Some versions of PyTorch bring parts of their compiler along whatever is done with them.
    assert heavy_after(code, NOT_TO_SAMPLE) <= heavy_after("import torch", NOT_TO_SAMPLE)
    assert (tmp_path / "drawn.png").exists()


def test_what_is_imported_is_not_searched_for_garbage_later():
    code = (
        "import gc\nfrom ssdiff.importing import quick_imports\n"
        "with quick_imports(): import json\nassert not gc.get_freeze_count()\n"
        "with quick_imports(): import torch\nfrozen = gc.get_freeze_count()\nassert frozen > 10_000\n"
        "with quick_imports(): pass\nassert gc.get_freeze_count() <= frozen and gc.isenabled()"
    )
    assert heavy_after(code) >= {"torch"}


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
