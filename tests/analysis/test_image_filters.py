"""Heat and osmosis: closed forms, the implicit scheme against dense matrices, what the theory promises."""

import math

import pytest
import torch

from ssdiff.analysis.data_moments import gaussian_data
from ssdiff.analysis.image_filters import (
    HomogeneousDiffusion,
    Osmosis,
    diffusion_times,
    evolve,
    laplace_eigenvalues,
    noise_guidance,
)
from ssdiff.analysis.scale_space_curves import FlowCurves, image_entropy, relative_entropy
from ssdiff.analysis.scale_space_properties import check_flow
from ssdiff.errors import ProcessError, UsageError

SIDE = 8


def draw(seed=0, count=3, side=SIDE, channels=1):
    return torch.rand(
        count, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def dense(flow, axis, side=SIDE):
    """(n^2, n^2) matrix of a one-image flow's rate along an axis."""
    basis = torch.eye(side * side, dtype=torch.float64).reshape(-1, 1, 1, side, side)
    return torch.stack([flow.rate(image, axis).flatten() for image in basis], dim=1)


@pytest.fixture
def guided():
    u, v = draw(1, 1), draw(2, 1) + 0.05
    return u, v, Osmosis(v)


def test_laplace_eigenvalues_are_those_of_the_matrix():
    matrix = torch.diag(torch.full((SIDE,), 2.0)) - torch.diag(torch.ones(SIDE - 1), 1)
    matrix = (matrix - torch.diag(torch.ones(SIDE - 1), -1)).double()
    matrix[0, 0] = matrix[-1, -1] = 1
    torch.testing.assert_close(laplace_eigenvalues(SIDE), torch.linalg.eigvalsh(matrix), atol=1e-13, rtol=0)


def test_heat_fades_a_cosine_at_its_own_rate():
    position = torch.arange(SIDE, dtype=torch.float64) + 0.5
    wave = torch.cos(math.pi * 3 * position / SIDE).expand(1, 1, SIDE, SIDE)
    rate = 4 * math.sin(math.pi * 3 / (2 * SIDE)) ** 2
    out = HomogeneousDiffusion((SIDE, SIDE)).advance(0.5 + 0.5 * wave, 1.0, 3.5)
    torch.testing.assert_close(out, 0.5 + 0.5 * math.exp(-2.5 * rate) * wave)


def test_heat_is_the_exponential_of_osmosis_with_flat_guidance():
    flat = Osmosis(torch.ones(1, 1, SIDE, SIDE))
    generator = dense(flat, -2) + dense(flat, -1)
    u = draw(1, 1)
    expected = (torch.linalg.matrix_exp(2.0 * generator) @ u.flatten()).reshape(u.shape)
    torch.testing.assert_close(HomogeneousDiffusion((SIDE, SIDE)).advance(u, 0.0, 2.0), expected)


def test_the_rate_is_laplace_minus_divergence_of_the_drift(guided):
    u, v, flow = guided
    row, guide = u[0, 0, 0], v[0, 0, 0]
    drift = 2 * (guide[1:] - guide[:-1]) / (guide[1:] + guide[:-1])
    flow_right = drift * (row[1:] + row[:-1]) / 2 - (row[1:] - row[:-1])
    expected = torch.zeros_like(row)
    expected[:-1] -= flow_right
    expected[1:] += flow_right
    torch.testing.assert_close(flow.rate(u, -1)[0, 0, 0], expected)


@pytest.mark.parametrize("tau", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("axis", [-2, -1])
def test_the_implicit_step_solves_the_dense_system(guided, axis, tau):
    u, _, flow = guided
    system = torch.eye(SIDE * SIDE, dtype=torch.float64) - tau * dense(flow, axis)
    expected = torch.linalg.solve(system, u.flatten()).reshape(u.shape)
    torch.testing.assert_close(flow.implicit(u, tau, axis), expected, rtol=1e-10, atol=1e-12)


def test_many_small_steps_are_the_matrix_exponential(guided):
    u, _, flow = guided
    generator = dense(flow, -2) + dense(flow, -1)
    expected = (torch.linalg.matrix_exp(4.0 * generator) @ u.flatten()).reshape(u.shape)
    errors = []
    for steps in (100, 200):
        state = u
        for _ in range(steps):
            state = flow.step(state, 4.0 / steps)
        errors.append(float((state - expected).abs().max()))
    assert errors[1] < 5e-3 and 1.7 < errors[0] / errors[1] < 2.3  # first order
    assert float((flow.advance(u, 0.0, 4.0) - expected).abs().max()) < 2e-2


def test_the_guidance_is_steady_and_reached(guided):
    u, v, flow = guided
    steady = flow.steady(u)
    torch.testing.assert_close(steady / v, (u.mean() / v.mean()).expand_as(v))
    torch.testing.assert_close(flow.step(steady, 7.0), steady)
    torch.testing.assert_close(flow.advance(u, 0.0, 20.0 * SIDE**2), steady, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("tau", [0.1, 10.0, 1e4])
def test_mean_and_positivity_hold_for_any_step(tau):
    u = draw(3, 8)
    u[u < 0.5] = 0.0
    flow = Osmosis(noise_guidance(8, 1, SIDE, seed=1) ** 6)
    state = u
    for _ in range(20):
        state = flow.step(state, tau)
        assert float(state.min()) >= 0
    assert float((state.mean((-2, -1)) - u.mean((-2, -1))).abs().max()) < 1e-10


def test_images_of_a_batch_do_not_mix():
    u, v = draw(4, 3, channels=3), noise_guidance(3, 3, SIDE, seed=0)
    together = Osmosis(v).advance(u, 0.0, 1.0)
    torch.testing.assert_close(Osmosis(v[1:2]).advance(u[1:2], 0.0, 1.0), together[1:2])
    torch.testing.assert_close(Osmosis(v).first(2).advance(u[:2], 0.0, 1.0), together[:2])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_guidance_must_be_positive(bad):
    v = torch.ones(1, 1, 4, 4)
    v[0, 0, 1, 2] = bad
    with pytest.raises(ProcessError, match="positive guidance"):
        Osmosis(v)


def test_entropies_of_known_images():
    flat, point = torch.full((1, 1, 4, 4), 0.3).double(), torch.zeros(1, 1, 4, 4).double()
    point[..., 2, 1] = 5.0
    assert float(image_entropy(flat)) == pytest.approx(math.log(16))
    assert float(image_entropy(point)) == 0
    assert float(relative_entropy(point, flat)) == pytest.approx(math.log(16))
    assert float(relative_entropy(7 * flat, flat)) == pytest.approx(0, abs=1e-12)


def test_times_are_blurs():
    result = diffusion_times(32, 5)
    assert result[0] == 0 and result[-1] == pytest.approx(24**2 / 2)
    assert (
        result[2] ** 2 < result[1] * result[3] * 1.000001
        and result[2] ** 2 > result[1] * result[3] * 0.999999
    )
    with pytest.raises(UsageError, match="at least 2 points"):
        diffusion_times(32, 1)


@pytest.mark.parametrize("name", ["heat", "osmosis"])
def test_properties_of_the_filters(name):
    u = draw(5, 20)
    flow = HomogeneousDiffusion((SIDE, SIDE)) if name == "heat" else Osmosis(noise_guidance(20, 1, SIDE, 0))
    at = diffusion_times(SIDE, 5)
    checks = check_flow(name, flow, at, list(evolve(flow, u, at)), exact=name == "heat")
    failed = [check.law for check in checks if not check.passed]
    assert failed == ([] if name == "heat" else ["maximum-minimum principle", "entropy of the image rises"])
    assert not any(check.surprising for check in checks) and None not in {c.expected for c in checks}


class Leaking(HomogeneousDiffusion):
    """Loses grey value, overshoots below zero, and favours one direction."""

    def advance(self, u, begin, end):
        smooth = super().advance(u, begin, end)
        return smooth - 0.01 * (end - begin) * torch.linspace(0, 1, u.shape[-1], dtype=u.dtype)


def test_checks_find_a_broken_filter():
    flow, at = Leaking((SIDE, SIDE)), diffusion_times(SIDE, 5)
    u = draw(5, 20) * 0.01
    checks = check_flow("broken", flow, at, list(evolve(flow, u, at)), exact=True)
    failed = {check.law for check in checks if not check.passed}
    assert {"average grey value", "positivity", "mirror image", "ends at the steady state"} <= failed
    assert "maximum-minimum principle" in failed
    assert failed == {check.law for check in checks if check.surprising}


@pytest.mark.parametrize("full", [True, False])
def test_curves_begin_at_the_data(full):
    u = draw(6, 100)
    flow = HomogeneousDiffusion((SIDE, SIDE))
    curves = FlowCurves("heat", u, flow.steady(u), gaussian_data(2 * u - 1) if full else None)
    begin = {p.quantity: p.value for p in curves.at(u, 0.0, 0.0)}
    assert begin["frechet"] == 0
    assert begin["mean"] == pytest.approx(float(2 * u.mean() - 1))
    assert begin["variance"] == pytest.approx(float(4 * u.var(0).mean()))
    assert begin["mean-structure"] == pytest.approx(float((2 * u.mean(0)).std(correction=0)))
    end = {p.quantity: p.value for p in curves.at(flow.steady(u), 9.0, 1.0)}
    assert end["image-entropy"] == pytest.approx(math.log(SIDE**2)) and end["frechet"] > 0.5
    assert end["relative-entropy"] == pytest.approx(0, abs=1e-12)
    assert end["mean-structure"] == pytest.approx(0, abs=1e-7)


def test_distances_of_states_are_those_of_their_gaussian_data():
    """The full covariance against the textbook; frequency by frequency it is a lower bound."""
    u = draw(7, 80, side=4)
    flow = HomogeneousDiffusion((4, 4))
    now = flow.advance(u, 0.0, 0.3)
    a, b = (torch.cov((2 * x).flatten(1).mT) for x in (u, now))
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.sqrt() @ vectors.mT
    roots = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    means = 2 * (u - now).mean(0).flatten()
    expected = float((means @ means + a.trace() + b.trace() - 2 * roots) / a.trace())
    found = [
        {p.quantity: p.value for p in FlowCurves("heat", u, flow.steady(u), data).at(now, 0.3, 0.5)}
        for data in (gaussian_data(2 * u - 1), None)
    ]
    assert found[0]["frechet"] == pytest.approx(expected, rel=1e-6)
    assert 0.5 * expected < found[1]["frechet"] <= expected * (1 + 1e-9)
