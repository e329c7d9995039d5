"""Training survives kill -9, SIGTERM and Ctrl-C: real processes, real signals."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from programs import Program

from ssdiff import checkpoints

TINY = Path(__file__).parents[1] / "assets" / "tiny.toml"
KILLS = 10
SETTINGS = (
    "training.steps=40",
    "training.checkpoint_every=1",
    "training.log_every=1",
    "training.max_checkpoints=3",
)


def start(out, *more):
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    options = ("--preset", TINY, "--out", out, *sets, "--resume", "auto", "--device", "cpu", "--quiet", *more)
    return Program(("-m", "ssdiff"), ("train", *options))


def published(out):
    return [path.name for path in checkpoints.list_steps(out / "checkpoints")] if out.exists() else []


def wait_for_progress(process, out, before):
    while process.poll() is None and published(out)[-1:] == before[-1:]:
        time.sleep(0.005)


def final(out):
    return checkpoints.load(checkpoints.list_steps(out / "checkpoints")[-1])


def test_ten_kills_leave_the_uninterrupted_result(tmp_path):
    straight, out = tmp_path / "straight", tmp_path / "killed"
    assert start(straight).wait(timeout=240) == 0

    choice = random.Random(0)
    for _ in range(KILLS):
        before = published(out)
        process = start(out)
        wait_for_progress(process, out, before)
        # A step takes some 20 ms and saves a checkpoint, so this lands before, within and after saving.
        time.sleep(choice.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        for path in checkpoints.list_steps(out / "checkpoints"):
            checkpoints.verify(path)
    assert start(out).wait(timeout=240) == 0

    ours, theirs = final(out), final(straight)
    assert ours.step == theirs.step == 40
    for kind, part in theirs.tensors.items():
        assert part.keys() == ours.tensors[kind].keys()
        assert all(torch.equal(value, ours.tensors[kind][name]) for name, value in part.items())

    def losses(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line["loss"]) for line in lines]

    assert losses(out) == losses(straight)


def test_sigterm_saves_and_says_that_it_can_be_resumed(tmp_path):
    out = tmp_path / "run"
    process = start(out, "--set", "training.checkpoint_every=1000", "--set", "training.steps=100000")
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 75, err
    assert err.startswith("ssdiff: error: stopped at step") and f"--resume {out}" in err
    status = json.loads((out / "status.json").read_text())
    assert status["state"] == "interrupted" and status["step"] == final(out).step > 0


def test_sigterm_does_not_wait_for_a_picture(tmp_path):
    out = tmp_path / "run"
    often = ("training.sample_every=2", "training.sample_count=200000", "training.sample_steps=50")
    process = start(out, *(part for setting in often for part in ("--set", setting)))
    while process.poll() is None and "step-00000002" not in published(out):
        time.sleep(0.01)
    time.sleep(1)  # the picture, which would take many minutes, has been begun
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 75, err
    assert final(out).step in (2, 3) and not list((out / "samples").glob("*.png"))


def test_a_second_writer_is_refused(tmp_path):
    out = tmp_path / "run"
    first = start(out, "--set", "training.steps=100000")
    while first.poll() is None and not published(out):
        time.sleep(0.01)
    second = start(out)
    _, err = second.communicate(timeout=240)
    assert second.returncode == 6 and str(first.pid) in err
    assert first.poll() is None, "the first run goes on"
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=240)
    assert first.returncode == 75


def test_a_process_that_was_killed_is_named_by_the_others(tmp_path):
    out, port = tmp_path / "run", str(random.randrange(20000, 60000))
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ssdiff", "train", "--preset", TINY, "--out", out, "--steps", "100000"]
    first, second = (
        subprocess.Popen(
            [*map(str, command), "--device", "cpu", "--quiet"],
            env=os.environ | world | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    )
    while first.poll() is None and not published(out):
        time.sleep(0.01)
    second.kill()
    second.communicate()
    _, err = first.communicate(timeout=240)
    assert first.returncode == 6 and f"rank 1, process {second.pid} on " in err and err.count("\n") == 1
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["code"]) == ("failed", 6) and str(second.pid) in status["reason"]
