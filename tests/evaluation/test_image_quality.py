"""PSNR, SSIM and RMSE against closed forms and the definition."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from ssdiff.errors import DataError
from ssdiff.evaluation.image_quality import compare, psnr, quality_table, ssim


def draw(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_constant_offset():
    x = draw(2, 3, 20, 30) * 0.5
    quality = compare(x, x + torch.tensor([0.1, 0.2])[:, None, None, None])
    assert_close(quality.rmse, torch.tensor([0.05, 0.1]).double())  # of pixels in 0..1
    assert_close(quality.psnr, -20 * torch.log10(quality.rmse))


def test_equal_images():
    x = draw(2, 1, 16, 16)
    quality = compare(x, x)
    assert quality.psnr.tolist() == [math.inf] * 2 and quality.rmse.tolist() == [0.0] * 2
    assert_close(quality.ssim, torch.ones(2).double())


def test_what_lies_outside_is_clipped():
    x = torch.ones(1, 3, 12, 12)
    assert compare(x, 3 * x).rmse.item() == 0
    assert psnr(x, 3 * x).item() == 0


def test_ssim_of_two_greys():
    """Without variance only the luminance term is left [Wang et al. 2004, equation 6]."""
    a, b = 0.2, 0.6  # of pixels in 0..1, on which SSIM is defined
    x, y = (torch.full((1, 1, 16, 16), 2 * v - 1).double() for v in (a, b))
    assert ssim(x, y).item() == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), rel=1e-6)


def test_ssim_is_symmetric_falls_with_noise_and_is_per_image():
    x, z = draw(3, 3, 32, 24), draw(3, 3, 32, 24, seed=1)
    values = [ssim(x, x + s * z) for s in (0.0, 0.1, 0.4, 1.0)]
    assert all(bool((a > b).all()) for a, b in itertools.pairwise(values))
    assert_close(ssim(x, z), ssim(z, x))
    assert_close(ssim(x, z)[1:2], ssim(x[1:2], z[1:2]))


def test_images_smaller_than_the_window():
    x = draw(1, 3, 5, 4)
    assert ssim(x, x).item() == pytest.approx(1)


def test_other_shapes_are_refused():
    with pytest.raises(DataError, match="cannot be compared"):
        compare(draw(1, 3, 8, 8), draw(1, 3, 8, 9))


def test_columns_of_a_table_stand_below_their_headings():
    row = {"psnr": 13.68, "ssim": 0.207, "rmse": 0.207}
    for name in ("alg2", "twelve-chars", "a-sampler-with-a-long-name"):
        heading, *lines = quality_table({"degraded": row, name: row}, 1).splitlines()
        assert [line.index("0.207") for line in lines] == [heading.index("SSIM") - 1] * 2
        assert lines[1].startswith(f"{name} ")


def test_large_images_are_compared_in_bands(monkeypatch):
    x, y = torch.rand(2, 3, 47, 31) * 2 - 1, torch.rand(2, 3, 47, 31) * 2 - 1
    whole = compare(x, y)
    for large in (1, 31 * 13, 31 * 20, 31 * 46):
        monkeypatch.setattr("ssdiff.evaluation.image_quality._LARGE", large)
        for found, expected in zip(compare(x, y), whole, strict=True):
            assert torch.allclose(found, expected, atol=1e-12)
