"""Single-file models: damage is found before anything is used."""

import json

import pytest
import torch

from ssdiff.errors import CheckpointError
from ssdiff.weights import single_file


def changed(folder, **entries):
    """The bundled model with other metadata, as nobody writes them."""
    content = single_file.bundled().read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"].update(entries)
    encoded = json.dumps(header).encode()
    path = folder / "m.safetensors"
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + length :])
    return path


@pytest.mark.parametrize("place", [-1000, 2000])
def test_a_flipped_bit_is_found(tmp_path, ssdiff, place):
    content = bytearray(single_file.bundled().read_bytes())
    content[place] ^= 1
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    for command in ("info", "sample -n 1 --steps 2 --out x.png --ckpt"):
        code, _, err = ssdiff(*command.split(), path)
        assert code == 4 and len(err.splitlines()) == 1


def test_a_file_of_a_former_version_has_no_digest(tmp_path):
    path = changed(tmp_path)
    content = path.read_bytes().replace(b'"sha256"', b'"sha999"')
    path.write_bytes(content)
    assert single_file.read(path).step == single_file.read(single_file.bundled()).step == 7_000


@pytest.mark.parametrize(
    "entry",
    [
        {"step": "²"},
        {"step": "9" * 5000},
        {"class_names": "[" * 100_000},
        {"details": '{"a":' * 5000},
        {"start": '{"size": [32, 32], "channels": 3, "grid": 1e999}'},
        {"preset": "a." * 20_000 + "a=1"},
    ],
)
def test_hostile_metadata(tmp_path, ssdiff, entry):
    code, _, err = ssdiff("info", changed(tmp_path, **entry))
    assert code == 4 and "bug" not in err and len(err.splitlines()) == 1


def test_a_note_of_any_bytes(tmp_path, run_folder, ssdiff):
    code, _, err = ssdiff("export", run_folder, "--note", "caf\udce9", "--out", tmp_path / "x.safetensors")
    assert code == 0, err
    assert "caf\\xe9" in single_file.read(tmp_path / "x.safetensors").origin


def test_every_value_counts():
    one = {"a": torch.zeros(2), "b": torch.tensor(1.0)}
    digest = single_file._digest({"x": "1"}, one)
    assert digest == single_file._digest({"x": "1"}, dict(reversed(one.items())))
    for other in (one | {"a": torch.ones(2)}, one | {"b": torch.tensor(2.0)}, {"a": one["a"]}):
        assert single_file._digest({"x": "1"}, other) != digest
    assert single_file._digest({"x": "2"}, one) != digest
    with pytest.raises(CheckpointError):
        single_file.read(single_file.bundled().with_name("absent.safetensors"))
