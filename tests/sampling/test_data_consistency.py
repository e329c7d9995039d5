"""Inverses of operators against dense algebra, and restoration with exact denoisers as models."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssdiff import rng
from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.operators.base import Scale
from ssdiff.operators.inverse import regularised_inverse
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable
from ssdiff.process.diagonal import DiagonalProcess
from ssdiff.process.gaussian import from_schedule
from ssdiff.process.spectra import BlurNoise
from ssdiff.sampling.data_consistency import Measurement, predict_consistent
from ssdiff.sampling.gaussian import eta_family
from ssdiff.sampling.walk import Walk
from ssdiff.schedules import noise, resolution

FLOAT = torch.float64


def draw(shape, seed):
    return torch.randn(shape, dtype=FLOAT, generator=torch.Generator().manual_seed(seed))


def square(make):
    return Separable(make(8))


def half_mask(*shape, seed=0):
    return Mask((draw(shape, seed) > 0).double())


OPERATORS = {
    "identity": Scale(),
    "scale": Scale(-0.7),
    "nothing": Scale(0.0),
    "resize": Separable(matrices.resize(8, 4)),
    "resize-odd": Separable(matrices.resize(8, 5), matrices.resize(8, 3)),
    "resize-up": Separable(matrices.resize(8, 16)),
    "area": Separable(matrices.area(8, 3)),
    "bicubic": Separable(matrices.bicubic(8, 4)),
    "blur": square(lambda n: matrices.gaussian_blur(n, 0.8, 3)),
    "blur-singular": square(lambda n: matrices.heat(n, 3.0)),
    "zero-matrix": square(lambda n: torch.zeros(n, n, dtype=FLOAT)),
    "mask": half_mask(8, 8),
    "mask-grey": Mask(torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).double().clamp_min(0.1)),
    "mask-per-image": half_mask(2, 1, 8, 8),
    "mask-empty": Mask(torch.zeros(8, 8)),
    "grey": ChannelMix(torch.full((3, 3), 1 / 3, dtype=FLOAT)),
    "channels": ChannelMix(torch.tensor([[0.2, 0.5, 0.3]], dtype=FLOAT)),
}
EXACT = {k: v for k, v in OPERATORS.items() if k not in ("blur-singular",)}  # no value is small but not zero


def each(which=OPERATORS):
    return pytest.mark.parametrize("op", which.values(), ids=which.keys())


SHAPE = (2, 3, 8, 8)


def dense(op):
    """(n, m) on both images of a batch together, so that a mask an image fits as well."""
    basis = torch.eye(2 * 3 * 64, dtype=FLOAT).reshape(-1, *SHAPE)
    return torch.stack([op.apply(x).flatten() for x in basis], dim=1)


@each(EXACT)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_moore_penrose(op, seed):
    x, x2 = draw(SHAPE, seed), draw(SHAPE, seed + 1)
    y, y2 = draw(op.apply(x).shape, seed + 2), draw(op.apply(x).shape, seed + 3)

    def inverse(y):
        return regularised_inverse(op, y)

    assert_close(op.apply(inverse(op.apply(x))), op.apply(x))
    assert_close(inverse(op.apply(inverse(y))), inverse(y), atol=1e-9, rtol=1e-9)
    assert_close((op.apply(inverse(y)) * y2).sum(), (y * op.apply(inverse(y2))).sum())
    assert_close((inverse(op.apply(x)) * x2).sum(), (x * inverse(op.apply(x2))).sum())


@each()
@pytest.mark.parametrize("rho", [0.0, 1e-6, 1e-3, 0.3, 50.0, float("inf")])
def test_agrees_with_dense_algebra(op, rho):
    a = dense(op)
    y = draw(op.apply(torch.zeros(SHAPE, dtype=FLOAT)).shape, 3)
    u, values, vh = torch.linalg.svd(a, full_matrices=False)
    gains = values / (values.square() + rho)
    if rho == 0:
        gains = torch.where(values > 1e-6 * values.max(), 1 / values, 0)
    expected = vh.mT @ (gains * (u.mT @ y.flatten()))
    result = regularised_inverse(op, y, rho)
    tolerance = 1e-9 * max(1.0, float(expected.abs().max()))
    assert_close(result.flatten(), expected, atol=tolerance, rtol=1e-6)


@each()
def test_types_and_immutability(op):
    y = op.apply(draw(SHAPE, 1))
    before = y.clone()
    exact = regularised_inverse(op, y, 0.01)
    for dtype, atol in ((torch.float32, 1e-5), (torch.float16, 0.05), (torch.bfloat16, 0.3)):
        low = regularised_inverse(op, y.to(dtype), 0.01)
        assert low.dtype == dtype and torch.equal(y, before)
        assert_close(low.double(), exact, atol=atol, rtol=0)


def test_float32_does_not_amplify_rounding():
    op, x = OPERATORS["blur-singular"], draw(SHAPE, 1).float()
    found = regularised_inverse(op, op.apply(x))
    assert found.norm() <= 1.01 * x.norm()
    assert_close(op.apply(found), op.apply(x), atol=1e-3, rtol=0)


def test_small_mask_values_count_as_zero():
    op = Mask(torch.tensor([[1.0, 1e-5, 1e-7, 0.0]]))
    assert_close(
        regularised_inverse(op, op.apply(torch.ones(1, 1, 1, 4))).flatten().tolist(), [1.0, 1.0, 0.0, 0.0]
    )


def test_a_mask_does_not_depend_on_its_batch():
    faint = torch.full((1, 1, 4, 4), 1e-7)
    both = Mask(torch.cat([faint, torch.ones(1, 1, 4, 4)]))
    y = torch.ones(2, 1, 4, 4)
    assert_close(regularised_inverse(both, y)[:1], regularised_inverse(Mask(faint), y[:1]))


def build(size, levels, steps, resize=matrices.resize):
    table = resolution.equal(steps, levels)
    sizes = [size >> k for k in table.tolist()]
    nu = noise.snr_preserving(noise.linear(steps), torch.tensor(sizes, dtype=FLOAT) / size, 0.0, 1e-4)
    return from_schedule(nu, [(s, s) for s in sizes], (size, size), resize), table


PROCESS, TABLE = build(8, 3, 30)  # 8, 4 and 2 px


@each()
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), t=st.integers(1, 10))
def test_a_full_size_prediction_is_corrected_where_the_measurement_sees(op, seed, t):
    truth, clean = draw(SHAPE, seed), draw(SHAPE, seed + 1)
    y = op.apply(truth)
    known = Measurement(op, y, 0.0, PROCESS)
    result = known.correct(clean, t)
    assert_close(op.apply(result), y, atol=1e-5 if op is OPERATORS["blur-singular"] else 1e-9, rtol=0)
    change = result - clean  # orthogonal to the null space: A^+ A change = change
    assert_close(regularised_inverse(op, op.apply(change)), change, atol=1e-7, rtol=0)
    assert_close(known.correct(result, t), result, atol=1e-7, rtol=0)
    assert_close(known.correct(truth, t), truth)


CHAIN = {8: torch.eye(8, dtype=FLOAT), 4: matrices.resize(8, 4)}
CHAIN[2] = matrices.resize(4, 2) @ CHAIN[4]


@pytest.mark.parametrize("known_size", [8, 4, 2])
@pytest.mark.parametrize("size", [8, 4, 2])
def test_known_content_of_the_same_chain_is_exact_at_every_size(size, known_size):
    truth = draw(SHAPE, 1)
    op = Separable(CHAIN[known_size])
    known = Measurement(op, op.apply(truth), 0.0, PROCESS)
    clean = draw((2, 3, size, size), 2)
    result = known.correct(clean, 5)
    common = min(size, known_size)
    below = torch.eye(size, dtype=FLOAT)
    for n in range(size.bit_length() - common.bit_length()):
        below = matrices.resize(size >> n, size >> n + 1) @ below
    here = Separable(below).apply(result)
    assert_close(here, Separable(CHAIN[common]).apply(truth))
    assert_close(known.correct(result, 5), result)
    for _ in range(2):
        clean = known.correct(clean.float(), 5)
        assert clean.dtype == torch.float32
    assert_close(clean.double(), result, atol=1e-5, rtol=0)


def test_a_mask_at_a_reduced_size():
    truth, mask = draw((1, 1, 8, 8), 1), torch.zeros(8, 8, dtype=FLOAT)
    mask[:, :5] = 1  # reduced pixels 0 and 1 read columns 0..4, the last one 5..7
    known = Measurement(Mask(mask), mask * truth, 0.0, PROCESS)
    clean, reduced = draw((1, 1, 4, 4), 2), PROCESS.degrade(truth, 15)
    result = known.correct(clean, 5)
    assert_close(result[..., :2], reduced[..., :2])  # known
    assert_close(result[..., 3], clean[..., 3])  # hidden
    constant = Measurement(Mask(mask), 0.5 * mask[None, None], 0.0, PROCESS)
    assert_close(constant.correct(torch.full_like(clean, 0.5), 5), torch.full_like(clean, 0.5))
    mixed = constant.correct(torch.full_like(clean, -0.5), 5)
    assert mixed.min() > -0.75 and mixed.max() < 0.75 and -0.45 < mixed[..., 2].mean() < 0.45


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
@each()
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), t=st.integers(1, 30), size=st.sampled_from([8, 4, 2]))
def test_a_correction_does_not_lead_away_from_the_truth(op, noise_std, seed, t, size):
    """For a truth without details that a reduced image cannot hold, measured without error."""
    reduced = draw((2, 3, size, size), seed)
    image = Separable(matrices.resize(size, 8)).apply(reduced)
    image = image + Separable(CHAIN[size]).pseudo_inverse(reduced - Separable(CHAIN[size]).apply(image))
    known = Measurement(op, op.apply(image), noise_std, PROCESS)
    assert_close(known.correct(reduced, t), reduced, atol=1e-9, rtol=0)
    error = draw(reduced.shape, seed + 1)
    # The enlargement is no orthogonal map, so a little more is possible; 1.08 is the most for these.
    assert (known.correct(reduced + error, t) - reduced).norm() <= 1.08 * error.norm()


def test_noise_is_weighed_against_the_uncertainty_of_the_prediction():
    """The mean of x_0 ~ N(x, r^2) given y, for the identity: both weighed by their precision."""
    y, clean, t = draw(SHAPE, 1), draw(SHAPE, 2), 7
    state = PROCESS.states[t]
    r2 = state.sigma**2 / (state.signal**2 + state.sigma**2)
    result = Measurement(Scale(), y, 0.4, PROCESS).correct(clean, t)
    assert_close(result, (clean / r2 + y / 0.16) / (1 / r2 + 1 / 0.16))


def covariance(n=8, length=2.5):
    """(64, 64) of smooth images: a product of squared exponentials, nearly."""
    d = torch.arange(n, dtype=FLOAT)
    row = torch.exp(-0.5 * ((d[:, None] - d) / length) ** 2) + 1e-3 * torch.eye(n, dtype=FLOAT)
    return 0.25 * torch.kron(row, row)


def exact_denoiser(process, prior):
    """E[R_{t-1} x_0 | x_t] for x_0 ~ N(0, prior)."""
    basis = torch.eye(64, dtype=FLOAT).reshape(64, 1, 8, 8)

    def predict(x_t, t):
        now, nxt = (process.degrade(basis, s).flatten(1).mT for s in (t, t - 1))
        state = process.states[t]
        spread = state.signal**2 * now @ prior @ now.mT + state.sigma**2 * torch.eye(len(now), dtype=FLOAT)
        gain = state.signal * nxt @ prior @ now.mT @ torch.linalg.inv(spread)
        size = process.states[t - 1].size
        return (x_t.flatten(1) @ gain.mT).reshape(-1, 1, *size)

    return predict


def restored(process, table, known, count, steps, top=None, eta=1.0):
    key = rng.derive(0, "test")

    def fresh(s, shape):
        return rng.normal(key, torch.arange(count), s, shape, FLOAT)

    top = top or process.T
    chain = [t for t in resolution.respace(table, steps) if t <= top]
    x = known.start(fresh(chain[0], (1, *process.states[chain[0]].size)), chain[0])
    predict = predict_consistent(exact_denoiser(process, covariance()), known)
    *_, (_, x) = eta_family(Walk(process, predict, x, chain, fresh, eta))
    return x


def images(count, seed=0):
    root = torch.linalg.cholesky(covariance())
    return (draw((count, 64), seed) @ root.mT).reshape(count, 1, 8, 8)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("name", ["mask", "resize", "area", "blur"])
def test_an_exact_model_fills_in_what_the_measurement_misses(name, levels):
    op, truth = OPERATORS[name], images(64)
    process, table = build(8, levels, 60)
    y = op.apply(truth)
    known = Measurement(op, y, 0.0, process)
    x = restored(process, table, known, 64, 40)
    assert_close(op.apply(x), y, atol=1e-9, rtol=0)
    if name != "blur":  # the blur is invertible
        assert (x - truth).norm() < 0.9 * (known.first_guess - truth).norm()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampling_can_begin_half_way(eta):
    op, truth = OPERATORS["resize"], images(64)
    process, table = build(8, 2, 60)
    known = Measurement(op, op.apply(truth), 0.0, process)
    x = restored(process, table, known, 64, 60, top=30, eta=eta)
    assert_close(op.apply(x), known.y, atol=1e-9, rtol=0)
    assert (x - truth).norm() < (known.first_guess - truth).norm()


@pytest.mark.parametrize("levels", [1, 2])
def test_a_noisy_ill_conditioned_blur(levels):
    op, truth = square(lambda n: matrices.heat(n, 2.0)), images(64)
    process, table = build(8, levels, 60)
    y = op.apply(truth) + 0.1 * draw(truth.shape, 9)
    assert (regularised_inverse(op, y) - truth).std() > 100  # what to avoid
    x = restored(process, table, Measurement(op, y, 0.1, process), 64, 40)
    assert (x - truth).std() < truth.std() / 2
    assert (op.apply(x) - y).std() < 0.2


def test_one_measurement_serves_a_batch_and_half_precision():
    op = OPERATORS["resize"]
    known = Measurement(op, op.apply(images(1)), 0.0, PROCESS)
    assert known.start(draw((5, 1, 2, 2), 1), 30).shape == (5, 1, 2, 2)
    low = known.correct(draw((5, 1, 4, 4), 2).half(), 11)
    assert low.dtype == torch.float16
    assert_close(low.double(), known.y.expand(5, -1, -1, -1), atol=2e-3, rtol=0)


def test_a_blurring_process():
    process = DiagonalProcess(BlurNoise((8, 8), noise.linear(20)))
    op = OPERATORS["area"]
    known = Measurement(op, op.apply(images(2)), 0.0, process)
    assert known.start(draw((2, 1, 8, 8), 1), 20).shape == (2, 1, 8, 8)
    assert_close(op.apply(known.correct(draw((2, 1, 8, 8), 2), 9)), known.y)


def test_the_resize_of_the_process_is_used():
    process, _ = build(8, 2, 10, matrices.area)
    op = Separable(matrices.area(8, 4))
    y = draw((1, 1, 4, 4), 1)
    known = Measurement(op, y, 0.0, process)
    assert_close(known.correct(draw((1, 1, 4, 4), 2), 10), y)


Y = torch.zeros(1, 1, 8, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: regularised_inverse(OPERATORS["grey"] @ OPERATORS["resize"], Y),
            "Composed operators have no",
        ),
        (lambda: Measurement(OPERATORS["grey"] @ OPERATORS["blur"], Y, 0.0, PROCESS), "Composed"),
        (lambda: regularised_inverse(Scale(), Y, -1.0), "rho >= 0, not -1"),
        (lambda: Measurement(Scale(), Y, -1.0, PROCESS), "0 or more, not -1"),
        (lambda: Measurement(Scale(), Y, float("nan"), PROCESS), "0 or more, not nan"),
        (lambda: Measurement(OPERATORS["resize"], Y, 0.0, PROCESS), r"must be \(B, C, 4, 4\)"),
        (lambda: Measurement(Scale(), Y[0], 0.0, PROCESS), r"must be \(B, C, 8, 8\)"),
        (lambda: Measurement(half_mask(6, 6), Y, 0.0, PROCESS), r"takes images of \(6, 6\)"),
        (lambda: Measurement(Scale(), Y, 0.0, PROCESS).correct(Y[..., :5], 1), "no timestep has"),
    ],
)
def test_misuse_is_explained(make, message):
    with pytest.raises(ProcessError, match=message):
        make()
