"""Plug and play: data and denoiser in turn, from a guess down to the noise."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.errors import UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Scale
from ssdiff.operators.inverse import regularised_inverse
from ssdiff.operators.pixelwise import Mask
from ssdiff.operators.separable import Separable
from ssdiff.sampling.data_consistency import Measurement
from ssdiff.sampling.plug_and_play import MIRRORS, falling_timesteps, noise_timestep, plug_and_play

SIDE = 16
SMALL = {"data.size": 32, "process.levels": 2, "process.resolution.at": [0.0]}
PROCESS = build_process(load_preset("photos64", SMALL), (SIDE, SIDE))


def ratio(t):
    return PROCESS.states[t].sigma / PROCESS.states[t].signal


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def white(variance):
    """The best denoiser of white data."""

    def predict(x_t, t):
        a, sigma = PROCESS.states[t].signal, PROCESS.states[t].sigma
        return x_t * a * variance / (a**2 * variance + sigma**2)

    return predict


def last(*arguments):
    *_, (_, x) = plug_and_play(*arguments)
    return x


@pytest.mark.parametrize("std", [2.0, 5.0, 25.0, 60.0])
def test_the_timestep_of_a_noise_has_it(std):
    assert ratio(noise_timestep(PROCESS, std / 127.5)) == pytest.approx(std / 127.5, rel=0.01)


def test_timesteps_fall_evenly_in_the_logarithm_and_have_full_size():
    found = falling_timesteps(PROCESS, 50 / 127.5, 5 / 127.5, 8)
    assert len(found) == 8 and found == sorted(found, reverse=True)
    steps = [math.log(ratio(t) / ratio(s)) for t, s in itertools.pairwise(found)]
    assert all(step == pytest.approx(math.log(10) / 7, abs=0.02) for step in steps)
    assert all(PROCESS.states[t].size == (SIDE, SIDE) for t in falling_timesteps(PROCESS, 1e3, 1e-3, 50))
    assert falling_timesteps(PROCESS, 0.1, 0.1, 4) == [noise_timestep(PROCESS, 0.1)]
    with pytest.raises(UsageError, match="1 step or more"):
        falling_timesteps(PROCESS, 0.2, 0.1, 0)


def test_what_is_measured_without_noise_is_kept_and_the_rest_is_denoised():
    x = normal(0, 1, 3, SIDE, SIDE)
    mask = (normal(1, SIDE, SIDE) > 0).double()
    known = Measurement(Mask(mask), x * mask, 0.0, PROCESS)
    found = last(white(0.25), known, torch.where(mask > 0, x, 1.0), falling_timesteps(PROCESS, 0.5, 0.02, 6))
    assert_close(found * mask, x * mask)
    expected = math.prod(0.25 / (0.25 + ratio(t) ** 2) for t in falling_timesteps(PROCESS, 0.5, 0.02, 6))
    assert_close(found[..., mask == 0], torch.full_like(found[..., mask == 0], expected))


def test_each_turn_is_the_mean_given_the_measurement_then_the_denoiser():
    """Of one step, against the formula, with noise."""
    y, noise, t = normal(0, 2, 3, SIDE, SIDE), 0.1, noise_timestep(PROCESS, 0.3)
    guess = normal(1, 2, 3, SIDE, SIDE)
    r2 = PROCESS.states[t].sigma ** 2  # a^2 + sigma^2 = 1

    def mean(x):
        return x + r2 / (r2 + noise**2) * (y - x)

    a = PROCESS.states[t].signal
    expected = mean(white(0.5)(a * mean(guess), t))
    assert_close(last(white(0.5), Measurement(Scale(), y, noise, PROCESS), guess, [t]), expected)


def test_a_blur_is_undone_better_than_by_the_guess():
    """White data, of which the best linear estimate is known: plug and play comes near to it."""
    variance, noise = 0.25, 0.05
    x = variance**0.5 * normal(0, 4, 1, SIDE, SIDE)
    blur = Separable(*[matrices.gaussian_blur(SIDE, 0.8)] * 2)
    y = blur.apply(x) + noise * normal(1, 4, 1, SIDE, SIDE)
    known = Measurement(blur, y, noise, PROCESS)
    found = last(white(variance), known, y, falling_timesteps(PROCESS, 0.5, noise, 20))
    best = regularised_inverse(blur, y, noise**2 / variance)

    def error(z):
        return float((z - x).square().mean())

    assert error(found) < 0.75 * error(y) and error(found) < 1.35 * error(best)


def test_the_network_sees_the_image_mirrored_in_turn():
    """One that moves everything to the right does so in none of the directions on the whole."""
    x = normal(0, 1, 3, SIDE, SIDE)
    free = Measurement(Mask(torch.zeros(SIDE, SIDE)), 0 * x, 0.0, PROCESS)
    t = noise_timestep(PROCESS, 0.1)

    def moved(x_t, t):
        return (x_t / PROCESS.states[t].signal).roll(1, -1)

    *_, (_, found) = plug_and_play(moved, free, x, [t] * 4, mirrors=MIRRORS)
    assert_close(found, x)
    *_, (_, found) = plug_and_play(moved, free, x, [t] * 4)
    assert_close(found, x.roll(4, -1))
