"""Convolution by any kernel: against sums over pixels, and the laws of an operator."""

import pytest
import torch
from torch.testing import assert_close

from ssdiff.errors import ProcessError
from ssdiff.operators.convolution import Convolution
from ssdiff.operators.inverse import regularised_inverse

SIZE = (9, 12)


def kernel(seed=0, height=3, width=5):
    drawn = torch.rand(height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.sum()


def image(seed, channels=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, *SIZE, dtype=torch.float64, generator=generator)


def test_it_is_the_sum_over_neighbours_turned_around():
    weights, x = kernel(), image(1)
    expected = torch.zeros_like(x)
    for i in range(3):
        for j in range(5):
            expected += weights[i, j] * x.roll((i - 1, j - 2), (-2, -1))
    assert_close(Convolution(SIZE, weights).apply(x), expected)


def test_adjoint_norm_and_inverse():
    operator, x, y = Convolution(SIZE, kernel(3, 5, 3)), image(1), image(2)
    assert_close((operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum())
    basis = torch.eye(108, dtype=torch.float64).reshape(108, 1, *SIZE)
    matrix = operator.apply(basis).flatten(1).mT
    assert operator.norm() == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)))
    flat = y.flatten(2)[0].mT  # (108, 2)
    for rho in (0.3, 1e-4):
        gram = matrix @ matrix.mT + rho * torch.eye(108, dtype=torch.float64)
        expected = (matrix.mT @ torch.linalg.solve(gram, flat)).mT.reshape(1, 2, *SIZE)
        assert_close(regularised_inverse(operator, y, rho), expected)


def test_what_the_kernel_hides_is_left_out():
    """A mean of two neighbours hides the finest stripes: they come back as nothing, not as rounding."""
    operator = Convolution((8, 8), torch.tensor([[0.5, 0.5, 0.0]]))
    stripes = torch.ones(8)
    stripes[1::2] = -1
    x = image(1)[..., :8, :8].float() + stripes
    back = regularised_inverse(operator, operator.apply(x))
    hidden = (x * stripes).mean(-1, keepdim=True) * stripes
    assert_close(back, x - hidden, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(2, 3), (3, 4), (11, 3), (3, 13)])
def test_kernels_that_do_not_fit(shape):
    with pytest.raises(ProcessError, match=f"a kernel of {shape[1]} x {shape[0]} pixels must have odd sides"):
        Convolution(SIZE, torch.ones(shape))
