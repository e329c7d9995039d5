"""Degradations of photographs without matrices are those of small images with them."""

import pytest
import torch

from ssdiff.errors import UsageError
from ssdiff.operators.fft import Interpolated, Mirrored
from ssdiff.process.degradations import base
from ssdiff.process.degradations.registry import build_degradation

SIZE = (50, 37)
CASES = [
    ("blur", {"kernel": 15, "std": "exponential", "growth": 0.01}, 20, Mirrored),
    ("blur", {"kernel": 3, "first": 1.0, "to_mean": True}, 6, Mirrored),
    ("blur", {"std": "accumulated", "first": 0.5, "last": 4.0}, 8, Mirrored),
    ("downsample", {"full_size": True}, 3, Interpolated),
    ("downsample", {"full_size": True, "filter": "area", "blur": True}, 3, Interpolated),
    ("downsample", {"full_size": True, "filter": "bilinear"}, 3, Interpolated),
]


@pytest.mark.parametrize(("name", "options", "T", "kind"), CASES, ids=str)
def test_without_matrices_it_is_the_same(monkeypatch, name, options, T, kind):
    x = torch.rand(2, 3, *SIZE, dtype=torch.float64) * 2 - 1
    small = build_degradation(name, SIZE, T, **options)
    expected = [small.degrade(x, t) for t in (1, T // 2, T)]
    monkeypatch.setattr(base, "_PRODUCTS_HELD", 1)
    large = build_degradation(name, SIZE, T, **options)
    assert isinstance(large.operator(1), kind)
    for lines in (2**22, 500):  # at once, and in parts
        monkeypatch.setattr("ssdiff.operators.fft._LARGE", lines)
        for t, wanted in zip((1, T // 2, T), expected, strict=True):
            assert torch.allclose(large.degrade(x, t), wanted, atol=1e-12)
    y = torch.rand_like(x)
    operator = large.operator(T)
    assert torch.isclose((operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum())


def test_other_padding_still_has_a_limit(monkeypatch):
    monkeypatch.setattr(base, "_PRODUCTS_HELD", 1)
    with pytest.raises(UsageError, match="reflect"):
        build_degradation("blur", SIZE, 4, kernel=3, padding="circular")


def test_the_side_of_the_largest_block():
    x = torch.rand(1, 1, 12, 12)
    whole = build_degradation("pixelate", (12, 12), 3, largest=12.0).degrade(x, 3)
    assert torch.allclose(whole, x.mean().expand_as(x), atol=1e-6)
