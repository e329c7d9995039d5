"""Examples in docstrings give what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_doctests(folder, home):
    """Every `>>>` example of the modules below a folder, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", folder],
        cwd=ROOT,
        env=os.environ | {"SSDIFF_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_examples_of_docstrings_run(tmp_path):
    done = run_doctests(ROOT / "ssdiff", tmp_path)
    assert done.returncode == 0, done.stdout
    sources = [path.read_text() for path in (ROOT / "ssdiff").rglob("*.py")]
    assert "skip" not in done.stdout and not any("doctest: +SKIP" in source for source in sources)
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 1


def test_a_wrong_example_is_found(tmp_path):
    (tmp_path / "wrong.py").write_text('"""Add.\n\n>>> 1 + 1\n3\n"""\n')
    assert run_doctests(tmp_path, tmp_path).returncode == 1
