"""Every law on every operator, and agreement with foreign implementations."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.operators.base import Scale
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable


def rows_columns(make):
    return Separable(make(12), make(8))


GREY = torch.full((3, 3), 1 / 3)
OPERATORS = {
    "identity": Scale(),
    "scale": Scale(-0.7),
    "resize": Separable(matrices.resize(12, 6), matrices.resize(8, 4)),
    "resize-odd": Separable(matrices.resize(12, 7), matrices.resize(8, 5)),
    "resize-up": Separable(matrices.resize(12, 24), matrices.resize(8, 16)),
    "area": Separable(matrices.area(12, 5), matrices.area(8, 3)),
    "nearest": Separable(matrices.nearest(12, 24), matrices.nearest(8, 12)),
    "blur-reflect": rows_columns(lambda n: matrices.gaussian_blur(n, 1.3, 5)),
    "blur-circular": rows_columns(lambda n: matrices.gaussian_blur(n, 0.8, 7, "circular")),
    "blur-zero": rows_columns(lambda n: matrices.gaussian_blur(n, 0.8, 7, "zero")),
    "dct": rows_columns(matrices.dct),
    "heat": rows_columns(lambda n: matrices.heat(n, 1.5)),
    "mask": Mask(torch.rand(12, 8, generator=torch.Generator().manual_seed(0))),
    "mask-per-image": Mask(torch.rand(2, 1, 12, 8, generator=torch.Generator().manual_seed(0))),
    "grey": ChannelMix(GREY),
    "channels": ChannelMix(torch.tensor([[0.2, 0.5, 0.3]])),
    "composed": ChannelMix(GREY) @ Separable(matrices.resize(12, 6), matrices.resize(8, 4)),
    "composed-masks": Separable(matrices.area(12, 6), matrices.area(8, 4)) @ Mask(torch.ones(12, 8)),
    "scaled": Scale(0.5) @ Separable(matrices.resize(12, 6), matrices.resize(8, 4)),
}
SEPARABLE = {name: op for name, op in OPERATORS.items() if isinstance(op, Separable)}


def draw(shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def all_operators(which=OPERATORS):
    return pytest.mark.parametrize("op", which.values(), ids=which.keys())


@all_operators()
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_adjoint(op, seed):
    x = draw((2, 3, 12, 8), seed)
    image = op.apply(x)
    y = draw(image.shape, seed + 1)
    assert_close((image * y).sum(), (x * op.adjoint(y)).sum())


@all_operators()
def test_norm_bounds_the_image_and_is_attained(op):
    x = draw((1, 3, 12, 8), 3)
    if op is OPERATORS["mask-per-image"]:
        x = x.expand(2, -1, -1, -1)
    for _ in range(2000):
        x = op.adjoint(op.apply(x / x.norm()))
    assert float(x.norm()) ** 0.5 == pytest.approx(op.norm(), rel=1e-3)
    assert float(x.norm()) ** 0.5 <= op.norm() * (1 + 1e-9)


@all_operators()
def test_types_and_immutability(op):
    x = draw((2, 3, 12, 8), 1)
    before = x.clone()
    low, high = op.apply(x.float()), op.apply(x)
    assert low.dtype == torch.float32 and torch.equal(x, before)
    assert_close(low.double(), high, atol=1e-5, rtol=1e-5)


@all_operators()
def test_composition_is_application_in_turn(op):
    x = draw((2, 3, 12, 8), 2)
    outer, inner = Scale(3.0), ChannelMix(torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 0.0], [0.1, 0.2, 0.3]]))
    assert_close((op @ inner).apply(x), op.apply(inner.apply(x)))
    assert_close((outer @ op).apply(x), 3 * op.apply(x))


def test_composed_separables_stay_separable():
    small = Separable(matrices.resize(6, 3), matrices.resize(4, 2)) @ OPERATORS["resize"]
    assert isinstance(small, Separable) and small.out_size == (3, 2)
    assert isinstance(OPERATORS["mask"] @ OPERATORS["mask"], Mask)
    assert isinstance(OPERATORS["grey"] @ OPERATORS["grey"], ChannelMix)
    assert_close((OPERATORS["mask"] @ OPERATORS["mask"]).norm(), OPERATORS["mask"].norm() ** 2)


@all_operators(SEPARABLE)
def test_spectral_functions_agree_with_the_dense_matrix(op):
    basis = torch.eye(96, dtype=torch.float64).reshape(96, 1, 12, 8)
    dense = op.apply(basis).flatten(1).mT  # columns are images of the basis
    values, vectors = torch.linalg.eigh(dense.mT @ dense)
    root = vectors @ torch.diag((1.7 - values / 20).clamp_min(0).sqrt()) @ vectors.mT
    result = op.spectral(lambda s: (1.7 - s / 20).clamp_min(0).sqrt(), basis).flatten(1)
    assert_close(result, root, atol=1e-10, rtol=0)


@all_operators(SEPARABLE)
def test_pseudo_inverse(op):
    x = draw((1, 1, 12, 8), 5)
    y = op.apply(x)
    assert_close(op.apply(op.pseudo_inverse(y)), y, atol=1e-6, rtol=1e-6)
    projected = op.pseudo_inverse(y)
    assert_close((projected * (x - projected)).sum(), torch.zeros((), dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("n_in", "n_out"), [(64, 32), (48, 32), (33, 8), (8, 8), (5, 9)])
def test_resize_is_pytorchs(n_in, n_out):
    x = draw((1, 2, n_in, n_in + 3), 4)
    ours = Separable(matrices.resize(n_in, n_out), matrices.resize(n_in + 3, n_out)).apply(x)
    assert_close(ours, F.interpolate(x, (n_out, n_out), mode="bilinear", antialias=True), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("padding", "mode"), [("reflect", "reflect"), ("circular", "circular"), ("zero", "constant")]
)
def test_blur_is_a_convolution_with_all_its_taps(padding, mode):
    x, offset = draw((1, 1, 16, 16), 4), torch.arange(-3, 4).double()
    kernel = torch.exp(-0.5 * (offset / 1.1) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(x, (3, 3, 3, 3), mode=mode)
    expected = F.conv2d(padded, (kernel[:, None] * kernel)[None, None])
    assert_close(Separable(matrices.gaussian_blur(16, 1.1, 7, padding)).apply(x), expected)


def test_matrices_keep_constants_and_energy():
    for matrix in (
        matrices.resize(13, 5),
        matrices.area(13, 5),
        matrices.nearest(13, 29),
        matrices.heat(9, 2.0),
    ):
        assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))
    basis = matrices.dct(9)
    assert_close(basis @ basis.mT, torch.eye(9, dtype=torch.float64))


@given(st.floats(0.2, 3), st.floats(0.2, 3))
@settings(max_examples=20, deadline=None)
def test_heat_is_a_semigroup(a, b):
    assert_close(matrices.heat(16, a) @ matrices.heat(16, b), matrices.heat(16, math.hypot(a, b)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: matrices.gaussian_blur(4, 1.0, 11), "too wide for 4 pixels"),
        (lambda: matrices.gaussian_blur(8, 0.0), "std > 0"),
        (lambda: matrices.gaussian_blur(8, 1.0, 4), "odd length"),
        (lambda: OPERATORS["grey"].apply(torch.zeros(1, 1, 4, 4)), "mixes 3 channels, the image has 1"),
        (lambda: OPERATORS["resize"] @ Mask(torch.ones(5, 5)), "cannot compose"),
        (lambda: Separable(torch.zeros(3)), "two matrices"),
        (lambda: Mask(torch.zeros(3)), "height and a width"),
        (lambda: ChannelMix(torch.zeros(3)), "one matrix"),
    ],
)
def test_misuse_is_explained(make, message):
    with pytest.raises(ProcessError, match=message):
        make()
