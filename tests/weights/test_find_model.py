"""Which model is used where none is named, and what a file is said to be that holds none."""

from pathlib import Path

import pytest

from ssdiff.errors import CheckpointError
from ssdiff.weights import single_file
from ssdiff.weights.load import Found, find_model


def test_the_given_model_the_newest_run_or_the_bundled_model(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path))
    assert find_model() == Found(single_file.bundled(), "bundled")
    (tmp_path / "runs").mkdir()
    newest = tmp_path / "runs" / "one"
    newest.symlink_to(run_folder, target_is_directory=True)
    assert find_model() == Found(newest, "newest")
    assert find_model("elsewhere") == Found(Path("elsewhere"), "given")


def test_a_package_without_its_model_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path))
    monkeypatch.setattr(single_file, "bundled", lambda: tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match=r"no run yet.*reinstall"):
        find_model()


def test_a_file_that_is_no_model_is_named_for_what_it_is(tmp_path):
    page = tmp_path / "model.safetensors"
    page.write_text("<!doctype html><title>404</title>")
    with pytest.raises(CheckpointError, match=r"is an HTML page, not model weights"):
        single_file.read(page)
