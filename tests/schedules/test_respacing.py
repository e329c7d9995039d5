"""Which timesteps a shortened chain keeps: all of the published ones, the forms of steps, faults."""

import pytest
import torch
from golden import golden

import ssdiff
from ssdiff.config.load import load_preset, parse_preset
from ssdiff.errors import PresetError, ProcessError, UsageError
from ssdiff.schedules.resolution import respace
from ssdiff.schedules.respacing import kept_timesteps, parse_steps

PUBLISHED = golden("respacing").meta["lists"]


class Grey(torch.nn.Module):
    def forward(self, x, index, resolution, labels=None):
        return torch.zeros(len(x), x.shape[1], resolution, resolution)


def pipeline(T, **settings):
    small = {"data.size": 8, "model.multipliers": [1], "model.attention": [8], "process.T": T}
    preset = load_preset("ddpm-celeba64", {**small, "sampling.steps": 5, **settings})
    return ssdiff.Pipeline(ssdiff.build_process(preset), Grey(), preset=preset)


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: f"{entry['spec']}-of-{entry['T']}")
def test_published_timesteps(entry):
    """At t = i + 1, through a plan, as a number and as the text that the command line gives."""
    wanted = [index + 1 for index in entry["kept"]]
    assert kept_timesteps(entry["T"], entry["spec"]) == wanted
    forms = [entry["spec"], *([int(entry["spec"])] if entry["spec"].isdecimal() else [])]
    for steps in forms:
        assert respace(torch.zeros(entry["T"]), steps) == [*reversed(wanted), 0]


def test_plans_take_every_form():
    pipe = pipeline(1000)
    for spec in ("50", "10,15,20", "ddim50"):
        kept = next(entry["kept"] for entry in PUBLISHED if entry["T"] == 1000 and entry["spec"] == spec)
        assert pipe.plan(steps=spec).timesteps == [*(index + 1 for index in reversed(kept)), 0]
        stored = pipeline(1000, **{"sampling.steps": spec})
        assert stored.plan().timesteps == pipe.plan(steps=spec).timesteps
        assert parse_preset(stored.preset.to_toml()) == stored.preset
    assert pipe.plan(steps=50).timesteps == pipe.plan(steps="50").timesteps
    assert pipe.sample(2, steps="ddim4").shape == (2, 3, 8, 8)


def test_transitions_are_kept_besides():
    preset = load_preset("celeba64")
    process = ssdiff.build_process(preset)
    pipe = ssdiff.Pipeline(process, Grey(), preset=preset)
    changes = {t for t in range(2, 1001) if process.states[t].size != process.states[t - 1].size}
    for steps in (15, "10,15,20", "ddim50"):
        chain = pipe.plan(steps=steps).timesteps
        assert set(chain) == {*kept_timesteps(1000, steps), *changes, 0}
        assert chain == sorted(chain, reverse=True)


@pytest.mark.parametrize("steps", ["ddim4", "2,1", "1,1,1"])
def test_a_chain_from_a_given_image_begins_there(steps):
    pipe = pipeline(40)
    assert pipe.plan(steps=steps).timesteps[0] < 40
    for t in (40, 25):
        chain = pipe.plan(steps=steps, t=t).timesteps
        assert chain[0] == t and set(chain[1:-1]) <= set(kept_timesteps(40, steps))
    noisy = pipe.degrade(torch.zeros(1, 3, 8, 8), 40)
    assert pipe.restore(noisy, steps=steps).shape == (1, 3, 8, 8)
    cold = load_preset("cold-blur-cifar10", {"data.size": 16})
    bare = ssdiff.Pipeline(ssdiff.build_process(cold), Grey(), preset=cold)
    assert bare.plan(steps=steps).timesteps[0] == bare.process.T


def test_forms():
    assert parse_steps(" 50 ") == 50 and parse_steps("10, 15,20") == "10,15,20"
    assert parse_steps("DDIM50") == "ddim50"
    assert kept_timesteps(7, 1) == kept_timesteps(7, "1") == [7]
    assert kept_timesteps(7, 7) == kept_timesteps(7, "ddim7") == list(range(1, 8))


@pytest.mark.parametrize(
    "steps", ["", "fifty", "10,,20", "10,0", "ddim", "ddim0", "1e3", "-", 2.0, True, None]
)
def test_what_is_none_of_the_forms(steps):
    with pytest.raises(UsageError, match="steps must be a whole number, a list"):
        parse_steps(steps)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (0, "between 1 and 1000, not 0"),
        ("-3", "between 1 and 1000, not -3"),
        (1001, "between 1 and 1000"),
        ("10,600", "section 2 has 500 timesteps, not 600"),
        ("ddim65", "no whole stride takes 65 of 1000 timesteps; the nearest are ddim63 and ddim67"),
    ],
)
def test_what_the_chain_does_not_have(steps, words):
    with pytest.raises(ProcessError, match=words):
        pipeline(1000).plan(steps=steps)
    with pytest.raises(PresetError) as caught:
        pipeline(1000, **{"sampling.steps": steps})
    assert "sampling.steps" in str(caught.value) and "\n" not in str(caught.value)


def test_steps_of_the_second_order_sampler_are_a_number():
    with pytest.raises(ProcessError, match="another sampler"):
        pipeline(1000).plan(steps="ddim50", sampler="dpm++")
    # Nobody asked for the preset's list here: as many steps are taken.
    assert pipeline(1000, **{"sampling.steps": "5,10"}).plan(sampler="dpm++").evaluations == 15
