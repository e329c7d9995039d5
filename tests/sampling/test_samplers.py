"""Samplers with exact denoisers as models: no training."""

import importlib
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ssdiff import load_preset, rng
from ssdiff.process.gaussian import from_schedule
from ssdiff.sampling.gaussian import dpm_solver, eta_family
from ssdiff.sampling.walk import Walk
from ssdiff.schedules import noise, resolution


def build(size, levels, steps, match=0.0):
    table = resolution.equal(steps, levels)
    sizes = [size >> k for k in table.tolist()]
    gain = torch.tensor([s / size for s in sizes], dtype=torch.float64)
    nu = noise.snr_preserving(noise.linear(steps), gain, match, 1e-4)
    return from_schedule(nu, [(s, s) for s in sizes], (size, size)), table


def noises(count):
    key = rng.derive(0, "test")
    return lambda s, shape: rng.normal(key, torch.arange(count), s, shape, torch.float64)


def oracle(process, std):
    """E[x_0 | x_t] for white x_0 ~ N(0, std^2 I) at one resolution."""

    def predict(x_t, t):
        state = process.states[t]
        return x_t * state.signal * std**2 / (state.signal**2 * std**2 + state.sigma**2)

    return predict


def start(process, count, draw):
    state = process.states[process.T]
    return state.sigma * draw(process.T, (1, *state.size))


@pytest.mark.parametrize(
    ("eta", "sampler"), [(1.0, eta_family), (0.5, eta_family), (0.0, eta_family), (0.0, dpm_solver)]
)
def test_exact_denoiser_gives_the_data_distribution(eta, sampler):
    process, table = build(8, 1, 200)
    draw = noises(4000)
    x_T = start(process, 4000, draw)
    walk = Walk(process, oracle(process, 0.5), x_T, resolution.respace(table, 200), draw, eta)
    *_, (s, x) = sampler(walk)
    assert s == 0 and x.std().item() == pytest.approx(0.5, rel=0.04)


def test_second_order_is_dpm_solver_and_converges_faster():
    process, table = build(4, 1, 1000)
    draw = noises(8)
    x_T = start(process, 8, draw)

    def end(steps, sampler):
        chain = resolution.respace(table, steps, process.log_noise())
        *_, (_, x) = sampler(Walk(process, oracle(process, 0.7), x_T, chain, draw))
        return x

    exact = end(1000, dpm_solver)
    first, second = (end(25, eta_family) - exact).norm(), (end(25, dpm_solver) - exact).norm()
    assert second < first / 3

    # Textbook DPM-Solver++(2M) on the same grid [Lu et al. 2022, algorithm 2].
    chain, x, last = resolution.respace(table, 25, process.log_noise()), x_T, None
    predict = oracle(process, 0.7)
    for t, s in itertools.pairwise(chain):
        now, then, x0 = process.states[t], process.states[s], predict(x, t)
        if s == 0:
            x = x0
            break
        h = math.log(then.signal / then.sigma) - math.log(now.signal / now.sigma)
        d = x0 if last is None else (1 + h / (2 * last[1])) * x0 - h / (2 * last[1]) * last[0]
        x = then.sigma / now.sigma * x - then.signal * math.expm1(-h) * d
        last = (x0, h)
    assert_close(end(25, dpm_solver), x)


@pytest.mark.parametrize(("levels", "match"), [(1, 0.0), (2, 0.0), (2, 1.0), (3, 0.0), (3, 1.0)])
def test_second_order_crosses_changes_of_size(levels, match, monkeypatch):
    """Few steps generate Gaussian data nearly as well with resolution transitions as without."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    few_steps = importlib.import_module("few_steps")
    changes = {"kind": "log_snr", "at": [-2.0, -5.0][: levels - 1]}
    preset = load_preset(
        "celeba64",
        {
            "data.size": 8,
            "model.multipliers": [1, 1, 1],
            "model.attention": [],
            "process.levels": levels,
            "process.snr_preserving": match,
            **({"process.resolution": changes} if levels > 1 else {}),
        },
    )
    place = torch.cartesian_prod(*[torch.arange(8, dtype=torch.float64)] * 2)
    covariance = 0.2 * torch.exp(-torch.cdist(place, place) / 4)
    first, second = (few_steps.distance(preset, covariance, 12, sampler) for sampler in ("ddim", "dpm++"))
    assert second < 3e-3 and second < first / 10


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("match", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_known_image_is_recovered_across_resolutions(match, steps, second_order):
    process, table = build(16, 3, 50, match)
    truth = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    draw = noises(2)
    x = process.states[50].sigma * draw(50, (3, 4, 4))
    visited = []
    chain = resolution.respace(table, steps, process.log_noise() if second_order else None)

    def known(_, t):
        return process.degrade(truth, t - 1)

    sampler, eta = (dpm_solver, 0.0) if second_order else (eta_family, 1.0)
    for s, state in sampler(Walk(process, known, x, chain, draw, eta)):
        visited.append(s)
        assert tuple(state.shape[-2:]) == process.states[s].size
    assert torch.equal(state, truth) and visited == chain[1:]


def test_images_do_not_depend_on_the_batch():
    process, table = build(16, 3, 20)
    key = rng.derive(5, "test")

    def run(streams):
        def draw(s, shape):
            return rng.normal(key, streams, s, shape)

        def predict(x_t, t):
            return torch.nn.functional.interpolate(x_t, process.states[t - 1].size).tanh()

        walk = Walk(process, predict, draw(20, (3, 4, 4)), resolution.respace(table, 20), draw, 1.0)
        *_, (_, x) = eta_family(walk)
        return x

    assert_close(run(torch.arange(6))[4:], run(torch.arange(4, 6)), atol=1e-6, rtol=0)


def test_marginals_of_the_chain_across_resolutions():
    """With the true image in the posterior every eta visits states with the process's own noise level."""
    process, table = build(8, 2, 10)
    truth = torch.zeros(3000, 1, 8, 8, dtype=torch.float64)
    draw = noises(3000)
    for eta in (0.0, 1.0):
        x = process.states[10].sigma * draw(10, (1, 4, 4))
        chain = resolution.respace(table, 10)
        walk = Walk(process, lambda _, t: process.degrade(truth, t - 1), x, chain, draw, eta)
        for s, state in eta_family(walk):
            assert state.std().item() == pytest.approx(process.states[s].sigma, rel=0.03, abs=1e-12)
