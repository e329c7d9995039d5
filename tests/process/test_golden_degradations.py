"""Degradations against the numbers of the published implementations."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ssdiff.process.degradations.registry import build_degradation
from ssdiff.process.diagonal import DiagonalProcess
from ssdiff.process.spectra import BlurNoise
from ssdiff.schedules import noise

DATA = Path(__file__).parents[1] / "assets"
CASES = json.loads((DATA / "degradations.json").read_text(encoding="utf-8"))
OURS = {
    "blur_mnist": ("blur", 28, 20, {"kernel": 11, "first": 7.0, "padding": "circular"}),
    "blur_cifar": (
        "blur",
        32,
        50,
        {"kernel": 11, "std": "affine", "first": 0.35, "growth": 0.01, "padding": "reflect"},
    ),
    "downsample_cifar": ("downsample", 32, 3, {"full_size": True}),
    "mask_32": ("mask", 32, 50, {}),
    "desaturate_linear": ("desaturate", 16, 20, {}),
}


def inputs(case):
    values = np.random.RandomState(case["seed"]).standard_normal(case["shape"])
    return torch.from_numpy(values.astype(np.float32))


@cache
def golden():
    with np.load(DATA / "degradations.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("lee")])
def test_cold_diffusion(name):
    op, side, T, options = OURS[name.rsplit("_", 1)[0]]
    degradation = build_degradation(op, (side, side), T, **options)
    x, t = inputs(CASES[name]).clamp(-1, 1), CASES[name]["t"]
    assert_close(degradation.degrade(x, t), golden()[name], atol=1e-5, rtol=0)
    batch = degradation.degrade(torch.cat([x.flip(-1), x]), torch.tensor([1, t]))
    assert_close(batch[1:], golden()[name], atol=1e-5, rtol=0)


@cache
def blur_diffusion(interleaved):
    return DiagonalProcess(BlurNoise((32, 32), noise.linear(1000), "quartic", interleaved=interleaved))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("lee")])
def test_blur_diffusion(name):
    case, process = CASES[name], blur_diffusion(3)
    x, t = inputs(case), case["i"]
    ours = process.pure_noise(t, x) if name.endswith("noise") else process.degrade(x.clamp(-1, 1), t)
    if name.endswith("mean"):
        ours = ours * process.states[t].signal
    assert_close(ours, golden()[name], atol=1e-5, rtol=0)


def test_the_published_code_departs_from_its_paper():
    """It gives coefficients the factors of others; our default does not, and keeps the same factors."""
    paper, code = blur_diffusion(0).spectrum, blur_diffusion(3).spectrum
    t = torch.tensor([500])
    ordered = paper.coefficients(t).signal.expand(1, 3, 32, 32).flatten().sort().values
    assert_close(code.coefficients(t).signal.flatten().sort().values, ordered)
    name = "lee_quartic_32_i500_mean"
    x = inputs(CASES[name]).clamp(-1, 1)
    assert (
        float((blur_diffusion(0).marginal(x, 500, torch.zeros_like(x)) - golden()[name]).abs().max()) > 0.05
    )
