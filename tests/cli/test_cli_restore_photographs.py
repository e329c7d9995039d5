"""`ssdiff restore` of pictures with the prior of photographs that ships with the package."""

import numpy as np
import pytest
import torch
from conftest import CPU
from PIL import Image

from ssdiff import images
from ssdiff.evaluation.image_quality import psnr
from ssdiff.operators.convolution import Convolution
from ssdiff.restoration.kernels import motion_kernel
from ssdiff.weights import single_file


@pytest.fixture(autouse=True)
def picture(tmp_path, monkeypatch):
    """Soft hills with a few edges, (1, 3, 72, 90) in [-1, 1], and a home without runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path / "home"))
    y, x = np.mgrid[:72, :90] / 60.0
    planes = [np.sin(3 * x + k) * np.cos(2 * y - k) + 0.5 * (x + y > 1.2 + 0.2 * k) for k in range(3)]
    return images.from_uint8(torch.tensor(np.stack(planes)[None] * 60 + 110).byte())


def write(x, name):
    images.save_image(images.to_uint8(x)[0], name)
    return name


def noisy(x, std):
    return x + std / 127.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def gain(clean, before, name):
    """Decibels won."""
    return float(
        psnr(images.read_image(name)[None], clean) - psnr(images.from_uint8(images.to_uint8(before)), clean)
    )


def test_noise_is_removed_right_after_installing(ssdiff, picture):
    y = noisy(picture, 25)
    write(y, "n.png")
    code, _, err = ssdiff("restore", "n.png", "--op", "denoise", "--noise-std", "25", "--out", "o.png", *CPU)
    assert code == 0 and "no run fits: using the prior of photographs that ships with ssdiff" in err
    assert gain(picture, y, "o.png") > 6


def test_noise_is_estimated_and_said(result, ssdiff, picture):
    write(noisy(picture, 20), "n.png")
    values = result("restore", "n.png", "--op", "denoise", "--ckpt", "photos64", "--out", "o.png", *CPU)
    [said] = values["warnings"]
    std = float(said.split("estimated noise: std ")[1].split()[0])
    assert std == pytest.approx(20, rel=0.1)
    _, _, err = ssdiff("restore", "n.png", "--op", "denoise", "--out", "p.png", *CPU)
    assert f"estimated noise: std {std}" in err


def test_a_motion_and_its_kernel_file(ssdiff, picture):
    blurred = noisy(Convolution((72, 90), motion_kernel(7, 30)).apply(picture), 2)
    write(blurred, "b.png")
    np.savetxt("k.csv", motion_kernel(7, 30).numpy(), delimiter=",")
    options = ("--op", "deblur", "--noise-std", "2", *CPU)
    assert ssdiff("restore", "b.png", "--length", 7, "--angle", 30, "--out", "m.png", *options)[0] == 0
    assert ssdiff("restore", "b.png", "--kernel", "k.csv", "--out", "k.png", *options)[0] == 0
    assert gain(picture, blurred, "m.png") > 1 and gain(picture, blurred, "k.png") > 1


def test_wrong_options_are_one_line_and_write_nothing(ssdiff, picture, tmp_path):
    write(picture, "p.png")
    Image.new("L", (4, 4), 255).save("even.png")
    for options, code, said in (
        (("--op", "deblur", "--std", "1", "--length", "5"), 2, "std and length say two blurs at once"),
        (("--op", "deblur", "--kernel", "even.png"), 3, "even.png is no kernel: it has 4 x 4 pixels"),
        (("--op", "deblur", "--kernel", "absent.png"), 3, "absent.png"),
        (("--op", "deblur", "--angle", "5"), 2, "an angle is that of a motion"),
        (("--op", "inpaint", "--angle", "5"), 2, "for op deblur, not for inpaint"),
        (("--op", "inpaint", "--length", "5"), 2, "for op deblur, not for inpaint"),
        (("--op", "denoise", "--draws", "3"), 2, "one way only"),
        (("--op", "denoise", "--degrade"), 2, "how much noise"),
    ):
        found, _, err = ssdiff("restore", "p.png", *options, "--out", "o.png", *CPU)
        lines = [line for line in err.splitlines() if line.startswith("ssdiff: error")]
        assert (found, len(lines)) == (code, 1) and said in lines[0], err
    assert not (tmp_path / "o.png").exists()


def test_the_bundled_prior_is_small_and_says_what_it_is():
    path = single_file.bundled("photos64")
    assert path.stat().st_size < 6e6
    stored = single_file.read(path)
    assert stored.preset.name == "photos64" and stored.preset.data.patches
    note = path.with_suffix(".md").read_text(encoding="utf-8")
    for source in ("mate-backgrounds", "plasma-workspace-wallpapers", "CC-BY-SA"):
        assert source in note and source in stored.origin
