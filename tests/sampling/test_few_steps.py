"""What is drawn in few steps by default, and what a long wait is told of."""

import math

import pytest
import torch

from ssdiff.build import build_process, outline_model
from ssdiff.config import SamplingSettings
from ssdiff.config.load import load_preset, presets
from ssdiff.pipeline import Pipeline
from ssdiff.sampling.plan import few_steps, plan_for
from ssdiff.schedules.resolution import respace
from ssdiff.weights import single_file

CLASSES = 4


class Counting(torch.nn.Module):
    """Remembers which classes it was asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, index, resolution, labels=None):
        self.asked.append(labels.tolist())
        return torch.zeros(len(x), x.shape[1], resolution, resolution)


@pytest.fixture(scope="module")
def process():
    return build_process(load_preset("shapes32", {"data.size": 16}))


def chain(process, steps, sampler="ancestral", t=None):
    return plan_for(process, SamplingSettings(steps=steps, sampler=sampler), t=t)


@pytest.mark.parametrize("sampler", ["ancestral", "dpm++", "ddim"])
def test_many_steps_have_a_quicker_way_which_is_as_said(process, sampler):
    plan = chain(process, 250, sampler)
    fewer = few_steps(process, plan)
    assert fewer is not None and (fewer.sampler, fewer.steps) == ("ddim", 25)
    assert fewer.evaluations == plan_for(process, SamplingSettings(), fewer.steps, fewer.sampler).evaluations
    assert 25 <= fewer.evaluations <= plan.evaluations / 3


def test_few_steps_have_none(process):
    assert few_steps(process, chain(process, 50)) is None
    assert few_steps(process, chain(process, 25, "ddim")) is None
    assert few_steps(process, chain(process, 20, t=20)) is None


def test_processes_that_are_not_for_it():
    cold = build_process(load_preset("cold-mask-cifar10", {"data.size": 16}))
    assert few_steps(cold, chain(cold, cold.T, "alg2")) is None


@pytest.mark.parametrize("name", [name for name in presets() if name.endswith("-matched")])
def test_presets_without_published_figures_draw_in_few_steps(name):
    preset, published = load_preset(name), load_preset(name.removesuffix("-matched"))
    assert (preset.sampling.sampler, preset.sampling.steps, preset.training.sample_steps) == ("ddim", 25, 25)
    assert not preset.published
    assert (published.sampling.sampler, published.sampling.steps) == ("ancestral", 250)


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, 1), (2.0, 2), (0.0, 2)])
def test_the_network_runs_without_a_class_only_where_guidance_needs_it(process, guidance, calls):
    network = Counting()
    Pipeline(process, network, classes=CLASSES).sample(2, 5, "ddim", guidance=guidance)
    evaluations = chain(process, 5, "ddim").evaluations
    assert len(network.asked) == calls * evaluations
    assert network.asked.count([0, 1]) == evaluations
    assert network.asked.count([CLASSES, CLASSES]) == (calls - 1) * evaluations


def test_a_network_to_be_filled_with_weights_is_made_without_drawing_any():
    stored = single_file.read(single_file.bundled())
    state = torch.random.get_rng_state()
    outline = outline_model(stored.preset)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(value.is_meta for value in outline.state_dict().values())
    assert {name: value.shape for name, value in outline.state_dict().items()} == {
        name: value.shape for name, value in stored.weights.items()
    }


@pytest.mark.parametrize("steps", [5, 10, 25])
@pytest.mark.parametrize("name", ["shapes32", "adm-imagenet64", "celeba64", "ddpm-celeba64"])
def test_no_step_is_spent_where_noise_hides_the_whole_image(name, steps):
    found = build_process(load_preset(name))
    plan = plan_for(found, SamplingSettings(sampler="dpm++", steps=steps))
    noise = found.log_noise()
    hidden = math.log(8 * found.states[0].resolution)
    chosen = [t for t in plan.timesteps[1:-1] if found.states[t].size == found.states[t - 1].size]
    assert plan.timesteps[0] == found.T and chosen
    assert all(noise[t - 1] <= hidden + 1e-9 for t in chosen)


def test_steps_below_are_even_as_before():
    found = build_process(load_preset("ddpm-celeba64"))  # it ends below what hides the image
    chain = plan_for(found, SamplingSettings(sampler="dpm++", steps=10)).timesteps
    assert chain == respace(torch.zeros(found.T), 10, found.log_noise())


@pytest.mark.parametrize("steps", [1, 3, 8, 25])
def test_second_order_crosses_a_transition_by_a_step(steps):
    """After a step of one timestep it would be first order in the long one that follows."""
    found = build_process(load_preset("celeba64-apart"))
    step, timestep = (
        {
            name: plan_for(found, SamplingSettings(sampler=name, steps=steps, crossing=crossing))
            for name in ("ddim", "dpm++")
        }
        for crossing in ("step", "timestep")
    )
    assert step["dpm++"] == timestep["dpm++"] and "crossing" not in timestep["dpm++"].told
    assert len(step["ddim"].timesteps) == len(timestep["ddim"].timesteps)
    assert (step["ddim"].timesteps == timestep["ddim"].timesteps) == (steps < 8)
    assert timestep["ddim"].told["crossing"] == "timestep"
