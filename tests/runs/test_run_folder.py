import errno
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen
from unittest import mock

import pytest
from children import die, enter_read_only, in_child

from ssdiff import runs
from ssdiff.errors import OutputError, ResourceError
from ssdiff.runs import RunFolder

PRESET = 'name = "shapes32"\n'


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def save(folder: Path, step: int, seconds: float) -> None:
    """What counts as a checkpoint when runs are listed."""
    manifest = folder / "checkpoints" / f"step-{step:08d}" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    os.utime(manifest, (seconds, seconds))


# Making a folder


def test_a_new_folder_has_its_layout(tmp_path):
    run = RunFolder.create(tmp_path / "a" / "run", PRESET)
    assert run == RunFolder(tmp_path / "a" / "run")
    assert runs.is_run(run.path) and not runs.is_run(tmp_path)
    assert run.preset.read_text() == PRESET
    assert run.checkpoints.is_dir() and run.samples.is_dir()
    places = (run.preset, run.checkpoints, run.samples, run.metrics, run.log, run.status)
    assert [place.name for place in places] == [
        *("preset.toml", "checkpoints", "samples", "metrics.jsonl", "train.log", "status.json")
    ]
    assert {place.parent for place in places} == {run.path}


@pytest.mark.parametrize(
    "left", [[], ["run.lock"], [".DS_Store", "owner.json"], [f".preset.toml.{'0' * 32}"]]
)
def test_an_empty_folder_will_do_even_after_a_crash_before_the_run_began(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("")
    RunFolder.create(tmp_path, PRESET)
    assert runs.is_run(tmp_path) and not (tmp_path / f".preset.toml.{'0' * 32}").exists()


def test_another_run_is_refused_and_kept(tmp_path):
    run = RunFolder.create(tmp_path, PRESET)
    run.append_metrics({"step": 1})
    before = contents(tmp_path)
    with pytest.raises(
        OutputError, match=r"already holds a run; continue it with --resume auto, or .*new folder"
    ) as e:
        RunFolder.create(tmp_path, 'name = "other"\n')
    assert e.value.code == 2 and contents(tmp_path) == before


def test_resuming_keeps_everything_until_it_is_settled_which_settings_count(tmp_path):
    run = RunFolder.create(tmp_path, PRESET)
    run.append_metrics({"step": 1})
    before = contents(tmp_path)
    inode = run.preset.stat().st_ino
    RunFolder.create(tmp_path, PRESET, resume=True)
    assert contents(tmp_path) == before and run.preset.stat().st_ino == inode
    again = RunFolder.create(tmp_path, PRESET + "x = 1\n", resume=True)
    assert contents(tmp_path) == before
    again.write_preset(PRESET)
    assert run.preset.stat().st_ino == inode
    again.write_preset(PRESET + "x = 1\n")
    assert contents(tmp_path) == {**before, "preset.toml": PRESET.encode() + b"x = 1\n"}


def test_resuming_where_there_is_nothing_makes_a_run(tmp_path):
    RunFolder.create(tmp_path / "new", PRESET, resume=True)
    assert runs.is_run(tmp_path / "new")


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_not_a_run_is_left_alone(tmp_path, resume):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"is not empty and not a run \(it holds thesis\.tex\)"):
        RunFolder.create(tmp_path, PRESET, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        RunFolder.create(tmp_path / "x", PRESET)
    with pytest.raises(OutputError, match="a file is in the way"):
        RunFolder.create(tmp_path / "x" / "run", PRESET)


@pytest.mark.parametrize("there", [False, True], ids=["new", "resumed"])
def test_a_read_only_place_is_an_error_at_once(tmp_path, there):
    if there:
        RunFolder.create(tmp_path, PRESET)
    before = contents(tmp_path)

    def create():
        enter_read_only(tmp_path)
        try:
            RunFolder.create(Path(".") if there else Path("run"), PRESET, resume=there)
        except ResourceError as error:
            return error.code, str(error)

    code, result = in_child(create)
    tmp_path.chmod(0o755)
    assert code == 0 and result[0] == 6
    assert "cannot write to the run folder" in result[1] and "Permission denied" in result[1]
    assert contents(tmp_path) == before


def test_a_full_disk_is_named(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        mock.patch("os.fsync", side_effect=full),
        pytest.raises(ResourceError, match=r"No space .*; free some space"),
    ):
        RunFolder.create(tmp_path, PRESET)
    assert not runs.is_run(tmp_path)
    RunFolder.create(tmp_path, PRESET)


def test_a_crash_while_the_settings_are_written_leaves_no_run(tmp_path):
    def create():
        original = os.replace

        def replace(source, target):
            if Path(target).name == "preset.toml":
                die()
            original(source, target)

        with mock.patch("os.replace", replace):
            RunFolder.create(tmp_path, PRESET)

    assert in_child(create)[0] == -signal.SIGKILL
    assert not runs.is_run(tmp_path)
    RunFolder.create(tmp_path, PRESET)
    assert not [name for name in contents(tmp_path) if name.startswith(".")]


# One writer at a time

HOLD = """
import os, sys
from pathlib import Path
from ssdiff.runs import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    run = RunFolder.create(tmp_path, PRESET)
    environment = {**os.environ, "PYTHONPATH": str(Path(runs.__file__).parent.parent.parent)}
    with Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=PIPE, stdout=PIPE, env=environment
    ) as other:
        pid = int(other.stdout.readline())
        before = contents(tmp_path)
        for attempt in (
            lambda: run.lock().__enter__(),
            lambda: RunFolder.create(tmp_path, "changed", resume=True),
            lambda: RunFolder.create(tmp_path, "changed"),
        ):
            with pytest.raises(ResourceError, match=f"process {pid} on .* is already training in") as caught:
                attempt()
            assert caught.value.code == 6 and os.uname().nodename in str(caught.value)
        assert contents(tmp_path) == before, "the first run is not affected"
        other.kill()
    with run.lock():
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "owner.json").exists()


def test_the_lock_holds_within_a_process_and_is_freed_by_errors(tmp_path):
    run = RunFolder.create(tmp_path, PRESET)
    with run.lock():
        (tmp_path / "owner.json").write_text("damaged")
        with pytest.raises(ResourceError, match=r"process \? on \? is already training"), run.lock():
            pass
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with (
        mock.patch("os.replace", side_effect=OSError(errno.EIO, "broken")),
        pytest.raises(ResourceError),
        run.lock(),
    ):
        pass
    with run.lock():
        pass


# Status


def test_the_status_is_replaced_whole(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_status() is None
    run.write_status("running", 3, steps=10)
    status = run.read_status()
    assert (status["state"], status["step"], status["steps"]) == ("running", 3, 10)
    assert status["pid"] == os.getpid() and status["host"] and status["time"]
    with pytest.raises(ValueError, match="unknown state"):
        run.write_status("sleeping", 4)

    def interrupted():
        with mock.patch("os.replace", side_effect=lambda *_: die()):
            run.write_status("finished", 10)

    assert in_child(interrupted)[0] == -signal.SIGKILL
    assert run.read_status() == status


def test_why_a_run_ended_badly_counts_more_than_that_it_cannot_be_written(tmp_path, caplog):
    run = RunFolder(tmp_path / "gone")
    for state in ("failed", "interrupted"):
        run.write_status(state, 1, code=5, reason="not finite")
    assert caplog.text.count("cannot write") == 2
    with pytest.raises(ResourceError):
        run.write_status("running", 1)


def test_the_first_failure_is_the_cause(tmp_path):
    run = RunFolder(tmp_path)
    run.write_status("failed", 1, code=3, reason="of an earlier attempt")
    time.sleep(0.005)
    with run.lock():
        run.write_status("failed", 2, code=5, reason="not finite", rank=1)
        run.write_status("failed", 2, code=1, reason="peer closed the connection", rank=0)
        assert run.read_status()["reason"] == "not finite"
        run.write_status("running", 2)
        run.write_status("failed", 3, code=6, reason="disk full")
    assert run.read_status()["reason"] == "disk full"
    run.write_status("failed", 4, code=6, reason="without a lock")
    assert run.read_status()["step"] == 4


def test_a_failure_of_another_time_is_no_cause_whatever_the_clock_said(tmp_path):
    run = RunFolder(tmp_path)
    with run.lock():
        run.write_status("failed", 1, code=5, reason="old")
    later = json.loads(run.status.read_text()) | {"time": "2099-01-01T00:00:00.000+00:00"}
    run.status.write_text(json.dumps(later))
    with run.lock():
        run.write_status("failed", 2, code=3, reason="new")
    assert run.read_status()["reason"] == "new"


def test_a_full_disk_still_tells_how_a_run_ended(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run.write_status("running", 1, reason="x" * 200)

    def full(path, content, overwrite=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ssdiff.runs.folder.replace_file", full)
    run.write_status("failed", 2, code=6, reason="disk full")
    assert run.read_status()["state"] == "failed" and run.read_status()["code"] == 6
    run.write_status("failed", 3, code=6, reason="y" * 5000)  # there is no room for this
    assert run.read_status()["step"] == 2


# Metrics


def test_metrics_are_lines_that_any_reader_of_json_takes(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_metrics() == []
    run.append_metrics({"step": 1, "loss": 0.5, "by": {64: 1.0, 32: float("nan")}})
    run.append_metrics({"step": 2, "loss": float("inf"), "list": (1, float("-inf"))})

    def refuse(word):
        raise AssertionError(word)

    lines = run.metrics.read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == run.read_metrics()
    assert run.read_metrics()[0] == {"step": 1, "loss": 0.5, "by": {"64": 1.0, "32": None}}
    assert run.read_metrics()[1] == {"step": 2, "loss": None, "list": [1, None]}
    with pytest.raises(ResourceError):
        RunFolder(tmp_path / "gone").append_metrics({})


def test_a_line_is_with_the_system_when_the_call_returns(tmp_path):
    def log():
        RunFolder(tmp_path).append_metrics({"step": 1})
        die()

    assert in_child(log)[0] == -signal.SIGKILL
    assert RunFolder(tmp_path).read_metrics() == [{"step": 1}]


def test_resuming_drops_later_lines_and_torn_ones(tmp_path):
    run = RunFolder(tmp_path)
    assert run.truncate_metrics(5) == 0 and not run.metrics.exists()
    good = b'{"step": 10}\n{"note": "no step"}\n{"step": 20}\n'
    run.metrics.write_bytes(good + b'{"step": 25, "lo\n"text"\n{"step": 20.5}\n{"step": 30}\n{"step": 7}')
    assert run.truncate_metrics(20) == 5
    assert run.metrics.read_bytes() == good
    inode = run.metrics.stat().st_ino
    assert run.truncate_metrics(20) == 0 and run.metrics.stat().st_ino == inode
    with mock.patch("os.replace", side_effect=OSError(errno.EIO, "broken")), pytest.raises(ResourceError):
        run.truncate_metrics(0)
    assert run.metrics.read_bytes() == good and len(list(tmp_path.iterdir())) == 1


# Where runs are


def test_new_runs_have_a_name_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path))
    paths = []
    for _ in range(3):
        paths.append(runs.new_run_path("shapes32"))
        paths[-1].mkdir(parents=True)
    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path / "runs" and path.name.startswith("shapes32-20") for path in paths)
    assert runs.new_run_path("../a b:c").name.startswith("a-b-c-20")
    assert runs.new_run_path("..").name.startswith("run-20")


def test_the_newest_run_is_the_one_that_saved_last(tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path))
    assert runs.newest_run() is None
    for number, name in enumerate(["a", "b", "a", "c"]):
        RunFolder.create(runs.runs_root() / f"{name}{number}", f'name = "{name}"\n')
    (runs.runs_root() / "a file").write_text("")
    assert runs.newest_run() is None
    for name, step, seconds in (("a0", 1, 100), ("b1", 9, 200), ("a2", 1, 150), ("a0", 2, 180)):
        save(runs.runs_root() / name, step, seconds)
    save(tmp_path / "runs" / "no run", 1, 900)
    assert runs.newest_run().name == "b1"
    assert runs.newest_run("a").name == "a0"
    assert runs.newest_run("c") is None
    (runs.runs_root() / "b1" / "preset.toml").write_text("not TOML")
    assert runs.newest_run("b") is None and runs.newest_run().name == "b1"


def test_runs_elsewhere_are_remembered_and_vanished_ones_forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path / "home"))
    places = [tmp_path / "x" / "one", tmp_path / "x" / "two", runs.runs_root() / "three"]
    for second, place in enumerate(places):
        RunFolder.create(place, 'name = "a"\n')
        save(place, 1, 300 - second)
        runs.remember(place)
    assert runs.newest_run() == places[0]
    notes = tmp_path / "home" / "runs-elsewhere"
    assert len(list(notes.iterdir())) == 2, "those in the default folder need no note"
    shutil.rmtree(places[0])
    assert runs.newest_run() == places[1]
    runs.remember(places[1])
    assert len(list(notes.iterdir())) == 1
    (notes / "damaged.txt").write_bytes(b"\xff\x00")
    assert runs.newest_run() == places[1]
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path / "file"))
    runs.remember(places[1])
    assert runs.newest_run() is None


def test_nesting_without_end_is_damage_like_any_other(tmp_path):
    run, deep = RunFolder.create(tmp_path, PRESET), "[" * 100_000
    run.status.write_text(deep)
    run.metrics.write_text(f'{{"step": 1}}\n{deep}\n{{"step": 2}}\n')
    assert run.read_status() is None and [record["step"] for record in run.read_metrics()] == [1, 2]
