"""Guidance in an interval of noise levels: where the network is asked twice, and that all counts say so."""

import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import ssdiff
from ssdiff.errors import OutputError, PresetError, UsageError
from ssdiff.evaluation.cost import count
from ssdiff.generation import generate
from ssdiff.restoration import Options, choose_method

CLASSES = 4
COLD = {"model.kind": "flexi-unet", "model.multipliers": [1, 2], "model.attention": [], "model.classes": 4}
LAYERS = {"sampling.lift": "network", "training.transitions": True}  # for resolution transitions
SIZE = {"data.size": 16, "model.classes": CLASSES, **LAYERS}


class Shades(torch.nn.Module):
    """Says a shade of its class; remembers at which timesteps it was told which."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, index, resolution, labels=None):
        self.asked.append((int(index[0]) + 1, int(labels[0])))
        return (labels / 10).reshape(-1, 1, 1, 1).expand(-1, x.shape[1], resolution, resolution).to(x)


def shades(preset="shapes32", **changes):
    settings = ssdiff.load_preset(
        preset, SIZE | {"sampling.guidance": 3.0, "sampling.guidance_interval": None} | changes
    )
    return ssdiff.Pipeline(ssdiff.build_process(settings), Shades(), preset=settings)


def log_snr(pipe, t):
    return -2 * float(pipe.process.log_noise()[t - 1])


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++"])
@given(ends=st.tuples(st.floats(-10, 9), st.floats(-10, 9)), steps=st.integers(2, 20))
@settings(deadline=None, max_examples=8)
def test_the_network_is_asked_twice_within_the_interval_alone(sampler, ends, steps):
    low, high = min(ends) - 0.5, max(ends) + 0.5
    pipe = shades(**{"sampling.guidance_interval": [low, high]})
    pipe.sample(1, steps, sampler, labels=[2])
    plan = pipe.plan(steps, sampler)
    within = [t for t in plan.timesteps[:-1] if low <= log_snr(pipe, t) <= high]
    assert sorted(pipe.model.asked) == sorted(
        [(t, CLASSES) for t in within] + [(t, 2) for t in plan.timesteps[:-1]]
    )
    assert plan.network_evaluations == len(pipe.model.asked) == plan.evaluations + len(within)
    assert plan.told["guidance"] == 3 and plan.told["guided_timesteps"] == within


def test_predictions_are_weighed_within_and_plain_outside():
    pipe = shades(**{"sampling.guidance_interval": [-3.0, 2.0]})
    labels = torch.tensor([1, 3])
    for t in (1, 100, 342, 700, 1000):
        x = torch.zeros(2, 3, *pipe.process.states[t].size)
        found = pipe.predict_x0(x, t, labels, 2.0)[:, 0, 0, 0]
        within = -3.0 <= log_snr(pipe, t) <= 2.0
        assert_close(found, torch.tensor([-0.2, 0.2] if within else [0.1, 0.3]))


def test_an_interval_that_holds_all_changes_nothing_but_what_is_told(tmp_path):
    plain, whole = shades(), shades(**{"sampling.guidance_interval": [-99.0, 99.0]})
    assert torch.equal(plain.sample(3, 5), whole.sample(3, 5))
    assert plain.plan(5).network_evaluations == whole.plan(5).network_evaluations
    assert "guided_timesteps" not in plain.plan(5).told


def test_a_folder_of_another_interval_is_another_job(tmp_path):
    folder, plain = tmp_path / "many", shades()
    generate(plain, 2, folder, steps=4)
    with pytest.raises(OutputError, match="guided_timesteps"):
        generate(shades(**{"sampling.guidance_interval": [-3.0, 2.0]}), 2, folder, steps=4)


def test_costs_count_two_evaluations_within():
    def gflops(**changes):
        preset = ssdiff.load_preset(
            "shapes32", LAYERS | {"sampling.guidance": 2.0, "sampling.guidance_interval": None} | changes
        )
        return count(preset, 10)

    none, all_ = gflops(**{"sampling.guidance": 1.0}), gflops(**{"sampling.guidance_interval": None})
    some = gflops(**{"sampling.guidance_interval": [-9.0, 2.0]})
    assert all_.sampling_flops == 2 * none.sampling_flops
    costs = {path.path: path.flops for path in some.paths}
    assert some.plan.told["guided_timesteps"] == [981, 949, 861, 652, 342]
    assert some.sampling_flops == none.sampling_flops + 4 * costs[8, 8] + costs[8, 16]
    assert "with guidance 2 at 5 of them, twice the work there" in some.summary()[1]


def test_measured_times_are_means_of_both_kinds(result):
    sets = ("--set", "sampling.guidance=2", "--set", "sampling.guidance_interval=[-2,2]")
    found = result("eval", "cost", TINY, "--batch", 1, "--seconds", 0.5, *sets)
    assert 0 < len(found["sampling"]["guided_timesteps"]) < found["sampling"]["steps"]
    assert all(path["sampling"]["utilisation"] > 0 for path in found["paths"] if path["sampling_steps"])


@pytest.mark.parametrize(
    ("op", "sampler"), [(None, "ancestral"), ("inpaint", "plug-and-play"), ("deblur", "ddim")]
)
def test_restoration_counts_and_asks_alike(op, sampler):
    pipe = shades(TINY, **{"sampling.guidance_interval": [-2.0, 2.0]})
    x = torch.linspace(-1, 1, 256).reshape(1, 16, 16).expand(1, 3, 16, 16).clone()
    ssdiff.restore(x, pipe, op=op, sampler=sampler, degrade=True, classes=["1"])
    asked = len(pipe.model.asked)
    assert choose_method(pipe, op, options=Options(classes=["1"])).evaluations(sampler) == asked
    for t, label in pipe.model.asked:
        assert label == 1 or -2.0 <= log_snr(pipe, t) <= 2.0


@pytest.mark.parametrize(
    ("preset", "changes", "words"),
    [
        ("shapes32", {"sampling.guidance_interval": [2.0, -2.0]}, "must increase"),
        ("shapes32", {"sampling.guidance_interval": [2.0, 2.0]}, "must increase"),
        ("shapes32", {"model.classes": 0}, "sampling.guidance: needs model.classes > 0"),
        ("cold-blur-cifar10", COLD | {"sampling.guidance_interval": [-2.0, 2.0]}, "kind 'cold' has no noise"),
    ],
)
def test_intervals_that_make_no_sense_are_refused(preset, changes, words):
    with pytest.raises(PresetError, match=words):
        ssdiff.load_preset(preset, changes)


def test_an_interval_without_a_timestep_is_refused_with_what_there_is():
    with pytest.raises(UsageError, match=r"holds no timestep of the process: its log-SNRs are -19\.\d to 10"):
        shades(**{"sampling.guidance_interval": [20.0, 30.0]}).plan()


def test_without_guidance_it_does_nothing_wherever_it_lies():
    pipe = shades(**{"sampling.guidance": 1.0, "sampling.guidance_interval": [20.0, 30.0]})
    assert pipe.plan().guided is None
    with pytest.raises(UsageError, match="holds no timestep"):
        pipe.plan(guidance=2.0)


def test_the_command_takes_it(result, tmp_path):
    given = ("sample", "--ckpt", "shapes32", "-n", 1, "--steps", 2, "--out")
    sets = ("--set", "sampling.guidance_interval=[-3,2]")
    told = result(*given, tmp_path / "some.png", *sets)
    assert told["network_evaluations"] == told["steps"] + len(told["guided_timesteps"])
    off = result(*given, tmp_path / "off.png", "--set", "sampling.guidance_interval=[-99,99]")
    assert off["network_evaluations"] == 2 * off["steps"]


def test_a_preset_without_classes_may_extend_one_that_guides():
    preset = ssdiff.load_preset("shapes32", {"model.classes": 0, "sampling.guidance": 1.0})
    assert preset.sampling.guidance_interval is not None
