"""Processes that are diagonal in a fixed basis: marginals, posteriors, the eta family, limiting cases."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssdiff.errors import ProcessError, UsageError
from ssdiff.operators import matrices
from ssdiff.operators.separable import Separable
from ssdiff.process.cold import ColdProcess
from ssdiff.process.degradations.base import LinearDegradation
from ssdiff.process.degradations.registry import build_degradation
from ssdiff.process.diagonal import DiagonalProcess
from ssdiff.process.gaussian import from_schedule
from ssdiff.process.spectra import FORMER_RATES, RATES, BlurNoise, Blurring, Heat
from ssdiff.sampling.cold import algorithm_2
from ssdiff.sampling.walk import Walk
from ssdiff.schedules import noise

T, SIZE = 20, (6, 8)
NU = noise.cosine(T)


@cache
def process(kind):
    spectrum = {
        "blurring": lambda: Blurring(SIZE, NU, sigma_max=2.0),
        "heat": lambda: Heat(SIZE, T, 0.3, 3.0),
        "blur-noise": lambda: BlurNoise(SIZE, NU, "linear", sigma_max=0.5),
        "interleaved": lambda: BlurNoise(SIZE, NU, "linear", sigma_max=0.5, interleaved=3),
    }[kind]()
    return DiagonalProcess(spectrum)


KINDS = ("blurring", "heat", "blur-noise", "interleaved")
CHAINS = ("blurring", "blur-noise", "interleaved")
timesteps = st.tuples(st.integers(1, T), st.integers(1, T)).filter(lambda p: p[0] != p[1]).map(sorted)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix(apply, count=3 * SIZE[0] * SIZE[1]):
    """The (n, n) matrix of a linear map of images."""
    eye = torch.eye(count, dtype=torch.float64).reshape(count, 3, *SIZE)
    return apply(eye).reshape(count, count).mT


@pytest.mark.parametrize("kind", KINDS)
def test_the_basis_is_orthonormal_and_analysis_is_undone(kind):
    p, x = process(kind), draw(2, 3, *SIZE)
    assert_close(p.synthesis(p.analysis(x)), x)
    assert_close(p.analysis(x).square().sum(), x.square().sum())


@pytest.mark.parametrize("kind", KINDS)
def test_timestep_0_is_the_image_and_T_has_lost_it(kind):
    p, x = process(kind), draw(1, 3, *SIZE)
    assert_close(p.marginal(x, 0, draw(1, 3, *SIZE, seed=1)), x)
    assert_close(p.degrade(x, 0), x)
    signal, _ = p.spectrum.coefficients(torch.tensor([T]))
    assert float(signal.flatten().sort().values[-2 if kind == "heat" else -1]) < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_images(kind):
    p, x, eps = process(kind), draw(3, 3, *SIZE), draw(3, 3, *SIZE, seed=1)
    t = torch.tensor([1, 9, T])
    whole = p.marginal(x, t, eps)
    for i, timestep in enumerate(t.tolist()):
        assert_close(whole[i : i + 1], p.marginal(x[i : i + 1], timestep, eps[i : i + 1]))
        assert_close(p.degrade(x, t)[i : i + 1], p.degrade(x[i : i + 1], timestep))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(pair=timesteps, eta=st.floats(0, 1))
def test_every_eta_keeps_the_marginal(kind, pair, eta):
    """Mean and covariance of x_s, when x_t is drawn from its marginal and x_s from the posterior."""
    (s, t), p = pair, process(kind)
    x0, zero = draw(1, 3, *SIZE), torch.zeros(1, 3, *SIZE, dtype=torch.float64)
    at_mean = p.posterior(p.marginal(x0, t, zero), x0, t, s, eta)
    assert_close(at_mean.mean, p.marginal(x0, s, zero))
    gain = matrix(lambda e: p.posterior(p.pure_noise(t, e), torch.zeros_like(e), t, s, eta).mean)
    spread = matrix(lambda e: p.posterior(torch.zeros_like(e), torch.zeros_like(e), t, s, eta).root(e))
    wanted = matrix(lambda e: p.pure_noise(s, e))
    assert_close(gain @ gain.mT + spread @ spread.mT, wanted @ wanted.mT, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", CHAINS)
@settings(max_examples=10, deadline=None)
@given(pair=timesteps)
def test_the_posterior_is_bayes_rule(kind, pair):
    """Against the conditional Gaussian of the joint one of x_s and x_t, with whole matrices."""
    (s, t), p = pair, process(kind)
    (a_s, a_t), (c_s, c_t) = (
        torch.stack([table.expand(2, 3, *SIZE)[i] for i in range(2)])
        for table in p.spectrum.coefficients(torch.tensor([s, t]))
    )
    link = a_t / a_s
    variance = 1 / (
        1 / c_s.square() + link.square() / (c_t.square() - (link * c_s).square()).clamp_min(1e-300)
    )
    spread = p.posterior(*(torch.zeros(1, 3, *SIZE, dtype=torch.float64),) * 2, t, s).root
    eps = draw(1, 3, *SIZE)
    assert_close(p.analysis(spread(eps)), variance.sqrt() * p.analysis(eps), atol=1e-7, rtol=0)
    x0, x_t = draw(1, 3, *SIZE), draw(1, 3, *SIZE, seed=3)
    mean = p.analysis(p.posterior(x_t, x0, t, s).mean)
    prior = a_s * p.analysis(x0)
    weight = c_s.square() * link / c_t.square()
    assert_close(mean, prior + weight * (p.analysis(x_t) - link * prior), atol=1e-9, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_without_blur_it_is_ddpm(eta):
    plain = from_schedule(NU, [SIZE] * T, SIZE)
    for spectrum in (
        Blurring(SIZE, NU, sigma_max=1e-6, floor=0.5),
        BlurNoise(SIZE, NU, "linear", sigma_max=1e-7),
    ):
        p = DiagonalProcess(spectrum)
        x0, x_t, eps = (draw(2, 3, *SIZE, seed=k) for k in range(3))
        assert_close(p.marginal(x0, 7, eps), plain.marginal(x0, 7, eps), atol=1e-6, rtol=0)
        ours, theirs = p.posterior(x_t, x0, 15, 7, eta), plain.posterior(x_t, x0, 15, 7, eta)
        assert_close(ours.mean, theirs.mean, atol=1e-6, rtol=0)
        assert_close(ours.root(eps), theirs.root(eps), atol=1e-6, rtol=0)


def test_heat_without_fresh_noise_is_algorithm_2():
    p = process("heat")
    cold = ColdProcess(LinearDegradation(SIZE, T, lambda t: _HeatAt(p, t)))
    x0, guess = draw(2, 3, *SIZE), draw(2, 3, *SIZE, seed=1)
    x_t = p.marginal(x0, 13, draw(2, 3, *SIZE, seed=2))
    (_, expected), *_ = algorithm_2(Walk(cold, lambda x, t: guess, x_t, [13, 6, 0], noise=None))
    assert_close(p.posterior(x_t, guess, 13, 6, eta=0).mean, expected)


class _HeatAt(Separable):
    def __init__(self, p, t):
        std = float(p.spectrum._blur[t])
        super().__init__(*(matrices.heat(n, std) for n in SIZE))


def test_heat_draws_all_noise_anew():
    p = DiagonalProcess(Heat(SIZE, T, 0.3, 3.0, noise=0.01), sampling_noise=1.25)
    x0, eps = draw(1, 3, *SIZE), draw(1, 3, *SIZE, seed=1)
    step = p.posterior(draw(1, 3, *SIZE, seed=2), x0, 9, 4, eta=1)
    assert_close(step.mean, p.degrade(x0, 4))  # whatever x_t is
    assert_close(step.root(eps), 0.0125 * eps)


def test_blurring_is_heat_with_a_floor():
    blur = build_degradation("dct-blur", SIZE, 1, max_std=2.0)
    p, x = process("blurring"), draw(1, 3, *SIZE)
    assert_close(p.degrade(x, T), 0.999 * blur.degrade(x, 1) + 0.001 * x)


@pytest.mark.parametrize("kind", CHAINS)
def test_the_clean_image_comes_back_from_the_noise(kind):
    p, x0, eps = process(kind), draw(2, 3, *SIZE), draw(2, 3, *SIZE, seed=1)
    assert_close(p.clean_from_noise(p.marginal(x0, 2, eps), eps, 2), x0, atol=2e-2, rtol=0)


@pytest.mark.parametrize("rate", RATES)
def test_rates_rise_from_the_first_to_the_last(rate):
    values, peak = RATES[rate](0.01, 0.2, 50), 0.105 if rate == "triangular" else 0.2
    assert len(values) == 50 and bool((values > 0).all())
    assert float(values.max()) == pytest.approx(peak, rel=0.05)
    if rate != "triangular":
        assert bool((values.diff() > 0).all()) and float(values[-1]) == pytest.approx(0.2)


@pytest.mark.parametrize("rate", FORMER_RATES)
def test_former_rates_are_as_they_were(rate):
    """For runs of ssdiff 0.1 and 0.2: N + 1 points, of which the first is not used."""
    first, last, i = 0.01, 0.2, torch.arange(1, 51, dtype=torch.float64) / 50
    powers = {"linear": 1, "quadratic": 2, "cubic": 3, "quartic": 4}
    if rate in powers:
        p = powers[rate]
        wanted = (first ** (1 / p) + (last ** (1 / p) - first ** (1 / p)) * i) ** p
    elif rate == "log":
        wanted = first * (last / first) ** i
    else:
        wanted = last + (first - last) * (2 * i - 1).abs()
    assert_close(FORMER_RATES[rate](first, last, 50), wanted)
    spectrum = BlurNoise(SIZE, NU, rate, sigma_max=0.3, former_rates=True)
    assert_close(spectrum._power[1:], FORMER_RATES[rate](0.0, 0.5625, T).cumsum(0))


def test_a_triangle_of_one_step_is_refused():
    with pytest.raises(ProcessError, match="sharpens instead of blurring with 1 timesteps"):
        BlurNoise(SIZE, NU[:1], "triangular")


def test_the_network_of_images_in_the_unit_range_sees_them():
    p, signed = DiagonalProcess(BlurNoise(SIZE, NU, unit_range=True)), DiagonalProcess(BlurNoise(SIZE, NU))
    u, eps, t = (draw(2, 3, *SIZE) + 3) / 6, draw(2, 3, *SIZE, seed=1), torch.tensor([1, T])
    assert_close(p.network_input(p.marginal(2 * u - 1, t, eps), t), signed.marginal(u, t, eps))
    assert_close(p.pure_noise(T, eps), 2 * signed.pure_noise(T, eps))
    assert signed.network_input(u, T) is u


@pytest.mark.parametrize("unit_range", [False, True])
def test_unsharp_masking_turns_a_small_step_back(unit_range):
    """With the true noise and no fresh one the mean of a small step is undone, to second order."""
    nu = noise.linear(1000)
    p = DiagonalProcess(BlurNoise(SIZE, nu, "quartic", unit_range=unit_range), checked=False)
    x0 = draw(1, 3, *SIZE) / 3
    zero = torch.zeros_like(x0)
    x_t = p.marginal(x0, 200, zero)
    assert_close(p.unsharp(x_t, zero, 200, 199, None), p.marginal(x0, 199, zero), atol=1e-4, rtol=0)
    assert float((x_t - p.marginal(x0, 199, zero)).abs().max()) > 1e-3
    with pytest.raises(ProcessError, match="cannot be sharpened"):
        process("blurring").unsharp(x_t, zero, 2, 1, None)


def test_coefficients_that_are_gone_have_posteriors():
    p = DiagonalProcess(BlurNoise(SIZE, noise.linear(300), "linear", sigma_max=2.0), checked=False)
    x = draw(1, 3, *SIZE)
    assert float(p.spectrum.coefficients(torch.tensor([299])).signal.min()) == 0
    for step in (p.posterior(x, x, 300, 299).mean, p.unsharp(x, x, 300, 299, x)):
        assert step.isfinite().all()


def test_snr_is_that_of_the_best_kept_coefficient():
    for kind in CHAINS:
        p, t = process(kind), torch.tensor([1, 10, T])
        signal, sigma = p.spectrum.coefficients(t)
        best = (signal / sigma).flatten(1).square().max(1).values
        assert_close(p.snr(t).double(), best, rtol=1e-5, atol=0)


def test_refusals():
    p, x = process("blurring"), draw(1, 3, *SIZE)
    for t, s, eta in ((3, 3, 1.0), (T + 1, 2, 1.0), (5, -1, 1.0), (5, 2, 1.5)):
        with pytest.raises(ProcessError, match="0 <= s < t <= 20"):
            p.posterior(x, x, t, s, eta)
    with pytest.raises(ProcessError, match="pixels, not"):
        p.posterior(x.mT, x, 5, 2)
    with pytest.raises(ProcessError, match="outside"):
        p.marginal(x, T + 1, x)
    with pytest.raises(UsageError, match="unknown rate"):
        BlurNoise(SIZE, NU, "odd")
    with pytest.raises(ProcessError, match="4096"):
        BlurNoise((5000, 8), NU)
    falling = torch.cat([NU[:10], NU[:10]])
    with pytest.raises(ProcessError, match="no transition from timestep 10 to 11"):
        DiagonalProcess(Blurring(SIZE, falling))
    assert DiagonalProcess(Blurring(SIZE, falling), checked=False).T == T


def test_lambda_is_that_of_the_dct():
    """A blur of std 1 px fades the lowest cosine of 8 px by exp(-(pi / 8)^2 / 2)."""
    p = DiagonalProcess(Heat(SIZE, 1, 1.0, 1.0))
    wave = torch.zeros(1, 1, *SIZE, dtype=torch.float64)
    wave[..., :, :] = torch.cos(math.pi * (torch.arange(8, dtype=torch.float64) + 0.5) / 8)
    assert_close(p.degrade(wave, 1), wave * math.exp(-((math.pi / 8) ** 2) / 2))
