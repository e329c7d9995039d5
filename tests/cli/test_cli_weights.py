"""`ssdiff import`, `export`, `info`, `presets`, `doctor` and `data` through their commands."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from officialweights import official
from PIL import Image
from safetensors.torch import save_file

from ssdiff import import_official, load
from ssdiff.config import load as presets
from ssdiff.config.load import load_preset, override
from ssdiff.weights import single_file

DATA = Path(__file__).parents[1] / "assets"
SETS = (
    "--set",
    "data.size=32",
    "--set",
    "process.levels=3",
    "--set",
    "model.width=32",
    "--set",
    "model.multipliers=[1, 2, 4]",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, state = tmp_path_factory.mktemp("official"), official()
    torch.save(state, folder / "plain.pt")
    torch.save({"ema": {f"module.{k}": v for k, v in state.items()}, "step": 3}, folder / "nested.pt")
    save_file(state, folder / "same.safetensors")
    return folder


@pytest.mark.parametrize("name", ["plain.pt", "nested.pt", "same.safetensors"])
def test_official_weights_give_the_golden_outputs(result, files, tmp_path, name):
    out = tmp_path / "model.safetensors"
    values = result("import", files / name, "--preset", "celeba64", *SETS, "--out", out)
    assert values["preset"] == "celeba64" and values["parameters"] > 1e6
    pipe = load(out, device="cpu")
    golden = np.load(DATA / "flexi_32px_3L_w32.npz")
    x = torch.from_numpy(np.random.RandomState(1555).standard_normal((1, 3, 16, 16)).astype(np.float32))
    expected = torch.from_numpy(golden["y_555"]).clamp(-1, 1)
    torch.testing.assert_close(pipe.predict_x0(x, 556), expected, atol=1e-4, rtol=0)


def test_import_from_python(files):
    preset = load_preset(
        "celeba64", {"data.size": 32, "process.levels": 3, "model.width": 32, "model.multipliers": [1, 2, 4]}
    )
    spectral = override(preset, {"sampling.renoise": "spectral"})
    for asked in (preset, spectral):  # no spectra come with the authors' files
        pipe = import_official(official(), asked, device="cpu")
        assert pipe.preset == preset
        assert pipe.sample(1, steps=3).shape == (1, 3, 32, 32)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


def bad_files(folder):
    pickle.dump({"a": Evil()}, (folder / "evil.pt").open("wb"))
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    (folder / "page.pt").write_text("<!DOCTYPE html><html></html>")
    (folder / "short.pt").write_bytes((folder / "plain.pt").read_bytes()[:5000])
    save_file({"a": torch.zeros(2)}, folder / "other.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("evil.pt", "mkdir"),
        ("bomb.pt", "50"),
        ("page.pt", "HTML"),
        ("short.pt", "short.pt"),
        ("other.safetensors", "layout"),
        ("absent.pt", "absent.pt"),
    ],
)
def test_bad_files_are_refused(ssdiff, files, tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    bad_files(files)
    code, _, err = ssdiff("import", files / name, "--preset", "celeba64", *SETS, "--out", "x.safetensors")
    assert code == 4 and words in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_the_wrong_preset_is_named(ssdiff, files, tmp_path):
    code, _, err = ssdiff(
        "import", files / "plain.pt", "--preset", "celeba64", "--out", tmp_path / "x.safetensors"
    )
    assert code == 4 and "another architecture" in err and "missing" in err


def test_export_is_the_averaged_model(result, ssdiff, run_folder, tmp_path):
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    result("export", run_folder, "--out", full, "--note", "made by a test")
    result("export", run_folder, "--out", half, "--half")
    assert half.stat().st_size < 0.6 * full.stat().st_size
    stored = single_file.read(full)
    assert stored.step == 12 and "made by a test" in stored.origin and "star" in stored.class_names
    code, _, err = ssdiff("export", run_folder, "--out", full)
    assert code == 2 and "--overwrite" in err
    code, _, err = ssdiff("train", "--resume", full)
    assert code == 4, "a file that only serves sampling cannot be resumed"


def test_info(result, ssdiff, run_folder, tmp_path):
    values = result("info", run_folder)
    assert values["preset"] == "tiny" and values["status"]["state"] == "finished"
    assert [level["resolution"] for level in values["levels"]] == [16, 8]
    assert {entry["verdict"] for entry in values["checkpoints"]} == {"verified"}
    model = tmp_path / "m.safetensors"
    result("export", run_folder, "--out", model)
    assert result("info", model)["step"] == 12
    code, out, _ = ssdiff("info", run_folder)
    assert code == 0 and "log SNR" in out
    assert ssdiff("info", tmp_path / "nothing")[0] == 4


def test_presets(result, ssdiff):
    assert {"celeba64", "shapes32", "ddpm-celeba64"} <= result("presets", "list")["presets"].keys()
    code, out, _ = ssdiff("presets", "show", "celeba64")
    assert code == 0 and "# guidance_interval is unset: least and largest log-SNR" in out
    assert "# transitions is unset: log-SNRs at which sampling changes" in out
    assert presets.parse_preset(out) == load_preset("celeba64")
    assert result("presets", "show", "celeba64", "--set", "training.lr=1e-3")["training"]["lr"] == 1e-3
    code, out, _ = ssdiff("presets", "show", "celeba64", "--source")
    assert code == 0 and "4.28" in out
    code, _, err = ssdiff("presets", "show", "celebb64")
    assert code == 2 and "did you mean celeba64" in err


def test_doctor(result):
    values = result("doctor")
    assert values["problems"] == [] and values["packages"]["torch"] and values["device"]


def test_data_prepare(result, ssdiff, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (20, 30), (i, 0, 0)).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"no image")
    code, _, err = ssdiff("data", "prepare", folder, "--size", 16)
    assert code == 3 and "bad.png" in err
    values = result("data", "prepare", folder, "--size", 16, "--corrupt", "skip")
    assert values["images"] == 3 and values["skipped"][0][0].endswith("bad.png")
    assert ssdiff("data", "prepare", folder, "--channels", 2)[0] == 2


def test_help_and_version(ssdiff):
    code, out, _ = ssdiff("--help")
    assert code == 0 and "train" in out and "degrade" in out
    code, out, _ = ssdiff("--version")
    assert code == 0 and out.startswith("ssdiff ")
    assert ssdiff()[0] == 2
    assert ssdiff("trane")[0] == 2


def test_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m ssdiff presets list | head -n 1"
    finished = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert finished.returncode == 0 and not finished.stderr


def test_a_bug_is_one_line_and_a_file(ssdiff, home, monkeypatch):
    def broken():
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(presets, "presets", broken)
    code, _, err = ssdiff("presets", "list")
    assert code == 1 and "a bug in ssdiff: RuntimeError: two" in err and err.count("\n") == 1
    assert list((home / "logs").glob("bug-*.txt"))
