"""`ssdiff train` through its command: what it writes, and every fault that it can meet."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ssdiff import checkpoints
from ssdiff.config.load import load_preset
from ssdiff.distributed import join_world
from ssdiff.errors import Interrupted, ResourceError
from ssdiff.training.run import train

TINY = Path(__file__).parents[1] / "assets" / "tiny.toml"
QUIET = ("--device", "cpu", "--quiet")


def newest(folder):
    return checkpoints.load(checkpoints.list_steps(Path(folder) / "checkpoints")[-1])


def test_a_run_writes_what_it_promises(run_folder):
    assert load_preset(run_folder / "preset.toml").name == "tiny"
    metrics = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [2, 4, 6, 8, 10, 12]
    assert all(line["images_per_second"] > 0 and line["loss"] > 0 for line in metrics)
    assert json.loads((run_folder / "status.json").read_text())["state"] == "finished"
    assert newest(run_folder).step == 12
    with Image.open(run_folder / "samples" / "step-00000012.png") as grid:
        assert grid.size[0] > 32
    assert "saved step-00000012" in (run_folder / "train.log").read_text()


def test_json_says_where_the_run_is(result, tmp_path):
    values = result("train", "--preset", TINY, "--out", tmp_path / "run", "--set", "training.steps=1", *QUIET)
    assert values["run"] == str(tmp_path / "run") and values["step"] == 1 and Path(values["grid"]).exists()


def test_settings_that_have_an_option_of_their_own(result, ssdiff, tmp_path):
    out = tmp_path / "run"
    options = ("--steps", 1, "--batch", 2, "--lr", "1e-4", "--seed", 3)
    values = result("train", "--preset", TINY, "--out", out, *options, "--set", "training.steps=1", *QUIET)
    training = load_preset(out / "preset.toml").training
    assert (training.steps, training.batch, training.lr, training.seed) == (1, 2, 1e-4, 3)
    assert values["step"] == 1
    code, _, err = ssdiff("train", "--preset", TINY, *options, "--set", "training.lr=0.5", *QUIET)
    assert code == 2 and "--lr 0.0001 and --set training.lr=0.5" in err


def test_a_run_in_a_folder_of_its_own_is_the_newest(result, tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path / "home"))
    out = tmp_path / "elsewhere"
    result("train", "--preset", TINY, "--out", out, "--steps", 1, *QUIET)
    assert result("info")["path"] == str(out)
    assert result("train", "--preset", TINY, "--resume", "auto", "--steps", 2, *QUIET)["run"] == str(out)


def test_a_download_without_its_package_is_told_before_anything_is_made(ssdiff, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    out = tmp_path / "run"
    code, _, err = ssdiff("train", "--preset", "celeba64", "--out", out, *QUIET)
    assert code == 6 and "celeba needs the package gdown" in err and "scale-space-diffusion[data]" in err
    assert not out.exists()


def test_the_default_place_is_the_home_folder(result, home):
    values = result("train", "--preset", TINY, "--set", "training.steps=1", *QUIET)
    assert Path(values["run"]).parent == home / "runs"
    shutil.rmtree(values["run"])


def test_real_images_in_a_folder(result, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        Image.new("RGB", (40 + i, 30), (40 * i, 10, 200)).save(photos / f"{i}.jpg")
    values = result(
        "train",
        "--preset",
        TINY,
        "--data",
        photos,
        "--out",
        tmp_path / "run",
        "--set",
        "model.classes=0",
        "--set",
        "training.steps=2",
        *QUIET,
    )
    assert values["step"] == 2


def test_eps_prediction_and_plain_ddpm(result, tmp_path):
    result(
        "train",
        "--preset",
        TINY,
        "--out",
        tmp_path / "run",
        "--set",
        "process.kind=ddpm",
        "--set",
        "process.levels=1",
        "--set",
        "process.predict=eps",
        "--set",
        "training.steps=2",
        *QUIET,
    )


def test_changes_of_resolution_by_area(result, tmp_path):
    where = ["--preset", TINY, "--out", tmp_path / "run", *QUIET]
    changes = ["process.resize=area", "training.steps=2"]
    values = result("train", *where, *(f"--set={change}" for change in changes))
    assert values["step"] == 2
    drawn = result(
        "sample", "--ckpt", tmp_path / "run", "-n", "2", "--steps", "4", "--out", tmp_path / "x.png"
    )
    assert drawn["n"] == 2


def test_dry_run_writes_nothing(result, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(home.rglob("*"))
    values = result("train", "--preset", TINY, "--dry-run", "--device", "cpu")
    assert values["parameters"] > 1e5 and values["seconds_per_step"] > 0 and values["training_bytes"] > 1e6
    assert sum(path["share"] for path in values["paths"]) == pytest.approx(1)
    assert {tuple(path["in"]) for path in values["paths"]} == {(16, 16), (8, 8)}
    assert all(path["seconds_per_image"] > 0 for path in values["paths"])
    assert sorted(home.rglob("*")) == before and not list(tmp_path.iterdir())


def test_a_dry_run_takes_no_second_set_that_the_run_would_refuse(ssdiff):
    code, _, err = ssdiff("train", "--preset", TINY, "--with", "cifar10", "--dry-run", "--device", "cpu")
    assert code == 2 and err.count("\n") == 1
    assert err.endswith("other (--with) is for animorphosis, tiny mixes no second set in; leave it out\n")


def test_a_dry_run_of_a_run_is_refused(ssdiff, run_folder):
    code, _, err = ssdiff("train", "--resume", run_folder, "--dry-run")
    assert code == 2 and "ssdiff eval cost" in err and err.count("\n") == 1


def test_resuming_goes_on_bit_for_bit(result, run_folder, tmp_path):
    out = tmp_path / "run"
    result("train", "--preset", TINY, "--out", out, "--set", "training.steps=5", *QUIET)
    values = result("train", "--preset", TINY, "--out", out, "--resume", "auto", *QUIET)
    assert values["step"] == 12
    ours, theirs = newest(out), newest(run_folder)
    for kind, part in theirs.tensors.items():
        assert part.keys() == ours.tensors[kind].keys()
        assert all(torch.equal(value, ours.tensors[kind][name]) for name, value in part.items())
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_resuming_by_path_with_the_runs_own_settings(result, run_folder, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run_folder, out)
    values = result("train", "--resume", out / "checkpoints" / "step-00000004", *QUIET)
    assert values["run"] == str(out) and values["step"] == 12
    assert list((out / "checkpoints").glob("aside-*"))
    values = result("train", "--resume", out, "--set", "training.steps=14", *QUIET)
    assert values["step"] == 14


def test_resuming_from_anywhere_finds_the_runs_own_data(result, tmp_path, monkeypatch):
    for i in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (60 * i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    sets = ("--set", "model.classes=0", "--set", "training.steps=2")
    result("train", "--preset", TINY, "--data", "photos", "--out", "run", *sets, *QUIET)
    monkeypatch.chdir(tmp_path / "run" / "checkpoints")
    values = result("train", "--resume", "step-00000002", "--set", "training.steps=3", *QUIET)
    assert values["run"] == str(tmp_path / "run") and values["step"] == 3


def test_a_stop_while_data_are_prepared_is_heard(tmp_path):
    settings = load_preset(TINY, {"data.size": 14, "model.attention": [7]})
    with pytest.raises(Interrupted, match="preparing data"):
        train(settings, out=tmp_path / "run", device="cpu", stop=lambda: True)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["code"] == 75


def test_auto_passes_over_a_damaged_checkpoint(ssdiff, run_folder, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run_folder, out)
    target = out / "checkpoints" / "step-00000012" / "weights.safetensors"
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)
    code, _, err = ssdiff("train", "--preset", TINY, "--out", out, "--resume", "auto", "--device", "cpu")
    assert code == 0 and "skipped step-00000012" in err and "resumed at step 10" in err
    code, _, err = ssdiff(
        "train", "--resume", out / "checkpoints" / "step-00000002", "--data", "shapes", *QUIET
    )
    assert code == 0
    assert_close(newest(out).step, 12)


def test_auto_without_a_run_starts_one_and_says_so(ssdiff, tmp_path):
    code, _, err = ssdiff(
        "train",
        "--preset",
        TINY,
        "--out",
        tmp_path / "new",
        "--resume",
        "auto",
        "--set",
        "training.steps=1",
        "--device",
        "cpu",
    )
    assert code == 0 and "nothing to resume" in err


def faults():
    """(arguments, exit code, words of the message); RUN is a finished run, NEW an absent folder."""
    tiny = ("train", "--preset", str(TINY), "--out", "NEW", *QUIET)
    return {
        "no preset": (("train", *QUIET), 2, "give --preset"),
        "unknown preset": (("train", "--preset", "celeba65"), 2, "did you mean celeba64"),
        "typo in a field": ((*tiny, "--set", "training.larning_rate=1"), 2, "unknown field"),
        "not a number": ((*tiny, "--set", "training.lr=nan"), 2, "finite number > 0"),
        "negative": ((*tiny, "--set", "training.lr=-1"), 2, "finite number > 0"),
        "size": ((*tiny, "--set", "data.size=17"), 2, "multiple of 2"),
        "levels": ((*tiny, "--set", "process.levels=4"), 2, "levels"),
        "levels that are never reached": (
            (*tiny, "--set", "process.resolution={kind='log_snr', at=[-90]}"),
            2,
            "never reached",
        ),
        "another run": (("train", "--preset", str(TINY), "--out", "RUN", *QUIET), 2, "--resume auto"),
        "another run, though from a checkpoint": (
            ("train", "--resume", "OTHER/checkpoints/step-00000012", "--out", "RUN", *QUIET),
            2,
            "already holds a run",
        ),
        "no data": ((*tiny, "--data", "NEW/nothing"), 3, "nothing"),
        "no labels": ((*tiny, "--data", "FLAT"), 2, "needs labels"),
        "absent checkpoint": (("train", "--resume", "NEW/checkpoint", *QUIET), 4, "no run or checkpoint"),
        "a file to sample from": (("train", "--resume", str(TINY), *QUIET), 4, "no optimizer's state"),
        "other settings": (
            ("train", "--preset", str(TINY), "--resume", "RUN", "--set", "model.width=32", *QUIET),
            4,
            "model.width: 16 != 32; leave --preset and --set out",
        ),
        "other seed": (
            ("train", "--preset", str(TINY), "--resume", "RUN", "--set", "training.seed=1", *QUIET),
            4,
            "seed",
        ),
        "changed data": (
            ("train", "--resume", "RUN", "--data", "CLASSES", *QUIET),
            4,
            "--accept-changed-data",
        ),
        "device": ((*tiny, "--device", "cuda:99"), 6, "not available"),
        "unknown device": ((*tiny, "--device", "gpu"), 6, "usable here"),
        "unknown option": (("train", "--prest", "x"), 2, "--prest"),
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory, run_folder):
    root = tmp_path_factory.mktemp("places")
    run = root / "run"
    shutil.copytree(run_folder, run)
    shutil.copytree(run_folder, root / "other")
    for folder in ("flat", "classes/a", "classes/b"):
        (root / folder).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (20, 20), (i * 80, 0, 0)).save(root / folder / f"{i}.png")
    names = {"RUN": "run", "OTHER": "other", "NEW": "new", "FLAT": "flat", "CLASSES": "classes"}
    return {key: root / name for key, name in names.items()}


@pytest.mark.parametrize("name", faults())
def test_faults(ssdiff, places, name):
    arguments, code, words = faults()[name]
    for key, path in places.items():
        arguments = [a.replace(key, str(path)) if a.startswith(key) else a for a in arguments]
    before = {path: path.read_bytes() for path in places["RUN"].rglob("*") if path.is_file()}
    found, out, err = ssdiff(*arguments)
    assert (found, out) == (code, ""), err
    assert err.startswith("ssdiff: error: ") and err.count("\n") == 1 and words in err, err
    assert {
        path: path.read_bytes()
        for path in places["RUN"].rglob("*")
        if path.is_file() and path.name != "status.json"
    } == {path: data for path, data in before.items() if path.name != "status.json"}


def test_a_longer_run_goes_on_from_a_shorter_one(ssdiff, tmp_path):
    late = {
        "lr_schedule": "linear",
        "lr_decay_share": 0.25,
        "warmup": 1,
        "checkpoint_every": 6,
        "transition_share": 0.1,
    }

    def run(name, steps, *more):
        sets = [f"--set=training.{key}={value}" for key, value in {**late, "steps": steps}.items()]
        code, _, err = ssdiff("train", "--preset", TINY, "--out", tmp_path / name, *sets, *more, *QUIET)
        assert code == 0, err
        return newest(tmp_path / name)

    run("short", 8)
    ours = run("long", 16, "--resume", tmp_path / "short" / "checkpoints" / "step-00000006")
    log = (tmp_path / "long" / "train.log").read_text()
    assert "going on with other settings (then != now): training.steps: 8 != 16" in log
    theirs = run("straight", 16)
    for kind, part in theirs.tensors.items():
        assert all(torch.equal(value, ours.tensors[kind][name]) for name, value in part.items())


def test_errors_for_machines(ssdiff):
    code, out, _ = ssdiff("train", "--preset", "nope", "--json")
    values = json.loads(out)
    assert (
        code == 2 and values["code"] == 2 and "nope" in values["error"] and values.keys() >= {"path", "hint"}
    )


def test_a_loss_that_is_not_finite(ssdiff, tmp_path):
    out = tmp_path / "run"
    code, _, err = ssdiff(
        "train",
        "--preset",
        TINY,
        "--out",
        out,
        "--set",
        "training.lr=10",
        "--set",
        "training.grad_clip_norm=0",
        "--set",
        "training.steps=300",
        "--set",
        "training.warmup=0",
        "--set",
        "training.betas=[0.0, 0.0]",
        "--set",
        "training.checkpoint_every=1000",
        *QUIET,
    )
    if code == 0:
        pytest.fail("the rate was meant to be far too high")
    assert code == 5 and "not finite at step" in err and "px, timesteps" in err
    status = json.loads((out / "status.json").read_text())
    assert status["state"] == "failed" and status["code"] == 5
    assert not checkpoints.list_steps(out / "checkpoints")


@pytest.mark.parametrize(
    "variables", [{"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "x"}, {"WORLD_SIZE": "2"}]
)
def test_variables_of_torchrun_that_make_no_sense(monkeypatch, variables):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ResourceError, match="torchrun"), join_world("cpu"):
        pass


def test_two_processes_make_the_step_of_the_doubled_batch(shell, result, tmp_path):
    """The first moments after one step are 0.1 times the gradient."""
    small = ("--preset", TINY, "--set", "training.steps=1", "--set", "training.checkpoint_every=1", *QUIET)
    finished = shell("train", *small, "--out", tmp_path / "two", processes=2)
    assert finished.returncode == 0, finished.stderr
    result("train", *small, "--out", tmp_path / "one", "--set", "training.batch=8")
    one, two = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert one.tensors["optimizer"].keys() == two.tensors["optimizer"].keys()
    for name, value in one.tensors["optimizer"].items():
        assert_close(two.tensors["optimizer"][name], value, atol=1e-7, rtol=1e-3)
    code = shell("train", "--resume", tmp_path / "two", "--set", "training.steps=2", *QUIET).returncode
    assert code == 4, "another number of processes is refused"
    assert (
        shell(
            "train",
            "--resume",
            tmp_path / "two",
            "--set",
            "training.steps=2",
            "--allow-topology-change",
            *QUIET,
        ).returncode
        == 0
    )


def test_a_factor_other_than_two_trains_and_samples(result, tmp_path):
    sets = ("process.factor=1.5", "process.levels=3", "process.resolution={kind='equal'}", "training.steps=6")
    result(
        "train",
        "--preset",
        TINY,
        "--out",
        tmp_path / "run",
        *(part for text in sets for part in ("--set", text)),
        *QUIET,
    )
    levels = result("info", tmp_path / "run")["levels"]
    assert [level["resolution"] for level in levels] == [16, 10, 7]
    result("sample", "--ckpt", tmp_path / "run", "-n", 2, "--out", tmp_path / "x.png", "--device", "cpu")
