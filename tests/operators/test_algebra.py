"""Products and quotients of operators in closed form, their singular values, and the proven square root."""

import math

import pytest
import torch
from torch.testing import assert_close

from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.operators.algebra import Kronecker, aligned, quotient, simplify
from ssdiff.operators.base import Composed, Operator, Scale
from ssdiff.operators.decomposition import singular_system
from ssdiff.operators.filters import Basis, Filter, cosines
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable
from ssdiff.operators.square_root import _coefficients, degree, square_root
from ssdiff.operators.stacked import Stacked

SIZE = (6, 4)
GENERATOR = torch.Generator().manual_seed(5)


def random(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


MIX, OTHER = ChannelMix(random(3, 3)), ChannelMix(random(3, 3))
SHRINK = Separable(matrices.area(6, 3), matrices.area(4, 2))
SOFTEN = Filter(cosines(SIZE), (torch.linspace(1, 0.2, 6), torch.linspace(1, 0.5, 4)))
ROUND = Filter(cosines(SIZE), random(*SIZE))
HALF, HOLE = Mask(random(*SIZE)), Mask((torch.arange(24) % 5 > 0).double().reshape(SIZE))
PLANES = {
    "separable": SHRINK,
    "filter": SOFTEN,
    "any filter": ROUND,
    "mask": HALF,
    "hole": HOLE,
    "scale": Scale(-2),
}
FORMS = {**PLANES, "mix": MIX, **{f"mix, {name}": Kronecker(MIX, op) for name, op in PLANES.items()}}


@pytest.mark.parametrize("name", FORMS)
def test_singular_systems_and_adjoints(name):
    operator = FORMS[name]
    x, system = random(2, 3, *SIZE), singular_system(operator)
    y = operator.apply(x)
    z = random(*y.shape)
    assert_close((y * z).sum(), (x * operator.adjoint(z)).sum())
    values = system.values
    assert bool((values >= 0).all()) and float(values.max()) == pytest.approx(operator.norm())
    assert_close(system.to_left(y), values * system.to_right(x))
    assert_close(system.from_right(values * system.to_left(z)), operator.adjoint(z))
    assert_close(system.to_right(system.from_right(system.to_right(x))), system.to_right(x))


PRODUCTS = {
    "two of a kind": (HALF @ HOLE, Mask),
    "mixtures": (Composed(MIX, OTHER), ChannelMix),
    "filters": (Composed(SOFTEN, ROUND), Filter),
    "blur then shrink": (Composed(SHRINK, SOFTEN), Separable),
    "shrink and mix": (Composed(SHRINK, Composed(MIX, Composed(SOFTEN, OTHER))), Kronecker),
    "mask and mix": (Composed(MIX, Composed(HALF, OTHER)), Kronecker),
    "scales": (Composed(Scale(2), Composed(HALF, Scale(3))), Mask),
    "mask of one channel": (Composed(MIX, Mask(random(1, 1, *SIZE))), Kronecker),
    "nothing": (Composed(Scale(), Scale()), Scale),
    "no closed form": (Composed(SHRINK, Composed(MIX, HALF)), Kronecker),
    "a mask of each colour": (Composed(MIX, Mask(random(3, *SIZE))), Composed),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_simplified_and_stays_the_same(name):
    product, kind = PRODUCTS[name]
    simple, x = simplify(product), random(2, 3, *SIZE)
    assert type(simple) is kind
    assert_close(simple.apply(x), product.apply(x))
    y = random(*simple.apply(x).shape)
    assert_close(simple.adjoint(y), product.adjoint(y))


SOFTER = Filter(cosines(SIZE), (torch.linspace(1, 0.1, 6), torch.linspace(1, 0.2, 4)))
FIRST = Separable(random(6, 9), random(4, 7))
QUOTIENTS = {
    "masks": (HALF @ HOLE, HOLE),
    "filters": (SOFTER, SOFTEN),
    "a shrunk blur": (Composed(SHRINK, SOFTER), SOFTEN),
    "mixtures": (OTHER @ MIX, MIX),
    "both": (Kronecker(OTHER @ MIX, HALF @ HOLE), Kronecker(MIX, HOLE)),
    "what is common": (Composed(HALF @ HOLE, FIRST), Composed(HOLE, FIRST)),
    "more of it": (Composed(SHRINK, Composed(HALF, SOFTEN)), SOFTEN),
    "a scale": (HALF, Scale(4)),
    "of the identity": (Scale(3), HALF),
}


@pytest.mark.parametrize("name", QUOTIENTS)
def test_a_quotient_times_its_divisor_is_the_whole(name):
    whole, part = QUOTIENTS[name]
    x = random(2, 3, *(part.in_size or SIZE))
    assert_close(quotient(whole, part).apply(part.apply(x)), whole.apply(x))


class Own(Operator):
    def apply(self, x):
        return x.flip(-1)

    def adjoint(self, y):
        return y.flip(-1)


@pytest.mark.parametrize(
    ("whole", "part", "message"),
    [
        (HALF, HOLE, "shows what the earlier has lost"),
        (Scale(), SHRINK, "shows what the earlier has lost"),
        (MIX, ChannelMix(torch.full((3, 3), 1 / 3)), "shows what the earlier has lost"),
        (SOFTEN, HALF, "Filter and Mask have no quotient in closed form"),
        (HALF, Own(), "Mask and Own have no quotient"),
        (HALF, Composed(SOFTEN, HOLE), "no quotient"),
        (HALF, Scale(0), "nothing is left"),
    ],
)
def test_what_has_no_quotient(whole, part, message):
    with pytest.raises(ProcessError, match=message):
        quotient(whole, part)


@pytest.mark.parametrize(
    "operators",
    [
        [Scale(), SOFTEN, ROUND],
        [SOFTEN, Separable(matrices.heat(6, 1), matrices.heat(4, 1)), Scale(2)],
        [MIX, Kronecker(OTHER, HALF), HOLE],
        [MIX, Scale(2)],
    ],
    ids=["filters", "separable", "mixed", "mixtures"],
)
def test_aligned_operators_stack(operators):
    stack, x = Stacked(aligned(operators)), random(len(operators), 3, *SIZE)
    alone = [operator.apply(x[i : i + 1]) for i, operator in enumerate(operators)]
    assert_close(stack.apply(x, torch.arange(len(operators))), torch.cat(alone))


def test_what_does_not_stack():
    assert aligned([SOFTEN, HALF]) is None
    with pytest.raises(ProcessError, match="square orthonormal"):
        Basis(random(4, 4), torch.eye(4))
    with pytest.raises(ProcessError, match="one gain for each"):
        Filter(cosines(SIZE), random(4, 6))


def test_a_norm_by_power_iteration():
    matrix = random(24, 24)

    class Dense(Own):
        in_size = SIZE

        def apply(self, x):
            return (x.flatten(-2) @ matrix.mT).reshape(x.shape)

        def adjoint(self, y):
            return (y.flatten(-2) @ matrix).reshape(y.shape)

    assert Dense().norm() == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-5)


@pytest.mark.parametrize("theta", [0.0, 0.1, 0.7, 0.98, 0.9999, 1.0])
@pytest.mark.parametrize("n", [1, 5, 40])
def test_the_error_of_the_square_root_is_below_its_bound(theta, n):
    u = torch.linspace(0, 1, 4001, dtype=torch.float64)
    angles = torch.arccos(2 * u - 1)
    found = sum(c * torch.cos(k * angles) for k, c in enumerate(_coefficients(theta, n)))
    bound = 4 / (math.pi * (2 * n + 1))
    if 0 < theta < 1:
        branch = 2 / theta - 1
        rho = branch + math.sqrt(branch**2 - 1)
        bound = min(bound, 4 * math.sqrt(2 - theta) / (rho**n * (rho - 1)))
    assert float((found - (1 - theta * u).sqrt()).abs().max()) <= bound + 1e-14


@pytest.mark.parametrize("theta", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_square_root_has_its_tolerance(theta, dtype, tolerance):
    operator = Separable(random(6, 6), random(4, 4))
    norm = operator.norm()
    x = random(2, 3, *SIZE).to(dtype)
    exact = operator.spectral(lambda squares: (1 - theta * squares / norm**2).sqrt(), x.double())
    error = (square_root(operator, norm, theta, x) - exact).norm() / x.norm()
    assert float(error) < (tolerance if dtype == torch.float64 else 1e-5)
    assert degree(theta, tolerance) < 160
