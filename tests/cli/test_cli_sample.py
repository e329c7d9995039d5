"""`ssdiff sample` through its command."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdiff import load
from ssdiff.data.shapes import SHAPES
from ssdiff.weights import single_file

CPU = ("--device", "cpu")


def array(path):
    return np.load(path)["arr_0"].astype(int)


@pytest.fixture
def draw(result, run_folder, tmp_path):
    """Images of the small run as an array."""

    def call(name, *arguments):
        out = tmp_path / f"{name}.npz"
        values = result("sample", "--ckpt", run_folder, "--out", out, *CPU, *arguments)
        return array(out), values

    return call


def test_an_image_is_the_same_in_any_batch(draw):
    """Up to one grey level: kernels may add in another order for another batch."""
    whole, values = draw("whole", "-n", 7)
    assert whole.shape == (7, 16, 16, 3) and values["n"] == 7 and values["steps"] == 5
    assert np.abs(draw("small", "-n", 7, "--batch", 2)[0] - whole).max() <= 1
    assert np.abs(draw("fewer", "-n", 3)[0] - whole[:3]).max() <= 1
    assert np.abs(draw("later", "-n", 2, "--first", 5)[0] - whole[5:]).max() <= 1
    assert np.abs(draw("other", "-n", 7, "--seed", 1)[0] - whole).max() > 20


def test_two_processes_draw_the_same_images(draw, shell, run_folder, tmp_path):
    whole, _ = draw("one", "-n", 5)
    out = tmp_path / "two.npz"
    finished = shell("sample", "--ckpt", run_folder, "-n", 5, "--out", out, *CPU, processes=2)
    assert finished.returncode == 0, finished.stderr
    assert np.abs(array(out) - whole).max() <= 1
    assert finished.stdout.count(": 5 images") == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--sampler", "ddim", "--steps", 20),
        ("--sampler", "ddim", "--eta", 0.5),
        ("--sampler", "dpm++", "--steps", 6),
        ("--sampler", "ancestral", "--steps", 1),
        ("--guidance", 2.0, "--class", "star"),
        ("--weights", "raw"),
    ],
)
def test_options_change_the_images(draw, options):
    plain, changed = draw("plain", "-n", 2)[0], draw("changed", "-n", 2, *options)[0]
    assert np.abs(plain - changed).max() > 0


def test_classes_by_name_and_number(draw):
    by_name = draw("name", "-n", 4, "--class", "star,heart")[0]
    numbers = f"{SHAPES.index('star')},{SHAPES.index('heart')}"
    assert np.array_equal(by_name, draw("number", "-n", 4, "--class", numbers)[0])


def test_every_kind_of_output(result, run_folder, tmp_path):
    common = ("sample", "--ckpt", run_folder, "-n", 3, *CPU, "--out")
    result(*common, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.mode == "RGB"
    result(*common, tmp_path / "film.png", "--trajectory")
    with Image.open(tmp_path / "film.png") as film, Image.open(tmp_path / "grid.png") as grid:
        assert film.size[1] > film.size[0] / 4 and film.size[0] > grid.size[0] / 2
    result(*common, tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.gif") as walk:
        assert walk.n_frames > 3
    result(*common, f"{tmp_path}/many/")
    assert sorted(path.name for path in (tmp_path / "many").glob("*.png")) == [
        f"{i:06d}.png" for i in range(3)
    ]
    result(*common, tmp_path / "grid.jpg", "--columns", 1)


def test_the_newest_run_and_the_bundled_model(ssdiff, run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path / "home"))
    code, _, err = ssdiff("sample", "-n", 1, "--steps", 2, "--out", tmp_path / "a.png", *CPU)
    assert code == 0 and "no run yet" in err
    (tmp_path / "home" / "runs").mkdir(parents=True)
    (tmp_path / "home" / "runs" / "mine").symlink_to(run_folder)
    code, _, err = ssdiff("sample", "-n", 1, "--out", tmp_path / "b.png", *CPU)
    assert code == 0 and f"using the newest run, {tmp_path / 'home' / 'runs' / 'mine'}" in err


def test_the_bundled_model_is_small_and_says_how_it_was_made():
    stored = single_file.read(single_file.bundled())
    assert single_file.bundled().stat().st_size < 6e6
    assert stored.preset.name == "shapes32" and "ssdiff train --preset shapes32" in stored.origin


def test_a_long_wait_is_told_once_of_fewer_steps(ssdiff, tmp_path, monkeypatch):
    settings = {"steps": 100, "sampler": "ancestral", "guidance": 1}
    sets = [part for name, value in settings.items() for part in ("--set", f"sampling.{name}={value}")]
    long = ("sample", "--ckpt", single_file.bundled(), *sets, "-n", 1, *CPU, "--overwrite", "--out")
    told = "--sampler ddim --steps 25 would draw other images of the seed in about 1/4 of the time"
    first = tmp_path / "first.png"
    monkeypatch.setattr("ssdiff.cli.sample._PATIENCE", 1e9)
    assert told not in ssdiff(*long, first)[2]
    monkeypatch.setattr("ssdiff.cli.sample._PATIENCE", -1.0)
    code, _, err = ssdiff(*long, tmp_path / "second.png")
    assert code == 0 and err.count(told) == 1 and "102 steps of ancestral" in err
    assert (tmp_path / "second.png").read_bytes() == first.read_bytes()
    assert told not in ssdiff(*long, first, "--steps", 100)[2]


def test_the_python_api(run_folder):
    pipe = load(run_folder, device="cpu")
    images = pipe.sample(3, steps=4, sampler="ddim", eta=0.0, seed=1)
    assert images.shape == (3, 3, 16, 16) and images.abs().max() <= 1
    x_t = pipe.process.marginal(images, 15, images.new_zeros(3, 3, 8, 8))
    assert pipe.predict_x0(x_t, 15).shape == (3, 3, 8, 8)
    change = next(t for t in range(2, 21) if pipe.process.states[t].size != pipe.process.states[t - 1].size)
    assert (
        pipe.predict_x0(pipe.process.marginal(images, change, images.new_zeros(3, 3, 8, 8)), change).shape[-1]
        == 16
    )


def faults():
    return {
        "steps 0": (("--steps", 0), 2, "between 1 and 20"),
        "steps above T": (("--steps", 21), 2, "between 1 and 20"),
        "sampler": (("--sampler", "euler"), 2, "ancestral, ddim, dpm++"),
        "eta": (("--sampler", "ddim", "--eta", 1.5), 2, "in [0, 1]"),
        "eta of ancestral": (("--sampler", "ancestral", "--eta", 0.5), 2, "--sampler ddim"),
        "class": (("--class", "starr"), 2, "did you mean star"),
        "class number": (("--class", 8), 2, "unknown class"),
        "guidance": (("--guidance", -1), 2, "at least 0"),
        "guidance that is no number": (("--guidance", "nan"), 2, "finite"),
        "no images": (("-n", 0), 2, "at least 1"),
        "batch": (("--batch", 0), 2, "at least 1"),
        "first": (("--first", -1), 2, "at least 0"),
        "suffix": (("--out", "x.xyz"), 2, ".xyz"),
        "trajectory into a folder": (("--out", "films/", "--trajectory"), 2, "one picture"),
        "weights": (("--weights", "best"), 2, "ema, raw"),
        "precision": (("--precision", "fp8"), 2, "fp32"),
        "device": (("--device", "cuda:9"), 6, "not available"),
        "absent": (("--ckpt", "nothing"), 4, "no run or checkpoint"),
    }


@pytest.mark.parametrize("name", faults())
def test_faults(ssdiff, run_folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    options, code, words = faults()[name]
    found, out, err = ssdiff("sample", "--ckpt", run_folder, "-n", 1, "--out", "x.png", *options)
    assert (found, out) == (code, "") and words in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_kept(ssdiff, run_folder, tmp_path):
    out = tmp_path / "x.png"
    out.write_bytes(b"mine")
    code, _, err = ssdiff("sample", "--ckpt", run_folder, "-n", 1, "--out", out, *CPU)
    assert code == 2 and "--overwrite" in err and out.read_bytes() == b"mine"
    code, _, _ = ssdiff("sample", "--ckpt", run_folder, "-n", 1, "--out", out, "--overwrite", *CPU)
    assert code == 0 and out.read_bytes() != b"mine"
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "000001.png").write_bytes(b"mine")
    code, _, err = ssdiff("sample", "--ckpt", run_folder, "-n", 3, "--out", f"{tmp_path}/many/", *CPU)
    assert code == 2 and "000001.png" in err and len(list((tmp_path / "many").iterdir())) == 1


def corrupt(data, how):
    return {
        "truncated": data[: len(data) // 2],
        "html": b"<!DOCTYPE html><html><body>quota exceeded</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "empty": b"",
    }[how]


@pytest.mark.parametrize("how", ["truncated", "html", "pointer", "empty"])
def test_damaged_models(ssdiff, result, run_folder, tmp_path, how):
    model = tmp_path / "model.safetensors"
    result("export", run_folder, "--out", model)
    model.write_bytes(corrupt(model.read_bytes(), how))
    code, _, err = ssdiff("sample", "--ckpt", model, "-n", 1, "--out", tmp_path / "x.png", *CPU)
    assert code == 4 and "model.safetensors" in err and err.count("\n") == 1


def test_a_run_whose_checkpoints_are_all_damaged(ssdiff, run_folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    for file in Path(run / "checkpoints").rglob("ema.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    code, _, err = ssdiff("sample", "--ckpt", run, "-n", 1, "--out", tmp_path / "x.png", *CPU)
    assert code == 4 and "no usable checkpoint" in err


@pytest.mark.parametrize("command", ["sample", "export", "restore"])
def test_a_damaged_checkpoint_that_is_passed_over_is_told(ssdiff, run_folder, tmp_path, command):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    newest = max((run / "checkpoints").glob("step-*"))
    file = newest / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    options = {
        "sample": ("--ckpt", run, "-n", 1, "--steps", 2, "--out", tmp_path / "x.png", *CPU),
        "export": (run, "--out", tmp_path / "x.safetensors"),
        "restore": (
            tmp_path / "a.png",
            "--ckpt",
            run,
            "--degrade",
            "--steps",
            2,
            "--out",
            tmp_path / "y.png",
            *CPU,
        ),
    }
    code, _, err = ssdiff(command, *options[command])
    assert code == 0 and f"note: skipped {newest.name}, took step-" in err
