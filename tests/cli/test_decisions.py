"""What is decided for people from their files: classes by name, truths by place, masks by shape and paint."""

import numpy as np
import pytest
from PIL import Image
from trainers import TINY


def save(path, colour=(9, 9, 9), size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def train_on(ssdiff, tmp_path):
    def train(folder, *sets):
        options = [part for one in sets for part in ("--set", one)]
        command = ("train", "--preset", TINY, "--steps", 2, "--set", "training.sample_count=1", *options)
        code, out, err = ssdiff(*command, "--data", folder, "--out", tmp_path / "run", "--device", "cpu")
        assert code == 0, err
        return tmp_path / "run", out + err

    return train


def test_a_class_is_its_name_before_its_number(ssdiff, tmp_path, train_on):
    for number in range(12):
        save(tmp_path / "d" / str(number) / "a.png", (20 * number, 0, 0))
    run, said = train_on(tmp_path / "d", "model.classes=14")
    assert "the data have 12: the others are never trained" in said
    out = tmp_path / "x.npz"
    assert ssdiff("sample", "--ckpt", run, "-n", 1, "--class", 10, "--out", out, "--device", "cpu")[0] == 0
    assert np.load(out)["labels"].tolist() == [2]  # 0, 1, 10, ...
    code, _, err = ssdiff(
        "sample", "--ckpt", run, "-n", 1, "--class", "9" * 5000, "--out", tmp_path / "y.npz"
    )
    assert code == 2 and "unknown class" in err


@pytest.fixture
def pairs(tmp_path):
    """Degraded and clean images of the same names in two folders each."""
    for folder in ("deg", "true"):
        for name, colour in (("a/1.png", (200, 20, 20)), ("b/1.png", (20, 20, 200))):
            save(tmp_path / folder / name, colour)
    return tmp_path / "deg", tmp_path / "true"


def test_truths_are_those_of_the_same_folder(result, pairs, cold_folder, tmp_path):
    given, truth = pairs
    common = ("--ckpt", cold_folder, "--sampler", "direct", "--device", "cpu", "--out", f"{tmp_path}/o/")
    found = result("restore", given, "--truth", truth, *common)
    assert [one["likeness"]["degraded"]["psnr"] for one in found["images"]] == [None, None]  # equal


def test_truths_of_other_shapes_and_twins_are_refused(ssdiff, pairs, cold_folder, tmp_path):
    given, truth = pairs
    common = ("--ckpt", cold_folder, "--sampler", "direct", "--device", "cpu", "--out", f"{tmp_path}/o/")
    save(truth / "a" / "1.jpg")
    code, _, err = ssdiff("restore", given, "--truth", truth, *common)
    assert code == 3 and "1 of 2 images have more than one clean image" in err
    (truth / "a" / "1.jpg").unlink()
    save(truth / "a" / "1.png", size=(64, 16))
    code, _, err = ssdiff("restore", given, "--truth", truth, *common)
    assert code == 7 and "64 x 16 pixels, not the shape" in err


@pytest.fixture
def inpaint(ssdiff, tmp_path, train_on):
    save(tmp_path / "d" / "p.png", (60, 140, 200))
    model, _ = train_on(tmp_path / "d", "model.classes=0")

    def run(mask, name):
        mask.save(tmp_path / name)
        out = tmp_path / "o.png"
        common = ("--ckpt", model, "--steps", 2, "--device", "cpu", "--overwrite", "--out", out)
        asked = ("--op", "inpaint", "--mask", tmp_path / name)
        code, _, err = ssdiff("restore", tmp_path / "d" / "p.png", *asked, *common)
        return code, err, np.asarray(Image.open(out)).astype(int) if code == 0 else None

    return run


def test_a_mask_of_another_shape_is_refused(inpaint):
    code, err, _ = inpaint(Image.new("L", (16, 32)), "m.png")
    assert code == 2 and "the mask has 16 x 32 pixels, the image 16 x 16" in err


def test_a_mask_on_a_transparent_layer_is_what_was_painted(inpaint):
    layer = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    layer.paste((255, 255, 255, 255), (8, 0, 16, 16))
    code, err, found = inpaint(layer, "m.png")
    assert code == 0, err
    assert np.abs(found[:, :8] - [60, 140, 200]).max() <= 6  # known, so kept
