"""``ssdiff.degrade``: images in any form, the numbers of the command, and every refusal."""

import numpy as np
import pytest
import torch
from PIL import Image

import ssdiff
from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.errors import SsdiffError
from ssdiff.images import Pictures, read_image, to_pillow, to_uint8
from ssdiff.process.degradations.registry import build_degradation

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def x():
    return torch.rand(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1


def partner(op, shape=(3, HEIGHT, WIDTH)):
    return {"other": torch.zeros(shape)} if op == "animorph" else {}


@pytest.mark.parametrize("op", ssdiff.degradations())
def test_every_operator_takes_tensors_of_any_size(op, x):
    options = {"other": lambda numbers, shape: torch.zeros(len(numbers), *shape)} if op == "animorph" else {}
    expected = build_degradation(op, (HEIGHT, WIDTH), seed=3, **options).degrade(x, 600)
    assert torch.equal(ssdiff.degrade(x, op, 600, seed=3, **partner(op)), expected)
    assert torch.equal(
        ssdiff.degrade(x[0], op, 600, seed=3, **partner(op)),
        ssdiff.degrade(x[:1], op, 600, seed=3, **partner(op))[0],
    )


def test_pictures_and_files_become_pictures(x, tmp_path):
    picture = to_pillow(x[0])
    picture.save(tmp_path / "photo.png")
    expected = to_uint8(ssdiff.degrade(read_image(tmp_path / "photo.png"), "blur", 500))
    for given in (picture, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        result = ssdiff.degrade(given, "blur", 500)
        assert isinstance(result, Image.Image)
        assert np.array_equal(np.asarray(result), expected.permute(1, 2, 0).numpy())


def test_a_list_may_mix_sizes_and_shows_itself(x, tmp_path):
    small = to_pillow(x[0, :, :9, :7])
    result = ssdiff.degrade([to_pillow(x[0]), small], "pixelate", 500)
    assert isinstance(result, Pictures) and [one.size for one in result] == [(WIDTH, HEIGHT), (7, 9)]
    assert result._repr_png_().startswith(b"\x89PNG") and result[:1].grid().size == (WIDTH + 4, HEIGHT + 4)
    tensors = ssdiff.degrade([x[0], x[1, :, :9, :7]], "pixelate", 500)
    assert [tuple(one.shape) for one in tensors] == [(3, HEIGHT, WIDTH), (3, 9, 7)]


def test_the_command_writes_the_same_bytes(x, tmp_path, result, monkeypatch):
    monkeypatch.chdir(tmp_path)
    to_pillow(x[0]).save("photo.png")
    result(
        "degrade", "photo.png", "--op", "snow", "--t", 700, "--seed", 4, "--set", "level=4", "--out", "o.png"
    )
    with Image.open("o.png") as written:
        mine = ssdiff.degrade("photo.png", "snow", 700, seed=4, level=4)
        assert np.array_equal(np.asarray(written), np.asarray(mine))


def test_a_presets_process_with_its_noise(x):
    preset = load_preset("celeba64")
    process = build_process(preset, (HEIGHT, WIDTH))
    clean = ssdiff.degrade(x, preset="celeba64", t=700)
    assert torch.equal(clean, process.degrade(x, 700))
    noisy = ssdiff.degrade(x, preset=preset, t=700, noise=True, seed=1)
    assert noisy.shape == clean.shape and not torch.equal(noisy, clean)
    assert torch.equal(noisy, ssdiff.degrade(x, preset=preset, t=700, noise=True, seed=1))


def test_partners_in_any_form(x, tmp_path):
    to_pillow(x[1]).save(tmp_path / "other.png")
    other = read_image(tmp_path / "other.png")
    expected = ssdiff.degrade(x, "animorph", 900, other=other)
    assert torch.equal(ssdiff.degrade(x, "animorph", 900, other=tmp_path / "other.png"), expected)
    assert torch.equal(ssdiff.degrade(x, "animorph", 900, other=[to_pillow(x[1])]), expected)


def test_the_type_and_the_image_stay(x):
    before = x.clone()
    assert ssdiff.degrade(x.double(), "blur", 10).dtype == torch.float64
    assert ssdiff.degrade(x.half(), "blur", 10).dtype == torch.float16
    assert torch.equal(ssdiff.degrade(x, "blur", 0), x) and torch.equal(x, before)


def test_progress_counts_images(x):
    told = []
    ssdiff.degrade([x[0], x[1]], "blur", 3, progress=lambda *what: told.append(what))
    assert told == [("degrading", 0, 2), ("degrading", 1, 2), ("degrading", 2, 2)]


FAULTS = {
    "bytes": (lambda x: to_uint8(x), {}, "from_uint8"),
    "integers": (lambda x: x.long(), {}, "floats in [-1, 1]"),
    "0..255": (lambda x: (x + 1) * 127.5, {}, "x / 127.5 - 1"),
    "not a number": (lambda x: x / 0 * 0, {}, "needed are [-1, 1]"),
    "channels last": (lambda x: x.movedim(-3, -1), {}, "x.movedim(-1, -3)"),
    "two dimensions": (lambda x: x[0, 0], {}, "(20, 30), needed is (1 or 3, H, W)"),
    "five dimensions": (lambda x: x[None], {}, "shape (1, 3, 3, 20, 30)"),
    "none": (lambda x: x[:0], {}, "at least one image"),
    "empty list": (lambda x: [], {}, "empty list"),
    "an array": (lambda x: x.numpy(), {}, "type ndarray"),
    "nothing": (lambda x: None, {}, "type NoneType"),
    "a list of batches": (lambda x: [x, x], {}, "images[0] has the shape"),
    "a list of numbers": (lambda x: [1.0], {}, "images[0] is of type float"),
    "a file that is not there": (lambda x: "gone.png", {}, "cannot read gone.png"),
    "a folder": (lambda x: ".", {}, "is a folder"),
    "operator": (None, {"op": "blurr"}, "did you mean blur"),
    "a number for an operator": (None, {"op": 3}, "op names no degradation"),
    "T as text": (None, {"T": "x"}, "T must be a whole number"),
    "partner that is none": (None, {"op": "animorph", "other": 3}, "other is of type int"),
    "no operator": (None, {"op": None}, "give op"),
    "option": (None, {"levle": 3}, "blur has no option 'levle'"),
    "value of an option": (None, {"max_std": -3.0}, "positive number of pixels"),
    "kind of an option": (None, {"max_std": "wide"}, "wrong kind"),
    "severity": (None, {"t": 1001}, "outside 0..1000"),
    "negative severity": (None, {"t": -1}, "outside 0..1000"),
    "fraction": (None, {"t": 0.5}, "whole number"),
    "no severity": (None, {"t": None}, "whole number"),
    "T": (None, {"T": 0}, "T must be at least 1"),
    "noise": (None, {"noise": True}, "noise needs a preset"),
    "both": (None, {"preset": "celeba64"}, "op does not go with a preset"),
    "preset": (None, {"op": None, "preset": "celeba65"}, "celeba64"),
    "no partner": (None, {"op": "animorph"}, "other"),
    "partner of another": (None, {"other": torch.zeros(3, 4, 4)}, "is for animorph"),
    "partner of another size": (None, {"op": "animorph", "other": torch.zeros(3, 4, 4)}, "needed is"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_input_is_explained(name, x):
    spoil, options, words = FAULTS[name]
    arguments = {"op": "blur", "t": 10} | options
    with pytest.raises(SsdiffError) as caught:
        ssdiff.degrade(spoil(x) if spoil else x, **arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)
