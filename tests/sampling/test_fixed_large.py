"""Ancestral sampling with the larger variance of DDPM: published steps, where it has meaning, defaults."""

import itertools

import numpy as np
import pytest
import torch
from golden import golden, normal

import ssdiff
from ssdiff.config.load import load_preset, parse_preset
from ssdiff.errors import PresetError, ProcessError, UsageError
from ssdiff.sampling.registry import SAMPLERS
from ssdiff.sampling.walk import Walk

GOLDEN = golden("ddpm_fixed_large")
CHAINS = sorted({(entry["noise"], entry["steps"]) for entry in GOLDEN.meta["arrays"].values()})
SMALL = {"data.size": 12, "model.multipliers": [1], "model.attention": [12], "model.width": 8}


class Fixed(torch.nn.Module):
    """A network whose output does not depend on its input."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, index, resolution, labels=None):
        return self.output


def pipeline(output=None, **settings):
    preset = load_preset("ddpm-celeba64", SMALL | settings)
    return ssdiff.Pipeline(ssdiff.build_process(preset), Fixed(output), preset=preset)


@pytest.mark.parametrize(("noise", "steps"), CHAINS)
def test_published_steps(noise, steps):
    entries = {
        name: entry
        for name, entry in GOLDEN.meta["arrays"].items()
        if (entry["noise"], entry["steps"]) == (noise, steps)
    }
    schedule = {"process.noise": {"kind": noise}}
    chain = pipeline(**schedule).plan(steps=steps).timesteps
    process = pipeline(**schedule).process
    compared = 0
    for name, entry in entries.items():
        scale = max(float(np.abs(GOLDEN.arrays[name][0]).max()), 1.0)
        if name.startswith("t_"):
            GOLDEN.check(name, np.array(chain[-2::-1]), atol=0)
        elif name.startswith("beta_"):
            deviations = [process.transition_deviation(t, s) for t, s in itertools.pairwise(chain)]
            GOLDEN.check(name, np.array(deviations[::-1]) ** 2, atol=5e-5)
        else:
            x_t, z, output = (
                normal(int(entry[key].split()[1]), entry["input_shape"]) for key in ("x_t", "z", "prediction")
            )
            output = output * 0.6 if "times 0.6" in entry["prediction"] else output
            settings = {"process.predict": entry["predict"], "sampling.clip_denoised": entry["clip"]}
            pipe = pipeline(output, **schedule, **settings)
            plan = pipe.plan(steps=steps)
            t, s = entry["t"], entry["s"]
            assert (t, s) in itertools.pairwise(plan.timesteps)
            walk = Walk(
                pipe.process,
                pipe.predict_x0,
                x_t,
                [t, s],
                lambda timestep, shape, z=z: z,
                plan.eta,
                variance=plan.variance,
            )
            ((_, x_s),) = SAMPLERS.get(plan.sampler)(walk)
            GOLDEN.check(name, x_s, atol=5e-5 * scale)
        compared += 1
    assert compared == len(entries) == 22


def test_every_array_belongs_to_a_chain():
    assert GOLDEN.meta["arrays"].keys() == GOLDEN.arrays.keys() and 22 * len(CHAINS) == len(GOLDEN.arrays)


@pytest.mark.parametrize("name", ["ddpm-celeba64", "ddpm-celeba256", "ddpm-imagenet64"])
def test_presets_of_the_baselines_use_it(name):
    preset = load_preset(name)
    assert preset.sampling.variance == "fixed_large" and preset.model.full_decoder
    assert preset.sampling.sampler == "ancestral"


def test_runs_stored_before_keep_their_images():
    """Their presets lack the field, and images of a seed are those of the posterior."""
    new = load_preset("ddpm-celeba64", SMALL | {"sampling.steps": 6})
    old = parse_preset(
        "\n".join(line for line in new.to_toml().splitlines() if not line.startswith("variance"))
    )
    assert old.sampling.variance == "posterior"
    output = 0.3 * normal(0, (2, 3, 12, 12))
    images = []
    for preset in (new, old, load_preset("ddpm-celeba64", {**SMALL, "sampling.variance": "posterior"})):
        pipe = ssdiff.Pipeline(ssdiff.build_process(preset), Fixed(output), preset=preset)
        images.append(pipe.sample(2, steps=6, seed=1))
    assert torch.equal(images[1], images[2])
    assert not torch.equal(images[0], images[1])


def test_another_sampler_has_its_own_variance():
    pipe = pipeline()
    assert pipe.plan().variance == pipe.plan(sampler="posterior").variance == "fixed_large"
    for sampler in ("ddim", "dpm++", "direct"):
        assert pipe.plan(sampler=sampler).variance == "posterior"


@pytest.mark.parametrize(
    ("preset", "sets"),
    [
        ("celeba64", {}),
        ("blurring-celeba64", {}),
        ("blurdiff-church64", {}),
        ("cold-blur-cifar10", {}),
        ("ddpm-celeba64", {"sampling.sampler": "ddim"}),
    ],
)
def test_where_it_has_no_meaning(preset, sets):
    with pytest.raises(PresetError, match=r"sampling\.variance: 'fixed_large' is for one level") as caught:
        load_preset(preset, {"sampling.variance": "fixed_large"} | sets)
    assert "\n" not in str(caught.value)


def test_processes_without_a_number_for_a_transition():
    sampling = load_preset("ddpm-celeba64").sampling
    for name in ("celeba64", "blurring-celeba64"):
        process = ssdiff.build_process(load_preset(name, {"data.size": 16, "sampling.steps": 4}))
        pipe = ssdiff.Pipeline(process, Fixed(None), sampling=sampling)
        with pytest.raises(UsageError, match="ancestral sampler of plain diffusion"):
            pipe.plan(steps=4)
        last = process.T
        first = next((t for t in range(1, last) if process.states[t].size == process.states[0].size), 1)
        with pytest.raises(ProcessError, match="transition"):
            process.transition_deviation(last, first)
