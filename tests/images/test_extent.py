"""Pictures that are too large for their format: refused before the work, or kept beside it."""

import pytest
import torch
from PIL import Image

from ssdiff import images
from ssdiff.errors import OutputError


def test_extents_are_those_of_what_is_laid_out():
    pictures = torch.zeros(5, 3, 7, 9)
    for columns in (None, 1, 2, 9):
        assert images.grid(pictures, columns).shape[1:] == images.grid_extent(5, (7, 9), columns)
    several = [torch.zeros(3, 4, 5), torch.zeros(3, 8, 3)]
    assert images.film_strip(several).shape[1:] == images.strip_extent([(4, 5), (8, 3)])


@pytest.mark.parametrize(("ending", "width"), [("webp", 16384), ("jpg", 65501)])
def test_what_is_too_large_is_kept_as_png(tmp_path, ending, width):
    with pytest.raises(OutputError, match=rf"x\.{ending}\.png"):
        images.save_image(torch.zeros(1, 1, width), tmp_path / f"x.{ending}")
    assert [file.name for file in tmp_path.iterdir()] == [f"x.{ending}.png"]
    with Image.open(tmp_path / f"x.{ending}.png") as image:
        assert image.size == (width, 1)


def test_it_is_refused_before_the_work(tmp_path, ssdiff):
    Image.new("RGB", (3000, 20)).save(tmp_path / "w.png")
    out = tmp_path / "s.webp"
    code, _, err = ssdiff("degrade", tmp_path / "w.png", "--strip", 8, "--t", 500, "--out", out)
    assert code == 2 and "16383" in err and not list(tmp_path.glob("s.*"))
    out = tmp_path / "g.webp"
    code, _, err = ssdiff("sample", "-n", 2000, "--columns", 2000, "--steps", 1, "--out", out)
    assert code == 2 and "16383" in err
