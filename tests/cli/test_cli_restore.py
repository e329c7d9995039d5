"""`ssdiff restore` through its command, on small models of every kind."""

import json

import numpy as np
import pytest
import torch
from conftest import CPU, TINY, train
from PIL import Image

from ssdiff import images


@pytest.fixture(scope="session")
def runs(tmp_path_factory, cold_folder):
    """Runs of a few steps: cold, and unconditional SSD."""
    plain = ("--set", "model.classes=0", "--set", "training.steps=2")
    return {"cold": cold_folder, "ssd": train(TINY, tmp_path_factory.mktemp("restore") / "ssd", *plain)}


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clean").mkdir()
    y, x = np.mgrid[:20, :30]
    for i in range(3):
        pixels = np.stack([8 * x, 12 * y, 80 * ((x + i * 7) % 15 > 7)], -1)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "clean" / f"{i}.png")
    return tmp_path


def read(path):
    return images.read_image(path)


def test_degrade_restore_and_compare(result, runs, photos):
    values = result("restore", "clean", "--ckpt", runs["cold"], "--degrade", "--compare", "--out", "o/", *CPU)
    assert list(values["mean"]) == ["degraded", "alg2", "alg1", "direct"]
    assert len(values["images"]) == 3 and not values["failures"]
    mean = [entry["likeness"]["degraded"]["psnr"] for entry in values["images"]]
    assert values["mean"]["degraded"]["psnr"] == pytest.approx(sum(mean) / 3)
    assert 5 < mean[0] < 40
    assert read("o/0-restored.png").shape[-1] > 5 * 16


def test_the_table_is_printed(ssdiff, runs):
    code, out, _ = ssdiff("restore", "clean", "--ckpt", runs["cold"], "--degrade", "--out", "o/", *CPU)
    assert code == 0 and "PSNR" in out and "alg2" in out and "mean of 3 images" in out


def test_an_image_is_the_same_in_any_batch(result, runs):
    for name, batch in (("a/", 3), ("b/", 1)):
        result("restore", "clean", "--ckpt", runs["ssd"], "--degrade", "--batch", batch, "--out", name, *CPU)
    for i in range(3):
        difference = (read(f"a/{i}-restored.png") - read(f"b/{i}-restored.png")).abs().max()
        assert float(difference) <= 2 / 255 + 1e-6


def test_degraded_files_and_their_truth(result, runs, photos):
    images.save_image(images.to_uint8(torch.zeros(3, 16, 16)), "0.png")
    (photos / "cut").mkdir()
    images.save_image(images.read_image("clean/0.png", size=(32, 32)), "cut/0.png")  # larger is no harm
    values = result("restore", "0.png", "--ckpt", runs["cold"], "--truth", "cut", "--t", 2, *CPU)
    assert set(values["mean"]) == {"degraded", "alg2"}
    assert read("0-restored.png").shape == (3, 16, 16)
    values = result("restore", "0.png", "--ckpt", runs["cold"], "--out", "x.png", *CPU)
    assert values["mean"] == {} and values["images"][0]["likeness"] is None


def test_pairs_that_do_not_match_leave_nothing(ssdiff, runs, photos):
    images.save_image(images.to_uint8(torch.zeros(3, 16, 16)), "7.png")
    code, _, err = ssdiff("restore", "7.png", "--ckpt", runs["cold"], "--truth", "clean", *CPU)
    assert code == 3 and "7.png" in err and "no clean image" in err
    assert not (photos / "7-restored.png").exists()


def test_one_bad_file_keeps_the_good_ones(ssdiff, runs, photos):
    (photos / "clean" / "bad.png").write_bytes(b"no image")
    code, out, err = ssdiff(
        "restore", "clean", "--ckpt", runs["cold"], "--degrade", "--out", "o/", "--json", *CPU
    )
    values = json.loads(out.splitlines()[0])
    assert code == 7 and "bad.png" in err and len(values["images"]) == 3
    assert values["failures"][0]["code"] == 3
    assert sorted(path.name for path in (photos / "o").iterdir()) == [f"{i}-restored.png" for i in range(3)]


def test_existing_outputs_stay(ssdiff, runs, photos):
    (photos / "0-restored.png").write_bytes(b"mine")
    arguments = ("restore", "clean/0.png", "--ckpt", runs["cold"], "--degrade", *CPU)
    code, _, err = ssdiff(*arguments)
    assert code == 2 and "--overwrite" in err and (photos / "0-restored.png").read_bytes() == b"mine"
    assert ssdiff(*arguments, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    "options",
    [
        ("super-resolve", "--factor", 4),
        ("deblur", "--std", 1.5),
        ("inpaint",),
        ("colourise",),
        ("inpaint", "--noise-std", 10),
        ("super-resolve", "--draws", 2),
    ],
    ids=str,
)
def test_tasks_that_the_model_never_saw(result, runs, options):
    values = result(
        "restore", "clean/0.png", "--ckpt", runs["ssd"], "--degrade", "--op", *options, "--strip", *CPU
    )
    assert list(values["mean"]) == ["degraded", "ancestral"] and 0 < values["mean"]["ancestral"]["psnr"] < 60


def test_what_is_known_stays(result, runs):
    """The untrained model invents only what the mask hides."""
    result("restore", "clean/0.png", "--ckpt", runs["ssd"], "--degrade", "--op", "inpaint", *CPU)
    clean, restored = images.read_image("clean/0.png", size=(16, 16)), read("0-restored.png")
    known = torch.ones(16, 16, dtype=torch.bool)
    known[4:12, 4:12] = False
    assert float((restored - clean)[:, known].abs().max()) < 0.03
    assert float((restored - clean)[:, ~known].abs().max()) > 0.05


def test_a_mask_of_the_users_own(result, runs, photos):
    hole = Image.new("L", (64, 64), 0)
    hole.paste(255, (0, 0, 32, 64))
    hole.save("mask.png")
    arguments = ("restore", "clean/0.png", "--ckpt", runs["ssd"], "--degrade", "--op", "inpaint")
    result(*arguments, "--mask", "mask.png", *CPU)
    clean, restored = images.read_image("clean/0.png", size=(16, 16)), read("0-restored.png")
    assert float((restored - clean)[:, :, 8:].abs().max()) < 0.03


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("cold", ("--op", "mask"), "trained for blur, not for mask"),
        ("cold", ("--op", "deblur"), "needs a model of kind ssd or ddpm"),
        ("cold", ("--t", 5), "outside 1..4"),
        ("cold", ("--t", 0), "outside 1..4"),
        ("cold", ("--sampler", "ancestral"), "choose from alg1, alg2, direct"),
        ("cold", ("--draws", 2), "one way only"),
        ("cold", ("--eta", 0.5), "fixed eta"),
        ("cold", ("--steps", 9), "between 1 and 4"),
        ("cold", ("--noise-std", 3), "colourise, and none was given"),
        ("cold", ("--op", "blur", "--noise-std", 0), "colourise, not for blur"),
        ("cold", ("--factor", -1), "factor (--factor) is for op super-resolve, and none was given"),
        ("ssd", ("--factor", 4), "is for op super-resolve, and none was given"),
        ("ssd", ("--op", "super-resolve", "--factor", -1), "2 or more, not -1"),
        ("ssd", ("--op", "super-resolve", "--factor", 0), "2 or more, not 0"),
        ("ssd", ("--op", "super-resolve", "--factor", 2**63), "does not divide 16"),
        (
            "ssd",
            ("--op", "super-resolve", "--length", 3),
            "--length) is for op deblur, not for super-resolve",
        ),
        ("ssd", ("--op", "deblur", "--invert-mask"), "(--invert-mask) is for op inpaint, not for deblur"),
        ("ssd", ("--op", "inpaint", "--invert-mask"), "needs a mask"),
        ("cold", ("--compare", "--sampler", "alg1"), "leave --sampler or --compare out"),
        ("cold", ("--truth", "clean"), "does not go with degrade"),
        ("ssd", ("--sampler", "alg2"), "unknown sampler 'alg2'"),
        ("ssd", ("--sampler", "direct"), "smaller than the image"),
        ("ssd", ("--op", "super-resolve", "--factor", 3), "does not divide 16"),
        ("ssd", ("--op", "deblur", "--std", 0), "std within"),
        ("ssd", ("--op", "deblur", "--t", 3), "t does not go with"),
        ("ssd", ("--op", "deblur", "--mask", "clean/0.png"), "is for op inpaint, not for deblur"),
        ("ssd", ("--op", "inpaint", "--noise-std", -1), "at least 0"),
        ("ssd", ("--batch", 0), "at least 1"),
    ],
    ids=str,
)
def test_usage_errors(ssdiff, runs, photos, model, options, words):
    code, _, err = ssdiff("restore", "clean/0.png", "--ckpt", runs[model], "--degrade", *options, *CPU)
    assert code == 2 and words in err and err.count("\n") == 1
    assert not (photos / "0-restored.png").exists()


@pytest.mark.parametrize("model", ["cold", "ssd"])
def test_images_of_another_size(result, runs, model):
    result("restore", "clean/0.png", "--ckpt", runs[model], "--out", "x.png", *CPU)
    shape = read("x.png").shape
    assert shape == (3, 20, 30) if model == "cold" else shape[1] > 20


def test_results_that_are_there_stay(result, runs, photos):
    common = ("restore", "clean", "--ckpt", runs["ssd"], "--degrade", "--steps", 2, *CPU, "--out")
    result(*common, "whole/")
    result(*common, "part/")
    (photos / "part" / "1-restored.png").unlink()
    (photos / "part" / "2-restored.png").write_bytes(b"mine")
    values = result(*common, "part/", "--skip-existing")
    assert values["kept"] == ["part/0-restored.png", "part/2-restored.png"] and len(values["images"]) == 1
    assert float((read("part/1-restored.png") - read("whole/1-restored.png")).abs().max()) <= 2 / 255 + 1e-6
    assert (photos / "part" / "2-restored.png").read_bytes() == b"mine"
    values = result(*common, "part/", "--skip-existing")
    assert values["images"] == [] and len(values["kept"]) == 3
