"""What the Tab key offers, without waiting for PyTorch."""

import os
import subprocess
import sys

import pytest

from ssdiff.cli import completion
from ssdiff.config.load import presets
from ssdiff.data import DATA_NAMES
from ssdiff.process.degradations.registry import DEGRADATIONS


def test_the_lists_are_those_of_the_library():
    assert completion.DATA == DATA_NAMES
    # Other tests register parts of their own in this process.
    own = [name for name in DEGRADATIONS.names() if DEGRADATIONS.get(name).__module__.startswith("ssdiff.")]
    assert own == list(completion.DEGRADATIONS)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("train --preset shap", ["shapes32"]),
        ("eval schedule --preset celeba128-3", [n for n in presets() if n.startswith("celeba128-3")]),
        ("train --data cel", ["celeba"]),
        ("train --with lsun-b", ["lsun-bedroom"]),
        ("degrade x.png --op des", ["desaturate"]),
        ("sample --sampler dd", ["ddim"]),
        ("sample --device cu", ["cuda"]),
        ("sample --precision b", ["bf16"]),
        ("sample --weights r", ["raw"]),
    ],
)
def test_values(typed, offered):
    words = f"ssdiff {typed}"
    asked = {"_SSDIFF_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    program = (
        "import sys\nfrom ssdiff.cli import run\ntry: run([])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == offered, done.stderr
    assert "AssertionError" not in done.stderr
