"""Blur diffusion and heat dissipation against the numbers of the published implementations."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from golden import golden, normal
from torch.testing import assert_close

from ssdiff import rng
from ssdiff.build import build_model, build_process
from ssdiff.config import SamplingSettings
from ssdiff.config.load import load_preset
from ssdiff.errors import NonFiniteError
from ssdiff.models import flexi_unet
from ssdiff.models.blocks import sinusoids
from ssdiff.pipeline import Pipeline
from ssdiff.process import spectra
from ssdiff.process.diagonal import DiagonalProcess
from ssdiff.process.prediction import prediction
from ssdiff.process.spectra import RATES, BlurNoise, Heat
from ssdiff.sampling.registry import SAMPLERS
from ssdiff.sampling.walk import Walk
from ssdiff.schedules.noise import build_noise, linear
from ssdiff.training.losses import gaussian_loss

BLUR, HEAT = golden("blur_diffusion"), golden("ihdm")
ENTRIES = BLUR.meta["arrays"]
NAMES = {
    kind: [name for name in BLUR.arrays if name.split("_")[0] == kind]
    for kind in ("f", "eigen", "perm", "abar", "x", "reverse")
}


@cache
def process(rate, kernel_std, sigma_min, sigma_max, interleaved, unit_range=False):
    nu = linear(1000)
    spectrum = BlurNoise(
        (16, 16), nu, rate, kernel_std, sigma_min, sigma_max, interleaved=interleaved, unit_range=unit_range
    )
    return DiagonalProcess(spectrum, checked=False)


def process_of(entry, **more):
    fields = ("f_type", "kernel_std", "sigma_min", "sigma_max")
    interleaved = entry["channels"] if entry["order"] == "published" else 0
    return process(*(entry[field] for field in fields), interleaved, **more)


def test_every_array_is_compared():
    assert sum(map(len, NAMES.values())) == len(BLUR.arrays)
    assert all(NAMES.values())


@pytest.mark.parametrize("name", NAMES["f"])
def test_rates(name):
    entry = ENTRIES[name]
    ends = ((entry[end] / entry["kernel_std"]) ** 2 for end in ("sigma_min", "sigma_max"))
    BLUR.check(name, RATES[entry["f_type"]](*ends, entry["N"]), atol=3e-6)


@pytest.mark.parametrize("name", NAMES["eigen"])
def test_eigenvalues(name):
    entry = ENTRIES[name]
    _, values = spectra._blur_basis(entry["n"], entry["kernel_std"])
    BLUR.check(name, values.flip(0), atol=2e-6)


@pytest.mark.parametrize("name", NAMES["perm"])
def test_the_order_of_equal_factors(name):
    """The first of three channels has, at the coefficient of rank k, the factor of rank 3 k."""
    side = ENTRIES[name]["n"]
    _, values = spectra._blur_basis(side, 0.4)
    factors = (values[:, None] * values).clamp(max=1).log()
    channel = spectra._interleave(factors, 3)[0].flip(0, 1).flatten()
    order = factors.flip(0, 1).flatten().sort(descending=True)
    BLUR.check(name, order.indices, atol=0)
    assert_close(channel[order.indices], order.values[3 * torch.arange(side**2) % side**2])


@pytest.mark.parametrize("name", NAMES["abar"])
def test_other_noise_schedules(name):
    nu = build_noise(ENTRIES[name]["noise"], ENTRIES[name]["N"], {})
    abar = 1 / (1 + nu.square())
    (count,) = BLUR.arrays[name][1]
    ended = torch.cat([abar, torch.zeros(count - len(abar), dtype=abar.dtype)])  # the code has one more
    BLUR.check(name, ended, atol=2e-6)


@pytest.mark.parametrize("name", NAMES["x"])
def test_states(name):
    entry = ENTRIES[name]
    shape, t = entry["input_shape"], entry["i"]
    x0, eps = normal(401, shape).clamp(-1, 1), normal(402, shape)
    BLUR.check(name, process_of(entry).marginal(x0, t, eps), atol=1e-4)
    # The same state, if these are images in [0, 1], as the network sees it.
    units = process_of(entry, unit_range=True)
    BLUR.check(name, units.network_input(units.marginal(2 * x0 - 1, t, eps), t), atol=1e-4)


@pytest.mark.parametrize("name", NAMES["reverse"])
def test_the_step_of_the_authors(name):
    entry = ENTRIES[name]
    shape, t = entry["input_shape"], entry["i"]

    def one_step(process, x):
        walk = Walk(
            process,
            None,
            x,
            (t, t - 1),
            lambda s, shape: normal(405, (1, *shape)),
            noise_prediction=lambda x, t: normal(404, x.shape),
        )
        ((s, x_s),) = SAMPLERS.get("unsharp")(walk)
        assert s == t - 1
        return x_s

    BLUR.check(name, one_step(process_of(entry), normal(403, shape)), atol=1e-4)
    units = process_of(entry, unit_range=True)
    shift = units.network_input(torch.zeros(shape), t)  # x_t = 2 (u_t - shift)
    found = one_step(units, 2 * (normal(403, shape) - shift))
    BLUR.check(name, units.network_input(found, t - 1), atol=1e-4)


def test_the_image_in_the_unit_range_comes_out_in_ours():
    """At t = 0 there is nothing but the image: 2 u - 1."""
    p, u = process("log", 0.4, 0.0, 0.15, 0, unit_range=True), torch.rand(1, 3, 16, 16)
    assert_close(p.network_input(2 * u - 1, 0), u, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["blurdiff-bedroom64", "blurdiff-church64", "blurdiff-bedroom64-log"])
def test_the_presets_are_the_published_process(name):
    """Rates, range and index of the shipped presets, at a small size."""
    preset = load_preset(name, {"data.size": 16, "model.attention": [16]})
    p, rate = build_process(preset), preset.process.blur_noise.rate
    array = next(key for key in NAMES["x"] if f"x_{rate}_3_paper_i500" == key)
    entry = ENTRIES[array]
    if rate == "quartic":
        x0, eps = (normal(seed, entry["input_shape"]) for seed in (401, 402))
        x_t = p.marginal(2 * x0.clamp(-1, 1) - 1, 500, eps)
        BLUR.check(array, p.network_input(x_t, 500), atol=1e-4)
    else:
        last = (preset.process.blur_noise.sigma_max / preset.process.blur_noise.kernel_std) ** 2
        assert rate == "log" and last == pytest.approx(0.6)
    assert p.states[-1].sigma == pytest.approx(2, abs=1e-3)


def test_the_network_is_told_t_and_sees_the_unit_range(monkeypatch):
    small = {"data.size": 8, "model.multipliers": [1], "model.attention": [], "model.width": 32}
    preset = load_preset("blurdiff-church64", small)
    p, network, seen = build_process(preset), build_model(preset), []
    monkeypatch.setattr(
        flexi_unet, "sinusoids", lambda index, width: seen.append(index) or sinusoids(index, width)
    )
    network.stem.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x0, t, eps = torch.rand(2, 3, 8, 8) * 2 - 1, torch.tensor([1, 1000]), torch.randn(2, 3, 8, 8)
    losses = gaussian_loss(network, p, x0, t, eps, predict="eps", min_snr_gamma=1e12)
    assert seen[0].tolist() == [1, 1000]
    assert_close(losses, eps.square().mean((1, 2, 3)), rtol=1e-4, atol=0)  # it begins by returning 0
    assert_close(seen[1], p.network_input(p.marginal(x0, t, eps), t))
    Pipeline(p, network, preset=preset).predict_x0(p.marginal(x0, 7, eps), 7)
    assert seen[2].tolist() == [7, 7]
    assert_close(seen[3], p.network_input(p.marginal(x0, 7, eps), 7))


class _Predicts(torch.nn.Module):
    """A network whose noise is wrong by a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, x, t):
        return self.factor * normal(404, x.shape)


@pytest.mark.parametrize("clip", [False, True])
def test_clipping_holds_the_step_of_the_authors(clip):
    """Without it the network's noise is taken as it is; with it no more of it than images in [-1, 1] have."""
    p, seen = process("quartic", 0.4, 0.0, 0.15, 0, unit_range=True), []
    settings = SamplingSettings(sampler="unsharp", steps=1000, clip_denoised=clip)
    for factor, x0 in ((1.0, 0.3), (3.0, 0.9)):
        x = p.marginal(torch.full((1, 3, 16, 16), x0), 300, normal(404, (1, 3, 16, 16)))
        pipe = Pipeline(p, _Predicts(factor), predict="eps", sampling=settings)
        plan = replace(pipe.plan(t=300), timesteps=[300, 299])
        *_, (_, x_s) = pipe.walk(torch.tensor([0]), plan, x=x)
        raw = p.unsharp(x, factor * normal(404, x.shape), 300, 299, _fresh())
        seen.append(torch.allclose(x_s, raw, atol=1e-5))
    assert seen == [True, not clip]


def test_a_network_that_makes_images_grow_is_told():
    """Without any noise predicted a coefficient that is gone grows by 2 - sqrt(B) a step."""
    p = process("log", 0.4, 0.0, 1.0, 0)
    settings = SamplingSettings(sampler="unsharp", steps=1000, clip_denoised=False)
    pipe = Pipeline(p, _Predicts(0.0), predict="eps", sampling=settings)
    with pytest.raises(NonFiniteError, match="unsharp left the range of numbers"):
        pipe.sample(1)


def _fresh():
    key = rng.derive(0, "sample")
    return rng.normal(key, torch.tensor([0]), 299, (3, 16, 16))


def test_heat_arrays_are_all_compared():
    kinds = {name.rsplit("_t", 1)[0] for name in HEAT.arrays}
    assert kinds == {"sigma", "mean", "state", "state_pm1"}


def heat(noise=0.02):
    return DiagonalProcess(Heat((32, 32), 200, noise=noise))


def test_blur_widths():
    HEAT.check("sigma", heat().spectrum._blur, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in HEAT.arrays if name != "sigma"])
def test_heat_states(name):
    entry = HEAT.meta["arrays"][name]
    shape, t = entry["input_shape"], entry["t"]
    u, z = (normal(1201, shape).clamp(-1, 1) + 1) / 2, normal(1202, shape)
    kind = name.rsplit("_t", 1)[0]
    # Blurring keeps constants, so the state of an image in [0, 1] is that in [-1, 1] moved and halved.
    x_t = heat().marginal(2 * u - 1, t, torch.zeros_like(z) if kind == "mean" else z)
    HEAT.check(name, x_t if kind == "state_pm1" else (x_t + 1) / 2, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in HEAT.arrays if name.startswith("state_t")])
def test_the_loss_of_heat_dissipation(name):
    """That of a network that returns 0: the sum of squares of the target, of images in [0, 1]."""
    preset, entry = load_preset("ihdm-cifar10"), HEAT.meta["arrays"][name]
    assert preset.process.predict == "difference"
    u, z = (normal(1201, entry["input_shape"]).clamp(-1, 1) + 1) / 2, normal(1202, entry["input_shape"])
    loss = gaussian_loss(
        lambda x, index, resolution, labels: torch.zeros_like(x),
        build_process(preset),
        2 * u - 1,
        torch.tensor([entry["t"]]),
        z,
        predict="difference",
        min_snr_gamma=preset.training.min_snr_gamma,
    )
    assert float(loss) == pytest.approx(entry["loss_of_a_network_that_returns_0"], rel=1e-5)


@pytest.mark.parametrize("t", [1, 2, 60, 200])
def test_the_step_of_heat_dissipation(t):
    """x_t + output + delta z, but for coefficients of which 1 % is left or less."""
    p = build_process(load_preset("ihdm-cifar10"))
    x_t, output, z = (normal(seed, (1, 3, 32, 32)) for seed in (1, 2, 3))
    clean = prediction("difference").clean(p, x_t, output, t)
    step = p.posterior(x_t, clean, t, t - 1, 1.0)
    found = p.analysis(step.sample(z))
    wanted = p.analysis(x_t + output + (0.025 * z if t > 1 else 0))
    signal, _ = p.coefficients(t - 1, x_t)
    kept = (signal >= 0.01).expand_as(wanted)
    assert_close(found[kept], wanted[kept], atol=2e-5, rtol=0)
    assert 0 < int(kept.sum()) <= 3072 and (t > 2 or kept.all())


def test_heat_preset_has_the_published_noise_in_our_units():
    preset = load_preset("ihdm-cifar10")
    assert preset.process.heat.noise == 0.02 and preset.process.heat.sampling_noise == 0.025
    p, x0 = build_process(preset), torch.zeros(1, 3, 32, 32)
    eps = torch.from_numpy(np.ones((1, 3, 32, 32), dtype=np.float32))
    assert_close(p.posterior(x0, x0, 200, 199, 1.0).root(eps), 0.025 * eps)
