"""Noise and animorphosis as the published code has them: schedule, D(x, t), whole chains of Algorithm 2."""

import pytest
import torch
from golden import golden, normal

from ssdiff.process.cold import ColdProcess
from ssdiff.process.degradations.registry import build_degradation
from ssdiff.sampling.registry import SAMPLERS
from ssdiff.sampling.walk import Walk
from ssdiff.schedules import noise

GROUP = golden("cold_noise")
ATOL, CHAIN_ATOL = 5e-5, 1e-4  # as its json says


def seeded(words, shape):
    """The input that 'seed 301, clamped' names."""
    x = normal(int(words.split()[1].rstrip(",")), shape)
    return x.clamp(-1, 1) if "clamped" in words else x


def process(kind, T, z, size):
    """The process with the published schedule that mixes z in, of whatever number an image is."""
    made = {"other": lambda numbers, shape: z} if kind == "animorph" else {}
    cold = ColdProcess(build_degradation(kind, size, T, schedule="cosine", **made))
    return cold.mixing(z)


def restored(x, t, T):
    """R(x, t) of the chains."""
    return 0.6 * x + 0.2 * x.roll(1, -1) + 0.05 * t / T


def values(name, about):
    if name.startswith(("a_", "sigma_")):
        nu = noise.nu_of(about["T"], "cosine")
        return (1 + nu.square()).rsqrt() * (nu if name.startswith("sigma") else 1)
    shape = about["input_shape"]
    if not name.startswith("chain_"):
        x, z = (seeded(about[key], shape) for key in ("x", "z"))
        return process(about["kind"], about["T"], z, shape[-2:]).degrade(x, about["t"])
    T, end = about["T"], seeded(about["end"], shape)
    cold = process("animorph" if about["kind"] == "animorph" else "noise", T, end, shape[-2:])
    start = end + about["start_noise"] * normal(about["start_noise_seed"], shape)
    if name.endswith("_first"):
        return restored(start, T, T)
    # 'Fixed noise' is Algorithm 2, 'estimated noise' is DDIM.
    sampler = SAMPLERS.get("ddim" if about["kind"] == "noise_estimated" else "alg2")
    walk = Walk(cold, lambda x, t: restored(x, t, T), start, [*range(T, -1, -1)], None)
    return dict(sampler(walk))[0]


@pytest.mark.parametrize("name", GROUP.arrays)
def test_noise_and_animorphosis(name):
    about = GROUP.meta["arrays"][name]
    atol = CHAIN_ATOL if name.startswith("chain_") else ATOL
    GROUP.check(name, values(name, about), atol=atol)


def test_the_published_schedule_is_another_one_than_linear_betas():
    middle = [float((1 + noise.nu_of(200, kind)[99] ** 2).rsqrt()) for kind in ("cosine", "linear")]
    assert middle == pytest.approx([0.703, 0.277], abs=1e-3)


def test_whatever_r_a_chain_without_disturbance_keeps_what_is_mixed_in():
    """Of fixed noise x_s - D(R, s) is the same for all s, so that x_0 is R plus what the start lacks."""
    z, R = normal(1, (1, 3, 8, 8)), normal(2, (1, 3, 8, 8)).clamp(-1, 1)
    cold = process("noise", 10, z, (8, 8))
    walk = Walk(cold, lambda x, t: R, cold.degrade(R, 10), [10, 6, 1, 0], None)
    states = dict(SAMPLERS.get("alg2")(walk))
    for s in (6, 1):
        torch.testing.assert_close(states[s], cold.degrade(R, s))
