"""The unrelated package named ssdiff of the package index, installed beside ours, before or after."""

import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import scale_space_diffusion

ROOT = Path(__file__).resolve().parent.parent
START = "from scale_space_diffusion import main; main()"


def install(site, name, version, files, script=False):
    """As much of an installation as the finder of installed packages reads."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if script:
        (info / "entry_points.txt").write_text("[console_scripts]\nssdiff = ssdiff.cli:main\n")
    for file, text in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(text)
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def ours():
    names = ["scale_space_diffusion.py", "ssdiff/py.typed"]
    names += [str(path.relative_to(ROOT)) for path in (ROOT / "ssdiff").rglob("*.py")]
    return {name: (ROOT / name).read_text() for name in names}


THEIRS = {"ssdiff/__init__.py": "import of_theirs\n", "ssdiff/py.typed": "", "ssdiff/ssd.py": ""}


@pytest.fixture
def command(tmp_path):
    """Run our command with the packages of a made-up folder alone in front."""

    def run(*arguments):
        program = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['ssdiff', *{arguments!r}]\n"
        )
        return subprocess.run(
            [sys.executable, "-c", program + START], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return run


def test_theirs_after_ours_is_one_line_whatever_is_asked(tmp_path, command):
    install(tmp_path, "scale-space-diffusion", "0.2.0", ours())
    install(tmp_path, "ssdiff", "3.0.0", THEIRS)
    for arguments in ((), ("doctor",), ("--json", "sample")):
        done = command(*arguments)
        assert done.returncode == 6 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("ssdiff: error: an unrelated package named ssdiff 3.0.0")
        assert "ssdiff/__init__.py, ssdiff/py.typed are not of scale-space-diffusion" in done.stderr
        assert "pip uninstall -y ssdiff" in done.stderr
    assert json.loads(done.stdout)["code"] == 6


def test_ours_after_theirs_works_and_doctor_explains(tmp_path, command):
    install(tmp_path, "ssdiff", "3.0.0", THEIRS)
    install(tmp_path, "scale-space-diffusion", "0.2.0", ours())
    assert command("--version").stdout == "ssdiff 0.2.0\n"
    done = command("doctor", "--json")
    values = json.loads(done.stdout)
    assert values["namesake"] == {"version": "3.0.0", "shared": ["ssdiff/__init__.py", "ssdiff/py.typed"]}
    assert "unrelated package named ssdiff 3.0.0" in command("doctor").stdout


def test_theirs_uninstalled_took_our_files_along(monkeypatch, capsys):
    monkeypatch.setattr(scale_space_diffusion, "find_spec", lambda name: ModuleSpec(name, None))
    with pytest.raises(SystemExit, match="6"):
        scale_space_diffusion.main()
    error = capsys.readouterr().err
    assert "is missing" in error and "--force-reinstall" in error


def test_our_former_name_is_no_stranger(tmp_path, command):
    install(tmp_path, "ssdiff", "0.1.0", ours(), script=True)
    install(tmp_path, "scale-space-diffusion", "0.2.0", ours())
    assert json.loads(command("doctor", "--json").stdout)["namesake"] is None
