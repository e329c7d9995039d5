"""Trainings without batches of resolution transitions, for models that cross them by a linear map."""

import itertools

import pytest
import torch
from conftest import CPU, TINY
from hypothesis import given
from hypothesis import strategies as st

import ssdiff
from ssdiff import checkpoints
from ssdiff.analysis.schedule_plan import plan_schedule
from ssdiff.build import build_process
from ssdiff.config.load import load_preset, override
from ssdiff.errors import PresetError, ProcessError
from ssdiff.evaluation.cost import count, dry_run
from ssdiff.training.batches import TimestepSampler
from ssdiff.weights.convert import export_model

LINEAR = {"sampling.lift": "linear"}
NONE = LINEAR | {"training.transitions": False}
SETS = {"training.steps": 3, "training.checkpoint_every": 2, "sampling.steps": 4, **NONE}


def trained(folder, **more):
    return ssdiff.train(TINY, "shapes", folder, overrides=SETS | more, device="cpu").folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("none") / "run")


@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4), accumulate=st.integers(1, 3))
def test_no_transition_is_drawn_and_every_other_timestep_keeps_its_proportion(levels, accumulate):
    sizes = [(64 >> k, 64 >> k) for k, n in enumerate(levels) for _ in range(n)]
    rule = TimestepSampler(sizes, 0, 0.0, accumulate, transitions=False)
    stays = torch.tensor([now == then for then, now in itertools.pairwise(sizes)])
    assert torch.equal(rule.probability > 0, stays)
    assert torch.allclose(rule.probability[stays], 1 / stays.sum().double())
    for counter in range(12):
        assert all(stays[t - 1] for t in rule.draw(counter, torch.arange(4)).tolist())


def test_a_preset_without_the_setting_trains_them_as_before():
    preset = load_preset(TINY, LINEAR)
    assert preset.training.transitions
    sizes = [state.size for state in build_process(preset).states]
    one, other = (TimestepSampler(sizes, 3, transitions=True), TimestepSampler(sizes, 3))
    drawn = [rule.draw(counter, torch.arange(8)).tolist() for rule in (one, other) for counter in range(40)]
    assert drawn[:40] == drawn[40:] and any(sizes[t[0]] != sizes[t[0] - 1] for t in drawn)


def test_costs_know_that_none_is_trained_and_that_one_costs_what_the_small_size_does():
    found = count(load_preset(TINY, NONE))
    assert [path.path for path in found.paths] == [(16, 16), (8, 8)]
    assert sum(path.share for path in found.paths) == pytest.approx(1)
    every = count(load_preset(TINY, LINEAR))
    assert found.sampling_flops == every.sampling_flops and found.visits == every.visits
    assert [path.path for path in every.paths] == [(16, 16), (8, 16), (8, 8)]


def test_a_dry_run_measures_what_will_be_trained():
    found = dry_run(load_preset(TINY, NONE), "cpu")
    assert [(path.resolution, path.wanted) for path in found.paths] == [(16, 16), (8, 8)]
    assert set(found.seconds) == {(16, 16), (8, 8)} and found.seconds_per_step > 0


BRANCHED = {"model.own": 2, "training.own_after": 0.5}


@pytest.mark.parametrize("sets", [LINEAR, NONE | BRANCHED, {}])
def test_planning_knows_what_a_transition_costs(sets):
    preset = load_preset("shapes32", {"training.transition_share": 0.0, **sets})
    plan = plan_schedule(torch.rand(20, 1, 32, 32) - 0.5, preset, steps=[5], eta=[0.0], exact=False)
    assert plan.preset.sampling.lift == preset.sampling.lift
    assert plan.preset.training.transitions == preset.training.transitions
    assert plan.preset.model == preset.model and plan.preset.training.own_after == preset.training.own_after
    row = next(row for row in plan.rows if row.name == "matched, shapes32")
    counted = count(
        override(preset, {"sampling.guidance": 1.0, "sampling.sampler": "ddim", "sampling.steps": 5})
    )
    assert row.sampled[0].flops == counted.sampling_flops


def test_planning_moves_what_depends_on_the_first_transition():
    sets = {**LINEAR, "training.overlap_share": 0.1, "training.overlap_log_snr": 0.0}
    preset = load_preset("shapes32", sets | {"sampling.transitions": [2.0, 1.0]})
    plan = plan_schedule(torch.rand(20, 1, 32, 32) - 0.5, preset, steps=[5], eta=[0.0], exact=False)
    assert plan.preset.sampling.transitions is None
    assert plan.preset.process.resolution.at[0] - plan.preset.training.overlap_log_snr == 3.0


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ({"training.transitions": False}, "sampling.lift must be 'linear', not 'network'"),
        (NONE | {"training.transition_share": 0.1}, "training.transition_share: .* leaves none; set it to 0"),
    ],
)
def test_what_does_not_go_together_is_refused(sets, words):
    with pytest.raises(PresetError, match=words):
        load_preset(TINY, sets)


def test_a_size_that_only_its_transition_has_is_refused_before_a_folder_is_made(tmp_path):
    sets = {
        "process.T": 3,
        "process.resolution": {"kind": "explicit", "transitions": [3]},
        "training.sample_steps": 2,
        "sampling.steps": 2,
    }
    with pytest.raises(ProcessError, match="leaves no timestep to learn 8 px by"):
        trained(tmp_path / "run", **sets)
    assert not (tmp_path / "run").exists()


def test_such_a_model_is_not_drawn_by_layers_that_were_not_trained(run, ssdiff, tmp_path):
    sample = ("sample", "--ckpt", run, "-n", 1, *CPU, "--out", tmp_path / "x.png")
    code, _, err = ssdiff(*sample, "--set", "sampling.lift=network")
    assert code == 2 and err.count("\n") == 1 and "trains no layers for a change of resolution" in err
    assert not (tmp_path / "x.png").exists()
    code, _, err = ssdiff(*sample)
    assert code == 0, err


def test_its_files_and_pictures_of_other_sizes_know(run, tmp_path):
    export_model(run, file := tmp_path / "model.safetensors")
    one, other = ssdiff.load(run), ssdiff.load(file)
    assert torch.equal(one.sample(2, labels=[0, 1]), other.sample(2, labels=[0, 1]))
    seen = []
    other.model.register_forward_hook(lambda m, args, out: seen.append((args[0].shape[-1], out.shape[-1])))
    ssdiff.restore(torch.zeros(1, 3, 20, 30), other, op="inpaint", degrade=True, whole=True, steps=3)
    assert set(seen) == {(16, 16), (8, 8)}


def test_a_resumed_run_is_that_of_one_that_was_not_stopped(run, tmp_path):
    stopped = trained(tmp_path / "run", **{"training.steps": 2, "training.max_checkpoints": 9})
    ssdiff.train(resume=stopped, overrides={"training.steps": 3}, device="cpu")
    whole, resumed = (
        checkpoints.load(checkpoints.list_steps(path / "checkpoints")[-1]) for path in (run, stopped)
    )
    assert whole.tensors["weights"].keys() == resumed.tensors["weights"].keys()
    for name, value in whole.tensors["weights"].items():
        assert torch.equal(value, resumed.tensors["weights"][name])
