"""Losses divided by what is expected of them: the table, the training, its resuming."""

import os
import signal
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resume import final, published, start
from torch.testing import assert_close
from trainers import IMAGES, LABELS, TINY, trainer

import ssdiff
from ssdiff import checkpoints
from ssdiff.build import build_full_size, build_model, build_process
from ssdiff.config.load import load_preset
from ssdiff.distributed import World
from ssdiff.errors import PresetError
from ssdiff.training import uncertainty
from ssdiff.training.batches import Batches
from ssdiff.training.trainer import Trainer
from ssdiff.training.uncertainty import Uncertainty, assign_bins

CPU = torch.device("cpu")
EMPHASIS = {
    "process.T": 60,
    "process.resize": "area",
    "process.resolution": {"kind": "log_snr", "at": [-0.5]},
    "training.timesteps": "log_snr",
    "training.uncertainty": True,
    "training.transition_share": 0.1,
    "training.grad_accum_steps": 2,
}


def even(count, pairs=1):
    """A table with a bin for each of so many places, of which so many pairs of sizes have as many each."""
    log_snr = torch.linspace(8, -8, count, dtype=torch.float64)
    group = torch.arange(count) * pairs // count
    return Uncertainty(log_snr, group, torch.full((count,), 1 / count, dtype=torch.float64), CPU)


def make(world=World(), batch=4, **more):  # noqa: B008
    preset = load_preset(TINY, EMPHASIS | {key.replace("__", "."): value for key, value in more.items()})
    torch.manual_seed(0)
    batches = Batches(IMAGES, LABELS, CPU, world, batch, 0, flip=True, classes=8)
    full = build_full_size(preset) if preset.training.overlap_share else None
    return Trainer(preset.training, build_process(preset), build_model(preset), batches, full_size=full)


# The table


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 7), st.floats(1e-4, 10)), min_size=1, max_size=5),
        min_size=1,
        max_size=30,
    )
)
def test_the_mean_of_a_bin_fades_down_to_one_image(steps):
    table, sums, counts = even(8), [0.0] * 8, [0.0] * 8
    for drawn in steps:
        places, losses = torch.tensor([p for p, _ in drawn]), torch.tensor([loss for _, loss in drawn])
        table.add(places, losses)
        table.step(World())
        kept = [max(0.99, 1 / max(count, 1.0)) for count in counts]
        sums, counts = ([a * k for a, k in zip(x, kept, strict=True)] for x in (sums, counts))
        for place, loss in drawn:
            sums[place] += loss
            counts[place] += 1
    assert_close(table.state()["known"], torch.tensor([sums, counts]).T, rtol=1e-5, atol=1e-6)
    known = [place for place in range(8) if counts[place]]
    expected = torch.tensor([counts[place] / sums[place] for place in known])
    found = table.weights(torch.tensor(known))
    assert_close(found / found[0], expected / expected[0], rtol=1e-4, atol=0)


def test_weighted_losses_are_alike_and_their_mean_is_that_of_the_losses():
    table, losses = even(8), torch.logspace(-4, 2, 8)
    assert torch.equal(table.weights(torch.arange(8)), torch.ones(8))
    for _ in range(50):
        table.add(torch.arange(8), losses)
        table.step(World())
    assert_close(table.weights(torch.arange(8)) * losses, losses.mean().expand(8), rtol=1e-4, atol=0)


def test_the_mean_follows_a_loss_that_falls():
    table, loss = even(4), 1.0
    for _ in range(900):
        table.add(torch.arange(4), torch.full((4,), loss))
        table.step(World())
        loss = max(loss * 0.98, 0.01)
    known = table.state()["known"]
    assert_close(known[:, 0] / known[:, 1], torch.full((4,), 0.01), rtol=0.05, atol=0)


def test_a_bin_without_losses_takes_the_nearest_of_its_sizes():
    table = even(8, pairs=2)
    table.add(torch.tensor([0, 3, 7]), torch.tensor([1.0, 2.0, 4.0]))
    table.step(World())
    means = torch.tensor([1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 4.0, 4.0])
    assert_close(table.weights(torch.arange(8)), means.mean() / means)
    alone = even(8, pairs=2)
    alone.add(torch.tensor([2]), torch.tensor([3.0]))
    alone.step(World())
    assert_close(alone.weights(torch.arange(8)), torch.ones(8))


def test_a_loss_of_nothing_has_a_finite_weight():
    table = even(3)
    table.add(torch.arange(3), torch.tensor([0.0, 1.0, 1.0]))
    table.step(World())
    assert table.weights(torch.arange(3)).isfinite().all()
    nothing = even(3)
    nothing.add(torch.arange(3), torch.zeros(3))
    nothing.step(World())
    assert nothing.weights(torch.arange(3)).isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(-12, 12), min_size=1, max_size=120), min_size=1, max_size=5),
    st.integers(0, 1000),
)
def test_bins_hold_neighbours_of_one_pair_and_enough_draws(groups, seed):
    levels = torch.tensor([level for group in groups for level in sorted(group, reverse=True)])
    pairs = torch.tensor([number for number, group in enumerate(groups) for _ in group])
    chances = torch.rand(len(levels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4
    chances /= chances.sum()
    bins = assign_bins(levels.double(), pairs, chances)
    assert int(bins[0]) == 0 and set((bins[1:] - bins[:-1]).tolist()) <= {0, 1}
    for number in range(int(bins[-1]) + 1):
        inside = bins == number
        pair = pairs[inside].unique()
        assert len(pair) == 1
        alone = len(bins[pairs == pair].unique()) == 1
        assert alone or float(chances[inside].sum()) >= 1 / 512 - 1e-12


# The training


def test_losses_are_weighed_and_reported_as_they_are(monkeypatch):
    one = make()
    one.advance()
    one.averages()
    seen, weights = [], []
    losses, weigh = one._losses, one._uncertainty.weights
    monkeypatch.setattr(one, "_losses", lambda *given: seen.append(losses(*given)) or seen[-1])
    monkeypatch.setattr(
        one._uncertainty, "weights", lambda places: weights.append(weigh(places)) or weights[-1]
    )
    gradients = []
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda self: gradients.append(float(self.detach())), raising=True
    )
    for micro in range(2):
        one._backward(2 + micro)
    assert any(not torch.equal(weight, torch.ones(4)) for weight in weights)
    for loss, weight, value in zip(seen, weights, gradients, strict=True):
        assert value == pytest.approx(float((loss.detach() * weight).mean()) / 2)
    expected = float(torch.cat(seen).detach().mean())
    assert one.averages().loss == pytest.approx(expected, rel=1e-5)


def test_without_it_nothing_changes():
    plain, other = (
        trainer(),
        trainer(log_snr_mean=0.5, log_snr_std=3.0, timesteps="uniform", uncertainty=False),
    )
    for one in (plain, other):
        for _ in range(3):
            one.advance()
    assert "uncertainty" not in plain.state()
    assert all(torch.equal(w, other.state()["weights"][n]) for n, w in plain.state()["weights"].items())
    weighed = trainer(uncertainty=True)
    for _ in range(3):
        weighed.advance()
    assert any(not torch.equal(w, weighed.state()["weights"][n]) for n, w in plain.state()["weights"].items())


def test_a_transition_and_noisier_batches_have_bins_of_their_own():
    one = make(training__overlap_share=0.3, training__overlap_log_snr=-2.0)
    rule, bins = one._timesteps, one._uncertainty.bins
    pairs, _ = rule.places()
    for number in range(int(pairs.max()) + 1):
        own = set(bins[pairs == number].tolist())
        assert own and not own & set(bins[pairs != number].tolist())
    for _ in range(10):
        one.advance()
    known = one._uncertainty.state()["known"]
    beyond = bins[int(one.process.T) :]
    assert float(known[beyond, 1].sum()) > 0 and float(known[:, 1].sum()) == pytest.approx(80, rel=0.1)


def test_transitions_that_are_not_trained_leave_the_table_whole():
    one = make(
        training__transitions=False,
        training__transition_share=0.0,
        training__overlap_share=0.3,
        training__overlap_log_snr=-2.0,
        sampling__lift="linear",
    )
    _, probability = one._timesteps.places()
    [change] = [t for t in range(1, 61) if one.process.states[t].size != one.process.states[t - 1].size]
    assert float(probability.sum()) == pytest.approx(1) and float(probability[change - 1]) == 0
    for _ in range(8):
        one.advance()
    known, bins = one._uncertainty.state()["known"], one._uncertainty.bins
    assert float(known[bins[change - 1], 1]) == 0 and float(known[:, 1].sum()) > 50
    assert one._uncertainty.weights(torch.arange(60)).isfinite().all()


def test_a_probe_of_the_precision_leaves_the_table():
    one = make()
    one.advance()
    before = {name: value.clone() for name, value in one._uncertainty.state().items()}
    one.rehearse(torch.float32)
    assert all(torch.equal(value, before[name]) for name, value in one._uncertainty.state().items())
    assert float(one._uncertainty._fresh.sum()) == 0


@pytest.mark.parametrize("more", [{}, {"training__overlap_share": 0.3}, {"training__grad_accum_steps": 1}])
def test_resuming_is_bitwise(more):
    straight, first, second = make(**more), make(**more), make(**more)
    for _ in range(6):
        straight.advance()
    for _ in range(3):
        first.advance()
    saved = {kind: {k: v.clone() for k, v in part.items()} for kind, part in first.state().items()}
    second.restore(3, saved)
    for _ in range(3):
        second.advance()
    for kind, part in straight.state().items():
        assert all(torch.equal(value, second.state()[kind][name]) for name, value in part.items()), kind


def test_checkpoints_without_the_table_or_with_that_of_other_settings_begin_it_anew():
    one, other = make(), make(training__log_snr_mean=-1.0)
    one.advance(), other.advance()
    state = one.state()
    assert not torch.equal(state["uncertainty"]["bins"], other._uncertainty.bins)
    for known in ({}, {"uncertainty": state["uncertainty"]}):
        fresh = make(training__log_snr_mean=-1.0)
        fresh.restore(1, {kind: state[kind] for kind in ("ema", "weights", "optimizer")} | known)
        assert float(fresh._uncertainty.state()["known"].sum()) == 0
        fresh.advance()


def test_losses_of_all_processes_make_one_table(monkeypatch):
    whole = make(batch=8)
    parts = [make(World(rank, 2)) for rank in (0, 1)]
    for one in (whole, *parts):
        for micro in range(2):
            one._backward(micro)
    together = sum(part._uncertainty._fresh for part in parts)
    monkeypatch.setattr(uncertainty.dist, "all_reduce", lambda tensor: tensor.copy_(together))
    for part in parts:
        part._uncertainty.step(World(0, 2))
    whole._uncertainty.step(World())
    for part in parts:
        assert_close(part._uncertainty.state()["known"], whole._uncertainty.state()["known"])
        assert torch.equal(part._uncertainty._weights, parts[0]._uncertainty._weights)


def test_two_processes_train_as_one_of_the_doubled_batch(shell, tmp_path):
    settings = ("steps=2", "checkpoint_every=1", "uncertainty=true", "timesteps=log_snr")
    sets = [part for setting in settings for part in ("--set", f"training.{setting}")]
    small = ("--preset", TINY, *sets, "--device", "cpu", "--quiet", "--data", "shapes")
    finished = shell("train", *small, "--out", tmp_path / "two", processes=2)
    assert finished.returncode == 0, finished.stderr
    assert shell("train", *small, "--out", tmp_path / "one", "--set", "training.batch=8").returncode == 0
    one, two = (final(tmp_path / run).tensors for run in ("one", "two"))
    assert torch.equal(one["uncertainty"]["bins"], two["uncertainty"]["bins"])
    assert_close(one["uncertainty"]["known"], two["uncertainty"]["known"], rtol=1e-3, atol=1e-5)
    for name, value in one["optimizer"].items():
        assert_close(two["optimizer"][name], value, atol=1e-6, rtol=1e-2)


def test_it_is_for_processes_with_noise():
    with pytest.raises(PresetError, match=r"training\.uncertainty: .* not for kind 'cold'; leave it out"):
        load_preset("cold-blur-mnist", {"training.uncertainty": True})


def test_it_works_where_the_log_snr_never_changes():
    preset = load_preset(
        "ihdm-cifar10",
        {"training.uncertainty": True, "data.size": 16, "model.width": 16, "process.T": 20}
        | {"model.multipliers": [1, 2], "model.attention": [], "model.blocks": 1, "sampling.steps": 4},
    )
    batches = Batches(IMAGES, None, CPU, World(), 4, 0, flip=True)
    one = Trainer(
        preset.training, build_process(preset), build_model(preset), batches, predict=preset.process.predict
    )
    assert int(one._uncertainty.bins.max()) == 19
    one.advance()
    assert float(one._uncertainty.state()["known"][:, 1].sum()) == 4


def test_kills_leave_the_uninterrupted_result(tmp_path):
    sets = [
        part
        for setting in ("timesteps=log_snr", "uncertainty=true", "overlap_share=0.2", "own_after=0.25")
        for part in ("--set", f"training.{setting}")
    ]
    sets += ["--set", "model.own=1", "--set", "process.resolution={kind='log_snr', at=[-0.5]}"]
    sets += ["--set", "process.T=60", "--set", "process.resize=area"]
    straight, out = tmp_path / "straight", tmp_path / "killed"
    assert start(straight, *sets).wait(timeout=240) == 0
    for step in (5, 12):
        process = start(out, *sets)
        while process.poll() is None and not any(name >= f"step-{step:08d}" for name in published(out)):
            time.sleep(0.003)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert start(out, *sets).wait(timeout=240) == 0
    ours, theirs = final(out), final(straight)
    assert "uncertainty" in ours.tensors
    for kind, part in theirs.tensors.items():
        assert all(torch.equal(value, ours.tensors[kind][name]) for name, value in part.items()), kind
    assert (out / "metrics.jsonl").read_text().count("\n") == 40
    newest = checkpoints.list_steps(out / "checkpoints")[-1]
    ssdiff.load(newest).sample(1, 4, labels=[0])
