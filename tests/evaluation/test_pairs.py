"""`ssdiff eval restore --truth`: images that were degraded elsewhere, and their clean partners."""

import zipfile

import numpy as np
import pytest
from conftest import CPU
from PIL import Image

import ssdiff
from ssdiff import images
from ssdiff.config.load import override
from ssdiff.data import image_sizes
from ssdiff.distributed import World
from ssdiff.errors import DataError
from ssdiff.evaluation.pairs import open_images
from ssdiff.restoration import Options, Trained

# By name, x.k.png comes before x.png, and x.bmp before x.k.bmp.
STEMS = ("s/0", "x", "x.k", "y")
T = 3


@pytest.fixture
def clean(tmp_path):
    y, x = np.mgrid[:16, :16]
    for i, stem in enumerate(STEMS):
        path = tmp_path / "clean" / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.stack([15 * x, 12 * y, 80 * ((x + i * 5) % 9 > 4)], -1)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "clean"


@pytest.fixture
def given(clean, cold_folder, tmp_path):
    """The clean images as the model's own process degrades them, in files of another kind."""
    pipeline = ssdiff.load(cold_folder, device="cpu")
    for stem in STEMS:
        x = pipeline.degrade(images.read_image(clean / f"{stem}.png")[None], T)[0]
        path = tmp_path / "given" / f"{stem}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.to_uint8(x).permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "given"


@pytest.fixture
def evaluate(ssdiff, cold_folder):
    def call(source, truth, *more):
        return ssdiff(
            "eval", "restore", source, "--truth", truth, "--ckpt", cold_folder, "--t", T, *more, *CPU
        )

    return call


def test_degraded_images_and_their_truth(result, clean, given, cold_folder):
    options = ("--ckpt", cold_folder, "--t", T, "--extractor", "tinynet:Tiny", *CPU)
    simulated = result("eval", "restore", clean, *options)
    values = result("eval", "restore", given, "--truth", clean, "--batch", 3, *options)
    assert list(values["rows"]) == ["degraded", "alg2", "alg1", "direct"] and values["count"] == len(STEMS)
    # Only the rounding to bytes differs.
    for name, row in values["rows"].items():
        assert row["psnr"] == pytest.approx(simulated["rows"][name]["psnr"], abs=0.05)
        assert row["distance"] == pytest.approx(simulated["rows"][name]["distance"], rel=0.05, abs=1e-4)
    assert values["images"]["source"] == str(given) and values["truth"]["source"] == str(clean)
    assert values["truth"]["sha256"] == simulated["images"]["sha256"] != values["images"]["sha256"]
    assert simulated["truth"] is None


def test_the_first_of_a_zip(result, clean, given, cold_folder, tmp_path):
    packed = tmp_path / "clean.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(clean.rglob("*.png")):
            archive.write(path, path.relative_to(clean))
    options = ("eval", "restore", given, "--ckpt", cold_folder, "--t", T, *CPU)
    rows = [result(*options, "-n", 2, "--truth", truth)["rows"] for truth in (clean, packed)]
    assert rows[0] == rows[1]
    whole = result(*options, "--truth", packed)
    assert whole["count"] == 4 and whole["rows"] != rows[0]


def test_small_images_of_a_process_with_noise(result, run_folder, clean, tmp_path):
    """Measured at the size of the timestep, compared at that of the model."""
    for stem in STEMS:
        small = Image.open(clean / f"{stem}.png").resize((8, 8))
        (tmp_path / "small" / stem).parent.mkdir(parents=True, exist_ok=True)
        small.save(tmp_path / "small" / f"{stem}.png")
    options = ("--ckpt", run_folder, "--truth", clean, "--t", 20, *CPU)
    values = result("eval", "restore", tmp_path / "small", *options)
    assert values["images"]["size"] == 8 and values["truth"]["size"] == 16
    assert set(values["rows"]) == {"degraded", "ancestral", "ddim"}


def spoil(folder, change):
    """Remove, add or resize; see the cases below."""
    verb, *names = change
    for name in names:
        path = folder / name
        if verb == "remove":
            path.unlink()
        else:
            Image.new("RGB", (16, 16) if verb == "add" else (20, 12)).save(path)


@pytest.mark.parametrize(
    ("side", "change", "words", "named"),
    [
        (
            "clean",
            ("remove", "x.png", "y.png"),
            "2 of 4 images of GIVEN have no clean image",
            ["x.bmp", "y.bmp"],
        ),
        ("given", ("remove", "s/0.bmp"), "1 of 4 images of CLEAN have no degraded image", ["s/0.png"]),
        (
            "given",
            ("add", "a.png", "b.png", "c.png", "d.png"),
            "4 of 8 images of GIVEN have no clean image",
            ["a.png", "b.png", "c.png", "..."],
        ),
        ("given", ("add", "x.png"), "1 of 5 images of GIVEN share their name", ["x.bmp"]),
        ("clean", ("add", "y.bmp"), "1 of 5 images of CLEAN share their name", ["y.bmp"]),
        ("given", ("resize", "x.bmp"), "1 of 4 images of GIVEN do not have the 16 x 16", ["x.bmp (20 x 12)"]),
        ("clean", ("resize", "y.png"), "1 of 4 images of CLEAN do not have the 16 x 16", ["y.png (20 x 12)"]),
    ],
)
def test_images_that_do_not_go_together(evaluate, clean, given, tmp_path, side, change, words, named):
    spoil(tmp_path / side, change)
    code, out, err = evaluate(given, clean, "--out", tmp_path / "x.json")
    assert code == 3 and not out and err.count("\n") == 1 and not (tmp_path / "x.json").exists()
    assert words.replace("GIVEN", str(given)).replace("CLEAN", str(clean)) in err
    assert f": {', '.join(named)}; nothing was restored" in err


def test_truth_without_names(evaluate, clean, given, tmp_path):
    code, _, err = evaluate(given, "shapes")
    assert code == 3 and "shapes are no files with names" in err
    code, _, err = evaluate(given, tmp_path / "gone")
    assert code == 3 and "gone" in err
    (clean / "y.png").write_bytes(b"no image")
    code, _, err = evaluate(given, clean)
    assert code == 3 and "y.png" in err


def test_no_damaged_image_is_left_out(clean, given, cold_folder):
    """Although the preset would skip it, because all after it would have another partner."""
    pipeline = ssdiff.load(cold_folder, device="cpu")
    preset = override(pipeline.preset, {"data.corrupt": "skip"})
    method, world = Trained(pipeline, T, Options()), World()
    assert len(open_images(str(given), str(clean), preset, method, world, None)) == len(STEMS)
    whole = (given / "x.bmp").read_bytes()
    (given / "x.bmp").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"x\.bmp"):
        open_images(str(given), str(clean), preset, method, world, None)
    assert len(open_images(str(given), None, preset, method, world, None)) == len(STEMS) - 1


def test_sizes_by_name(clean):
    Image.new("L", (7, 5)).save(clean / "s" / "thin.png")
    sizes = image_sizes(clean)
    assert list(sizes) == ["s/0.png", "s/thin.png", "x.k.png", "x.png", "y.png"]
    assert sizes["s/thin.png"] == (7, 5) and sizes["x.png"] == (16, 16)
    with pytest.raises(DataError, match="no files with names"):
        image_sizes("shapes")
