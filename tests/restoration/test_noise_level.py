"""Noise that nobody has said."""

import pytest
import torch

from ssdiff.data.shapes import draw
from ssdiff.images import from_uint8
from ssdiff.restoration.noise_level import estimate_noise


@pytest.mark.parametrize("std", [5.0, 15.0, 50.0])
def test_white_noise_is_found_on_flat_and_on_drawn_pictures(std):
    flat = torch.zeros(1, 3, 64, 64)
    shapes = from_uint8(draw(1, 64, 3)[0])
    for clean, slack in ((flat, 0.05), (shapes, 0.15)):
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        found = estimate_noise(clean + std / 127.5 * noise)
        assert float(found[0]) * 127.5 == pytest.approx(std, rel=slack)


def test_pictures_are_measured_alone_and_ramps_are_no_noise():
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    noisy = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    both = estimate_noise(torch.cat([ramp, noisy]))
    assert float(both[0]) < 1e-5 and float(both[1]) == pytest.approx(1, rel=0.05)
    assert torch.equal(both[1:], estimate_noise(noisy))


def test_a_picture_smaller_than_the_wavelet():
    assert estimate_noise(torch.full((2, 3, 1, 2), 0.5)).abs().max() < 1e-6
