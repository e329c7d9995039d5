"""How often each timestep and each pair of sizes is visited."""

import itertools
from collections import Counter
from statistics import NormalDist

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from trainers import IMAGES, LABELS, TINY

import ssdiff
from ssdiff.build import build_full_size, build_model, build_process, outline_model
from ssdiff.config.load import load_preset
from ssdiff.distributed import World
from ssdiff.errors import PresetError, ProcessError
from ssdiff.evaluation.flops import path_costs
from ssdiff.training.batches import Batches, TimestepSampler
from ssdiff.training.timesteps import (
    coarse_log_snr,
    log_snr_masses,
    pair_shares,
    timestep_masses,
    training_shares,
)
from ssdiff.training.trainer import Trainer, overlapping

LEVELS = st.lists(st.floats(-15, 15), min_size=2, max_size=40).map(lambda found: sorted(found, reverse=True))
MATCHED = {
    "process.T": 100,
    "process.resize": "area",
    "process.resolution": {"kind": "log_snr", "at": [-0.5]},
    "training.timesteps": "log_snr",
}


@settings(max_examples=100, deadline=None)
@given(LEVELS, st.floats(-4, 4), st.floats(0.3, 6))
def test_masses_are_those_of_the_nearest_log_snr(levels, mean, std):
    assume(levels[0] - levels[-1] > 1e-3)
    masses, normal = (
        log_snr_masses(torch.tensor(levels, dtype=torch.float64), mean, std),
        NormalDist(mean, std),
    )
    assert float(masses.sum()) == pytest.approx(1) and bool((masses >= 0).all())
    borders = [(one + other) / 2 for one, other in itertools.pairwise(levels)]
    above = [0.0, *(1 - normal.cdf(border) for border in borders), 1.0]
    expected = [after - before for before, after in itertools.pairwise(above)]
    assert masses.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_narrow_interval_has_the_density_times_its_width_and_so_have_far_ones():
    levels = torch.linspace(30, -30, 6001, dtype=torch.float64)
    masses, normal = log_snr_masses(levels, 0.0, 1.0), NormalDist()
    for place in (3000, 2200, 3800, 1500, 4500):  # up to 15 standard deviations, where 1 - Phi is 0
        assert float(masses[place]) == pytest.approx(0.01 * normal.pdf(float(levels[place])), rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.data())
def test_shares_sum_to_one_and_transitions_have_theirs(lengths, data):
    sizes = [(2 ** (6 - k),) * 2 for k, length in enumerate(lengths) for _ in range(length)]
    masses = torch.tensor(
        data.draw(st.lists(st.floats(0.5, 2), min_size=len(sizes) - 1, max_size=len(sizes) - 1)),
        dtype=torch.float64,
    )
    masses /= masses.sum()
    least = data.draw(st.floats(0, 0.9 / max(len(lengths) - 1, 1)))
    shares = pair_shares(sizes, least, masses)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share >= least * (1 - 1e-9) for (now, then), share in shares.items() if now != then)
    rule = TimestepSampler(sizes, 0, least, masses=masses)
    assert float(rule.probability.sum()) == pytest.approx(1)
    for (now, then), share in shares.items():
        members = [t for t in range(1, len(sizes)) if (sizes[t], sizes[t - 1]) == (now, then)]
        here = rule.probability[torch.tensor(members) - 1]
        assert float(here.sum()) == pytest.approx(share)
        ratios = here / masses[torch.tensor(members) - 1]
        assert float(ratios.max()) == pytest.approx(float(ratios.min()))


@pytest.mark.parametrize("timesteps", ["uniform", "log_snr"])
def test_drawn_frequencies_are_the_probabilities(timesteps):
    preset = load_preset(
        TINY,
        MATCHED
        | {
            "training.timesteps": timesteps,
            "training.overlap_share": 0.25,
            "training.transition_share": 0.1,
            "training.grad_accum_steps": 2,
        },
    )
    process, full, own = build_process(preset), build_full_size(preset), preset.training
    beyond = overlapping(process, full, own.overlap_log_snr)
    whole = timestep_masses(full, own)
    rule = TimestepSampler(
        [state.size for state in process.states],
        0,
        own.transition_share,
        own.grad_accum_steps,
        beyond,
        own.overlap_share,
        timestep_masses(process, own),
        None if whole is None else whole[torch.tensor(beyond) - 1],
    )
    pairs, probability = rule.places()
    assert float(probability.sum()) == pytest.approx(1) and len(pairs) == 100 + len(beyond)
    positions, counts = torch.arange(64), torch.zeros(len(pairs), dtype=torch.float64)
    for counter in range(1500):
        drawn, overlaps = rule.draw(counter, positions), rule.overlaps(counter)
        places = rule.place(drawn, overlaps)
        assert len(pairs[places].unique()) == 1
        counts += torch.bincount(places, minlength=len(pairs))
    found = counts / counts.sum()
    assert_close(found, probability, atol=0.01, rtol=0)
    by_pair = torch.zeros(int(pairs.max()) + 1, dtype=torch.float64)
    assert_close(
        by_pair.index_add(0, pairs, found), by_pair.index_add(0, pairs, probability), atol=0.03, rtol=0
    )
    shares = {pair: share for pair, share in training_shares(process, own).items() if pair[0] != pair[1]}
    assert all(share >= 0.1 - 1e-12 for share in shares.values())


def test_uniform_draws_are_what_they_were():
    rule = TimestepSampler([(16, 16)] * 41 + [(8, 8)] * 60, 3, 0.03, 2, list(range(41, 61)), 0.25)
    drawn = [rule.draw(counter, torch.arange(3)).tolist() for counter in range(8)]
    first = [[77, 62, 65], [77, 72, 93], [54, 55, 44], [46, 60, 91], [8, 30, 15], [99, 64, 90]]
    assert drawn == [*first, [100, 69, 56], [17, 36, 36]]
    assert [counter for counter in range(40) if rule.overlaps(counter)] == [2, 8, 15, 39]


def test_the_coarse_log_snr_is_that_of_the_process_of_one_size():
    preset = load_preset(TINY, MATCHED)
    process, full = build_process(preset), build_full_size(preset)
    assert_close(coarse_log_snr(process), coarse_log_snr(full))
    expected = [state.snr for state in full.states[1:]]
    assert_close(coarse_log_snr(full), torch.tensor(expected, dtype=torch.float64).log())


@pytest.mark.parametrize("timesteps", ["uniform", "log_snr"])
def test_flops_are_counted_by_the_batches_that_are_drawn(timesteps):
    preset = load_preset(TINY, MATCHED | {"training.timesteps": timesteps, "training.transition_share": 0.1})
    process = build_process(preset)
    costs = path_costs(outline_model(preset), process, 3, 8, training=preset.training)
    batches = Batches(IMAGES, LABELS, torch.device("cpu"), World(), 4, 0, flip=True, classes=8)
    rule = Trainer(preset.training, process, build_model(preset), batches)._timesteps
    sides, found = [state.resolution for state in process.states], Counter()
    for t, probability in enumerate(rule.probability.tolist(), 1):
        found[sides[t], sides[t - 1]] += probability
    assert {cost.path: cost.share for cost in costs} == pytest.approx(dict(found))
    assert sum(cost.share for cost in costs) == pytest.approx(1)
    report = ssdiff.cost(preset, steps=4)
    plain = ssdiff.cost(load_preset(TINY, MATCHED | {"training.timesteps": "uniform"}), steps=4)
    assert report.training_flops == pytest.approx(sum(cost.share * cost.training_flops for cost in costs))
    assert report.training_flops != plain.training_flops


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"training.log_snr_std": 2.0}, r"training\.log_snr_std: is of training\.timesteps = 'log_snr'"),
        ({"training.log_snr_mean": 2.0}, r"training\.log_snr_mean: is of training\.timesteps = 'log_snr'"),
        ({"training.timesteps": "log_snr", "training.log_snr_std": 0.0}, r"training\.log_snr_std"),
        ({"training.timesteps": "log_snr", "training.log_snr_mean": float("nan")}, r"training\.log_snr_mean"),
        ({"training.timesteps": "cosine"}, r"training\.timesteps"),
        (
            {"training.uncertainty": True, "training.size_power": 2.0},
            r"training\.size_power: 2 has no effect with training\.uncertainty.*set it to 0",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(sets, said):
    with pytest.raises(PresetError, match=said):
        load_preset(TINY, sets)


@pytest.mark.parametrize(
    ("name", "said"),
    [("cold-blur-mnist", "has no noise"), ("ihdm-cifar10", "same log-SNR at every timestep")],
)
def test_processes_without_a_log_snr_are_refused(name, said):
    with pytest.raises(PresetError, match=rf"training\.timesteps: 'log_snr' .*{said}; leave it 'uniform'"):
        load_preset(name, {"training.timesteps": "log_snr"})


def test_a_log_snr_that_never_changes_is_refused():
    with pytest.raises(ProcessError, match="the same at every timestep"):
        log_snr_masses(torch.full((9,), 7.8), 0.0, 1.0)


def test_a_size_that_would_learn_nothing_is_refused_before_a_folder_is_made(tmp_path):
    sets = MATCHED | {"training.log_snr_mean": 6.0, "training.log_snr_std": 1.0}
    with pytest.raises(ProcessError, match="leaves 8 -> 16 px 2e-11 of the batches") as caught:
        ssdiff.train(TINY, "shapes", tmp_path / "run", overrides=sets, device="cpu")
    assert "training.log_snr_std" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_in_one_line_and_counts_what_is_drawn(ssdiff, result, tmp_path):
    sets = ("--set", "training.timesteps=log_snr", "--device", "cpu", "--out", tmp_path / "run")
    code, _, err = ssdiff("train", "--preset", "cold-blur-mnist", *sets)
    assert code == 2 and err.count("\n") == 1 and "leave it 'uniform'" in err
    matched = ("--set", "process.resolution={kind='log_snr', at=[-0.5]}", "--set", "process.resize=area")
    narrow = ("--set", "training.log_snr_mean=6", "--set", "training.log_snr_std=1")
    code, _, err = ssdiff("train", "--preset", TINY, *sets, *matched, *narrow, "--dry-run")
    assert code == 2 and err.count("\n") == 1 and "training.log_snr_std" in err
    assert not (tmp_path / "run").exists()
    drawn = result(
        "train", "--preset", TINY, *sets, *matched, "--set", "training.log_snr_mean=2", "--dry-run"
    )
    plain = result("train", "--preset", TINY, *sets[2:], *matched, "--dry-run")
    assert drawn["mean_gflops"] > 1.05 * plain["mean_gflops"]
