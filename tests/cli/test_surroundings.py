"""What surrounds a command: names of folders, paths as people write them, the environment, others."""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from struct import pack

import pytest
from children import in_child
from conftest import CPU, TINY
from PIL import Image

from ssdiff import checkpoints

SMALL = ("--steps", 1, "--set", "training.sample_count=1", "--set", "model.classes=0", *CPU)


def save(path, mode="RGB", size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 9).save(path)
    return path


def test_folders_of_any_bytes(ssdiff, tmp_path):
    data, run = (os.path.join(os.fsencode(tmp_path), name) for name in (b"d\xff", b"o\xff"))
    save(tmp_path / "x" / "a.png")
    os.rename(tmp_path / "x", data)
    code, _, err = ssdiff(
        "train", "--preset", TINY, *SMALL, "--data", os.fsdecode(data), "--out", os.fsdecode(run)
    )
    assert code == 0 and "Traceback" not in err, err
    code, _, err = ssdiff("train", "--resume", os.fsdecode(run), "--set", "training.steps=2", *CPU)
    assert code == 0 and "Traceback" not in err, err
    assert (
        ssdiff(
            "sample", "--ckpt", os.fsdecode(run), "-n", 1, "--steps", 1, "--out", tmp_path / "x.png", *CPU
        )[0]
        == 0
    )


@pytest.mark.parametrize("name", ["caf\udce9", "a\x1b[31mb", "line\nbreak"])
def test_parts_with_names_of_any_bytes(ssdiff, tmp_path, name):
    """A run that cannot be written down is refused before it begins; others are resumed."""
    data = tmp_path / name
    save(data / "a.png")
    (tmp_path / f"{name}.py").write_text(f"about = {name!r}")
    (tmp_path / f"{name}.txt").write_text("a.png\n")
    for number, more in enumerate(((), ("--plugin", f"{data}.py"), ("--data-list", f"{data}.txt"))):
        run = tmp_path / f"run{number}"
        code, _, err = ssdiff("train", "--preset", TINY, *SMALL, "--data", data, *more, "--out", run)
        assert code in (0, 2) and "Traceback" not in err and "\x1b" not in err, err
        assert (code == 0) == run.exists(), err
        if code == 0:
            assert ssdiff("train", "--resume", run, "--set", "training.steps=2", *CPU)[0] == 0
            assert ssdiff("info", run)[0] == 0
        else:
            assert err.count("\n") == 1 and number > 0, err


def test_a_tilde_is_the_home_folder_in_every_path(ssdiff, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "me" / "d" / "a.png")
    (tmp_path / "me" / "list.txt").write_text("a.png\n")
    where = ("--data=~/d", "--data-list=~/list.txt", "--out=~/run")
    assert ssdiff("train", "--preset", TINY, *SMALL, *where)[0] == 0
    assert ssdiff("train", "--resume=~/run", "--set", "training.steps=2", *CPU)[0] == 0
    assert ssdiff("export", "~/run", "--out=~/m.safetensors")[0] == 0
    assert ssdiff("sample", "--ckpt=~/m.safetensors", "-n", 1, "--steps", 1, "--out=~/x.png", *CPU)[0] == 0
    assert ssdiff("degrade", "~/x.png", "--t", 1, "--out=~/o/")[0] == 0
    assert ssdiff("eval", "cost", "~/run", "--no-timing", "--out=~/cost.json", *CPU)[0] == 0
    made = {"run", "m.safetensors", "x.png", "o", "cost.json"}
    assert made <= {path.name for path in (tmp_path / "me").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["me"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_output_without_ending_is_a_folder(ssdiff, tmp_path, count):
    for number in range(count):
        save(tmp_path / "in" / f"{number}.png")
    assert ssdiff("degrade", tmp_path / "in", "--t", 0, "--out", tmp_path / "results")[0] == 0
    assert len(list((tmp_path / "results").iterdir())) == count


def test_an_operator_for_other_channels_names_the_file(ssdiff, tmp_path):
    grey = save(tmp_path / "grey.png", "L")
    code, _, err = ssdiff("degrade", grey, "--op", "desaturate", "--t", 5, "--out", tmp_path / "x.png")
    assert code == 3 and "grey.png" in err and "channels" in err and err.count("\n") == 1


def test_numbers_as_people_write_them(result, ssdiff):
    found = result("presets", "show", "shapes32", "--set", "training.ema=.999", "--set", "data.flip=True")
    assert found["training"]["ema"] == 0.999 and found["data"]["flip"] is True
    code, _, err = ssdiff("presets", "show", "shapes32", "--set", f"training.steps={'9' * 5000}")
    assert code == 2 and err.count("\n") == 1


def test_numbers_of_images_beyond_63_bits(ssdiff, tmp_path):
    code, _, err = ssdiff("sample", "-n", 1, "--first", 2**63 - 1, "--out", tmp_path / "x.png", *CPU)
    assert code == 2 and "at most" in err and not list(tmp_path.iterdir())


def test_settings_of_thousands_of_digits_and_parts(ssdiff, tmp_path):
    (tmp_path / "digits.toml").write_text(f"[training]\nsteps = {'1' * 5000}\n")
    (tmp_path / "parts.toml").write_text("a." * 20_000 + "a=1\n")
    for name, words in (("digits", "not TOML"), ("parts", "too many parts")):
        code, _, err = ssdiff("presets", "show", tmp_path / f"{name}.toml")
        assert code == 2 and words in err and err.count("\n") == 1


def test_what_a_scheduler_left_keeps_nothing_back(ssdiff, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    out = tmp_path / "a.png"
    options = ("--ckpt", "shapes32", "-n", 1, "--steps", 2, "--out", out, "--json")
    code, told, _ = ssdiff("sample", *options, *CPU)
    assert code == 0 and json.loads(told)["out"] == str(out)


def test_info_of_a_run_whose_checkpoint_rotates_away(result, tmp_path, run_folder, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    names = sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.startswith("step-"))
    verify = checkpoints.verify

    def rotating(path):
        found = verify(path)
        if path.name == names[0]:
            path.rename(path.with_name(".tmp-00000001-1-ab"))
        return found

    monkeypatch.setattr(checkpoints, "verify", rotating)
    assert [one["name"] for one in result("info", run)["checkpoints"]][-1] == names[-1]


def test_libraries_say_nothing(ssdiff, tmp_path):
    """Pillow warns of damaged metadata, with a path and a line of its source."""
    stream = BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG")
    plain, exif = stream.getvalue(), b"Exif\0\0II*\0\x08\0\0\0\x03\0"
    (tmp_path / "a.jpg").write_bytes(plain[:2] + b"\xff\xe1" + pack(">H", len(exif) + 2) + exif + plain[2:])
    code, out, err = ssdiff("degrade", tmp_path / "a.jpg", "--t", 0, "--out", tmp_path / "o.png", "--quiet")
    assert (code, out, err) == (0, "", "")


def test_libraries_log_nothing_on_stderr(tmp_path):
    """As PyTorch does of a missing compiler; Python prints what nobody handles."""
    names = ("torch.utils.flop_counter", "torch._dynamo.x", "other")
    plugin = tmp_path / "loud.py"
    plugin.write_text(f"import logging, torch\n[logging.getLogger(n).warning('HEARD') for n in {names}]\n")
    command = [sys.executable, "-m", "ssdiff", "presets", "show", "shapes32", "--plugin", str(plugin)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "[training]" in done.stdout


IGNORED = (
    ("train --accept-changed-data", "--resume"),
    ("train --allow-topology-change", "--resume"),
    ("train --dry-run --allow-topology-change", "--resume"),
    ("presets show shapes32 --source --set training.steps=3", "--source"),
    *((f"eval cost shapes32 --no-timing {option}", "measuring") for option in ("--seconds 3", "--batch 3")),
    ("eval cost shapes32 --no-timing --precision fp32", "measuring"),
    *((f"sample -n 1 --columns 2 --out {out}", "grid") for out in ("x/", "x.npz", "x.png --trajectory")),
)


@pytest.mark.parametrize(("line", "words"), IGNORED)
def test_an_option_that_would_change_nothing_is_refused(ssdiff, tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = ssdiff(*line.split())
    assert code == 2 and words in err and "leave" in err
    assert not [*tmp_path.iterdir()]


def test_steps_of_a_sampler_with_one_are_refused(ssdiff, cold_folder, tmp_path):
    save(tmp_path / "a.png", size=(16, 16))
    command = ("restore", tmp_path / "a.png", "--ckpt", cold_folder, "--out", tmp_path / "o.png", "--sampler")
    code, _, err = ssdiff(*command, "direct", "--steps", 2)
    assert code == 2 and "direct makes one prediction" in err
    assert ssdiff(*command, "direct", "--steps", 1, "-q")[0] == 0


def test_a_dry_run_refuses_what_the_training_would(ssdiff, run_folder, tmp_path):
    command = ("train", "--preset", TINY, "--dry-run")
    assert ssdiff(*command, "--out", run_folder)[0] == 2
    assert ssdiff(*command, "--data", tmp_path / "nothing")[0] == 3
    save(tmp_path / "set" / "a.png")
    code, _, err = ssdiff(*command, "--data", tmp_path / "set", "--data-list", tmp_path / "none.txt")
    assert code == 3 and "none.txt" in err


def test_a_batch_beyond_all_memory_names_what_to_lower(ssdiff, tmp_path):
    def with_little_memory():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
        out = ("--out", tmp_path / "run", "--batch", 10**6, "--device", "cpu", "-q")
        return ssdiff("train", "--preset", TINY, *out)

    _, (code, _, err) = in_child(with_little_memory)
    assert code == 6 and f"training.batch = {10**6} at" in err and "--batch" in err


def test_a_limit_of_pixels_can_be_raised_where_it_is_met(ssdiff, tmp_path):
    save(tmp_path / "d" / "a.png", size=(40, 40))
    limited = ("--set", "data.max_pixels=1000")
    command = ("train", "--preset", TINY, *SMALL, "--data", tmp_path / "d")
    code, _, err = ssdiff(*command, *limited, "--out", tmp_path / "run")
    assert code == 3 and "max_pixels" in err
    assert ssdiff(*command, "--set", "data.max_pixels=1600", "--out", tmp_path / "run")[0] == 0


def test_a_small_file_of_many_pixels_takes_memory_once(tmp_path):
    """A PNG of 0.1 MB that is 36 million grey pixels of 16 bits."""
    side, packer = 6000, zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(1 + 2 * side)) for _ in range(side)) + packer.flush()
    chunks = ((b"IHDR", pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b""))
    parts = (
        pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    save(tmp_path / "small" / "a.png")
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    used = {}
    for name in ("small", "large"):
        command = ["data", "prepare", str(tmp_path / name), "--size", "8", "--convert", "all", "--quiet"]
        line = f"import resource; from ssdiff import cli; assert cli.run({command}) == 0; "
        line += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
        used[name] = int(done.stdout)
    assert used["large"] - used["small"] < 4 * 36_000_000 / 1000  # kB: 4 bytes a pixel


def test_messages_of_any_length_fit_a_screen(ssdiff):
    code, _, err = ssdiff("presets", "show", "x/" * 2000)
    assert code == 2 and len(err) < 1000 and err.startswith("ssdiff: error: ")


@pytest.mark.parametrize(
    ("load", "given", "spins"),
    [
        (0.0, {}, None),
        (99.0, {}, "1000"),
        (99.0, {"GOMP_SPINCOUNT": "7"}, "7"),
        (99.0, {"OMP_WAIT_POLICY": "active"}, None),
        (None, {}, None),
    ],
)
def test_waiting_threads_leave_the_processors_to_others_where_these_are_busy(monkeypatch, load, given, spins):
    from ssdiff import cli

    def average():
        if load is None:
            raise OSError
        return load, 0.0, 0.0

    monkeypatch.setattr(os, "getloadavg", average)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "run", lambda arguments: 0)
    monkeypatch.setattr(cli, "make_lasting", lambda: None)
    monkeypatch.setattr(cli, "_hush_libraries", lambda: None)
    monkeypatch.setattr(cli, "_keep_memory", lambda: None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit) as left:
        cli.main()
    found = os.environ.pop("GOMP_SPINCOUNT", None)
    assert left.value.code == 0 and found == spins


FREED = """
import ctypes, resource
from ssdiff import cli
def run(arguments):
    library, faults = ctypes.CDLL(None), []
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = library.malloc(ctypes.c_size_t(1 << 26))
        ctypes.memset(block, 1, 1 << 26)
        library.free(block)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(*faults)
    return 0
cli.run = run
cli.main()
"""


@pytest.mark.skipif(not platform.libc_ver()[0], reason="another C library than glibc")
@pytest.mark.parametrize(("given", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)])
def test_what_tensors_have_freed_is_kept_for_those_that_come(given, kept):
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name} | given
    command = [sys.executable, "-c", FREED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    first, *others = map(int, done.stdout.split())
    assert first > 100
    assert all(others) if not kept else sum(others) < 20


PROGRAM = """
import atexit, sys
from ssdiff import cli
class Piece:
    def __del__(self):
        print("taken apart")
kept = Piece()
def run(arguments):
    sys.settrace(None)
    atexit.register(print, "registered")
    print("printed")
    if {code} is None:
        raise RuntimeError
    return {code}
cli.run = run
if {traced}:
    sys.settrace(lambda *about: None)
cli.program()
"""


@pytest.mark.parametrize(
    ("code", "traced", "said"),
    [
        (0, False, ["printed", "registered"]),
        (7, False, ["printed", "registered"]),
        (7, True, ["printed", "registered", "taken apart"]),
        (None, False, ["printed", "registered", "taken apart"]),
    ],
)
def test_a_command_ends_at_once_when_what_is_registered_for_the_end_is_done(code, traced, said):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code=code, traced=traced)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if code is None else code), done.stderr
    assert done.stdout.split("\n") == [*said, ""] and ("RuntimeError" in done.stderr) == (code is None)
