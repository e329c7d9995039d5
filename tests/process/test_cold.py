"""Cold processes: the algorithms, their loss, the terminal prior."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssdiff import rng
from ssdiff.errors import CheckpointError, ProcessError
from ssdiff.operators.base import Scale
from ssdiff.priors.coarse_mixture import CoarseMixture, describe, fit_mixture
from ssdiff.process.base import degradation_streams
from ssdiff.process.cold import ColdProcess
from ssdiff.process.degradations.base import LinearDegradation, Mixture
from ssdiff.process.degradations.registry import build_degradation
from ssdiff.process.gaussian import from_schedule
from ssdiff.sampling.registry import SAMPLERS
from ssdiff.sampling.walk import Walk
from ssdiff.schedules import noise
from ssdiff.training.losses import cold_loss

SIZE, T = (12, 16), 10
LINEAR = {
    "blur": {"kernel": 5, "first": 1.5},
    "mask": {},
    "desaturate": {},
    "pixelate": {},
    "dct-blur": {},
}
FIXED = {"mask": {"centre": "random"}, "snow": {"level": 2}, "noise": {}}
GENERATION = {"reverse": True, "fill": "colour", "bumps": T}


def draw(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def process(name, **options):
    return ColdProcess(build_degradation(name, SIZE, T, **options))


def walk(predict, cold, x, severities, algorithm, images=None):
    return dict(SAMPLERS.get(algorithm)(Walk(cold, predict, x, severities, no_noise, images=images)))


def no_noise(s, shape):
    raise AssertionError("a cold sampler draws nothing")


chains = st.sets(st.integers(1, T), min_size=2).map(lambda s: [*sorted(s, reverse=True), 0])


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=10, deadline=None)
@given(severities=chains, seed=st.integers(0, 99))
def test_algorithm_2_with_a_constant_error_keeps_to_the_degradations(name, severities, seed):
    """Any R that errs by the same image at every step: D(x_0, s) is reproduced exactly [CD, section 3.3]."""
    cold, x0 = process(name, **LINEAR[name]), draw(2, 3, *SIZE)
    guess = draw(2, 3, *SIZE, seed=seed + 1)
    x = cold.degrade(x0, severities[0])
    states = walk(lambda x_t, t: guess, cold, x, severities, "alg2")
    error = x - cold.degrade(guess, severities[0])
    for s, state in states.items():
        assert_close(state, cold.degrade(guess, s) + error)


@pytest.mark.parametrize("step", [1, 3])
def test_algorithm_2_is_exact_for_any_network_where_algorithm_1_is_lost(step):
    """D(x, s) = x + s e, linear in severity, and R whatever it likes [CD, section 3.3]."""
    layer, x0 = draw(2, 3, *SIZE, seed=7), draw(2, 3, *SIZE)
    still = LinearDegradation(SIZE, T, lambda t: Scale())
    signal, sigma = [1.0] * (T + 1), [float(t) for t in range(T + 1)]
    cold = ColdProcess(Mixture(still, signal, sigma, lambda images, shape: layer))
    generator = torch.Generator().manual_seed(1)

    def arbitrary(x_t, t):
        return torch.randn(x_t.shape, dtype=x_t.dtype, generator=generator)

    chain = [*range(T, 0, -step), 0]
    exact = walk(arbitrary, cold, cold.degrade(x0, T), chain, "alg2")
    lost = walk(arbitrary, cold, cold.degrade(x0, T), chain, "alg1")
    assert list(exact) == list(lost) == chain[1:]
    for s in chain[1:]:
        assert_close(exact[s], cold.degrade(x0, s))
        assert float((lost[s] - cold.degrade(x0, s)).abs().mean()) > 0.5


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("algorithm", ["alg1", "alg2", "direct"])
def test_a_perfect_network_restores(name, algorithm):
    cold, x0 = process(name, **LINEAR[name]), draw(2, 3, *SIZE)
    states = walk(lambda x_t, t: x0, cold, cold.degrade(x0, T), [T, 6, 1, 0], algorithm)
    assert_close(states[0], x0)
    if algorithm != "direct":
        assert_close(states[6], cold.degrade(x0, 6))


@pytest.mark.parametrize("name", FIXED)
def test_random_parts_stay_fixed_along_a_trajectory(name):
    cold, x0, images = process(name, **FIXED[name]), draw(3, 3, *SIZE), torch.tensor([5, 900, 2])
    x = cold.degrade(x0, T, images)
    states = walk(lambda x_t, t: x0, cold, x, [T, 7, 3, 0], "alg2", images)
    for s in (7, 3):
        assert_close(states[s], cold.degrade(x0, s, images))
    assert not torch.equal(cold.degrade(x0, 3, images + 1), cold.degrade(x0, 3, images))
    alone = cold.degrade(x0[1:2], T, images[1:2])
    assert_close(alone, x[1:2])


def test_estimated_noise_is_ddim():
    """Algorithm 2 with the noise that explains x_t is DDIM with eta = 0 [CD, section 5.1]."""
    cold = process("noise")
    nu = noise.linear(T)
    plain = from_schedule(nu, [SIZE] * T, SIZE)
    x_t, guess = draw(2, 3, *SIZE), draw(2, 3, *SIZE, seed=1)
    for t, s in ((9, 4), (2, 1), (10, 0)):
        ours = walk(lambda x, _: guess, cold, x_t, [t, s], "ddim")
        assert_close(ours[s], plain.posterior(x_t, guess, t, s, eta=0).mean)


def test_only_mixtures_can_be_estimated():
    with pytest.raises(ProcessError, match="use alg2"):
        walk(lambda x, t: x, process("mask"), draw(1, 3, *SIZE), [T, 0], "ddim")


def test_generation_by_masks_begins_at_the_colour_that_the_walk_keeps():
    """x_T is one colour, and Algorithm 2 fades its predictions into the same one."""
    cold, x0, images = process("mask", **GENERATION), draw(3, 3, *SIZE), torch.tensor([5, 900, 2])
    assert cold.generates and not cold.has_posterior
    start = cold.start(images, 7, channels=3)
    numbers = degradation_streams(images, 7)
    assert_close(cold.degrade(x0.float(), T, numbers), start)
    assert_close(start, start.mean((2, 3), keepdim=True).expand_as(start))
    states = walk(lambda x_t, t: x0.float(), cold, start, [T, 6, 1, 0], "alg2", numbers)
    for s in (6, 1):
        assert_close(states[s], cold.degrade(x0.float(), s, numbers))
    assert_close(states[0], x0.float())
    with pytest.raises(ProcessError, match="left at severity 4, which cannot be drawn; begin at 10"):
        cold.start(images, 7, channels=3, t=4)
    with pytest.raises(ProcessError, match="cannot be sampled from nothing"):
        process("mask", fill="colour").start(images, 7, channels=3)


def test_a_cold_process_keeps_the_size():
    cold = ColdProcess(build_degradation("downsample", (32, 32), T))
    with pytest.raises(ProcessError, match="full_size = true"):
        cold.degrade(draw(1, 3, 32, 32), T)


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_loss_is_the_distance_to_the_clean_image(kind):
    cold, x0 = process("snow"), draw(3, 3, *SIZE)
    t, images = torch.tensor([1, 5, T]), torch.tensor([4, 5, 6])
    seen = []

    def network(x_t, index, resolution, labels):
        seen.append((x_t, index.tolist(), resolution))
        return x_t * 0.5

    losses = cold_loss(network, cold, x0, t, images, kind=kind)
    [(x_t, index, resolution)] = seen
    assert index == [0, 4, 9] and resolution == max(SIZE)
    for i in range(3):
        expected = cold.degrade(x0[i : i + 1], int(t[i]), images[i : i + 1])
        assert_close(x_t[i : i + 1], expected)
        error = expected.float() * 0.5 - x0[i].float()
        assert_close(losses[i].float(), (error.abs() if kind == "l1" else error.square()).mean())


@pytest.mark.parametrize(("basis", "grid"), [("blocks", 1), ("blocks", 2), ("cosines", 3)])
def test_a_mixture_over_coarse_images(basis, grid):
    """Numbers drawn from a known mixture are fitted, and drawn again with the same law."""
    generator = torch.Generator().manual_seed(0)
    width = 3 * grid**2
    centres = torch.stack([torch.full((width,), -2.0), torch.full((width,), 2.0)]).double()
    which = (torch.rand(4000, generator=generator) < 0.3).long()
    numbers = centres[which] + 0.3 * torch.randn(4000, width, generator=generator).double()
    mixture = fit_mixture(numbers, (8, 8), 3, grid, basis, 2)
    order = mixture.means[:, 0].argsort()
    assert_close(mixture.means[order], centres, atol=0.05, rtol=0)
    assert_close(mixture.weights[order], torch.tensor([0.7, 0.3]).double(), atol=0.03, rtol=0)
    variances = (mixture.roots @ mixture.roots.mT).diagonal(dim1=-2, dim2=-1)
    assert_close(variances, torch.full_like(variances, 0.09), atol=0.02, rtol=0)
    images = mixture.draw(rng.derive(1, "test"), torch.arange(4000))
    assert images.shape == (4000, 3, 8, 8) and images.dtype == torch.float32
    again = describe(images, grid, basis)
    assert_close(again.mean(0), numbers.mean(0), atol=0.15, rtol=0)
    assert_close(again.std(0), numbers.std(0), atol=0.1, rtol=0)
    assert_close(mixture.draw(rng.derive(1, "test"), torch.tensor([77]))[0], images[77])


def test_a_mixture_survives_a_checkpoint():
    numbers = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    mixture = fit_mixture(numbers, (8, 8), 3, 1, "blocks", 2)
    again = CoarseMixture.from_json(mixture.to_json())
    images = torch.arange(5)
    assert torch.equal(again.draw(3, images), mixture.draw(3, images))
    values = mixture.to_json()
    for name, value in itertools.product(values, (None, [], "x", [[1.0]])):
        with pytest.raises(CheckpointError, match="damaged"):
            CoarseMixture.from_json({**values, name: value})


def test_equal_numbers_do_no_harm():
    mixture = fit_mixture(torch.full((20, 3), 0.25).double(), (8, 8), 3, 1, "blocks", 4)
    images = mixture.draw(1, torch.arange(10))
    assert_close(images, torch.full_like(images, 0.25), atol=0.01, rtol=0)
