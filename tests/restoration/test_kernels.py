"""Kernels of motions and out of files."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from ssdiff.errors import DataError, UsageError
from ssdiff.restoration.kernels import motion_kernel, read_kernel


def places(n):
    return torch.arange(n, dtype=torch.float64) - n // 2


@given(st.floats(0.5, 60), st.floats(-400, 400))
def test_a_motion_is_centred_and_as_long_as_it_is_said(length, angle):
    kernel = motion_kernel(length, angle)
    height, width = kernel.shape
    assert height % 2 == width % 2 == 1 and float(kernel.min()) >= 0
    assert float(kernel.sum()) == pytest.approx(1)
    assert_close(kernel, kernel.flip(0, 1))  # there and back is the same
    x, y = ((kernel.sum(dim) * places(n) ** 2).sum() for dim, n in ((0, width), (1, height)))
    # Of an even line the variance is length^2 / 12; sharing among pixels adds at most a quarter an axis.
    assert length**2 / 12 * 0.97 <= float(x + y) <= length**2 / 12 + 0.5


def test_directions():
    across = motion_kernel(9, 0)
    assert across.shape == (1, 11)
    assert_close(motion_kernel(9, 90), across.mT)
    rising = motion_kernel(9, 45)  # counter-clockwise: up to the right
    down, across = map(places, rising.shape)
    assert float((rising * down[:, None] * across).sum()) < -1


@pytest.mark.parametrize("length", [0, -3, 255, math.nan, math.inf])
def test_lengths_that_are_none(length):
    with pytest.raises(UsageError, match=r"length|longer than 0"):
        motion_kernel(length, 0)


def test_files(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    Image.fromarray(drawn).save(tmp_path / "k.png")
    expected = torch.from_numpy(drawn / drawn.sum())
    assert_close(read_kernel(tmp_path / "k.png"), expected, atol=1e-6, rtol=0)
    lines = "\n".join(", ".join(map(str, row)) for row in drawn.tolist())
    (tmp_path / "k.csv").write_text(lines + "\n\n")
    assert_close(read_kernel(tmp_path / "k.csv"), expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2\n3 4\n", "2 x 2 pixels; odd sides"),
        ("1 2 3\n1 2\n", "different lengths"),
        ("", "different lengths"),
        ("1 two 3\n", "could not convert"),
        ("1 nan 3\n", "not finite"),
        ("1 -2 1\n", "sums up to nothing"),
        (" ".join(["1"] * 301), "the most are 255"),
    ],
)
def test_files_that_are_no_kernel(tmp_path, text, said):
    (tmp_path / "k.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        read_kernel(tmp_path / "k.txt")
    with pytest.raises(DataError, match="cannot read"):
        read_kernel(tmp_path / "absent.txt")
