"""The Gaussian process: golden numbers, limiting cases and exact laws."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.process.base import State
from ssdiff.process.gaussian import GaussianProcess, from_schedule
from ssdiff.schedules import noise, resolution

GOLDEN = np.load(Path(__file__).parents[1] / "assets" / "process_32px_3L.npz")


def normal(seed, shape):
    """The golden inputs: drawn in float64, rounded to float32 (and then used in float64)."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32)).double()


def ssd(size=32, levels=3, steps=1000, match=0.0, factor=2.0):
    table = resolution.convex_decay(steps, levels)
    sizes = [resolution.level_sizes(size, levels, factor)[k] for k in table.tolist()]
    gain = torch.tensor([s / size for s in sizes], dtype=torch.float64)
    nu = noise.snr_preserving(noise.linear(steps), gain, match, 1e-3)
    return from_schedule(nu, [(s, s) for s in sizes], (size, size))


@pytest.fixture(scope="module")
def published():
    return ssd()


def test_golden_signal(published):
    signal = torch.tensor([s.signal for s in published.states[1:]], dtype=torch.float64)
    assert_close(signal.square(), torch.from_numpy(GOLDEN["alphas_cumprod"]), atol=1e-12, rtol=0)
    assert [s.resolution for s in published.states[1:]] == GOLDEN["resolutions"].tolist()


@pytest.mark.parametrize("index", [1, 50, 555, 889, 999])
def test_golden_clean_and_posterior_mean(published, index):
    x0, t, s = normal(7, (2, 3, 32, 32)).clamp(-1, 1), index + 1, index
    clean = published.degrade(x0, t)
    # The golden arrays are stored in float32.
    assert_close(clean, torch.from_numpy(GOLDEN[f"clean_{index}"]).double(), atol=2e-7, rtol=0)
    x_t = published.marginal(x0, t, normal(2000 + index, clean.shape))
    mean = published.posterior(x_t, published.degrade(x0, s), t, s).mean
    assert_close(mean, torch.from_numpy(GOLDEN[f"posterior_mean_{index}"]).double(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("factor", [2.0, 4.0])
@pytest.mark.parametrize("match", [0.0, 0.5, 1.0])
def test_log_noise_never_falls_and_is_that_of_the_full_size(match, factor):
    process = ssd(levels=2, match=match, factor=factor)
    found = process.log_noise()
    assert found.shape == (process.T,) and (found.diff() > 0).all()
    full = [s.resolution == 32 for s in process.states[1:]]
    nu = torch.tensor([s.sigma / s.signal for s in process.states[1:]], dtype=torch.float64)
    assert_close(found[full], nu[full].log())


def test_lift_undoes_averages_and_amplifies_nothing():
    sizes, nu = [(8, 8), (4, 4)], torch.tensor([0.1, 10.0], dtype=torch.float64)
    averages, filtered = from_schedule(nu, sizes, (8, 8), matrices.area), from_schedule(nu, sizes, (8, 8))
    x, fine = normal(1, (2, 3, 4, 4)), normal(2, (2, 3, 8, 8))
    assert_close(averages.lift(x, 1, 2), x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert_close(
        averages.lift(averages.resize(fine, 1, 2), 1, 2), fine - averages.high_frequencies(fine, 1, 2)
    )
    assert filtered.resize(filtered.lift(x, 1, 2), 1, 2).norm() <= x.norm()
    assert torch.equal(averages.lift(fine, 0, 1), fine)


@pytest.mark.parametrize("index", [555, 889])
def test_golden_adjoint_and_posterior_noise(published, index):
    t, s = index + 1, index
    r_t, r_s = published.states[t].resolution, published.states[s].resolution
    xi = normal(3000 + index, (1, 1, r_s, r_s))
    zero_t, zero_s = torch.zeros(1, 1, r_t, r_t).double(), torch.zeros(1, 1, r_s, r_s).double()
    drawn = published.posterior(zero_t, zero_s, t, s).sample(xi)
    assert_close(drawn, torch.from_numpy(GOLDEN[f"posterior_noise_{index}"]), atol=1e-10, rtol=0)
    adjoint = published._resize(s, t).adjoint(normal(4000 + index, (1, 1, r_t, r_t)))
    assert_close(adjoint, torch.from_numpy(GOLDEN[f"adjoint_{index}"]).double(), atol=1e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 100), st.data())
def test_one_resolution_is_ddpm(t, data):
    s = data.draw(st.integers(1, t - 1))
    process = ssd(8, 1, 100)
    a_t, a_s = process.states[t].signal ** 2, process.states[s].signal ** 2
    x_t, x0 = normal(t, (2, 1, 8, 8)), normal(s, (2, 1, 8, 8))
    step = a_t / a_s
    mean = (a_s**0.5 * (1 - step) * x0 + step**0.5 * (1 - a_s) * x_t) / (1 - a_t)
    variance = (1 - step) * (1 - a_s) / (1 - a_t)
    post = process.posterior(x_t, x0, t, s)
    assert_close(post.mean, mean)
    xi = normal(1, (2, 1, 8, 8))
    assert_close(post.sample(xi) - mean, variance**0.5 * xi)


def test_eta_zero_at_one_resolution_is_ddim():
    process = ssd(8, 1, 100)
    x_t, x0 = normal(0, (2, 1, 8, 8)), normal(1, (2, 1, 8, 8))
    now, then = process.states[80], process.states[30]
    eps = (x_t - now.signal * x0) / now.sigma
    post = process.posterior(x_t, x0, 80, 30, eta=0.0)
    assert_close(post.mean, then.signal * x0 + then.sigma * eps)
    assert_close(post.sample(torch.ones_like(x0)), post.mean)


def dense(function, shape):
    """Matrix of a linear map of images, columns are images of the unit vectors."""
    count = int(np.prod(shape))
    return function(torch.eye(count, dtype=torch.float64).reshape(count, 1, *shape)).flatten(1).mT


@pytest.mark.parametrize("match", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("factor", [2.0, 1.5])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_eta_keeps_the_marginal(match, factor, eta):
    """Closed form: cov(x_s) = B (sigma_t^2 I) B^T + C = sigma_s^2 I, mean = mu_s, over any span."""
    process = ssd(12, 3, 60, match, factor)
    changes = [t for t in range(2, 61) if process.states[t].size != process.states[t - 1].size]
    for t, s in [
        (changes[0], changes[0] - 1),
        (changes[1], changes[1] - 1),
        (60, 1),
        (changes[0] + 3, changes[0] - 5),
    ]:
        now, then = process.states[t], process.states[s]
        x0 = normal(3, (1, 1, 12, 12))
        clean, zero = process.degrade(x0, s), torch.zeros(1, 1, *then.size, dtype=torch.float64)
        exact = process.posterior(now.signal * process.degrade(x0, t), clean, t, s, eta).mean
        assert_close(exact, then.signal * clean, atol=1e-12, rtol=0)
        gain = dense(
            lambda x, t=t, s=s, z=zero: process.posterior(x, z.expand(len(x), -1, -1, -1), t, s, eta).mean,
            now.size,
        )
        blank = torch.zeros(1, 1, *now.size, dtype=torch.float64)
        root = dense(
            lambda x, t=t, s=s, z=zero, b=blank: process.posterior(b, z, t, s, eta).sample(x), then.size
        )
        covariance = now.sigma**2 * gain @ gain.mT + root @ root.mT
        assert_close(
            covariance, then.sigma**2 * torch.eye(len(covariance), dtype=torch.float64), atol=1e-12, rtol=0
        )


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_marginal_by_simulation(eta):
    process = ssd(8, 2, 20)
    t = next(t for t in range(2, 21) if process.states[t].resolution == 4)
    generator = torch.Generator().manual_seed(0)
    x0 = normal(0, (1, 1, 8, 8)).expand(20_000, -1, -1, -1)
    x_t = process.marginal(x0, t, torch.randn(20_000, 1, 4, 4, generator=generator, dtype=torch.float64))
    noise_s = torch.randn(20_000, 1, 8, 8, generator=generator, dtype=torch.float64)
    x_s = process.posterior(x_t, x0, t, t - 1, eta).sample(noise_s)
    state = process.states[t - 1]
    assert_close(x_s.mean(0), state.signal * x0[0], atol=0.03, rtol=0)
    covariance = torch.cov(x_s.flatten(1).mT)
    assert_close(covariance, state.sigma**2 * torch.eye(64, dtype=torch.float64), atol=0.05, rtol=0)


def test_semigroup_of_resizes():
    process = ssd(32, 3, 30)
    x0, ts = normal(0, (1, 2, 32, 32)), [1, 18, 29]
    for t in ts:
        assert_close(
            process.resize(process.degrade(x0, 17), 17, t) if t > 17 else process.degrade(x0, t),
            process.degrade(x0, t),
        )
    assert torch.equal(process.degrade(x0, 0), x0)


def test_a_batch_of_timesteps_is_each_by_itself(published):
    x0, eps = normal(0, (3, 3, 32, 32)).float(), normal(1, (3, 3, 32, 32)).float()
    t = torch.tensor([1, 300, 555])
    together = published.marginal(x0, t, eps)
    for i, timestep in enumerate(t.tolist()):
        assert_close(together[i], published.marginal(x0[i : i + 1], timestep, eps[i : i + 1])[0])
        assert published.snr(t)[i].item() == pytest.approx(published.states[timestep].snr, rel=1e-5)
    assert_close(published.clean_from_noise(together, eps, t), x0, atol=1e-4, rtol=0)


def test_last_step_returns_the_prediction(published):
    x0 = normal(1, (1, 3, 32, 32))
    assert torch.equal(published.posterior(normal(0, (1, 3, 32, 32)), x0, 40, 0).mean, x0)


def test_images_need_not_be_square():
    sizes = [(12, 20)] * 5 + [(6, 10)] * 5
    process = from_schedule(noise.linear(10), sizes, (12, 20))
    x0 = normal(0, (1, 1, 12, 20))
    post = process.posterior(process.marginal(x0, 6, normal(1, (1, 1, 6, 10))), process.degrade(x0, 5), 6, 5)
    assert post.sample(normal(2, (1, 1, 12, 20))).shape == (1, 1, 12, 20)


def state(size, nu):
    return State((size, size), (1 + nu**2) ** -0.5, nu * (1 + nu**2) ** -0.5)


CLEAN = State((8, 8), 1.0, 0.0)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([CLEAN, state(8, 1.0), state(8, 0.5)], "no transition from timestep 1 to 2"),
        ([CLEAN, state(8, 1.0), state(4, 0.2)], "no transition from timestep 1 to 2"),
        ([CLEAN, state(4, 1.0), state(8, 2.0)], "cannot grow"),
        ([state(8, 1.0), state(8, 2.0)], "starts at a clean state"),
        ([CLEAN], "at least one more"),
    ],
)
def test_impossible_chains_are_refused(states, message):
    with pytest.raises(ProcessError, match=message):
        GaussianProcess(states)


def test_snr_preserving_noise_is_the_least_that_a_transition_allows():
    GaussianProcess([CLEAN, state(8, 1.0), state(4, 0.51)])
    with pytest.raises(ProcessError, match=r"process\.snr_preserving"):
        GaussianProcess([CLEAN, state(8, 1.0), state(4, 0.49)])


@pytest.mark.parametrize(
    ("t", "s", "eta"), [(3, 3, 1.0), (2, 5, 1.0), (1001, 1, 1.0), (5, 4, 1.1), (5, -1, 0.0)]
)
def test_posterior_arguments_out_of_range(published, t, s, eta):
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ProcessError, match="a posterior needs"):
        published.posterior(x, x, t, s, eta)


def test_posterior_sizes_are_checked(published):
    with pytest.raises(ProcessError, match="x0_s is"):
        published.posterior(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), 556, 555)
    with pytest.raises(ProcessError, match=r"outside 0\.\.1000"):
        published.degrade(torch.zeros(1, 3, 32, 32), 1001)


def test_a_reduction_needs_a_size_of_the_process(published):
    assert published.reduction((8, 8)).in_size == (32, 32)
    with pytest.raises(ProcessError, match=r"no timestep has \(2, 2\)"):
        published.reduction((2, 2))
