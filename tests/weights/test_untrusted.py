import gzip
import io
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from children import in_child
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ssdiff.errors import CheckpointError
from ssdiff.weights.untrusted import CONTAINERS, read_weights

W = {"conv.weight": torch.arange(12.0).reshape(3, 4), "conv.bias": torch.tensor(2.0, dtype=torch.float64)}
FORMATS = ["zip", "legacy"]


def saved(path: Path, content: object, form: str = "zip") -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    assert caught.value.code == 4 and str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(expected) and all(
        type(found[name]) is torch.Tensor
        and torch.equal(found[name], value)
        and found[name].dtype == value.dtype
        for name, value in expected.items()
    )


# What can be read


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.bin", "weights"])
def test_a_state_dict(tmp_path, form, name):
    assert same(read_weights(str(saved(tmp_path / name, W, form))), W)


def test_safetensors_under_any_name(tmp_path):
    save_file(W, tmp_path / "x.pt")
    assert same(dict(sorted(read_weights(tmp_path / "x.pt").items())), dict(sorted(W.items())))


@pytest.mark.parametrize("form", FORMATS)
def test_a_modules_own_state_dict(tmp_path, form):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    assert same(read_weights(saved(tmp_path / "x.pt", module.state_dict(), form)), module.state_dict())
    parameters = dict(module.named_parameters())
    found = read_weights(saved(tmp_path / "y.pt", parameters, form))
    assert same(found, {name: value.detach() for name, value in parameters.items()})
    assert not any(value.requires_grad for value in found.values())


def test_nothing_is_stripped_and_views_stay_as_they_were(tmp_path):
    tied = torch.randn(4, 4)
    content = OrderedDict(
        {"module.a": tied, "module.b": tied, "_orig_mod.c": tied.T, "d": tied[1:, ::2], "e": tied[:0]}
    )
    assert same(read_weights(saved(tmp_path / "x.pt", content)), content)


def test_reading_does_not_change_the_file(tmp_path):
    before = saved(tmp_path / "x.pt", W).read_bytes()
    for value in read_weights(tmp_path / "x.pt").values():
        value.add_(1)
    assert (tmp_path / "x.pt").read_bytes() == before


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "content",
    [
        {"step": 3, "model": {"x": torch.zeros(1)}, "ema": W},
        {"epoch": 1, "state_dict": W, "optimizer": {"lr": 0.1}, "ema": 0.9999},
        {"model": {"state_dict": W, "args": [1]}},
        {"state_dict": {"x": torch.zeros(1)}, "ema": {"model": W, "decay": 0.9}},
        {"params": {"x": torch.zeros(1)}, "params_ema": W},
    ],
)
def test_weights_are_found_in_training_checkpoints_averaged_ones_first(tmp_path, content, form):
    assert same(read_weights(saved(tmp_path / "x.pt", content, form)), W)


def test_the_order_of_containers_is_the_documented_one(tmp_path):
    for place, name in enumerate(CONTAINERS):
        content = {later: {"x": torch.zeros(1)} for later in reversed(CONTAINERS[place + 1 :])}
        assert same(read_weights(saved(tmp_path / f"{place}.pt", {**content, name: W})), W)
    assert CONTAINERS[0] == "ema" and CONTAINERS.index("params_ema") < CONTAINERS.index("state_dict")


# What is not weights (docs/faults.md, row 19)

OTHERS = {
    "nothing": (b"", "is empty"),
    "page": (b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>", "is an HTML page.* browser"),
    "other page": (b"\xef\xbb\xbf<HTML lang=en>", "is an HTML page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML document"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a Git LFS pointer.*git lfs pull",
    ),
    "gzip": (gzip.compress(b"weights"), "is a gzip file.*decompress"),
    "text": ("caf\u00e9: 404 not found\n".encode(), r"is a text file \(it begins 'caf\u00e9: 404"),
    "cut text": (("x" * 511 + "\u00e9").encode(), "is a text file"),
    "json": (b'{"error": "no such model"}', "is a text file"),
    "tar": (b"x" * 257 + b"ustar\x0000", "is a tar archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n....", "is an HDF5 file"),
    "image": (b"\x89PNG\r\n\x1a\n....", "is a PNG image"),
    "binary": (bytes(range(128, 200)), "of a kind that is not known"),
    "short binary": (b"\x00\x01", "of a kind that is not known"),
    "cut safetensors": (
        b"\x00\x10\0\0\0\0\0\0{}",
        "truncated safetensors file .header of 4096 bytes, file of 10",
    ),
}


@pytest.mark.parametrize(("content", "expected"), OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_other_kinds_of_files_are_named(tmp_path, content, expected, name):
    (tmp_path / name).write_bytes(content)
    assert re.search(expected + ".*", message(tmp_path / name))


def test_no_file_at_all(tmp_path):
    assert "no file of weights at" in message(tmp_path / "x.pt")
    assert "only a folder" in message(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    saved(tmp_path / "x.pt", W)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read: Permission denied" in message(tmp_path / "x.pt")


@pytest.mark.parametrize("size", [7, 8, 40, 120, -1])
def test_truncated_safetensors(tmp_path, size):
    save_file(W, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:size])
    message(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "header", [b"{}x", b"{", b'{"a":1}', b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}']
)
def test_damaged_safetensors(tmp_path, header):
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    assert "is not a sound safetensors file" in message(tmp_path / "x")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated_pickles(tmp_path, form, part):
    path = saved(tmp_path / "x.pt", {"w": torch.randn(100)}, form)
    os.truncate(path, int(path.stat().st_size * part))
    assert ("is a truncated archive" if form == "zip" else "cannot be read") in message(path)


# Content that is not weights alone


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(1)], "holds an object of type list, not weights by name"),
        (torch.zeros(1), "holds an object of type Tensor, not weights by name"),
        ({}, "holds no weights"),
        ({"ema": {}}, r"its entry \['ema'\] holds no weights"),
        ({"w": torch.zeros(1), "lr": 0.1}, "holds an object of type float under 'lr', not weights alone"),
        ({"a": {"w": torch.zeros(1)}}, "holds an object of type dict under 'a'"),
        (
            {"ema": {"state_dict": {"w": "text"}}},
            r"its entry \['ema'\]\['state_dict'\] holds .* str under 'w'",
        ),
        ({1: torch.zeros(1)}, "holds an object of type Tensor under '1'"),
        ({"w": torch.eye(3).to_sparse()}, "'w' is not a dense tensor"),
        ({"w": torch.zeros(2, device="meta")}, "'w' is not a dense tensor"),
        ({"w": torch.zeros(1).expand(1 << 40)}, "'w' declares 4398046511104 bytes, 4 are there"),
    ],
)
def test_what_is_not_weights_alone(tmp_path, content, expected, form):
    assert re.search(expected, message(saved(tmp_path / "x.pt", content, form)))


# Hostile pickles (docs/faults.md, row 17)


class Evil:
    """Runs a command when it is unpickled by a reader that trusts it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def plain_pickle(protocol: int):
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol))


WRITERS = {
    "zip": lambda content, path: saved(path, content),
    "legacy": lambda content, path: saved(path, content, "legacy"),
    **{f"protocol {protocol}": plain_pickle(protocol) for protocol in (2, 3, 4, 5)},
    "zip protocol 4": lambda content, path: torch.save(content, path, pickle_protocol=4),
    "legacy protocol 4": lambda content, path: torch.save(
        content, path, pickle_protocol=4, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("nested", [False, True])
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(tmp_path, write, nested):
    marker, path = tmp_path / "ran", tmp_path / "x.pt"
    evil = Evil(marker)
    write({"ema": {"x": evil, "w": torch.zeros(2)}} if nested else evil, path)
    text = message(path)
    assert not marker.exists()
    assert f"{os.name}.system" in text and "no code ran" in text
    pickle.loads(pickle.dumps(evil))
    assert marker.exists(), "the pickle is harmless, so the test shows nothing"


def test_a_refused_class_that_is_only_foreign(tmp_path):
    assert "pathlib" in message(saved(tmp_path / "x.pt", {"w": torch.zeros(1), "path": Path("x")}))


def test_a_whole_module_is_refused(tmp_path):
    assert "torch.nn.modules" in message(saved(tmp_path / "x.pt", torch.nn.Linear(1, 1)))


def test_a_script_is_refused(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "x.pt")
    assert "TorchScript" in message(tmp_path / "x.pt")


# Archives (docs/faults.md, row 18)


def rezip(
    source: Path, target: Path, compression: int = zipfile.ZIP_STORED, change=lambda name, data: (name, data)
):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for member in old.infolist():
            new.writestr(*change(member.filename, old.read(member)))
    return target


def test_an_archive_as_another_tool_would_write_it(tmp_path):
    path = rezip(saved(tmp_path / "x.pt", W), tmp_path / "y.pt")
    assert same(read_weights(path), W)


def peak(action) -> int:
    """Bytes by which the child's greatest memory grew."""
    import resource

    def measure():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        action()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024

    code, grown = in_child(measure)
    assert code == 0
    return grown


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    size = 1 << 26
    whole = saved(tmp_path / "x.pt", {"w": torch.zeros(size // 4)})
    bomb = rezip(whole, tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < size / 500
    assert re.search(rf"'x/data/0' is compressed: {size} bytes declared, \d+ there", message(bomb))
    assert torch.load(bomb, weights_only=True)["w"].nbytes == size, "it is no bomb"
    assert peak(lambda: message(bomb)) < size * 0.1


def test_members_that_lie_about_their_sizes(tmp_path):
    path = rezip(saved(tmp_path / "x.pt", W), tmp_path / "y.pt")
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    struct.pack_into("<II", content, entry + 20, 1 << 30, 1 << 30)
    path.write_bytes(content)
    assert f"declares {1 << 30} bytes, the file has {len(content)}" in message(path)


def test_members_on_top_of_each_other(tmp_path):
    path = rezip(saved(tmp_path / "x.pt", {"w": torch.randn(1000)}), tmp_path / "y.pt")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        large = archive.getinfo("x/data/0")
    entry = content.index(b"PK\x01\x02")
    while entry >= 0:
        struct.pack_into("<II", content, entry + 20, large.file_size, large.file_size)
        struct.pack_into("<I", content, entry + 42, large.header_offset)
        entry = content.find(b"PK\x01\x02", entry + 4)
    path.write_bytes(content)
    assert "its members declare" in message(path)


@pytest.mark.parametrize("name", ["../x/data.pkl", "/x/data/0", "x/../../y", "x\\..\\y"])
def test_members_outside_of_the_archive(tmp_path, name):
    path = rezip(saved(tmp_path / "x.pt", W), tmp_path / "y.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    assert "lies outside of it" in message(path)


def test_too_many_members(tmp_path):
    path = rezip(saved(tmp_path / "x.pt", W), tmp_path / "y.pt")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, len(content) - 10, 1 << 31)
    path.write_bytes(content)
    assert "members listed in 2147483648 bytes, the limits are" in message(path)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (-22 - 20 - 56 + 32, 1 << 40, f"{1 << 40} members listed"),
        (-22 - 20 - 56 + 48, 5, "its list of members ends at byte"),
        (-22 - 20 + 8, 5, "its list of members is not where it should be"),
    ],
)
def test_lists_of_members_that_two_readers_would_see_differently(tmp_path, place, value, expected):
    path = saved(tmp_path / "x.pt", W)
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", content, len(content) + place, value)
    path.write_bytes(content)
    assert expected in message(path)


def test_archives_of_something_else(tmp_path):
    for name, members in {
        "document": ["word/document.xml"],
        "two": ["a/data.pkl", "b/data.pkl"],
        "deep": ["a/b/data.pkl"],
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in members:
                archive.writestr(member, b"x")
        assert "is a ZIP archive, but not one of PyTorch's weights" in message(tmp_path / name)


def test_an_encrypted_or_wrong_member(tmp_path):
    path = rezip(saved(tmp_path / "x.pt", W), tmp_path / "y.pt")
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    path.write_bytes(content[: start + 8] + b"\x01" + content[start + 9 :])
    assert "is a damaged archive" in message(path) and "encrypted" in message(path)
    place = content.index(b"conv.weight")
    path.write_bytes(content[:place] + b"X" + content[place + 1 :])
    assert "is a damaged archive: Bad CRC-32" in message(path)


def test_an_endless_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr("ssdiff.weights.untrusted._LONGEST_PICKLE", 10)
    assert "data.pkl has" in message(saved(tmp_path / "x.pt", W))


def test_a_legacy_file_that_promises_much(tmp_path):
    path = saved(tmp_path / "x.pt", {"w": torch.zeros(3)}, "legacy")
    content = path.read_bytes()
    start = content.index(b"K\x03N")  # the storage's number of elements, no view
    path.write_bytes(content[:start] + b"\x8a\x06" + (1 << 44).to_bytes(6, "little") + content[start + 2 :])
    text = message(path)
    assert "cannot be read as PyTorch weights" in text


@pytest.fixture(scope="module")
def specimens() -> list[bytes]:
    result = []
    for form in FORMATS:
        stream = io.BytesIO()
        torch.save({"ema": W, "step": 1}, stream, _use_new_zipfile_serialization=form == "zip")
        result.append(stream.getvalue())
    return result


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_changed_files_give_weights_or_an_error_of_ours(specimens, tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(specimens)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 1] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "changed.pt"
    path.write_bytes(content)
    try:
        weights = read_weights(path)
    except CheckpointError:
        return
    assert all(isinstance(value, torch.Tensor) and value.sum() is not None for value in weights.values())
