"""A small, fixed sample of the campaign, and that it sees what it looks for."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from children import in_child

import tests.campaign.__main__ as campaign
from tests.campaign.mutations import mutate
from tests.campaign.operations import Strike, Watch

ROOT = Path(__file__).parents[1]
ROUNDS = 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_sample_of_the_campaign_finds_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", "--rounds", str(ROUNDS), "--json", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        timeout=1800,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "x").read_text())
    assert {name: kind["trials"] for name, kind in told.items()} == {
        **dict.fromkeys(("kills", "signals", "disk"), ROUNDS),
        "fuzz": 10 * ROUNDS,
    }
    assert done.stdout.count(" 0 with faults") == len(told)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_minutes_are_minutes_of_trials(tmp_path, monkeypatch, capsys):
    tried = []

    class Quick:
        each = 1

        def trial(self, number):
            return tried.append(number) or []

    monkeypatch.setattr(campaign, "_kinds", lambda names, folder, seed: dict.fromkeys(names, Quick()))
    monkeypatch.setattr(
        sys, "argv", ["campaign", "fuzz", "--minutes", "0.002", "--json", str(tmp_path / "x")]
    )
    assert campaign.main() == 0
    assert tried and tried == list(range(len(tried)))
    assert f"fuzz: {len(tried)} trials" in capsys.readouterr().out


def write(folder, strike=None, log=None):
    """What a child of ours leaves of two files, under a strike: exit code, and what it gives."""

    def action():
        Watch(folder, strike, log).install()
        (folder / "a").write_bytes(b"12345678")
        os.replace(folder / "a", folder / "b")
        with (folder / "c").open("w") as stream:
            stream.write("x")
        return True

    return in_child(action)


def test_operations_are_counted_and_struck(tmp_path):
    seen = tmp_path.with_name("seen")
    tell = lambda kind, path: os.system(f"echo {kind} {Path(path).name} >> {seen}")  # noqa: E731
    assert write(tmp_path, log=tell) == (0, True)
    assert seen.read_text().splitlines() == ["open a", "write a", "replace a", "open c", "write c"]
    for path in tmp_path.iterdir():
        path.unlink()
    assert write(tmp_path, Strike(1, "SIGKILL", torn=True)) == (-signal.SIGKILL, None)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"1234"]
    assert write(tmp_path, Strike(3, "ENOSPC"))[0] == 1 and not (tmp_path / "c").exists()
    assert write(tmp_path, Strike(99, "SIGKILL")) == (0, True)


def test_damage_is_decided_by_its_seed():
    content = b'{"step": 4, "loss": [0.5, 1.5]}'
    made = [mutate(random.Random(seed), content, [b"\x89PNG"]) for seed in range(200)]
    assert made == [mutate(random.Random(seed), content, [b"\x89PNG"]) for seed in range(200)]
    assert len(set(made)) > 120 and made.count(content) < 20
