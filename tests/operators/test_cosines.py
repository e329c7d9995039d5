"""Blurs and reductions without matrices: the same maps as those with, and the laws of singular values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.operators.base import Scale
from ssdiff.operators.cosines import (
    BlockMean,
    Reduction,
    bilinear_reduction,
    cosines_of,
    gaussian_filter,
    pixels_of,
)
from ssdiff.operators.cut import Cut
from ssdiff.operators.fft import Interpolated
from ssdiff.operators.inverse import regularised_inverse
from ssdiff.operators.pixelwise import Mask
from ssdiff.operators.resizing import follow, is_large, resize_step
from ssdiff.operators.separable import Separable


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mirrored_matrix(taps, n, factor):
    """The (n / factor, n) matrix of taps around each block, the image continued by its mirror image."""
    matrix = torch.zeros(n // factor, n, dtype=torch.float64)
    for row in range(n // factor):
        for k, tap in enumerate(taps):
            at = (factor * row + k - (len(taps) - factor) // 2) % (2 * n)
            matrix[row, min(at, 2 * n - 1 - at)] += tap
    return matrix


@given(st.integers(2, 23), st.sampled_from([-1, -2]), st.sampled_from([torch.float32, torch.float64]))
def test_cosines_are_those_of_the_matrix(n, dim, kind):
    x = draw(2, 3, n, n).to(kind)
    matrix = matrices.dct(n).to(kind)
    expected = x @ matrix.mT if dim == -1 else matrix @ x
    tolerance = 1e-5 if kind == torch.float32 else 1e-12
    assert torch.allclose(cosines_of(x, dim), expected, atol=tolerance)
    assert torch.allclose(pixels_of(expected, dim), x, atol=tolerance)


def operators():
    size = (12, 24)
    yield "bilinear 2", bilinear_reduction(size, 2), 2
    yield "bilinear 3", bilinear_reduction(size, 3), 3
    yield "bilinear 2 of 2", bilinear_reduction(size, 2).then(bilinear_reduction((6, 12), 2)), 4
    yield "mean 4", BlockMean(size, 4), 4
    yield "blur", gaussian_filter(size, 1.3), 1


@pytest.mark.parametrize(
    ("operator", "factor"), [o[1:] for o in operators()], ids=[o[0] for o in operators()]
)
def test_an_operator_is_its_matrices(operator, factor):
    height, width = operator.in_size
    taps = getattr(operator, "taps", torch.full((factor,), 1 / factor, dtype=torch.float64))
    if factor == 1:
        offset = torch.arange(-6, 7).double()
        taps = torch.exp(-0.5 * (offset / 1.3) ** 2)
        taps = taps / taps.sum()
    rows, columns = mirrored_matrix(taps, height, factor), mirrored_matrix(taps, width, factor)
    dense = Separable(rows, columns)
    x, y = draw(2, 3, height, width), draw(2, 3, *operator.out_size, seed=1)
    assert torch.allclose(operator.apply(x), dense.apply(x), atol=1e-12)
    assert torch.allclose(operator.adjoint(y), dense.adjoint(y), atol=1e-12)
    assert operator.norm() == pytest.approx(dense.norm())
    for rho in (0.0, 1e-3, 2.0):
        found = regularised_inverse(operator, y, rho)
        assert torch.allclose(found, regularised_inverse(dense, y, rho), atol=1e-6 if factor == 1 else 1e-9)
    ordered = operator.singular_values.flatten().sort().values
    assert torch.allclose(ordered, dense.singular_values.flatten().sort().values, atol=1e-9)
    coefficients = draw(1, 1, *operator.singular_values.shape, seed=2)
    assert torch.allclose(operator.to_right(operator.from_right(coefficients)), coefficients, atol=1e-12)
    assert torch.allclose(operator.to_left(operator.from_left(coefficients)), coefficients, atol=1e-12)
    # A = U S V^T
    built = operator.from_left(operator.singular_values * operator.to_right(x))
    assert torch.allclose(built, operator.apply(x), atol=1e-12)
    assert torch.allclose(
        operator.spectral(lambda s: s + 0.5, x), operator.adjoint(operator.apply(x)) + 0.5 * x, atol=1e-11
    )


def test_away_from_the_border_they_are_those_with_matrices():
    x = draw(1, 1, 64, 48)
    inside = (slice(None), slice(None), slice(10, -10), slice(10, -10))
    blur = Separable(matrices.gaussian_blur(64, 1.6), matrices.gaussian_blur(48, 1.6))
    assert torch.allclose(gaussian_filter((64, 48), 1.6).apply(x)[inside], blur.apply(x)[inside], atol=1e-12)
    half = Separable(matrices.resize(64, 32), matrices.resize(48, 24))
    found = bilinear_reduction((64, 48), 2).apply(x)
    assert torch.allclose(found[..., 2:-2, 2:-2], half.apply(x)[..., 2:-2, 2:-2], atol=1e-12)


def test_a_chain_of_sizes_takes_matrices_only_where_it_is_small():
    assert not is_large((512, 512)) and is_large((16, 513))
    assert isinstance(resize_step((8, 8), (4, 4), matrices.resize, large=False), Separable)
    assert isinstance(resize_step((8, 8), (4, 4), matrices.resize, large=True), Reduction)
    assert isinstance(resize_step((8, 8), (4, 4), matrices.area, large=True), BlockMean)
    assert isinstance(resize_step((9, 8), (4, 4), matrices.area, large=True), Separable)
    assert isinstance(resize_step((8, 8), (4, 4), matrices.bicubic, large=True), Separable)
    for resize in (matrices.area, matrices.resize):
        inner = resize_step((32, 16), (16, 8), resize, large=True)
        outer = resize_step((16, 8), (8, 4), resize, large=True)
        x = draw(1, 2, 32, 16)
        assert torch.allclose(follow(inner, outer).apply(x), outer.apply(inner.apply(x)), atol=1e-12)


def test_values_are_weighed_in_parts_as_at_once(monkeypatch):
    blur = gaussian_filter((40, 30), 2.0)
    c = draw(2, 3, 40, 30)
    whole = blur.weigh(torch.sqrt, c)
    monkeypatch.setattr("ssdiff.operators.factored._CHUNK", 100)
    assert torch.equal(blur.weigh(torch.sqrt, c), whole)


def test_a_cut_does_not_see_the_rest():
    mask = Mask((draw(6, 5) > 0).double())
    cut = Cut(mask, (9, 7))
    x, y = draw(2, 3, 9, 7), draw(2, 3, 6, 5, seed=3)
    assert torch.equal(cut.apply(x), mask.apply(x[..., :6, :5]))
    assert torch.isclose((cut.apply(x) * y).sum(), (x * cut.adjoint(y)).sum())
    inverse = regularised_inverse(cut, y, 0.1)
    assert torch.equal(inverse[..., :6, :5], regularised_inverse(mask, y, 0.1))
    assert not inverse[..., 6:, :].any() and not inverse[..., 5:].any()
    assert Cut(Scale(2.0), (9, 7), (6, 5)).apply(x).shape[-2:] == (6, 5) and cut.norm() == mask.norm()
    with pytest.raises(ProcessError, match="cannot be cut"):
        Cut(mask, (5, 7))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "area"])
def test_the_adjoint_of_interpolations(mode):
    operator = Interpolated((20, 14), [(10, 7), (5, 3)], mode)
    x, y = draw(2, 3, 20, 14), draw(2, 3, 20, 14, seed=1)
    assert torch.isclose((operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum())


@pytest.mark.parametrize(
    "make",
    [
        lambda: BlockMean((9, 8), 2),
        lambda: bilinear_reduction((8, 9), 2),
        lambda: Reduction((8, 8), 2, torch.ones(3)),
        lambda: Reduction((8, 8), 2, torch.tensor([1.0, 2.0])),
    ],
)
def test_what_is_no_reduction(make):
    with pytest.raises(ProcessError):
        make()
