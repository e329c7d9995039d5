"""Which images a command works on, how they are cut, and what a model then says of itself."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ssdiff import checkpoints
from ssdiff.config.load import load_preset

CPU = ("--device", "cpu")
QUIET = (*CPU, "--quiet")
CROPS = """
extends = "cold-blur-celeba128"
summary = ""

[data]
size = 12
source = ""

[process]
T = 3

[model]
kind = "flexi-unet"
width = 8
multipliers = [1]
blocks = 1
attention = []
heads = 1

[training]
batch = 3
grad_accum_steps = 1
lr = 1e-2
ema = 0.5
ema_every = 2
ema_start = 3
steps = 9
checkpoint_every = 2
max_checkpoints = 20
log_every = 9
sample_count = 2

[sampling]
steps = 3
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 12 photographs of no special size, CLASS_NUMBER.png."""
    folder, numbers = tmp_path_factory.mktemp("data") / "mine", np.random.default_rng(0)
    folder.mkdir()
    for k in range(12):
        pixels = numbers.integers(0, 256, (14, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{'ab'[k % 2]}_{k:02}.png")
    return folder


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """A preset that cuts, crops and averages as Cold Diffusion does, on tiny images."""
    path = tmp_path_factory.mktemp("presets") / "crops.toml"
    path.write_text(CROPS)
    return path


@pytest.fixture
def split(pictures, tmp_path):
    """The pictures with the number of their part: 0, 1, 2 in turn."""
    path = tmp_path / "split.txt"
    path.write_text("".join(f"{file.name} {k % 3}\n" for k, file in enumerate(sorted(pictures.iterdir()))))
    return path


def tensors(run, step):
    loaded = checkpoints.load(run / "checkpoints" / f"step-{step:08d}")
    return {f"{kind}/{name}": value for kind, part in loaded.tensors.items() for name, value in part.items()}


def test_a_run_on_random_crops_of_a_split_resumes_bit_for_bit(
    crops, pictures, split, ssdiff, result, tmp_path
):
    data = ("--data", pictures, "--data-list", split, "--data-part", 0)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result("train", "--preset", crops, *data, "--out", whole, *QUIET)
    assert result("train", "--preset", crops, *data, "--out", cut, "--steps", 4, *QUIET)["step"] == 4
    there, now = tensors(whole, 4), tensors(cut, 4)
    assert all(now[name].equal(value) for name, value in there.items())
    assert result("train", "--resume", cut, "--steps", 9, *QUIET)["step"] == 9  # remembers set, list and part
    a, b = tensors(whole, 9), tensors(cut, 9)
    assert all(a[name].equal(b[name]) for name in a)
    averaged = [name for name in a if name.startswith("ema/")]
    assert any(not a[name].equal(a[name.replace("ema/", "weights/")]) for name in averaged)
    preset = load_preset(whole / "preset.toml")
    assert (preset.data.margin, preset.data.crop, preset.data.part) == (1.12, "random", 0)

    # The list may move; other images are refused, and nothing is trained.
    moved = shutil.copy(split, tmp_path / "moved.txt")
    more = ("--resume", cut, "--data-list", moved, "--steps", 10, *QUIET)
    assert result("train", *more)["step"] == 10
    code, _, err = ssdiff("train", "--resume", cut, "--data-part", 1, "--steps", 11, *QUIET)
    assert code == 4 and "the data set has changed" in err and "--accept-changed-data" in err


def test_a_list_that_is_wrong_leaves_no_run(crops, pictures, split, ssdiff, tmp_path):
    run, data = tmp_path / "run", ("--data", pictures, "--out", tmp_path / "run")
    split.write_text("a_00.png\na_00.png\n")
    code, _, err = ssdiff("train", "--preset", crops, *data, "--data-list", split, *QUIET)
    assert code == 3 and err.count("\n") == 1 and "line 2: a_00.png is listed twice" in err
    code, _, err = ssdiff("train", "--preset", crops, *data, "--data-list", tmp_path / "no.txt", *QUIET)
    assert code == 3 and "there is no list of images" in err
    code, _, err = ssdiff("train", "--preset", crops, *data, "--data-part", 1, *QUIET)
    assert code == 2 and "data.part: is for a list" in err
    assert not run.exists()


def test_classes_by_prefix_through_a_run(pictures, result, ssdiff, tmp_path):
    out = tmp_path / "run"
    small = [f"--set={item}" for item in ("data.size=8", "model.classes=2", "process.levels=1")]
    small += [f"--set={item}" for item in ("model.multipliers=[1]", "model.attention=[]", "data.source=")]
    tiny = ("--preset", "shapes32", "--data", pictures, "--steps", 1, "--set", "sampling.steps=2", *small)
    tiny += ("--set", "process.resolution={kind='equal'}", "--set", "model.width=8")
    tiny += ("--set", "sampling.lift=network", "--set", "training.transitions=true")
    code, _, err = ssdiff("train", *tiny, "--out", out, *QUIET)
    assert code == 2 and "needs labels" in err
    result("train", *tiny, "--set", "data.classes_from=prefix", "--out", out, *QUIET)
    model = tmp_path / "model.safetensors"
    result("export", out, "--out", model)
    assert result("info", model)["class_names"] == ["a", "b"]


def test_prepare_says_what_it_made(pictures, split, result, ssdiff):
    plain = result("data", "prepare", pictures, "--size", 8)
    assert (plain["images"], plain["size"], plain["side"], plain["classes"]) == (12, 8, 8, [])
    options = ("--data-list", split, "--data-part", 1, "--classes-from", "prefix")
    part = result("data", "prepare", pictures, "--size", 8, *options, "--scaling", "stretch", "--margin", 1.5)
    assert (part["images"], part["size"], part["side"], part["classes"]) == (4, 8, 12, ["a", "b"])
    for option, value in (("--scaling", "lanczos"), ("--classes-from", "name"), ("--margin", "nan")):
        assert ssdiff("data", "prepare", pictures, option, value)[0] == 2


def test_evaluations_of_a_split(cold_folder, pictures, split, result, ssdiff, tmp_path):
    images, some = (pictures, "--ckpt", cold_folder, *CPU), ("--data-list", split, "--data-part", 2)
    assert result("eval", "restore", *images)["count"] == 12
    assert result("eval", "restore", *images, *some)["count"] == 4
    code, _, err = ssdiff("eval", "restore", *images, "--data-list", split)
    assert code == 3 and "--data-part" in err
    code, _, err = ssdiff("eval", "restore", *images, "--truth", pictures, *some)
    assert code == 2 and "among clean images" in err

    metric = ("eval", "mind", pictures, "--extractor", "tinynet:Tiny", *CPU)
    assert result(*metric, "--reference", pictures, *some, "--resize", 8)["reference"]["count"] == 4
    code, _, err = ssdiff(*metric, *some)
    assert code == 2 and "a list of images is for a reference" in err

    space = ("eval", "scale-space", "ve", "--size", 8, "--points", 2, "--out", tmp_path / "space")
    code, _, err = ssdiff(*space, *some)
    assert code == 2 and "a list of images is for data that are a folder" in err
    split.write_text("".join(f"{file.name}\n" for file in sorted(pictures.iterdir())[:9]))
    assert result(*space, "--data", pictures, "--data-list", split)["images"] == 9


def test_a_changed_preset_claims_no_figure_anywhere(pictures, result, ssdiff, tmp_path):
    small = [
        f"--set={item}" for item in ("data.size=16", "process.levels=2", "model.width=8", "model.blocks=1")
    ]
    small += [f"--set={item}" for item in ("model.multipliers=[1,1]", "model.attention=[]", "model.heads=1")]
    told = "changed from celeba64: data.size"
    code, shown, _ = ssdiff("train", "--preset", "celeba64", "--data", pictures, *small, "--dry-run", *CPU)
    assert code == 0 and told in shown
    outputs = [shown]

    run, model = tmp_path / "run", tmp_path / "model.safetensors"
    sizes = (
        "--steps",
        1,
        "--batch",
        2,
        "--set",
        "training.sample_steps=2",
        "--set",
        "training.sample_count=2",
    )
    result("train", "--preset", "celeba64", "--data", pictures, *small, *sizes, "--out", run, *QUIET)
    outputs.append((run / "preset.toml").read_text())
    result("export", run, "--out", model)
    for command in (("info", run), ("info", model), ("eval", "cost", model, *CPU)):
        code, shown, err = ssdiff(*command)
        assert code == 0, err
        outputs.append(shown)
    assert result("info", run)["published"] == ""
    report = tmp_path / "report.html"
    result("eval", "report", run, "--out", report, "--samples", 0, *CPU)
    outputs.append(report.read_text())
    code, shown, _ = ssdiff("presets", "show", "celeba64", *small)
    outputs.append(shown)
    plan = tmp_path / "plan"
    planned = ("--steps", 2, "--eta", 0, "--no-exact", "--images", 12, "--out", plan)
    result("eval", "schedule", "--preset", "celeba64", "--data", pictures, *small, *planned)
    outputs.append((plan / "planned.toml").read_text())
    for output in outputs:
        assert told in output
        assert not re.search(r"FID|4\.28|CelebA 64 px", output)


def test_an_old_run_on_other_data_claims_nothing(run_folder, tmp_path, ssdiff, result):
    """A run of 0.2.0: the figure is in its summary, and only its checkpoints know the data set."""
    run = shutil.copytree(run_folder, tmp_path / "run")
    preset = run / "preset.toml"
    text = re.sub(r"(?m)^(name|summary|base|trained_on) = .*\n", "", preset.read_text())
    preset.write_text(f'name = "celeba64"\nsummary = "SSD, CelebA 64 px, 4 levels (FID 4.28)"\n{text}')
    code, shown, err = ssdiff("info", run)
    assert code == 0, err
    assert "changed from celeba64: data.size" in shown and "FID" not in shown
    assert "data set" not in shown  # its preset named shapes, and it was trained on them
