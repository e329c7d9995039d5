"""Batches, losses and the optimiser's step."""

import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch
from golden import golden, normal
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from trainers import IMAGES, LABELS, TINY, trainer

import ssdiff
from ssdiff import checkpoints
from ssdiff.build import build_full_size, build_model, build_process
from ssdiff.config.load import load_preset
from ssdiff.distributed import World
from ssdiff.errors import CheckpointError, NonFiniteError, PresetError, ProcessError
from ssdiff.images import to_uint8
from ssdiff.models import convolution
from ssdiff.schedules.resolution import batch_shares
from ssdiff.training import batches as batches_module
from ssdiff.training.batches import Batches, ImageOrder, TimestepSampler
from ssdiff.training.losses import Visit, cut_to_bits, gaussian_loss, objective
from ssdiff.training.trainer import Trainer, averaging, learning_rate


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 500))
def test_a_batch_has_one_pair_of_sizes(seed, counter):
    sizes = [(16, 16)] * 8 + [(8, 8)] * 6 + [(4, 4)] * 7
    drawn = TimestepSampler(sizes, seed).draw(counter, torch.arange(16)).tolist()
    assert len({(sizes[t], sizes[t - 1]) for t in drawn}) == 1
    assert all(1 <= t <= 20 for t in drawn)


def test_timesteps_are_uniform_over_many_batches():
    sizes = [(16, 16)] * 8 + [(8, 8)] * 6 + [(4, 4)] * 7
    rule = TimestepSampler(sizes, 0)
    counts = torch.bincount(torch.cat([rule.draw(k, torch.arange(16)) for k in range(4000)]), minlength=21)
    assert counts[0] == 0
    assert_close(counts[1:] / counts.sum(), torch.full((20,), 0.05), atol=0.012, rtol=0)


def test_each_change_of_size_gets_its_share_of_the_batches():
    sizes = [(16, 16)] * 8 + [(8, 8)] * 6 + [(4, 4)] * 87
    rule = TimestepSampler(sizes, 0, transition_share=0.1)
    first = [int(rule.draw(k, torch.zeros(1, dtype=torch.int64))) for k in range(4000)]
    counts = torch.bincount(torch.tensor(first), minlength=101) / 4000
    assert_close(counts[[8, 14]], torch.full((2,), 0.1), atol=0.015, rtol=0)
    assert_close(counts[15:].sum(), torch.tensor(0.8 * 86 / 98), atol=0.025, rtol=0)


def test_the_full_size_learns_beyond_its_transition_in_its_share_of_the_batches():
    sizes = [(16, 16)] * 41 + [(8, 8)] * 60
    plain = TimestepSampler(sizes, 0, 0.03, 2)
    rule = TimestepSampler(sizes, 0, 0.03, 2, list(range(41, 61)), 0.25)
    positions, seen = torch.arange(3), {False: [], True: []}
    for counter in range(2000):
        drawn, overlaps = rule.draw(counter, positions), rule.overlaps(counter)
        seen[overlaps].append(drawn)
        before = plain.draw(counter, positions)
        assert not plain.overlaps(counter) and (overlaps or torch.equal(drawn, before))
        assert not overlaps or int(before.max()) <= 40, "what it takes is of the full size's batches"
    beyond, full = torch.cat(seen[True]), sum(int(drawn.max()) <= 40 for drawn in seen[False])
    assert int(beyond.min()) == 41 and int(beyond.max()) == 60
    assert len(seen[True]) / (len(seen[True]) + full) == pytest.approx(0.25, abs=0.04)


def overlapping_preset(**more):
    sets = {"process.T": 200, "process.resize": "area", "training.overlap_share": 0.5}
    sets |= {"process.resolution": {"kind": "log_snr", "at": [-0.5]}, "training.overlap_log_snr": -3.0}
    return load_preset(TINY, sets | more)


def test_noisier_batches_are_those_of_the_process_without_transitions(monkeypatch):
    preset = overlapping_preset()
    process, full = build_process(preset), build_full_size(preset)
    ddpm = build_process(load_preset(TINY, {"process.kind": "ddpm", "process.levels": 1, "process.T": 200}))
    for t in range(201):
        assert (full.states[t].signal, full.states[t].sigma) == (ddpm.states[t].signal, ddpm.states[t].sigma)
        if process.states[t].size == (16, 16):
            assert full.states[t] == process.states[t]
    batches = Batches(IMAGES, LABELS, torch.device("cpu"), World(), 4, 0, flip=True, classes=8)
    one = Trainer(preset.training, process, build_model(preset), batches, full_size=full)
    seen = []
    monkeypatch.setattr(one, "_run", lambda x, i, r, y: seen.append((x, i, r)) or x[:, :, :r, :r] * 0)
    counters = [k for k in range(40) if one._timesteps.overlaps(k)]
    assert counters
    for counter in counters[:3]:
        t = one._timesteps.draw(counter, one._batches.positions)
        lows = [full.states[int(step)] for step in t]
        assert all(-3 <= math.log(state.snr) < -0.5 for state in lows)
        one._losses(counter, t, one._beyond)
        x, index, resolution = seen[-1]
        assert x.shape[-1] == resolution == 16 and torch.equal(index, t - 1)


def test_a_run_learns_beyond_the_transition_and_resumes_bitwise(tmp_path):
    sets = {"training.steps": 4, "training.checkpoint_every": 2, "training.overlap_share": 0.5}
    sets |= {"process.resolution": {"kind": "log_snr", "at": [-0.5]}, "process.T": 200}
    straight = ssdiff.train(TINY, "shapes", tmp_path / "a", overrides=sets, device="cpu").folder
    with pytest.raises(ssdiff.errors.Interrupted):
        steps = []
        ssdiff.train(
            TINY,
            "shapes",
            tmp_path / "b",
            overrides=sets,
            device="cpu",
            on_event=lambda event: steps.append(event.step),
            stop=lambda: max(steps, default=0) > 1,
        )
    ssdiff.train(resume=tmp_path / "b", device="cpu")
    ours, theirs = (checkpoints.load(tmp_path / run / "checkpoints/step-00000004") for run in ("a", "b"))
    for kind, part in ours.tensors.items():
        assert all(torch.equal(value, theirs.tensors[kind][name]) for name, value in part.items())
    plain = sets | {"training.overlap_share": 0.0}
    other = ssdiff.train(TINY, "shapes", tmp_path / "c", overrides=plain, device="cpu").folder
    ends = [(folder / "metrics.jsonl").read_text().splitlines()[-1] for folder in (straight, other)]
    assert json.loads(ends[0])["loss"] != json.loads(ends[1])["loss"]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"process.levels": 1}, "with a resolution transition"),
        ({"training.overlap_log_snr": 0.0}, r"must be below the first transition, -0\.5, not 0"),
        ({"process.resolution": {"kind": "equal"}}, r"process\.resolution\.kind = 'log_snr'"),
        ({"training.overlap_share": 0.0}, r"is of the share training\.overlap_share, which is 0"),
    ],
)
def test_noisier_batches_where_there_are_none_are_refused(sets, said):
    if "process.levels" in sets:
        sets = sets | {"process.resolution": {"kind": "log_snr", "at": []}}
    with pytest.raises(PresetError, match=said):
        overlapping_preset(**sets)


def test_a_gap_without_timesteps_is_refused_before_anything_is_written(tmp_path):
    sets = {"process.resolution": {"kind": "log_snr", "at": [-0.5]}, "training.overlap_share": 0.5}
    with pytest.raises(ProcessError, match="no timestep lies between"):
        ssdiff.train(
            TINY,
            "shapes",
            tmp_path / "run",
            overrides=sets | {"training.overlap_log_snr": -0.5001},
            device="cpu",
        )
    assert not (tmp_path / "run").exists()


def test_the_micro_batches_of_a_step_are_spread_over_the_sizes():
    sizes = [(16, 16)] * 31 + [(8, 8)] * 30 + [(4, 4)] * 40
    rule = TimestepSampler(sizes, 0, grad_accum_steps=4)
    drawn = torch.tensor([int(rule.draw(k, torch.zeros(1, dtype=torch.int64))) for k in range(2000)])
    for low, high in ((1, 31), (31, 61), (61, 101)):
        inside = ((drawn >= low) & (drawn < high)).reshape(-1, 4)
        assert inside.any(1).all()
        assert_close(inside.double().mean(), torch.tensor((high - low) / 100).double(), atol=0.03, rtol=0)


@given(
    st.dictionaries(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 500), min_size=1),
    st.data(),
)
def test_batch_shares_sum_to_one_and_keep_proportions(counts, data):
    changes = [pair for pair in counts if pair[0] != pair[1]]
    assume(len(changes) < len(counts))
    least = data.draw(st.floats(0, 0.99 / max(len(changes), 1)))
    shares, total = batch_shares(counts, least), sum(counts.values())
    assert sum(shares.values()) == pytest.approx(1)
    assert all(shares[pair] >= least * (1 - 1e-9) for pair in changes if counts[pair] < least * total)
    kept = [shares[pair] / count for pair, count in counts.items() if pair[0] == pair[1]]
    assert max(kept) == pytest.approx(min(kept))
    assert batch_shares(counts, 0) == pytest.approx({pair: n / total for pair, n in counts.items()})


def test_changes_that_leave_nothing_are_refused():
    with pytest.raises(ProcessError, match="leave none for others"):
        batch_shares({(8, 8): 5, (8, 4): 1, (4, 4): 9, (4, 2): 1}, 0.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**31))
def test_every_image_once_an_epoch(count, seed):
    order = ImageOrder(count, seed)
    for epoch in range(3):
        seen = order(torch.arange(epoch * count, (epoch + 1) * count))
        assert sorted(seen.tolist()) == list(range(count))
    straddling = torch.arange(count // 2, count // 2 + count)
    assert torch.equal(ImageOrder(count, seed)(straddling), order(straddling))


def test_batches_do_not_depend_on_the_number_of_processes():
    whole = Batches(
        IMAGES, LABELS, torch.device("cpu"), World(), 6, 3, flip=True, classes=8, label_dropout=0.3
    )
    parts = [
        Batches(
            IMAGES, LABELS, torch.device("cpu"), World(rank, 2), 3, 3, flip=True, classes=8, label_dropout=0.3
        )
        for rank in (0, 1)
    ]
    for counter in range(4):
        images, labels = whole(counter)
        assert images.min() >= -1 and images.max() <= 1
        assert torch.equal(images, torch.cat([part(counter)[0] for part in parts]))
        assert torch.equal(labels, torch.cat([part(counter)[1] for part in parts]))


def test_loss_of_a_perfect_network_is_zero_and_weights_are_min_snr():
    process = build_process(load_preset(TINY))
    x0, t = torch.rand(2, 3, 16, 16), torch.tensor([3, 5])
    noise = torch.randn(2, 3, 16, 16)
    perfect = gaussian_loss(lambda x, i, r, y: process.degrade(x0, 2), process, x0, t, noise)
    assert_close(perfect, torch.zeros(2))
    off = gaussian_loss(
        lambda x, i, r, y: process.degrade(x0, 2) + 1, process, x0, t, noise, min_snr_gamma=2.0
    )
    assert_close(off, torch.tensor([min(process.states[k].snr, 2.0) for k in (3, 5)]))
    eps = gaussian_loss(lambda x, i, r, y: noise + 1, process, x0, t, noise, predict="eps", min_snr_gamma=2.0)
    assert_close(eps, torch.tensor([min(1.0, 2.0 / process.states[k].snr) for k in (3, 5)]))


def test_small_images_weigh_less_by_a_power_of_their_side():
    """With SNR-preserving noise by area, as the coarse content weighs in the loss of the full process."""
    small = {"process.snr_preserving": 1.0, "process.resize": "area", "process.levels": 2}
    process = build_process(load_preset(TINY, small))
    full = build_process(load_preset(TINY, {"process.kind": "ddpm", "process.levels": 1}))
    t = next(t for t in range(1, 21) if process.states[t - 1].size == (8, 8))
    x0, error = torch.rand(2, 3, 16, 16), torch.randn(2, 3, 8, 8)
    ours, theirs = (
        gaussian_loss(
            lambda x, i, r, y, wrong=wrong, model=model: model.degrade(x0, t - 1) + wrong,
            model,
            x0,
            torch.tensor([t, t]),
            torch.zeros(2, 3, *model.states[t].size),
            size_power=power,
            min_snr_gamma=100.0,
        )
        for model, wrong, power in (
            (process, error, 2.0),
            (full, error.repeat_interleave(2, -1).repeat_interleave(2, -2), 0.0),
        )
    )
    assert_close(ours, theirs)


def test_target_at_a_change_is_the_finer_image():
    process = build_process(load_preset(TINY))
    change = next(t for t in range(2, 21) if process.states[t].resolution != process.states[t - 1].resolution)
    seen = {}

    def network(x, index, resolution, labels):
        seen.update(x=x.shape[-1], index=index.tolist(), resolution=resolution)
        return torch.zeros(len(x), 3, resolution, resolution)

    gaussian_loss(
        network, process, torch.rand(2, 3, 16, 16), torch.tensor([change] * 2), torch.zeros(2, 3, 8, 8)
    )
    assert seen == {"x": 8, "index": [change - 1] * 2, "resolution": 16}


def test_two_processes_have_the_gradient_of_the_doubled_batch():
    whole, parts = trainer(micro_batch=8), [trainer(World(rank, 2)) for rank in (0, 1)]
    for counter in range(3):
        for one in (whole, *parts):
            one.model.zero_grad(set_to_none=True)
            one._backward(counter)
        for name, weight in whole.model.named_parameters():
            halves = [dict(part.model.named_parameters())[name].grad for part in parts]
            if weight.grad is None:
                assert halves == [None, None]
            else:
                assert_close((halves[0] + halves[1]) / 2, weight.grad, atol=1e-6, rtol=1e-4)


def test_accumulation_averages_micro_batches():
    one = trainer(grad_accum_steps=2)
    one._backward(0)
    one._backward(1)
    both = {name: weight.grad for name, weight in one.model.named_parameters() if weight.grad is not None}
    two = trainer()
    two._timesteps = one._timesteps  # which spread the pairs of a step
    two._backward(0)
    two._backward(1)
    for name, weight in two.model.named_parameters():
        if weight.grad is not None:
            assert_close(both[name], weight.grad / 2)


def test_only_the_blocks_of_a_path_get_gradients():
    one = trainer()
    low = next(
        k
        for k in range(100)
        if one.process.states[int(one._timesteps.draw(k, torch.arange(4))[0])].resolution == 8
    )
    one._backward(low)
    unused = [name for name, weight in one.model.named_parameters() if weight.grad is None]
    assert unused, "at the lower resolution some blocks are skipped"


def test_images_that_stay_on_the_device_are_the_same(monkeypatch, recwarn):
    image_map = IMAGES.view()
    image_map.flags.writeable = False
    made = []
    for fits in (False, True):
        monkeypatch.setattr(batches_module, "_fits", lambda images, device, fits=fits: fits)
        monkeypatch.setattr(batches_module, "_PART", 7)
        batches = Batches(image_map, LABELS, torch.device("cpu"), World(), 8, 0, flip=True, classes=8)
        made.append(batches(5)[0])
    assert torch.equal(*made) and not recwarn.list


@pytest.mark.parametrize(
    "overrides",
    [{}, {"model.dropout": 0.2}, {"training.grad_accum_steps": 3, "training.transition_share": 0.2}],
    ids=["plain", "dropout", "micro-batches"],
)
def test_resuming_is_bitwise(overrides):
    def make():
        preset = load_preset(TINY, overrides)
        torch.manual_seed(0)
        batches = Batches(IMAGES, LABELS, torch.device("cpu"), World(), 4, 0, flip=True, classes=8)
        return Trainer(preset.training, build_process(preset), build_model(preset), batches)

    straight = make()
    for _ in range(6):
        straight.advance()
    first = make()
    for _ in range(3):
        first.advance()
    saved = {kind: {k: v.clone() for k, v in part.items()} for kind, part in first.state().items()}
    second = make()
    second.restore(3, saved)
    for _ in range(3):
        second.advance()
    for kind, part in straight.state().items():
        other = second.state()[kind]
        assert part.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in part.items())


def test_resuming_is_bitwise_where_convolutions_are_trained_by_products(monkeypatch):
    used, apply = [], convolution._Winograd.apply
    monkeypatch.setattr(convolution, "_LEAST_CHANNELS", 8)
    monkeypatch.setattr(convolution._Winograd, "apply", lambda *given: (used.append(given), apply(*given))[1])
    test_resuming_is_bitwise({})
    assert used


def test_restoring_a_foreign_state_is_refused():
    one = trainer()
    state = {kind: dict(part) for kind, part in one.state().items()}
    name = next(iter(state["weights"]))
    state["weights"][name] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="of shape"):
        one.restore(1, state)
    del state["weights"][name]
    with pytest.raises(CheckpointError, match="missing"):
        one.restore(1, state)


def test_a_gradient_that_is_not_finite_stops_before_the_weights():
    one = trainer()
    before = [weight.clone() for weight in one.model.parameters()]
    with torch.no_grad():
        next(iter(one.model.parameters())).data[0] = float("nan")
        before[0][0] = float("nan")
    with pytest.raises(NonFiniteError, match="step 1 "):
        one.advance()
    assert one.step == 0
    for weight, old in zip(one.model.parameters(), before, strict=True):
        assert_close(weight, old, equal_nan=True, atol=0, rtol=0)


def test_where_the_host_does_not_wait_a_bad_gradient_is_skipped_and_reported_later(monkeypatch):
    one, sound = trainer(), trainer()
    read = one._read_norms
    monkeypatch.setattr(one, "_read_norms", lambda: None)
    one.advance()
    sound.advance()
    objective = one._objective
    monkeypatch.setattr(one, "_objective", lambda *given: objective(*given) * float("nan"))
    one.advance()
    monkeypatch.setattr(one, "_read_norms", read)
    for weight, expected in zip(one.model.parameters(), sound.model.parameters(), strict=True):
        assert_close(weight, expected, atol=0, rtol=0)
    with pytest.raises(NonFiniteError, match="step 2 "):
        one.state()


def test_the_average_follows_the_weights():
    one = trainer(ema=0.5)
    start = [weight.clone() for weight in one.ema.parameters()]
    one.advance()
    for old, averaged, weight in zip(start, one.ema.parameters(), one.model.parameters(), strict=True):
        assert_close(averaged, old + (weight - old) * (1 - min(0.5, 1 / 10)))


def test_clipping_bounds_the_gradient():
    one = trainer(grad_clip_norm=1e-3)
    one.advance()
    assert one.averages().grad_norm > 1e-3
    moments = [state["exp_avg"] for state in one._optimizers[0].state.values()]
    assert torch.stack([m.norm() for m in moments]).norm() <= 1e-3 * 0.1 * 1.001


def test_loss_falls_on_ten_images():
    one = trainer(lr=2e-3)
    losses = []
    for _ in range(4):
        for _ in range(15):
            one.advance()
        losses.append(one.averages().loss)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"grad_accum_steps": 2, "transition_share": 0.1, "grad_clip_norm": 0.0},
        {"timesteps": "log_snr", "uncertainty": True},
    ],
)
def test_a_step_asks_the_device_nothing(monkeypatch, overrides):
    # Tensors of the meta device have no values: whoever asks for one, as one would wait for a GPU, fails.
    monkeypatch.setattr(Trainer, "_read_norms", lambda self: None)
    module = sys.modules[torch.optim.Adam.__module__]
    monkeypatch.setattr(module, "_device_dtype_check_for_fused", lambda weight: None)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)  # PyTorch's own, not for this device
    one = trainer(device=torch.device("meta"), **overrides)
    for _ in range(10):
        one.advance()
    assert one.step == 10
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        one.averages()


def test_learning_rates():
    preset = load_preset(TINY, {"training.warmup": 4, "training.steps": 14, "training.lr": 1.0})
    rates = {}
    for decay in ("constant", "linear", "cosine"):
        part = preset.training.model_copy(update={"lr_schedule": decay})
        rates[decay] = [learning_rate(part, step) for step in (0, 3, 4, 9, 14)]
    assert rates["constant"] == [0.25, 1.0, 1.0, 1.0, 1.0]
    assert rates["linear"] == [0.25, 1.0, 1.0, 0.5, 0.0]
    assert rates["cosine"] == pytest.approx([0.25, 1.0, 1.0, 0.5, 0.0])
    late = preset.training.model_copy(update={"lr_schedule": "linear", "lr_decay_share": 0.4})
    assert [learning_rate(late, step) for step in (0, 4, 10, 11, 13, 14)] == [0.25, 1, 1, 0.75, 0.25, 0]


def test_runs_are_alike_until_the_rate_falls():
    short, long = (
        trainer(steps=steps, warmup=1, lr_schedule="linear", lr_decay_share=0.5, lr=1e-2) for steps in (9, 17)
    )
    alike = []
    for _ in range(7):
        short.advance(), long.advance()
        pairs = zip(short.state()["weights"].values(), long.state()["weights"].values(), strict=True)
        alike.append(all(torch.equal(one, other) for one, other in pairs))
    # Step 6, counted from 0, is the first whose rate differs.
    assert alike == [True] * 6 + [False]


# The averaged weights


def steps_of(**settings):
    """Numbers that stand for the weights, and what is kept of them, over a few steps."""
    chosen = load_preset(TINY, {f"training.{key}": value for key, value in settings.items()}).training
    weights = torch.randn(60, generator=torch.Generator().manual_seed(0)).double().tolist()
    kept, seen = weights[0], []
    for step, weight in enumerate(weights, 1):
        share = averaging(chosen, step)
        kept = kept if share is None else share * kept + (1 - share) * weight
        seen.append(kept)
    return weights, seen


def test_by_default_every_step_is_averaged_and_a_young_average_follows():
    chosen = load_preset(TINY, {"training.ema": 0.9999}).training
    for step in (1, 2, 50, 10**6):
        assert averaging(chosen, step) == min(0.9999, step / (step + 9))


def test_an_average_as_cold_diffusion_has_it():
    weights, seen = steps_of(ema=0.9, ema_every=10, ema_start=20)
    assert seen[:20] == weights[:20]
    expected = 0.9 * weights[19] + 0.1 * weights[20]  # step 21, whose number from 0 is 20
    assert seen[20] == pytest.approx(expected) and seen[20:30] == [seen[20]] * 10
    expected = 0.9 * expected + 0.1 * weights[30]
    assert seen[30] == pytest.approx(expected) and seen[39] == seen[30] != seen[40]


def test_a_young_average_of_every_tenth_step_follows_too():
    weights, seen = steps_of(ema=0.9999, ema_every=10)
    assert seen[0] == weights[0] and seen[10] == pytest.approx((2 * weights[0] + 9 * weights[10]) / 11)


def test_a_trainer_averages_by_this_rule_and_resumes_bit_for_bit():
    run = trainer(ema=0.5, ema_every=3, ema_start=4)
    states = []
    for step in range(1, 11):
        run.advance()
        states.append({name: value.clone() for name, value in run.state()["ema"].items()})
        weights = run.state()["weights"]
        assert all(weights[name].equal(states[-1][name]) for name in weights) == (step <= 4)
        if step == 6:
            middle = {kind: {k: v.clone() for k, v in part.items()} for kind, part in run.state().items()}
    name = max(states[0], key=lambda key: states[0][key].numel())
    same = [a[name].equal(b[name]) for a, b in itertools.pairwise(states)]
    assert same == [False, False, False, True, True, False, True, True, False]  # steps 7 and 10 average
    again = trainer(ema=0.5, ema_every=3, ema_start=4)
    again.restore(6, middle)
    for _ in range(4):
        again.advance()
    assert all(value.equal(states[-1][key]) for key, value in again.state()["ema"].items())


# Crops at random


def crops(**options):
    settings = {"flip": False, "crop": 12, "padding": 0, **options}
    return Batches(
        IMAGES,
        None,
        torch.device("cpu"),
        options.pop("world", World()),
        5,
        7,
        **{key: value for key, value in settings.items() if key != "world"},
    )


def place_of(crop, image, padding=0):
    """Where in the padded image, or its mirror image, a crop lies: every place that fits."""
    wide = np.pad(image, ((0, 0), (padding,) * 2, (padding,) * 2))
    size, places = crop.shape[-1], range(wide.shape[-1] - crop.shape[-1] + 1)
    return [(y, x) for y in places for x in places if (wide[:, y : y + size, x : x + size] == crop).all()]


@pytest.mark.parametrize(("size", "padding"), [(12, 0), (16, 4), (16, 2)])
def test_a_random_crop_is_a_part_of_its_image_and_reaches_every_place(size, padding):
    batches, seen = crops(crop=size, padding=padding), set()
    for counter in range(40):
        images, _ = batches(counter)
        numbers = batches._order(torch.arange(5) + 5 * counter)
        for x, number in zip(to_uint8(images).numpy(), numbers.tolist(), strict=True):
            [place] = place_of(x, IMAGES[number], padding)
            seen.add(place)
    span = 16 + 2 * padding - size + 1
    assert {y for y, _ in seen} == {x for _, x in seen} == set(range(span))


def test_crops_depend_on_seed_and_place_alone():
    first = crops()(3)[0]
    assert first.equal(crops()(3)[0]) and not first.equal(crops()(4)[0])
    halves = [crops(world=World(rank, 2))(3)[0] for rank in range(2)]
    doubled = Batches(IMAGES, None, torch.device("cpu"), World(), 10, 7, flip=False, crop=12)(3)[0]
    assert torch.cat(halves).equal(doubled)


def test_a_crop_is_cut_before_it_is_mirrored():
    plain, mirrored = crops()(0)[0], crops(flip=True)(0)[0]
    alike = [(a.equal(b), a.flip(-1).equal(b)) for a, b in zip(mirrored, plain, strict=True)]
    assert all(any(pair) for pair in alike) and any(flipped for _, flipped in alike)


def test_eight_bits():
    """Published inputs of generation by blur: degraded images cut, not rounded, to 256 levels."""
    group = golden("cold_routines")
    x = normal(1004, group.meta["arrays"]["eight_bits"]["input_shape"]).clamp(-1, 1)
    group.check("eight_bits", cut_to_bits(x, 8), atol=1e-7)
    assert cut_to_bits(torch.tensor([-3.0, -1.0, 1.0, 3.0]), 8).tolist() == [-1.0, -1.0, 1.0, 1.0]
    assert len(cut_to_bits(torch.linspace(-1, 1, 999), 2).unique()) == 4


def test_a_network_sees_cut_images_in_training_and_whole_ones_otherwise():
    size = {"data.size": 16}
    preset = load_preset("cold-blur-celeba128-gen", size)
    assert preset.training.input_bits == 8
    process, x0 = build_process(preset), torch.rand(3, 3, 16, 16) * 2 - 1
    t, visit, seen = torch.tensor([1, 5, 300]), Visit(torch.arange(3), 0, torch.arange(3)), []

    def network(x_t, index, resolution, labels):
        seen.append(x_t)
        return x_t

    for bits in (8, 0):
        settings = preset.training.model_copy(update={"input_bits": bits})
        objective(process, settings, "x0")(network, x0, t, visit, None)
    whole = process.degrade(x0, t)
    assert torch.equal(seen[0], cut_to_bits(whole, 8)) and torch.equal(seen[1], whole)
