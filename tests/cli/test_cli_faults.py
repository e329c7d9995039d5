"""What every command does with faults, and outputs of `ssdiff sample` that cannot be written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from children import enter_read_only, in_child
from officialweights import official
from PIL import Image

from ssdiff import cli
from ssdiff.config import load as presets
from ssdiff.models.infer_config import outline
from ssdiff.runs import RunFolder

CPU = ("--device", "cpu")


@pytest.fixture
def failing(ssdiff, monkeypatch):
    """`presets list`, which raises the given error."""

    def call(error, *options):
        def broken():
            raise error

        monkeypatch.setattr(presets, "presets", broken)
        return ssdiff("presets", "list", *options)

    return call


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 6, "a smaller batch"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            6,
            "out of memory: CUDA",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 6, "a smaller batch"),
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), 6, "(x.png); free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "there"), 6, "(there); check permissions"),
        (ImportError("operator torchvision::nms does not exist"), 6, "ssdiff doctor"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 0, ""),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 1, "a bug in ssdiff: FileNotFoundError"),
        (ZeroDivisionError(), 1, "a bug in ssdiff: ZeroDivisionError: ZeroDivisionError; traceback in"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_any_error_is_one_line_and_a_code(failing, error, code, words):
    found, out, err = failing(error)
    assert (found, out) == (code, "") and words in err and err.count("\n") == (1 if code else 0)


def test_errors_as_json(failing, ssdiff):
    code, out, err = failing(OSError(errno.ENOSPC, "No space left on device", "x.png"), "--json")
    values = json.loads(out)
    assert code == values["code"] == 6 and values["path"] == "x.png" and "free" in values["hint"]
    assert values["error"] in err


def test_usage_errors_are_one_line_too(ssdiff):
    code, out, err = ssdiff("sample", "--batch", "many", "--json")
    assert code == 2 and json.loads(out)["code"] == 2 and "--batch" in err and err.count("\n") == 1
    code, _, err = ssdiff("sampel")
    assert code == 2 and "'sample'" in err and err.count("\n") == 1


def test_a_bug_needs_no_home_to_be_kept(failing, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path / "file" / "home"))
    code, _, err = failing(ZeroDivisionError("x"))
    kept = Path(err.strip().rpartition("traceback in ")[2])
    assert code == 1 and "Traceback" in kept.read_text()
    kept.unlink()


def test_other_processes_say_which_they_are(failing, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert failing(MemoryError())[2].startswith("ssdiff: error: out of memory")  # a scheduler has left it
    monkeypatch.setenv("WORLD_SIZE", "4")
    code, out, err = failing(MemoryError(), "--json")
    assert (code, out) == (6, "") and "ssdiff: error: rank 3: out of memory" in err


@pytest.mark.parametrize("command", ["presets list", "presets show celeba64", "sample --help"])
def test_a_closed_pipe_at_any_time(command):
    """Unbuffered, each line meets the closed pipe by itself."""
    line = f"{sys.executable} -u -m ssdiff {command} | true"
    finished = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("presets list >&-", 0, ""),
        ("presets list --json 2>&-", 0, ""),
        ("presets show shapse32 --json >&-", 2, "did you mean shapes32"),
        ("presets list > /dev/full", 6, "free some space"),
        ("presets list --json > /dev/full", 6, "free some space"),
        ("presets show shapse32 --json > /dev/full", 2, "did you mean shapes32"),
    ],
)
def test_closed_or_full_output(line, code, words):
    """A closed stdout is one that nobody reads; a full one is told on stderr, in one line."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m ssdiff {line}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr and len(done.stderr.splitlines()) == bool(words)


def test_ctrl_c(run_folder, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run_folder)
    out = tmp_path / "out" / "x.npz"
    process = subprocess.Popen(
        [sys.executable, "-m", "ssdiff", "sample", "-n", "100000", *CPU, "--out", out],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"SSDIFF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None and "newest run" in process.stderr.readline()
    time.sleep(0.5)  # into the drawing, most likely
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "ssdiff: error: interrupted\n")
    # Python ends by the signal itself, which a shell shows as 130, too, if it came within an import's exec().
    assert process.returncode in (130, -signal.SIGINT) and not list(out.parent.iterdir())


def test_memory_names_batch_and_size(ssdiff, run_folder, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ssdiff.pipeline.Pipeline._predict", full)
    code, _, err = ssdiff("sample", "--ckpt", run_folder, "-n", 3, "--out", tmp_path / "x.png", *CPU)
    assert code == 6 and "3 images of 16 px" in err and "lower --batch" in err


def test_a_file_in_the_way_of_a_folder(ssdiff, run_folder, tmp_path):
    (tmp_path / "file").touch()
    for out in ("file", "file/deeper/"):
        code, _, err = ssdiff("sample", "--ckpt", run_folder, "--out", tmp_path / out, *CPU)
        assert code == 2 and "is no folder" in err and err.count("\n") == 1
    code, _, err = ssdiff("sample", "--ckpt", run_folder, "--out", f"{tmp_path}/file/x.png", *CPU)
    assert code == 6 and "x.png" in err and err.count("\n") == 1


@pytest.mark.parametrize("out", ["x.png", "x.npz", "many/"])
def test_a_folder_that_cannot_be_written(tmp_path, out):
    """Before a model is even looked for."""

    def attempt():
        enter_read_only(tmp_path)
        return cli.run(["sample", "--ckpt", "absent", "--out", out])

    try:
        assert in_child(attempt) == (0, 6)
    finally:
        tmp_path.chmod(0o755)


def test_more_processes_than_images(shell, run_folder, tmp_path):
    """One process has nothing to draw; the output is whole all the same."""
    out = tmp_path / "walk.gif"
    finished = shell("sample", "--ckpt", run_folder, "-n", 1, "--out", out, *CPU, processes=2)
    assert finished.returncode == 0 and finished.stdout.count("walk.gif") == 1, finished.stderr
    with Image.open(out) as walk:
        assert walk.n_frames > 3


def test_files_and_arrays_hold_the_same_images(result, run_folder, tmp_path):
    common = (
        "sample",
        "--ckpt",
        run_folder,
        "-n",
        3,
        "--first",
        4,
        "--class",
        "star",
        "--class",
        "2,ring",
        *CPU,
    )
    result(*common, "--out", f"{tmp_path}/many/")
    values = result(*common, "--out", tmp_path / "x.npz")
    assert values["network_evaluations"] == values["steps"] == 5
    with np.load(tmp_path / "x.npz") as arrays:
        assert (
            arrays["labels"].tolist() == [2, 1, 4] and int(arrays["steps"]) == 5 and int(arrays["first"]) == 4
        )
        for number, image in enumerate(arrays["arr_0"], 4):
            with Image.open(tmp_path / "many" / f"{number:06d}.png") as file:
                assert np.array_equal(np.asarray(file), image)


@pytest.mark.parametrize(("content", "words"), [(b"<html>quota</html>", "HTML"), (b"\x89PNG\r\n", "PNG")])
def test_what_is_no_model_is_named(ssdiff, tmp_path, content, words):
    model = tmp_path / "model.safetensors"
    model.write_bytes(content)
    for command in (("sample", "--ckpt", model, *CPU, "--out", tmp_path / "x.png"), ("info", model)):
        code, _, err = ssdiff(*command)
        assert code == 4 and words in err and str(model) in err and err.count("\n") == 1


def test_authors_weights_are_sent_to_import(ssdiff, tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "model.pt")
    code, _, err = ssdiff("sample", "--ckpt", tmp_path / "model.pt", *CPU, "--out", tmp_path / "x.png")
    assert code == 4 and "ssdiff import" in err


def test_import_names_the_settings_that_differ(ssdiff, tmp_path):
    state = {f"module.{name}": value for name, value in official().items()}
    assert outline(state) == {
        "data.size": 32,
        "data.channels": 3,
        "model.width": 32,
        "model.multipliers": (1, 2, 4),
        "model.blocks": 2,
        "model.attention": (16, 8),
        "model.classes": 0,
        "model.resblock_updown": False,
        "model.scale_shift_norm": True,
        "model.learn_sigma": False,
    }
    assert (
        outline({"input_blocks.0.0.weight": torch.zeros(2)}) == outline({"stem.weight": torch.zeros(2)}) == {}
    )
    torch.save(state, tmp_path / "model.pt")
    common = ("import", tmp_path / "model.pt", "--preset", "celeba64", "--out", tmp_path / "x.safetensors")
    code, _, err = ssdiff(*common)
    assert code == 4 and "model.width is 32 in the file, 128 in celeba64" in err and "data.size=32" in err
    sets = [word.strip("'") for word in err.split() if "=" in word and word.startswith("'")]
    assert "model.width=32" in sets
    code, _, err = ssdiff(*common, "--set", "model.width=32", "--set", "data.size=32")
    assert code == 4 and "model.multipliers is [1, 2, 4] in the file" in err and "model.width" not in err


def test_info_knows_a_killed_run(result, tmp_path):
    folder = RunFolder.create(tmp_path / "run", presets.load_preset("shapes32").to_toml())
    folder.write_status("running", 7)
    values = result("info", folder.path)
    assert values["status"]["step"] == 7 and not values["killed"] and values["checkpoints"] == []
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    status = json.loads(folder.status.read_text()) | {"pid": gone.pid}
    folder.status.write_text(json.dumps(status))
    assert result("info", folder.path)["killed"]
    for other in ({"host": "elsewhere"}, {"pid": os.getpid()}):
        folder.status.write_text(json.dumps(status | other))
        assert not result("info", folder.path)["killed"]


@pytest.mark.parametrize(("preset", "word"), [("shapes32", "timesteps"), ("cold-blur-mnist", "severities")])
def test_info_counts_in_the_word_of_the_process(ssdiff, tmp_path, preset, word):
    folder = RunFolder.create(tmp_path / "run", presets.load_preset(preset).to_toml())
    code, out, _ = ssdiff("info", folder.path)
    assert code == 0 and f"resolution   {word} " in out and "no checkpoint yet" in out


def test_data_prepare_says_where(result, tmp_path):
    Image.new("L", (9, 9), 7).save(tmp_path / "a.png")
    values = result("data", "prepare", tmp_path, "--size", 8, "--channels", 1)
    assert (Path(values["path"]) / "images.npy").is_file() and len(values["fingerprint"]) == 64


def test_doctor_names_both_builds(ssdiff, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    code, out, _ = ssdiff("doctor", "--json")
    problem = next(text for text in json.loads(out)["problems"] if "torchvision" in text)
    assert code == 6 and torch.__version__ in problem and "pip install --force-reinstall" in problem


@pytest.mark.parametrize("command", ["train", "sample", "degrade", "import", "export", "info", "doctor"])
def test_every_command_has_help(ssdiff, command):
    code, out, err = ssdiff(command, "--help")
    assert code == 0 and f"ssdiff {command}" in out and not err
