"""Training that begins with another model's weights: what is taken, what is refused, and that it goes on."""

import json
import os
import signal
import time

import pytest
import torch
from conftest import CPU, TINY
from test_resume import final, published, start

import ssdiff as library
from ssdiff import checkpoints
from ssdiff.runs import RunFolder
from ssdiff.weights import single_file
from ssdiff.weights.describe import describe_model
from ssdiff.weights.initial import Origin

SHORT = ("--set", "training.steps=2", "--set", "training.log_every=1", *CPU)


def tensors(folder, step):
    return checkpoints.load(RunFolder(folder).checkpoints / f"step-{step:08d}").tensors


def losses(folder):
    return [json.loads(line)["loss"] for line in RunFolder(folder).metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def exported(run_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("init") / "tiny.safetensors"
    library.load(run_folder)
    stored = single_file.read(run_folder)
    single_file.export(path, stored.preset, stored.weights, class_names=stored.class_names, step=stored.step)
    return path


@pytest.mark.parametrize("kind", ["run", "checkpoint", "file"])
def test_the_averaged_weights_are_taken_and_all_else_begins_anew(
    kind, run_folder, exported, tmp_path, result
):
    model = {
        "run": run_folder,
        "checkpoint": checkpoints.list_steps(RunFolder(run_folder).checkpoints)[-1],
        "file": exported,
    }[kind]
    result("train", "--init", model, "--out", tmp_path / "new", *SHORT)
    theirs, began = final(run_folder).tensors["ema"], tensors(tmp_path / "new", 0)
    for group in ("ema", "weights"):
        assert all(torch.equal(theirs[name], value) for name, value in began[group].items())
    assert began["optimizer"] == {} and began["ema"].keys() == theirs.keys()
    told = describe_model(tmp_path / "new").to_dict()["init"]
    assert told["sha256"] == single_file.digest_weights(theirs) and told["model"] == str(model)
    assert told["taken"] == told["tensors"] == len(theirs) and told["left"] == told["fresh"] == []
    assert library.load_preset(tmp_path / "new" / "preset.toml").model.width == 16
    assert describe_model(tmp_path / "new" / "checkpoints" / "step-00000002").to_dict()["init"] == told


def test_the_origin_is_said_and_goes_with_an_exported_model(exported, tmp_path, ssdiff):
    _, _, err = ssdiff("train", "--init", exported, "--out", tmp_path / "new", *SHORT)
    digest = single_file.digest_weights(single_file.read(exported).weights)
    assert digest in err and "optimiser, steps and average begin anew" in err
    assert digest in (tmp_path / "new" / "train.log").read_text()
    assert ssdiff("export", tmp_path / "new", "--out", tmp_path / "x.safetensors")[0] == 0
    for path in (tmp_path / "new", tmp_path / "x.safetensors"):
        assert f"began with averaged weights of {exported}" in ssdiff("info", path)[1]
    assert "began with" not in ssdiff("info", exported)[1]


def test_raw_weights(run_folder, tmp_path, result):
    result("train", "--init", run_folder, "--init-weights", "raw", "--out", tmp_path / "new", *SHORT)
    theirs, began = final(run_folder).tensors["weights"], tensors(tmp_path / "new", 0)["ema"]
    assert all(torch.equal(theirs[name], value) for name, value in began.items())


def test_the_first_loss_is_lower_than_with_random_weights(run_folder, tmp_path, result):
    more = ("--set", "training.batch=32", "--steps", 1, "--seed", 5, *CPU)
    result("train", "--init", run_folder, "--out", tmp_path / "tuned", *more)
    result("train", "--preset", TINY, "--out", tmp_path / "random", *more)
    assert losses(tmp_path / "tuned")[0] < losses(tmp_path / "random")[0]


def test_what_does_not_fit_is_refused_unless_a_part_is_asked_for(exported, tmp_path, ssdiff, result):
    asked = ("train", "--init", exported, "--set", "model.classes=9", "--out", tmp_path / "new", *SHORT)
    code, _, err = ssdiff(*asked)
    assert code == 4 and "(9, " in err and "(10, " in err and "--init-partial" in err and err.count("\n") == 1
    assert not (tmp_path / "new").exists()
    result(*asked, "--init-partial")
    told = RunFolder(tmp_path / "new").read_init()
    assert told["taken"] == told["tensors"] - 1 and told["left"] == told["fresh"] and len(told["left"]) == 1
    [name] = told["left"]
    theirs, began = single_file.read(exported).weights, tensors(tmp_path / "new", 0)["weights"]
    assert all(torch.equal(theirs[key], value) for key, value in began.items() if key != name)
    assert f"1 ({name}) begun at random" in (tmp_path / "new" / "train.log").read_text()


def test_no_tensor_fits(exported, tmp_path, ssdiff):
    foreign = tmp_path / "foreign.safetensors"
    single_file.export(foreign, single_file.read(exported).preset, {"foreign": torch.zeros(3)})
    code, _, err = ssdiff("train", "--init", foreign, "--init-partial", "--out", tmp_path / "new", *SHORT)
    assert code == 4 and "not one tensor fits" in err and not (tmp_path / "new").exists()


def test_other_settings_of_the_process_are_said(exported, tmp_path, ssdiff):
    changed = ("--preset", TINY, "--set", "process.T=30", "--set", "model.heads=4")
    _, _, err = ssdiff("train", "--init", exported, *changed, "--out", tmp_path / "new", *SHORT)
    assert "mean something else" in err and "process.T: 20 != 30" in err and "model.heads: 2 != 4" in err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--init", "gone.safetensors"), 4, "no run or checkpoint at gone.safetensors"),
        (("--init", "damaged.safetensors"), 4, "damaged.safetensors"),
        (("--init", "shapes32", "--resume", "run"), 2, "leave one of them out"),
        (("--init-partial", "--preset", "shapes32"), 2, "give --init MODEL"),
        (("--init-weights", "raw", "--preset", "shapes32"), 2, "give --init MODEL"),
        (("--init", "shapes32", "--init-weights", "best"), 2, "unknown weights 'best'"),
        (("--init", "shapes32", "--init-weights", "raw"), 4, "averaged weights only"),
        (("--init", "shapes32", "--set", "process.T=0"), 2, "process.T"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dry", [False, True])
def test_bad_requests_leave_no_folder(options, code, words, dry, exported, tmp_path, ssdiff, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.safetensors").write_bytes(exported.read_bytes()[:-100])
    if dry and "--resume" in options:
        words = "a dry run is of a preset"
    found, _, err = ssdiff("train", *options, "--out", "new", *CPU, *(["--dry-run"] if dry else []))
    assert found == code and words in err and err.count("\n") == 1 and not (tmp_path / "new").exists()


def test_a_dry_run_says_what_would_be_taken(exported, tmp_path, result, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = result("train", "--init", exported, "--dry-run", *CPU)["init"]
    assert told["taken"] == told["tensors"] > 10 and not list(tmp_path.iterdir())


def test_resume_auto_begins_once_and_goes_on_without_the_model(exported, tmp_path, ssdiff, result):
    model = tmp_path / "m.safetensors"
    model.write_bytes(exported.read_bytes())
    asked = ("train", "--init", model, "--resume", "auto", "--out", tmp_path / "new", *CPU)
    result(*asked, "--steps", 1)
    model.unlink()
    assert result(*asked, "--steps", 2)["step"] == 2
    assert result("train", "--resume", tmp_path / "new", "--steps", 3, *CPU)["step"] == 3
    assert final(tmp_path / "new").meta["init"]["model"] == str(model)
    code, _, err = ssdiff("train", "--init", "shapes32", *asked[3:])
    assert code == 4 and f"began with {model}, not with shapes32" in err and err.count("\n") == 1
    result("train", "--preset", TINY, "--out", tmp_path / "plain", *SHORT)
    code, _, err = ssdiff(
        "train", "--init", "shapes32", "--resume", "auto", "--out", tmp_path / "plain", *CPU
    )
    assert code == 4 and "began with random weights" in err


def test_a_run_killed_before_it_saved_anything_begins_with_the_same(exported, tmp_path, result):
    out = tmp_path / "new"
    origin = Origin(str(exported), "tiny", 12, "ema", "", 1, 1)
    RunFolder.create(out, "name = 'tiny'").write_init(origin.to_dict())
    result("train", "--preset", TINY, "--resume", "auto", "--out", out, *SHORT)
    theirs = single_file.read(exported).weights
    assert all(torch.equal(theirs[name], value) for name, value in tensors(out, 0)["ema"].items())
    begun_anew = tmp_path / "anew"
    RunFolder.create(begun_anew, "name = 'tiny'").write_init(origin.to_dict())
    result("train", "--preset", TINY, "--out", begun_anew, *SHORT)
    assert not RunFolder(begun_anew).init.exists() and final(begun_anew).meta["init"] is None


def test_kills_leave_the_uninterrupted_result(exported, tmp_path):
    model = tmp_path / "m.safetensors"
    model.write_bytes(exported.read_bytes())
    straight, out = tmp_path / "straight", tmp_path / "killed"
    more = ("--set", "training.steps=12", "--init", str(model))
    assert start(straight, *more).wait(timeout=240) == 0
    for _ in range(2):
        before, process = published(out), start(out, *more)
        while process.poll() is None and len(set(published(out)) - set(before)) < 2:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        model.unlink(missing_ok=True)
    assert start(out, *more).wait(timeout=240) == 0
    ours, theirs = final(out), final(straight)
    assert ours.step == theirs.step == 12 and ours.meta["init"] == theirs.meta["init"]
    for kind, part in theirs.tensors.items():
        assert all(torch.equal(value, ours.tensors[kind][name]) for name, value in part.items())


def test_classes_keep_what_was_learnt_of_them(exported, tmp_path, result):
    from PIL import Image

    for name in ("star", "disc"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16), (60 * number, 9, 9)).save(tmp_path / "data" / name / f"{number}.png")
    result("train", "--init", exported, "--data", tmp_path / "data", "--out", tmp_path / "new", *SHORT)
    assert tuple(final(tmp_path / "new").meta["class_names"]) == single_file.read(exported).class_names


@pytest.mark.parametrize("values", [None, 3, [], {}, {"model": 1}, {"left": None}])
def test_what_is_no_origin_is_none(values):
    assert Origin.from_dict(values) is None
    origin = Origin("m", "p", None, "ema", "0", 1, 2, ("a",), ("b",))
    assert Origin.from_dict(json.loads(json.dumps(origin.to_dict()))) == origin


def test_two_processes_begin_with_the_same(exported, tmp_path, shell):
    done = shell("train", "--init", exported, "--out", tmp_path / "two", *SHORT, processes=2)
    assert done.returncode == 0, done.stderr
    theirs = single_file.read(exported).weights
    assert all(
        torch.equal(theirs[name], value) for name, value in tensors(tmp_path / "two", 0)["ema"].items()
    )
