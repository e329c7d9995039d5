"""What a resumed run keeps, refuses and tells; in this process, through the command."""

import json
import shutil

import pytest
from PIL import Image
from trainers import TINY

from ssdiff import train
from ssdiff.errors import Interrupted, OutputError
from ssdiff.runs import RunFolder

SETTINGS = {
    "training.steps": 4,
    "training.log_every": 4,
    "training.checkpoint_every": 100,
    "training.sample_count": 1,
}


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"], line["loss_by_resolution"]) for line in lines]


def test_means_of_an_interrupted_run_are_those_of_one_that_was_not(tmp_path):
    options = {"overrides": SETTINGS, "data": "shapes", "device": "cpu"}
    train(TINY, out=tmp_path / "a", **options)
    steps = []

    def watch(event):
        if event.kind == "step":
            steps.append(event.step)

    with pytest.raises(Interrupted):
        train(TINY, out=tmp_path / "b", stop=lambda: len(steps) == 3, on_event=watch, **options)
    assert json.loads((tmp_path / "b" / "status.json").read_text())["code"] == 75
    train(TINY, out=tmp_path / "b", resume="auto", **options)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.fixture
def resumable(tmp_path, ssdiff, run_folder):
    """A run of a folder of pictures, and the command that goes on with it."""
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (number, 9, 9)).save(data / f"{number}.png")
    sets = ("--set", "model.classes=0", "--set", "training.steps=2", "--set", "training.sample_count=1")
    options = ("--device", "cpu", "--quiet")
    assert ssdiff("train", "--preset", TINY, *sets, *options, "--data", data, "--out", run)[0] == 0
    return run, data, lambda *more: ssdiff("train", "--resume", run, *options, *more)


def test_a_refused_resume_leaves_the_run_as_it_is(resumable):
    run, data, resume = resumable
    before = {name: (run / name).read_bytes() for name in ("preset.toml", "status.json")}
    Image.new("RGB", (16, 16)).save(data / "new.png")
    code, _, err = resume("--set", "training.steps=99", "--set", "training.lr=0.5")
    assert code == 4 and "the data set has changed" in err
    assert before == {name: (run / name).read_bytes() for name in before}


def test_a_failure_to_resume_is_recorded(resumable):
    run, data, resume = resumable
    shutil.rmtree(data)
    assert resume("--steps", 4)[0] == json.loads((run / "status.json").read_text())["code"] == 3


def test_an_edited_preset_counts(resumable):
    run, _, resume = resumable
    text = (run / "preset.toml").read_text()
    (run / "preset.toml").write_text(text.replace("\nsteps = 2\n", "\nsteps = 3\n", 1))
    assert resume()[0] == 0 and (run / "checkpoints" / "step-00000003").is_dir()
    (run / "preset.toml").write_text(text.replace("\nT = 20\n", "\nT = 19\n", 1))
    code, _, err = resume()
    assert code == 4 and "process.T: 20 != 19" in err
    (run / "preset.toml").write_text("[")
    code, _, err = resume()
    assert code == 2 and "preset.toml is not TOML" in err


def test_the_status_knows_the_step_of_the_last_checkpoint(resumable):
    run, _, _ = resumable
    seen = []

    def watch(event):
        if event.kind == "checkpoint":
            seen.append(event.step)

    steps = []

    def stop():
        steps.append(json.loads((run / "status.json").read_text())["step"])
        return False

    train(
        resume=run, overrides={"training.steps": 6, "training.checkpoint_every": 2}, on_event=watch, stop=stop
    )
    assert seen == [4, 6] and steps[-1] == 4


def test_out_of_memory_names_the_batch_and_the_size(resumable, monkeypatch):
    _, _, resume = resumable

    def exhausted(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("ssdiff.training.trainer.Trainer._losses", exhausted)
    code, _, err = resume("--steps", 4)
    assert code == 6 and "training.batch = 4 at " in err and " px (" in err and "grad_accum_steps" in err


def test_a_picture_that_a_kill_prevented_is_drawn_when_the_run_goes_on(tmp_path):
    settings = SETTINGS | {"training.sample_every": 2, "training.checkpoint_every": 2}
    options = {"overrides": settings, "data": "shapes", "device": "cpu"}
    train(TINY, out=tmp_path / "a", **options)
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "a" / "samples").iterdir()}
    steps = []

    def stop_while_drawing():
        return len(steps) == 2 and (tmp_path / "b" / "checkpoints" / "step-00000002").is_dir()

    with pytest.raises(Interrupted, match="at step 2"):
        watch = lambda event: event.kind == "step" and steps.append(event.step)  # noqa: E731
        train(TINY, out=tmp_path / "b", stop=stop_while_drawing, on_event=watch, **options)
    assert not list((tmp_path / "b" / "samples").iterdir())
    train(TINY, out=tmp_path / "b", resume="auto", **options)
    assert pictures == {path.name: path.read_bytes() for path in (tmp_path / "b" / "samples").iterdir()}
    assert sorted(pictures) == ["step-00000002.png", "step-00000004.png"]


def test_who_comes_second_between_making_and_locking_a_folder_is_refused(tmp_path, monkeypatch):
    create = RunFolder.create

    def slow(path, *arguments):
        folder = create(path, *arguments)
        folder.append_metrics({"step": 1})  # somebody else makes the folder and begins in it
        return folder

    monkeypatch.setattr(RunFolder, "create", slow)
    with pytest.raises(OutputError, match="already holds a run"):
        train(TINY, out=tmp_path / "run", overrides=SETTINGS, data="shapes", device="cpu")
    assert RunFolder(tmp_path / "run").read_metrics() == [{"step": 1}]


def test_a_log_without_room_is_left_short_and_nothing_else_is_said(tmp_path, capfd):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").symlink_to("/dev/full")
    (tmp_path / "run" / "preset.toml").touch()
    train(TINY, out=tmp_path / "run", overrides=SETTINGS, data="shapes", device="cpu")
    assert RunFolder(tmp_path / "run").read_status()["state"] == "finished"
    assert capfd.readouterr().err == ""


def test_checkpoints_that_a_kill_left_over_are_deleted_when_a_finished_run_is_resumed(tmp_path):
    options = {"data": "shapes", "device": "cpu"}
    settings = SETTINGS | {"training.checkpoint_every": 2, "training.max_checkpoints": 2}
    train(TINY, out=tmp_path / "a", overrides=settings, **options)
    kept = [path.name for path in sorted((tmp_path / "a" / "checkpoints").iterdir())]
    assert kept == ["step-00000002", "step-00000004"]
    shutil.copytree(
        tmp_path / "a" / "checkpoints" / kept[0], tmp_path / "a" / "checkpoints" / "step-00000001"
    )
    train(out=tmp_path / "a", resume="auto", **options)
    assert [path.name for path in sorted((tmp_path / "a" / "checkpoints").iterdir())] == kept


def test_info_knows_a_checkpoint_after_which_the_run_was_killed_at_once(resumable, result):
    run, _, _ = resumable
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"step": 1, "state": "running"}))
    assert result("info", run)["status"]["step"] == 2


def test_a_run_of_a_former_version_is_told_that_its_sums_change(tmp_path, monkeypatch):
    def notes(steps, **more):
        said = []
        train(
            TINY,
            data="shapes",
            out=tmp_path / "run",
            device="cpu",
            overrides={"training.steps": steps, "training.sample_count": 1},
            on_event=lambda event: said.append(event.text) if event.kind == "note" else None,
            **more,
        )
        return [text for text in said if "last digits" in text]

    monkeypatch.setattr("ssdiff.models.convolution._LEAST_CHANNELS", 8)
    with monkeypatch.context() as former:
        former.setattr("ssdiff.training.run.ARITHMETIC", 1)
        assert notes(1) == []
    assert len(notes(2, resume="auto")) == 1
    assert notes(3, resume="auto") == []
    with monkeypatch.context() as former:
        former.setattr("ssdiff.training.run.ARITHMETIC", 1)
        assert len(notes(4, resume="auto")) == 1
        former.setattr("ssdiff.models.convolution._LEAST_CHANNELS", 128)  # as it is: the network is too small
        assert notes(5, resume="auto") == []
