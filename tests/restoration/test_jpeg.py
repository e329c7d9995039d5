"""Pictures out of JPEG files: what the file says of them, and their life through the commands."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter
from torch.testing import assert_close

from ssdiff import load, restore
from ssdiff.errors import DataError, UsageError
from ssdiff.evaluation.image_quality import psnr
from ssdiff.images import from_uint8
from ssdiff.images.jpeg import tables_of, tables_of_quality
from ssdiff.restoration.jpeg import JpegCells, _cosines, _tiled, truncated_mean


def picture(height=48, width=80, seed=0, contrast=3.0):
    """Soft shapes in colour; those of higher contrast reach black and white."""
    numbers = np.random.default_rng(seed)
    grain = Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8))
    values = np.asarray(grain.filter(ImageFilter.GaussianBlur(5)), np.float32) - 127
    return Image.fromarray(np.clip(values * contrast + 127, 0, 255).astype(np.uint8))


def discs(height, width, seed=0):
    """Discs on a gradient, whose edges ring in a file."""
    numbers = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    values = np.stack([60 + x * 100 // width, 150 - y * 80 // height, 90 + 0 * x], -1)
    image = Image.fromarray(values.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        left, top, radius = numbers.integers(0, width), numbers.integers(0, height), numbers.integers(6, 16)
        box = [left - radius, top - radius, left + radius, top + radius]
        draw.ellipse(box, fill=tuple(int(value) for value in numbers.integers(40, 215, 3)))
    return image


def tensor(image):
    return from_uint8(torch.from_numpy(np.array(image)).permute(2, 0, 1))[None]


@pytest.fixture(scope="module")
def prior():
    return load("photos64")


@given(st.floats(-5, 5), st.floats(0.01, 10), st.floats(-300, 300), st.floats(0.5, 100))
@settings(max_examples=60, deadline=None)
def test_truncated_means_are_integrals(mean, std, middle, width):
    low, high = middle - width / 2, middle + width / 2
    at = torch.linspace(low, high, 20001, dtype=torch.float64)
    logarithms = -((at - mean) ** 2) / (2 * std**2)
    weights = torch.softmax(logarithms, 0)
    found = truncated_mean(torch.tensor([mean], dtype=torch.float64), std, at[:1], at[-1:])
    assert low <= float(found) <= high
    nearest = min(max(mean, low), high)
    inside = math.erf((high - mean) / std / 2**0.5) - math.erf((low - mean) / std / 2**0.5)
    wanted = float((weights * at).sum()) if inside > 2e-5 else nearest
    # where next to nothing is within, the nearest end stands for the mean
    assert float(found) == pytest.approx(wanted, abs=1e-2 * std + 1e-3 * width if inside > 2e-5 else std)


def outside(clean, file, process, slack):
    """Share of the clean picture's cosines, of each plane, that lie beyond their cells by more than slack."""
    cells = JpegCells.of(tensor(file), tables_of(file), process)
    for k, plane in enumerate(cells._planes(tensor(clean))):
        cosines = _cosines(plane)
        widths = cells.widths[k].repeat_interleave(8, 1).repeat_interleave(8, 2)
        away = (cosines - cells.centres[k]).abs() - _tiled(cells.steps[k], cosines) / 2 * widths
        yield float((away > slack).float().mean())


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [10, 50, 85])
def test_the_picture_lies_within_the_cells_of_its_file(tmp_path, prior, subsampling, quality):
    clean = picture()
    clean.save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling)
    file = Image.open(tmp_path / "a.jpg")
    assert max(outside(clean, file, prior.process, 2)) == 0, "but for the rounding of pixels"
    # a prior that is sure of the truth leaves it nearly as it is
    cells = JpegCells.of(tensor(file), tables_of(file), prior.process)
    assert_close(cells.correct(tensor(clean), 1), tensor(clean), atol=4 / 127.5, rtol=0)


def test_blocks_beyond_the_picture_or_beyond_white_are_not_trusted(tmp_path, prior):
    clean = picture(45, 70, contrast=12.0)
    clean.save(tmp_path / "a.jpg", quality=30)
    assert max(outside(clean, Image.open(tmp_path / "a.jpg"), prior.process, 2)) < 0.01


def test_a_prior_that_knows_nothing_leaves_the_file(tmp_path, prior):
    picture(48, 64).save(tmp_path / "a.jpg", quality=30, subsampling=0)
    file = Image.open(tmp_path / "a.jpg")
    cells = JpegCells.of(tensor(file), tables_of(file), prior.process)
    last = max(
        t for t, state in enumerate(prior.process.states) if state.size == prior.process.states[0].size
    )
    start = tensor(file)
    assert (cells.correct(start, last) - start).abs().mean() < 0.5 / 127.5


def test_the_prior_mends_a_file(tmp_path, prior):
    clean = tensor(discs(64, 96))
    found = restore(clean, prior, op="jpeg", degrade=True, quality=15)
    assert found.sampler == "plug-and-play"
    assert float(found.psnr) > float(psnr(found.degraded, clean)) + 0.4


def test_files_through_the_command(tmp_path, result):
    clean = discs(40, 72)  # taller than wide when it is upright
    exif = Image.Exif()
    exif[274] = 6
    clean.save(tmp_path / "a.jpg", quality=20, exif=exif)  # lies on its side
    clean.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "truth.png")
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth.png").rename(tmp_path / "truth" / "a.png")
    options = ("--truth", tmp_path / "truth", "--out", tmp_path / "o.png")
    quality = result("restore", tmp_path / "a.jpg", "--op", "jpeg", *options)["images"][0]["likeness"]
    assert quality["plug-and-play"]["psnr"] > quality["degraded"]["psnr"]
    assert Image.open(tmp_path / "o.png").size == (40, 72), "upright"


@pytest.mark.parametrize(
    ("name", "more", "code", "said"),
    [
        ("a.png", [], 3, "is no JPEG file"),
        ("a.jpg", ["--quality", "50"], 2, "says itself"),
        ("a.png", ["--quality", "0"], 2, "at least 1"),
        ("a.png", ["--quality", "40", "--noise-std", "5"], 2, "noise_std"),
        ("a.png", ["--quality", "40", "--sampler", "ddim"], 2, "plug-and-play"),
        ("a.png", ["--quality", "40", "--draws", "2"], 2, "--draws"),
        ("a.png", ["--degrade"], 2, "--quality"),
    ],
)
def test_what_is_refused(tmp_path, ssdiff, name, more, code, said):
    """docs/faults.md, row 66."""
    picture(24, 32).save(tmp_path / "a.png")
    picture(24, 32).save(tmp_path / "a.jpg")
    found, _, err = ssdiff("restore", tmp_path / name, "--op", "jpeg", *more, "--out", tmp_path / "o.png")
    assert (found, said in err) == (code, True), err
    assert not (tmp_path / "o.png").exists()


def test_python_reads_the_tables_of_files(tmp_path, prior):
    picture(24, 32).save(tmp_path / "a.jpg", quality=20)
    picture(24, 32, 1).save(tmp_path / "b.jpg", quality=20)
    picture(24, 32, 1).save(tmp_path / "c.jpg", quality=30)
    several = restore([tmp_path / "a.jpg", tmp_path / "b.jpg"], prior, op="jpeg").images
    image = Image.open(tmp_path / "b.jpg").convert("RGB")
    assert_close(
        tensor(several[1]), tensor(restore(image, prior, op="jpeg", quality=20).images), atol=1e-5, rtol=0
    )
    with pytest.raises(UsageError, match="different ways"):
        restore([tmp_path / "a.jpg", tmp_path / "c.jpg"], prior, op="jpeg")
    with pytest.raises(DataError, match="no JPEG file"):
        restore(image, prior, op="jpeg")


def test_grey_files(tmp_path, prior):
    picture(24, 32).convert("L").save(tmp_path / "a.jpg", quality=20)
    found = restore(tmp_path / "a.jpg", prior, op="jpeg").images
    assert found.size == (32, 24)
    assert tables_of(Image.open(tmp_path / "a.jpg")).luma == tables_of_quality(20).luma


def test_a_model_of_grey_is_as_sure_of_luma_as_of_a_channel(tmp_path, prior):
    """Luma of three independent colours would be surer."""
    tables = tables_of_quality(20, 1)
    grey = tensor(picture(24, 32))[:, :1]
    cells = JpegCells.of(grey, tables, prior.process)
    guess = (grey + 0.05).clamp(-1, 1)
    t = 300
    r = 127.5 / math.sqrt(1 + prior.process.states[t].snr)
    plane = next(cells._planes(guess))
    cosines = _cosines(plane)
    half = (
        _tiled(cells.steps[0], cosines) / 2 * cells.widths[0].repeat_interleave(8, 1).repeat_interleave(8, 2)
    )
    wanted = truncated_mean(cosines, r, cells.centres[0] - half, cells.centres[0] + half)
    found = _cosines(next(cells._planes(cells.correct(guess, t))))
    assert_close(found, wanted, atol=0.05, rtol=0)
