"""A process of one's own: what the base class gives, what each kind refuses."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.errors import ProcessError
from ssdiff.pipeline import Pipeline
from ssdiff.process.base import Posterior, Process
from ssdiff.process.gaussian import from_schedule
from ssdiff.schedules import noise
from ssdiff.training.losses import gaussian_loss

T, SIZE = 20, (8, 8)
DDPM = from_schedule(noise.linear(T), [SIZE] * T, SIZE)


class Own(Process):
    """DDPM by the four things that a process must give."""

    states = DDPM.states

    def degrade(self, x0, t, images=None):
        return x0

    def marginal(self, x0, t, noise):
        return DDPM.marginal(x0, t, noise)

    def posterior(self, x_t, x0_s, t, s, eta=1.0):
        now, then = self.states[t], self.states[s]
        if s == 0:
            return Posterior(x0_s, torch.zeros_like)
        ratio = now.signal / then.signal
        fresh = eta * (then.sigma**2 - (then.sigma**2 * ratio / now.sigma) ** 2) ** 0.5
        kept = (then.sigma**2 - fresh**2) ** 0.5 / now.sigma
        mean = then.signal * x0_s + kept * (x_t - now.signal * x0_s)
        return Posterior(mean, lambda noise: fresh * noise)


class Shrink(nn.Module):
    def forward(self, x, index, resolution, labels=None):
        return 0.5 * x


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++", "direct"])
def test_an_own_process_has_every_sampler(sampler):
    own, ours = (Pipeline(process, Shrink()) for process in (Own(), DDPM))
    assert sampler in own.process.samplers() and own.generates and own.process.T == T
    found, wanted = (pipe.sample(3, steps=6, sampler=sampler, seed=4) for pipe in (own, ours))
    assert_close(found, wanted, atol=1e-4, rtol=0)
    restored = [pipe.restore(pipe.degrade(wanted, 9, seed=1), 9, sampler) for pipe in (own, ours)]
    assert_close(*restored, atol=1e-4, rtol=0)


def test_an_own_process_trains_and_is_scaled():
    x0, eps, t = torch.rand(4, 3, *SIZE), torch.randn(4, 3, *SIZE), torch.tensor([1, 5, 9, T])
    losses = [gaussian_loss(Shrink(), process, x0, t, eps) for process in (Own(), DDPM)]
    assert_close(*losses)
    numbers = torch.arange(4)
    assert_close(Own().from_degraded(x0, 9, numbers, 3), Own().corrupt(x0, 9, numbers, 3))
    assert_close(Own().log_noise(), DDPM.log_noise())
    assert not Own().changes_resolution and torch.equal(Own().lift(x0, 1, 2), x0)
    assert not Own().high_frequencies(x0, 1, 2).any()


def built(name, **sets):
    return build_process(load_preset(name, {"data.size": 16, "process.T": 20, "sampling.steps": 5} | sets))


def test_the_terminal_prior_is_by_image_number():
    for name in ("celeba64", "blurring-celeba64", "cold-noise-celeba128"):
        process = built(name)
        drawn = process.start(torch.tensor([3, 8]), seed=2, channels=3)
        assert drawn.shape == (2, 3, *process.states[process.T].size)
        assert_close(process.start(torch.tensor([8]), seed=2, channels=3), drawn[1:])
        assert not torch.equal(process.start(torch.tensor([8]), seed=3, channels=3), drawn[1:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: p.marginal(x, 3, x), "a ColdProcess cannot draw a marginal"),
        (lambda p, x: p.posterior(x, x, 3, 1), "only noise and animorphosis"),
        (lambda p, x: p.start(torch.arange(2), 0, channels=3), "cannot be sampled from nothing"),
        (lambda p, x: p.clean_from_noise(x, x, 3), "cannot be solved for a clean image"),
        (lambda p, x: p.coefficients(3, x), "cannot be written by coefficients"),
        (lambda p, x: p.reduction((4, 4)), "no timestep has"),
    ],
)
def test_what_a_cold_process_cannot_do(call, message):
    with pytest.raises(ProcessError, match=message):
        call(built("cold-mask-cifar10"), torch.zeros(2, 3, 16, 16))


def test_estimated_noise_has_no_eta():
    x = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ProcessError, match="eta is 0, not 1"):
        built("cold-noise-celeba128").posterior(x, x, 5, 2, eta=1.0)
