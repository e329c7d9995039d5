import errno
import json
import os
import resource
import shutil
import signal
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from children import die, enter_read_only, in_child
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdiff import checkpoints
from ssdiff.checkpoints import manifest as manifests
from ssdiff.checkpoints import store
from ssdiff.checkpoints.writing import safetensors_chunks
from ssdiff.errors import CheckpointError, ResourceError

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def groups(step: int, size: int = 4) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "ema": {"w": torch.full((size, 3), float(step)), "b": torch.zeros(())},
        "weights": {"w": torch.full((size, 3), step + 0.5), "b": torch.ones(())},
        "optimizer": {"step.w": torch.tensor(float(step)), "exp_avg.w": torch.rand(size, 3)},
    }


def fill(root: Path, *steps: int, **options: int) -> None:
    for step in steps:
        checkpoints.save(root, step, groups(step), {"preset": "name = 'x'"}, **options)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def numbers(root: Path) -> list[int]:
    return [checkpoints.verify(path).step for path in checkpoints.list_steps(root)]


def newest(root: Path) -> int:
    found, skipped = checkpoints.latest(root)
    assert found is not None and not skipped
    return found.step


def test_everything_comes_back(tmp_path):
    x = torch.randn(4, 6, generator=torch.manual_seed(0))
    tensors = {name: (x * 9).to(getattr(torch, name)) for name in DTYPES}
    tensors |= {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "odd": torch.ones(3, dtype=torch.uint8),
        "transposed": x.T,
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "a view": x[1:3, ::2],
        "trained": torch.nn.Parameter(x),
        "not finite": torch.tensor([float("nan"), float("inf")]),
    }
    meta = {"preset": "a = 1\n", "names": ["é", "b"], "none": None, "nested": {"x": [1, 2.5, True]}}
    path = checkpoints.save(tmp_path / "new" / "root", 7, {"ema": tensors, "none-at_all": {}}, meta)
    assert path == tmp_path / "new" / "root" / "step-00000007"
    assert names(path) == ["ema.safetensors", "manifest.json", "meta.json", "none-at_all.safetensors"]
    loaded = checkpoints.load(path)
    assert (loaded.path, loaded.step, loaded.meta) == (path, 7, meta)
    assert loaded.tensors["none-at_all"] == {}
    assert loaded.tensors["ema"].keys() == tensors.keys()
    for name, value in tensors.items():
        found = loaded.tensors["ema"][name]
        assert found.dtype == value.dtype and found.shape == value.shape
        torch.testing.assert_close(found, value.detach(), rtol=0, atol=0, equal_nan=True)


def test_only_what_is_asked_for_is_loaded(tmp_path):
    fill(tmp_path, 1)
    loaded = checkpoints.load(tmp_path / "step-00000001", ["ema"], device=torch.device("cpu"))
    assert list(loaded.tensors) == ["ema"]
    with pytest.raises(CheckpointError, match="it has no others, only ema, optimizer, weights"):
        checkpoints.load(tmp_path / "step-00000001", ["others"])


def test_the_manifest_says_format_step_sizes_and_hashes(tmp_path):
    fill(tmp_path, 3)
    content = json.loads((tmp_path / "step-00000003" / "manifest.json").read_text())
    assert (content["format"], content["step"]) == (1, 3)
    for name, entry in content["files"].items():
        assert entry["size"] == (tmp_path / "step-00000003" / name).stat().st_size
        assert len(entry["sha256"]) == 64


@pytest.mark.parametrize(
    "wrong", [{"step": -1}, {"keep": 0}, {"milestones": -1}, {"tensors": {"../x": {}}}, {"tensors": {"": {}}}]
)
def test_wrong_arguments_are_the_callers_fault(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"out of range|cannot be the name"):
        checkpoints.save(tmp_path, **({"step": 1, "tensors": {}, "meta": {}} | wrong))
    assert names(tmp_path) == []


# Which checkpoints there are


def test_the_newest_and_the_milestones_are_kept(tmp_path):
    fill(tmp_path, *range(10, 80, 10), keep=2, milestones=30)
    assert names(tmp_path) == [f"step-000000{step}" for step in (30, 60, 70)]
    fill(tmp_path, 80, keep=1)
    assert names(tmp_path) == ["step-00000080"]


def test_the_one_just_written_is_kept_even_if_it_is_an_older_step(tmp_path):
    fill(tmp_path, 10, 20, 30, keep=2)
    fill(tmp_path, 5, keep=2)
    assert numbers(tmp_path) == [5, 20, 30]


def test_steps_are_in_order_and_other_folders_are_left_alone(tmp_path):
    fill(tmp_path, 5, 123456789, 40)
    for name in ("step-7", "step-00000008.txt", "notes", ".tmp-mine", "step-0000000x"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000006").write_text("a file")
    assert numbers(tmp_path) == [5, 40, 123456789]
    fill(tmp_path, 123456790)
    assert (tmp_path / "notes").exists() and (tmp_path / ".tmp-mine").exists()


def test_nothing_saved_nothing_found(tmp_path):
    assert checkpoints.latest(tmp_path / "absent") == (None, [])
    assert checkpoints.list_steps(tmp_path) == []


def test_saving_the_same_again_touches_nothing(tmp_path):
    tensors = groups(1)
    path = checkpoints.save(tmp_path, 1, tensors, {})
    before = path.stat().st_ino
    checkpoints.save(tmp_path, 1, tensors, {})
    assert path.stat().st_ino == before and names(tmp_path) == [path.name]


def test_saving_a_step_again_replaces_it_even_if_it_is_damaged(tmp_path):
    fill(tmp_path, 1)
    checkpoints.save(tmp_path, 1, {"ema": {"w": torch.ones(2)}}, {})
    assert list(checkpoints.load(tmp_path / "step-00000001").tensors) == ["ema"]
    (tmp_path / "step-00000001" / "manifest.json").write_text("{}")
    fill(tmp_path, 1)
    assert numbers(tmp_path) == [1] and names(tmp_path) == ["step-00000001"]


def test_going_back_sets_later_checkpoints_aside(tmp_path):
    fill(tmp_path, 1, 2, 3)
    moved = checkpoints.set_aside(tmp_path, 1)
    assert numbers(tmp_path) == [1] and newest(tmp_path) == 1
    assert [path.name[:14] for path in moved] == ["aside-00000002", "aside-00000003"]
    fill(tmp_path, 2, keep=1)
    assert all(checkpoints.verify(path) for path in moved)
    assert checkpoints.set_aside(tmp_path, 5) == []
    with (
        mock.patch("os.rename", side_effect=PermissionError(errno.EACCES, "denied")),
        pytest.raises(ResourceError),
    ):
        checkpoints.set_aside(tmp_path, 0)


def test_a_checkpoint_for_sampling_cannot_be_resumed_from(tmp_path):
    checkpoints.save(tmp_path, 1, {"ema": {"w": torch.ones(2)}}, {})
    loaded = checkpoints.load(tmp_path / "step-00000001")
    assert checkpoints.require_groups(loaded, "ema") is loaded
    with pytest.raises(CheckpointError, match="it has no weights, optimizer, only ema") as caught:
        checkpoints.require_groups(loaded, "ema", "weights", "optimizer")
    assert caught.value.code == 4 and "start a new run" in str(caught.value)


# Interruptions


@contextmanager
def watched(on_call):
    """Tell of every call that changes the disk, and of every piece of a file, before it happens."""

    def wrap(name):
        original = getattr(os, name)

        def call(*args, **kwargs):
            on_call(name, args)
            return original(*args, **kwargs)

        return call

    def chunks(tensors):
        for chunk in safetensors_chunks(tensors):
            on_call("write", ("a piece",))
            yield chunk

    calls = ("mkdir", "fsync", "rename", "unlink", "rmdir", "open")
    with (
        mock.patch.multiple(os, **{name: wrap(name) for name in calls}),
        mock.patch.object(store, "safetensors_chunks", chunks),
    ):
        yield


def count_calls(action) -> int:
    calls = []
    with watched(lambda name, args: calls.append(name)):
        action()
    return len(calls)


@pytest.mark.parametrize("saved", [4, 3], ids=["a new step", "a step again"])
def test_killed_at_any_moment_what_was_published_is_whole(tmp_path, saved):
    torch.manual_seed(0)
    start = tmp_path / "start"
    fill(start, 1, 2, 3)
    tensors = groups(saved)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(start, tmp_path / name))

    whole = copy("whole")
    total = count_calls(lambda: checkpoints.save(whole, saved, tensors, {}))
    assert total > 25
    published = []
    for moment in range(1, total + 1):
        root, left = copy(f"killed-{moment}"), moment

        def strike(name, args):
            nonlocal left
            left -= 1
            if left == 0:
                die()

        def save(root=root, strike=strike):
            with watched(strike):
                checkpoints.save(root, saved, tensors, {})

        code, _ = in_child(save)
        assert code == -signal.SIGKILL
        latest, skipped = checkpoints.latest(root)
        assert skipped == [] and latest is not None
        new = (
            "optimizer" in checkpoints.load(latest.path).tensors and checkpoints.load(latest.path).meta == {}
        )
        published.append(new)
        assert latest.step == (saved if new else 3)
        steps = numbers(root)  # verifies each
        assert set(steps) >= {2, 3}, "a checkpoint that is to be kept has gone"
        assert 1 in steps or new, "an old one was deleted before the new one was published"
        fill(root, 5)
        assert numbers(root) == sorted({2, 3, saved, 5} if new or saved == 3 else {2, 3, 5})[-3:]
        assert not [name for name in names(root) if not name.startswith("step-")], "something was left behind"
    assert published == sorted(published) and {False, True} == set(published)


def test_the_order_that_makes_it_durable(tmp_path):
    fill(tmp_path, 1, 2, 3)
    calls = []

    def note(name, args):
        target = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else str(args[0])
        calls.append((name, Path(target).name.partition("-")[0], Path(target).parent.name.partition("-")[0]))

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name open files")
    with watched(note):
        fill(tmp_path, 4)
    syncs = [name for call, name, _ in calls if call == "fsync"]
    assert syncs[-3:] == ["manifest.json", ".tmp", tmp_path.name.partition("-")[0]]
    assert sorted(syncs[:-3]) == [
        ".tmp",
        "ema.safetensors",
        "meta.json",
        "optimizer.safetensors",
        "weights.safetensors",
    ]
    renamed = [place for place, (call, *_) in enumerate(calls) if call == "rename"]
    synced = [place for place, (call, *_) in enumerate(calls) if call == "fsync"]
    deleted = [place for place, (call, *_) in enumerate(calls) if call in ("unlink", "rmdir")]
    assert synced[-2] < renamed[0] < synced[-1] < renamed[1] < min(deleted)


def test_what_dead_writers_left_is_swept_but_not_a_living_ones(tmp_path):
    fill(tmp_path, 1)
    dead = in_child(os.getpid)[1]
    kinds = {"dead": dead, "own": os.getpid(), "living": os.getppid()}
    for pid in kinds.values():
        (tmp_path / f".tmp-00000002-{pid}-{'0' * 32}").mkdir()
    fill(tmp_path, 2)
    assert names(tmp_path) == [
        f".tmp-00000002-{kinds['living']}-{'0' * 32}",
        "step-00000001",
        "step-00000002",
    ]


def test_a_step_being_replaced_counts_until_it_is(tmp_path):
    fill(tmp_path, 1, 2)
    os.rename(tmp_path / "step-00000002", tmp_path / "step-00000002.old")
    assert newest(tmp_path) == 2
    fill(tmp_path, 3)
    assert numbers(tmp_path) == [1, 2, 3]
    shutil.copytree(tmp_path / "step-00000003", tmp_path / "step-00000003.old")
    fill(tmp_path, 4)
    assert "step-00000003.old" not in names(tmp_path)


# No room, no rights


def limited(root: Path, size: int) -> tuple[int, str]:
    def save():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            checkpoints.save(root, 9, groups(9, 1000), {"preset": "x"})
        except ResourceError as error:
            return error.code, str(error)

    code, result = in_child(save)
    assert code == 0 and result is not None
    return result


@pytest.mark.parametrize("size", [0, 100, 5000, 12_100])
def test_a_full_disk_leaves_what_was_there(tmp_path, size):
    fill(tmp_path, 1, 2, 3)
    code, message = limited(tmp_path, size)
    assert code == 6
    assert (
        "step 9" in message
        and "File too large" in message
        and "MB needed" in message
        and "MB free" in message
    )
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    assert numbers(tmp_path) == [1, 2, 3]


def test_a_disk_known_to_be_too_small_is_not_filled_first(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"0\.0 MB needed, 0\.0 MB free"):
        fill(tmp_path, 1)
    assert names(tmp_path) == []


def test_a_read_only_folder(tmp_path):
    fill(tmp_path, 1)

    def save():
        enter_read_only(tmp_path)
        try:
            fill(Path("."), 2)
        except ResourceError as error:
            return str(error)

    code, message = in_child(save)
    tmp_path.chmod(0o755)
    assert code == 0 and "is not writable" in message and "are kept" in message
    assert numbers(tmp_path) == [1]


def test_other_errors_of_the_disk_and_of_deleting(tmp_path, monkeypatch, caplog):
    with (
        monkeypatch.context() as patch,
        pytest.raises(ResourceError, match=r"cannot save step 1 .*Input/output error"),
    ):
        patch.setattr(os, "fsync", mock.Mock(side_effect=OSError(errno.EIO, "Input/output error")))
        fill(tmp_path, 1)
    assert names(tmp_path) == []
    fill(tmp_path, 1)

    def refuse(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        fill(tmp_path, 2, keep=1)
    assert newest(tmp_path) == 2 and "cannot delete the old checkpoint" in caplog.text
    fill(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["step-00000003"]


# Damage


def reseal(folder: Path, change) -> None:
    """Change the manifest as somebody would who knows how its hash is made."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_bytes(manifests._encode(manifests._sealed(content)))


def rename_entry(name: str):
    def change(content):
        content["files"][name] = content["files"].pop("ema.safetensors")

    return change


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    os.rename(folder / "ema.safetensors", outside)
    (folder / "ema.safetensors").symlink_to(outside)


def edit(name: str, size: int):
    return lambda folder: os.truncate(folder / name, size)


DAMAGE = {
    "truncated": (edit("ema.safetensors", 100), r"ema\.safetensors is truncated: 100 of \d+ bytes"),
    "emptied": (edit("optimizer.safetensors", 0), r"optimizer\.safetensors is truncated: 0 of"),
    "longer": (edit("meta.json", 999), r"meta\.json has 999 bytes, \d+ were written"),
    "flipped byte": (
        lambda folder: flip(folder / "weights.safetensors", -3),
        r"weights\.safetensors has changed: SHA-256 [0-9a-f]{64} expected, [0-9a-f]{64} found",
    ),
    "flipped byte of the manifest": (
        lambda folder: flip(folder / "manifest.json", -4),
        r"manifest\.json (has changed|is damaged)",
    ),
    "other spelling": (
        lambda folder: (folder / "manifest.json").write_text((folder / "manifest.json").read_text() + "\n"),
        "the same in another spelling",
    ),
    "missing file": (lambda folder: (folder / "ema.safetensors").unlink(), r"ema\.safetensors is missing"),
    "missing manifest": (lambda folder: (folder / "manifest.json").unlink(), "it was never completed"),
    "manifest is a folder": (
        lambda folder: ((folder / "manifest.json").unlink(), (folder / "manifest.json").mkdir()),
        "manifest.json is not a regular file",
    ),
    "endless manifest": (edit("manifest.json", 1 << 21), "manifest.json is longer than"),
    "deep manifest": (
        lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
        "it is not JSON",
    ),
    "manifest of another kind": (lambda folder: (folder / "manifest.json").write_text("[1]"), "not a table"),
    "no format": (lambda folder: reseal(folder, lambda c: c.pop("format")), "states no format version"),
    "future format": (
        lambda folder: reseal(folder, lambda c: c.update(format=7)),
        "has format version 7, this ssdiff reads versions up to 1; update ssdiff",
    ),
    "no files": (lambda folder: reseal(folder, lambda c: c.pop("files")), "lists no files or no step"),
    "no meta": (lambda folder: reseal(folder, lambda c: c["files"].pop("meta.json")), r"not list meta\.json"),
    "no hash": (
        lambda folder: reseal(folder, lambda c: c["files"]["meta.json"].pop("sha256")),
        r"no size or hash of meta\.json",
    ),
    "entry above": (
        lambda folder: reseal(folder, rename_entry("../outside.safetensors")),
        r"names a file outside the checkpoint: '\.\./outside\.safetensors'",
    ),
    "absolute entry": (lambda folder: reseal(folder, rename_entry("/etc/x.json")), "outside the checkpoint"),
    "backslash entry": (lambda folder: reseal(folder, rename_entry("..\\x.json")), "outside the checkpoint"),
    "strange entry": (
        lambda folder: reseal(folder, rename_entry("x.exe")),
        "which no checkpoint has: 'x.exe'",
    ),
    "listing itself": (
        lambda folder: reseal(folder, rename_entry("manifest.json")),
        "which no checkpoint has",
    ),
    "link": (link_out, r"ema\.safetensors is not a regular file"),
    "other step": (
        lambda folder: reseal(folder, lambda c: c.update(step=3)),
        "it is named step-00000002 but holds step 3",
    ),
}


@pytest.mark.parametrize(("harm", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_said_and_skipped(tmp_path, harm, message):
    fill(tmp_path, 1, 2)
    bad = tmp_path / "step-00000002"
    harm(bad)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.verify(bad)
    assert caught.value.code == 4 and str(bad) in str(caught.value)
    with pytest.raises(
        CheckpointError, match=f"{message}.*; the newest intact checkpoint beside it is step-00000001"
    ):
        checkpoints.load(bad)
    found, skipped = checkpoints.latest(tmp_path)
    assert found == checkpoints.Checkpoint(tmp_path / "step-00000001", 1)
    assert [path for path, _ in skipped] == [bad] and str(tmp_path) not in skipped[0][1]
    assert names(tmp_path)[:2] in (
        ["step-00000001", "step-00000002"],
        ["outside.safetensors", "step-00000001"],
    )


def test_nothing_intact_beside_it(tmp_path):
    fill(tmp_path, 1)
    os.rename(tmp_path / "step-00000001", tmp_path / "best")
    flip(tmp_path / "best" / "meta.json", 3)
    with pytest.raises(CheckpointError, match=r"found$"):
        checkpoints.load(tmp_path / "best")


def test_an_explicit_path_that_is_absent_or_a_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone; nothing was started") as caught:
        checkpoints.load(tmp_path / "gone")
    assert caught.value.code == 4
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="only a file, not a folder"):
        checkpoints.verify(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"not safetensors", b"\xff" * 8, b"", b"\2\0\0\0\0\0\0\0{}"])
@pytest.mark.parametrize("name", ["ema.safetensors", "meta.json"])
def test_nonsense_that_the_manifest_vouches_for(tmp_path, name, content):
    fill(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    (folder / name).write_bytes(content)
    hashed = {"size": len(content), "sha256": manifests.hashlib.sha256(content).hexdigest()}
    reseal(folder, lambda c: c["files"].update({name: hashed}))
    if name == "ema.safetensors" and content.endswith(b"{}"):
        assert checkpoints.load(folder).tensors["ema"] == {}
    else:
        with pytest.raises(CheckpointError):
            checkpoints.load(folder)


def test_meta_must_be_a_table(tmp_path):
    fill(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    (folder / "meta.json").write_bytes(b"[]")
    hashed = {"size": 2, "sha256": manifests.hashlib.sha256(b"[]").hexdigest()}
    reseal(folder, lambda c: c["files"].update({"meta.json": hashed}))
    with pytest.raises(CheckpointError, match=r"meta\.json is not a table"):
        checkpoints.load(folder)


# Mutations


@pytest.fixture(scope="module")
def specimen(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("specimen")
    fill(root, 1)
    shutil.copy(root / "step-00000001" / "ema.safetensors", root / "secret.safetensors")
    return root / "step-00000001"


@contextmanager
def nothing_outside(folder: Path):
    """Fail if anything outside the folder is opened."""
    opened: list[str] = []
    original = Path.open

    def note(self, *args, **kwargs):
        opened.append(os.path.realpath(self))
        return original(self, *args, **kwargs)

    with mock.patch.object(Path, "open", note):
        yield
    inside = os.path.realpath(folder) + os.sep
    assert all(path.startswith(inside) for path in opened)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_change_of_a_manifests_bytes_is_an_error(specimen, data):
    path = specimen / "manifest.json"
    original = path.read_bytes()
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(start + 8, len(original))))
    changed = original[:start] + data.draw(st.binary(max_size=8)) + original[end:]
    try:
        path.write_bytes(changed)
        with nothing_outside(specimen):
            if changed == original:
                checkpoints.verify(specimen)
            else:
                with pytest.raises(CheckpointError):
                    checkpoints.verify(specimen)
    finally:
        path.write_bytes(original)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FILE_NAMES = st.sampled_from(
    ["../secret.safetensors", "/etc/passwd", ".", "..", "", "a/b.json", "secret.safetensors\0", "\ud800.json"]
) | st.text(max_size=12)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_resealed_change_of_a_manifest_is_an_error_and_reads_nothing_outside(specimen, data):
    path = specimen / "manifest.json"
    original = path.read_bytes()
    content = json.loads(original)
    files = content["files"]
    entry = files[data.draw(st.sampled_from(sorted(files)))]
    kind = data.draw(st.sampled_from(["top", "files", "entry", "add", "rename"]))
    if kind == "top":
        content[data.draw(st.sampled_from(["format", "step", "files"]))] = data.draw(JSON)
    elif kind == "files":
        files[data.draw(FILE_NAMES | st.sampled_from(sorted(files)))] = data.draw(JSON)
    elif kind == "entry":
        entry[data.draw(st.sampled_from(["size", "sha256"]))] = data.draw(JSON)
    elif kind == "add":
        files[data.draw(FILE_NAMES)] = entry
    else:
        files[data.draw(FILE_NAMES)] = files.pop("ema.safetensors")
    changed = manifests._encode(manifests._sealed(content))
    try:
        path.write_bytes(changed)
        with nothing_outside(specimen):
            if changed == original:
                checkpoints.verify(specimen)
            else:
                with pytest.raises(CheckpointError):
                    checkpoints.load(specimen)
    finally:
        path.write_bytes(original)
