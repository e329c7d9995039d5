"""Which model is used where none is named, and what a file is said to be that holds none."""

import shutil
from pathlib import Path

import pytest

from ssdiff.config.load import override, read_preset
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


def test_restoration_without_training_takes_a_run_only_if_it_can(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path))
    photos = Found(single_file.bundled("photos64"), "bundled")
    assert find_model(zero_shot=True) == photos != find_model()
    newest = tmp_path / "runs" / "one"
    shutil.copytree(run_folder, newest)
    settings = newest / "preset.toml"
    preset = read_preset(settings)
    assert preset.process.kind in ("ssd", "ddpm")
    settings.write_text(override(preset, {"model.classes": 0}).to_toml())
    assert find_model(zero_shot=True) == find_model() == Found(newest, "newest")
    settings.write_text(override(preset, {"model.classes": 3}).to_toml())
    assert find_model(zero_shot=True) == photos and find_model() == Found(newest, "newest")
    settings.write_text("what is wrong with it shows when it is read")
    assert find_model(zero_shot=True) == Found(newest, "newest")


def test_a_bundled_model_has_a_name_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("photos64") == Found(single_file.bundled("photos64"), "given")
    Path("photos64").mkdir()
    assert find_model("photos64") == Found(Path("photos64"), "given")


def test_a_package_without_its_model_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path))
    monkeypatch.setattr(single_file, "bundled", lambda name: tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"no run yet.*reinstall"):
        find_model()


def test_a_file_that_is_no_model_is_named_for_what_it_is(tmp_path):
    page = tmp_path / "model.safetensors"
    page.write_text("<!doctype html><title>404</title>")
    with pytest.raises(CheckpointError, match=r"is an HTML page, not model weights"):
        single_file.read(page)
