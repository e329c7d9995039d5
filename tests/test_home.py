"""Where ssdiff keeps what is its own."""

from pathlib import Path

import platformdirs
import pytest

from ssdiff import runs
from ssdiff.errors import ResourceError, UsageError
from ssdiff.home import cache_root, default_home


def test_home_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path))
    assert default_home() == tmp_path and runs.runs_root() == tmp_path / "runs"
    assert cache_root() == tmp_path / "cache"
    monkeypatch.setenv("SSDIFF_HOME", "~/somewhere")
    assert default_home() == Path.home() / "somewhere"
    for setting in ("", None):
        monkeypatch.setenv("SSDIFF_HOME", setting) if setting == "" else monkeypatch.delenv("SSDIFF_HOME")
        assert default_home() == Path(platformdirs.user_data_dir("ssdiff", appauthor=False))
        assert cache_root() == Path(platformdirs.user_cache_dir("ssdiff", appauthor=False))


def test_nobody_is_at_home(monkeypatch, ssdiff):
    monkeypatch.setenv("SSDIFF_HOME", "~nobody-here/x")
    with pytest.raises(UsageError, match="SSDIFF_HOME: ~nobody-here/x begins with ~nobody-here"):
        default_home()
    code, _, err = ssdiff("info")
    assert code == 2 and len(err.splitlines()) == 1 and "SSDIFF_HOME" in err


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch, ssdiff):
    def nowhere(*arguments, **options):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("SSDIFF_HOME")
    for name in ("user_data_dir", "user_cache_dir"):
        monkeypatch.setattr(platformdirs, name, nowhere)
    with pytest.raises(ResourceError, match="set SSDIFF_HOME"):
        cache_root()
    code, _, err = ssdiff("info")
    assert code == 6 and len(err.splitlines()) == 1 and "SSDIFF_HOME" in err
