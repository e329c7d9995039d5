"""Restoration of pictures of any size through the command: each way, what it keeps, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from conftest import CPU, TINY, train
from PIL import Image

import ssdiff as library
from ssdiff import images
from ssdiff.operators import matrices
from ssdiff.operators.separable import Separable
from ssdiff.restoration import GivenMask, Options, choose_fit, choose_method

HEIGHT, WIDTH = 28, 44  # tiles of 16 pixels, and no multiple of them


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cold_folder):
    """Runs of a few steps: cold, and unconditional SSD."""
    plain = ("--set", "model.classes=0", "--set", "training.steps=2")
    return {"cold": cold_folder, "ssd": train(TINY, tmp_path_factory.mktemp("sizes") / "ssd", *plain)}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph()).save("a.png")
    return tmp_path


def photograph():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([5 * x, 9 * y, 80 * ((x + y) % 15 > 7)], -1).astype(np.uint8)


def read(path):
    return images.read_image(path)


def hole(path, mode="L"):
    mask = Image.new(mode, (WIDTH, HEIGHT), 0)
    mask.paste(255 if mode == "L" else (0, 0, 0, 255), (10, 5, 30, 20))
    mask.save(path)
    known = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    known[5:20, 10:30] = False
    return known


WAYS = [
    ("cold", (), (HEIGHT, WIDTH)),
    ("cold", ("--sampler", "alg1"), (HEIGHT, WIDTH)),
    ("cold", ("--sampler", "direct"), (HEIGHT, WIDTH)),
    ("ssd", ("--t", "3"), (HEIGHT, WIDTH)),
    ("ssd", ("--t", "20", "--sampler", "ddim"), (2 * HEIGHT, 2 * WIDTH)),
    ("ssd", ("--op", "deblur", "--std", "1.5"), (HEIGHT, WIDTH)),
    ("ssd", ("--op", "super-resolve", "--factor", "3"), (3 * HEIGHT, 3 * WIDTH)),
    ("ssd", ("--op", "inpaint"), (HEIGHT, WIDTH)),
    ("ssd", ("--op", "colourise"), (HEIGHT, WIDTH)),
]


@pytest.mark.parametrize(("model", "options", "size"), WAYS, ids=str)
def test_a_picture_of_any_size(result, runs, model, options, size):
    values = result("restore", "a.png", "--ckpt", runs[model], *options, *CPU)
    assert not values["failures"] and values["warnings"] == []
    restored = read("a-restored.png")
    assert restored.shape == (3, *size) and float(restored.std()) > 0.003  # no grey picture


@pytest.mark.parametrize(("model", "options", "size"), [WAYS[0], WAYS[3], WAYS[5], WAYS[7]], ids=str)
def test_clean_pictures_at_their_own_size(result, runs, model, options, size):
    values = result("restore", "a.png", "--ckpt", runs[model], "--degrade", "--whole", *options, *CPU)
    assert read("a-restored.png").shape == (3, HEIGHT, WIDTH)
    assert 3 < values["mean"]["degraded"]["psnr"] < 60
    result("restore", "a.png", "--ckpt", runs[model], "--degrade", "--out", "fit.png", *options, *CPU)
    assert read("fit.png").shape == (3, 16, 16), "a model of whole images takes them as its training did"


def test_all_that_was_measured_holds_across_tiles(result, runs):
    """The reduced result is the picture that was given, everywhere, though the model is untrained."""
    result("restore", "a.png", "--ckpt", runs["ssd"], "--op", "super-resolve", "--factor", 2, *CPU)
    reduce = Separable(matrices.resize(2 * HEIGHT, HEIGHT), matrices.resize(2 * WIDTH, WIDTH))
    found, given = reduce.apply(read("a-restored.png")[None])[0], read("a.png")
    free = ((found > -0.9) & (found < 0.9) & (given > -0.9) & (given < 0.9)).all(0)  # nothing was clipped
    assert free.float().mean() > 0.1 and float((found - given)[:, free].abs().max()) < 0.06


def test_what_is_known_stays_across_tiles(result, runs):
    known = hole("mask.png")
    arguments = ("restore", "a.png", "--ckpt", runs["ssd"], "--op", "inpaint", "--mask", "mask.png", *CPU)
    result(*arguments, "--out", "x.png")
    difference = (read("x.png") - read("a.png")).abs()
    assert float(difference[:, known].max()) < 0.03 < float(difference[:, ~known].max())
    result(*arguments, "--out", "y.png", "--invert-mask")
    difference = (read("y.png") - read("a.png")).abs()
    assert float(difference[:, ~known].max()) < 0.03 < float(difference[:, known].max())


def test_a_mask_with_transparent_parts_is_its_opacity(ssdiff, runs):
    known = hole("mask.png", "RGBA")
    arguments = ("restore", "a.png", "--ckpt", runs["ssd"], "--op", "inpaint", "--mask", "mask.png", *CPU)
    code, _, err = ssdiff(*arguments)
    assert code == 0 and "what is opaque is missing" in err
    difference = (read("a-restored.png") - read("a.png")).abs()
    assert float(difference[:, known].max()) < 0.03 < float(difference[:, ~known].max())
    with pytest.warns(UserWarning, match="opaque is missing"):
        library.restore(
            "a.png", library.load(runs["ssd"], device="cpu"), op="inpaint", mask="mask.png", steps=2
        )
    Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 255)).save("opaque.png")
    mask = GivenMask("opaque.png")
    mask.look()
    assert mask.notes == [], "a picture that is opaque throughout counts by its colours"


def test_the_file_is_as_it_was(result, runs):
    """Grey, transparency, metadata and orientation, through the command."""
    colour = Image.fromarray(photograph())
    alpha = Image.fromarray((photograph()[..., 0] > 99).astype(np.uint8) * 255)
    exif = Image.Exif()
    exif[274], exif[271] = 6, "maker"
    colour.putalpha(alpha)
    colour.save("clear.png", exif=exif)
    Image.fromarray(photograph()[..., 0]).save("grey.png")
    Image.fromarray(photograph()[..., 0].astype(np.uint16) * 257).save("deep.png")
    result("restore", "clear.png", "grey.png", "deep.png", "--ckpt", runs["cold"], "--out", "o/", *CPU)
    clear = Image.open("o/clear-restored.png")
    assert clear.mode == "RGBA" and clear.size == (HEIGHT, WIDTH) and clear.getexif()[271] == "maker"
    assert np.array_equal(np.asarray(clear)[..., 3], np.rot90(np.asarray(alpha), -1))
    assert Image.open("o/grey-restored.png").mode == "L"
    deep = np.asarray(Image.open("o/deep-restored.png"))
    assert deep.dtype == np.uint16 and len(np.unique(deep % 257)) > 100
    values = result("restore", "grey.png", "--ckpt", runs["ssd"], "--op", "colourise", *CPU)
    assert Image.open("grey-restored.png").mode == "RGB" and not values["warnings"]


def test_super_resolution_enlarges_the_transparency(result, runs):
    colour = Image.fromarray(photograph())
    colour.putalpha(Image.new("L", colour.size, 128))
    colour.save("clear.png")
    result("restore", "clear.png", "--ckpt", runs["ssd"], "--op", "super-resolve", "--factor", 2, *CPU)
    restored = np.asarray(Image.open("clear-restored.png"))
    assert restored.shape == (2 * HEIGHT, 2 * WIDTH, 4) and (restored[..., 3] == 128).all()


def test_clean_pictures_are_cut_to_what_the_factor_divides(ssdiff, runs):
    arguments = ("restore", "a.png", "--ckpt", runs["ssd"], "--degrade", "--whole", "--op", "super-resolve")
    code, _, err = ssdiff(*arguments, "--factor", 5, *CPU)
    assert code == 0 and "cut from 44 x 28 to 40 x 25 pixels, which 5 divides" in err
    assert read("a-restored.png").shape == (3, 25, 40)
    code, _, err = ssdiff(*arguments, "--factor", 50, "--out", "x.png", *CPU)
    assert code == 3 and err.count("\n") == 1 and "44 x 28 pixels, fewer than the factor 50" in err


def test_pictures_stay_when_a_later_one_fails(ssdiff, runs, place):
    hole("mask.png")
    for name in ("b", "d"):
        Image.fromarray(photograph()).save(f"{name}.png")
    Image.fromarray(photograph()[:, :30]).save("c.png")
    files = [f"{name}.png" for name in "abcd"]
    code, out, err = ssdiff(
        "restore", *files, "--ckpt", runs["ssd"], "--op", "inpaint", "--mask", "mask.png", "--out", "o/",
        "--json", *CPU,
    )  # fmt: skip
    values = json.loads(out.splitlines()[0])
    assert code == 7 and "the mask has 44 x 28 pixels, the image 30 x 28" in err
    assert [one["image"] for one in values["images"]] == ["a.png", "b.png", "d.png"]
    assert [one["code"] for one in values["failures"]] == [2]
    assert sorted(path.name for path in (place / "o").iterdir()) == [f"{n}-restored.png" for n in "abd"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tile", "8"), "trained for 16"),
        (("--op", "deblur", "--tile", "32"), "44 x 28 pixels, fewer than a tile of 32"),
        (("--overlap", "9"), "0 to 8 pixels, not 9"),
        (("--fit",), "add --degrade"),
        (("--op", "inpaint", "--invert-mask"), "needs a mask"),
        (("--max-pixels", "100"), "the limit is 100"),
        (("--op", "deblur", "--std", "28"), "std within 0..28"),
        (("--op", "super-resolve", "--factor", "1"), "2 or more"),
        (("--op", "inpaint", "--mask", "small.png"), "the mask has 9 x 9 pixels, the image 44 x 28"),
        (("--op", "inpaint", "--mask", "black.png"), "all is known"),
        (("--op", "inpaint", "--mask", "black.png", "--invert-mask"), "nothing is known"),
        (("--op", "inpaint", "--mask", "gone.png"), "cannot read gone.png"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_line(ssdiff, runs, place, options, words):
    Image.new("L", (9, 9)).save("small.png")
    Image.new("L", (WIDTH, HEIGHT)).save("black.png")
    code, _, err = ssdiff("restore", "a.png", "--ckpt", runs["ssd"], *options, *CPU)
    assert code in (2, 3) and words in err and err.count("\n") == 1, err
    assert not (place / "a-restored.png").exists()


def test_the_bar_moves_within_a_picture(runs):
    model, told = library.load(runs["ssd"], device="cpu"), []
    library.restore("a.png", model, op="deblur", steps=4, progress=lambda *what: told.append(what[1]))
    assert len(told) > 5 and told == sorted(told) and told[0] == 0 and told[-1] == 1


def test_pictures_of_the_models_own_size_are_as_they_were(runs):
    for name in ("cold", "ssd"):
        model = library.load(runs[name], device="cpu")
        method = choose_method(model, None, None, Options(), given=True)
        assert method.at((16, 16)) is method and method.at((20, 16)) is not method


def test_models_of_patches_take_pictures_whole(runs):
    model = library.load(runs["ssd"], device="cpu")
    assert choose_fit(model, True, None, Options()) and not choose_fit(model, True, True, Options())
    patches = library.load_preset("photos64")
    model.preset = patches
    assert not choose_fit(model, True, None, Options()) and choose_fit(model, True, False, Options())
    with pytest.raises(library.errors.UsageError, match="add --whole"):
        choose_fit(model, True, False, Options(tile=16))


def test_other_images_are_of_the_models_size(tmp_path):
    other = torch.zeros(1, 3, 16, 16)
    preset = library.load_preset("cold-animorph-celeba128", {"data.size": 16, "model.width": 8})
    model = library.Pipeline(
        library.build_process(preset), library.build_model(preset).eval(), preset=preset
    ).with_other(lambda numbers, shape: other.expand(len(numbers), -1, -1, -1))
    given = torch.rand(1, 3, 20, 30) * 2 - 1
    assert library.restore(given, model, steps=2).images.shape == (1, 3, 20, 30)
    with pytest.raises(library.errors.UsageError, match="leave --whole out"):
        library.restore(given, model, degrade=True, whole=True)
