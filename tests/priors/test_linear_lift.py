"""Transitions without the network: the best linear map, fitted, stored, sampled by, at moved log-SNRs."""

import numpy as np
import pytest
import torch
from eightpixels import by_area, images
from torch.testing import assert_close
from trainers import TINY

import ssdiff
from ssdiff import checkpoints
from ssdiff.build import build_process, build_sampling_process
from ssdiff.config.load import load_preset
from ssdiff.errors import CheckpointError, PresetError, ProcessError, UsageError
from ssdiff.evaluation.cost import count
from ssdiff.generation import override_sampling
from ssdiff.operators import matrices
from ssdiff.priors.linear_lift import LinearLift, fit_lift
from ssdiff.weights.convert import export_model
from ssdiff.weights.single_file import read


def linear_images(count, seed, *, exact=True):
    """Images of 8 px whose details follow linearly from the image of 4 px, otherwise at every pixel, and
    with a mean; otherwise with noise that nothing tells."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64)
    rule = torch.randn(4, 4, 3, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    rule = rule - rule.mean(-1, keepdim=True)
    blocks = (
        small[..., None]
        + torch.einsum("bcij,ijcd->bcijd", small, 0.3 * rule)
        + 0.2 * rule.permute(2, 0, 1, 3)
    )
    if not exact:
        noise = torch.randn(blocks.shape, generator=generator, dtype=torch.float64)
        blocks = blocks + 0.2 * (noise - noise.mean(-1, keepdim=True))
    return torch.nn.functional.pixel_shuffle(blocks.permute(0, 1, 4, 2, 3).flatten(1, 2), 2), small


def test_what_follows_linearly_is_found():
    process = build_process(by_area())
    x, _ = linear_images(4000, 0)
    lift = fit_lift(x.split(1500), process)
    other, small = linear_images(500, 1)
    error = (lift.enlarge(small) - other).square().mean()
    assert float(error) < 2e-3 * float(other.var()), "but for the ridge"


def test_it_is_the_regression_and_better_than_repeating_pixels():
    process = build_process(by_area())
    x, held_out = images(3000), images(2000, seed=1)
    lift = fit_lift([x], process)
    small = process.degrade(held_out, process.T)
    error = float((lift.enlarge(small) - held_out).square().mean())
    seen, all_ = process.degrade(x, process.T).flatten(1), x.flatten(1)
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    best = torch.linalg.lstsq(torch.cat([seen, ones], 1), all_).solution
    tested = torch.cat([small.flatten(1), torch.ones(len(small), 1, dtype=torch.float64)], 1) @ best
    least = float((tested - held_out.flatten(1)).square().mean())
    repeated = float((small.repeat_interleave(2, -1).repeat_interleave(2, -2) - held_out).square().mean())
    assert least * 0.99 < error < 1.05 * least < repeated


def test_parts_and_large_images_fit_alike(monkeypatch):
    process = build_process(by_area())
    x = images(600)
    whole, parts = fit_lift([x], process), fit_lift(x.split(170), process)
    assert_close(whole.maps[4], parts.maps[4], atol=1e-5, rtol=0)
    monkeypatch.setattr("ssdiff.priors.linear_lift._LARGEST", 2)
    one = fit_lift([x], process)
    assert one.maps[4].shape == (1, 4, 26)
    assert LinearLift.from_tensors(one.to_tensors(), process, 1).enlarge(x[:2, :, :4, :4]).shape == (
        2,
        1,
        8,
        8,
    )


def test_damaged_maps_are_refused():
    process, lift = build_process(by_area()), fit_lift([images(50)], build_process(by_area()))
    for wrong in ({}, {"4": torch.zeros(2, 4, 26)}, {"4": lift.maps[4] * float("nan")}):
        with pytest.raises(CheckpointError, match="maps of the transition from 4 px"):
            LinearLift.from_tensors(wrong, process, 1)


SETS = {
    "process.T": 100,
    "process.levels": 2,
    "process.resize": "area",
    "process.resolution": {"kind": "log_snr", "at": [-0.5]},
    "process.final_snr": 0.5,
    "training.overlap_share": 0.2,
    "training.overlap_log_snr": -2.0,
    "training.steps": 2,
    "sampling.steps": 6,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("lift") / "run"
    sets = SETS | {"sampling.lift": "linear"}
    return ssdiff.train(TINY, "shapes", out, overrides=sets, device="cpu").folder


def change(process):
    return next(t for t in range(1, process.T + 1) if process.states[t].size != process.states[t - 1].size)


def test_a_transition_is_the_small_sizes_prediction_and_the_map(run):
    pipe = ssdiff.load(run)
    t, seen = change(pipe.process), []
    pipe.model.register_forward_hook(lambda m, args, out: seen.append((args[0].shape[-1], out.shape[-1])))
    x = torch.randn(2, 3, 8, 8)
    pipe.sampling = pipe.sampling.model_copy(update={"clip_denoised": False})
    found = pipe.predict_x0(x, t)
    small = pipe.model(x, torch.full((2,), t - 1), 8, torch.full((2,), 8))
    assert seen == [(8, 8), (8, 8)] and torch.equal(found, pipe.lift.enlarge(small))
    pipe.sampling = pipe.sampling.model_copy(update={"lift": "network"})
    pipe.predict_x0(x, t)
    assert seen[-1] == (8, 16)


def test_pictures_of_another_size_change_resolution_by_the_mean_map(run):
    pipe, seen = ssdiff.load(run), []
    t = change(pipe.process)
    pipe.model.register_forward_hook(lambda m, args, out: seen.append((args[0].shape[-1], out.shape[-1])))
    pipe.sampling = pipe.sampling.model_copy(update={"clip_denoised": False})
    large = pipe.at_size((24, 40))
    seen.clear()
    x = torch.randn(1, 3, *large.process.states[t].size)
    found = large.predict_x0(x, t)
    assert set(seen) == {(8, 8)} and found.shape[-2:] == large.process.states[t - 1].size == (24, 40)
    mean = LinearLift({8: pipe.lift.maps[8].mean(0, keepdim=True)})
    below = large.process.states[t].size
    tiles = large._tiles

    def call(part, side):
        return pipe.model(part, torch.full((len(part),), t - 1), side, torch.full((len(part),), 8))

    small = tiles.run(call, x, t, below, None, t)
    assert small.shape[-2:] == below == (12, 20)
    assert_close(found, mean.enlarge(small, 8))


def test_the_mean_map_is_the_maps_own_where_all_are_alike():
    process, x = build_process(by_area()), images(600)
    lift = fit_lift([x], process)
    alike = LinearLift({4: lift.maps[4].mean(0, keepdim=True).expand(16, -1, -1)})
    small = x[:3, :, :4, :4].float()
    assert_close(alike.enlarge(small, 4), alike.enlarge(small), atol=1e-5, rtol=1e-5)
    wide = torch.cat([small, small], -1)
    assert alike.enlarge(wide, 4).shape == (3, 1, 8, 16)
    # Away from the border a map sees the same neighbours, wherever it is.
    assert_close(alike.enlarge(wide, 4)[..., :4], alike.enlarge(small, 4)[..., :4], atol=1e-5, rtol=1e-5)


def test_pictures_of_another_size_change_resolution_where_sampling_does(run):
    pipe = ssdiff.load(run)
    override_sampling(pipe, {"sampling.transitions": [-1.5]})
    large = pipe.at_size((24, 40))
    assert change(large.process) == change(pipe.process)
    top = large.process.T
    x = torch.randn(1, 3, *large.process.states[top].size)
    assert large.restore(x, top, "ddim", steps=3).shape == (1, 3, 24, 40)


def test_files_and_runs_keep_the_maps(run, tmp_path):
    file = tmp_path / "model.safetensors"
    export_model(run, file)
    one, other = (ssdiff.load(path) for path in (run, file))
    assert torch.equal(one.lift.maps[8], other.lift.maps[8])
    assert not any(name.startswith("lift") for name in read(file).weights)
    assert torch.equal(one.sample(2, labels=[0, 1]), other.sample(2, labels=[0, 1]))
    damaged = checkpoints.list_steps(run / "checkpoints")[-1]
    assert (damaged / "lift.safetensors").exists()


def test_a_finished_run_gets_the_maps(tmp_path):
    plain = ssdiff.train(TINY, "shapes", tmp_path / "run", overrides=SETS, device="cpu").folder
    with pytest.raises(UsageError, match="needs maps that are fitted in training"):
        pipe = ssdiff.load(plain)
        override_sampling(pipe, {"sampling.lift": "linear"})
        pipe.sample(1, labels=[0])
    ssdiff.train(resume=plain, overrides={"sampling.lift": "linear"}, device="cpu")
    assert ssdiff.load(plain).lift is not None


def test_sampling_changes_resolution_where_it_is_told(run):
    pipe = ssdiff.load(run)
    before, moved = pipe.process, ssdiff.load(run)
    override_sampling(moved, {"sampling.transitions": [-1.5]})
    assert change(moved.process) > change(before)
    ddpm = build_process(load_preset(TINY, {"process.kind": "ddpm", "process.levels": 1, "process.T": 100}))
    for t, state in enumerate(moved.process.states):
        same = before.states[t] if before.states[t].size == state.size else ddpm.states[t]
        assert state == same, "the states of a size do not depend on where the transitions are"
    drawn = moved.sample(2, labels=[0, 1])
    assert drawn.shape == (2, 3, 16, 16) and not torch.equal(drawn, pipe.sample(2, labels=[0, 1]))
    assert moved.predict_x0(torch.randn(1, 3, 8, 8), change(moved.process)).shape[-1] == 16


def test_sampling_crosses_a_transition_by_one_timestep(run, result, tmp_path):
    pipe, other = ssdiff.load(run), ssdiff.load(run)
    t = change(pipe.process)
    override_sampling(other, {"sampling.crossing": "timestep"})
    one, two = (set(each.plan(5).timesteps) for each in (pipe, other))
    assert t in one & two and t - 1 in two - one and len(one) == len(two)
    drawn = other.sample(2, 5, labels=[0, 1])
    assert not torch.equal(drawn, pipe.sample(2, 5, labels=[0, 1]))
    command = ("sample", "--ckpt", run, "-n", 2, "--steps", 5, "--set", "sampling.crossing=timestep")
    told = result(*command, "--out", tmp_path / "x.npz", "--device", "cpu")
    assert told["steps"] == len(two) - 1


def test_a_chain_costs_what_the_small_size_does():
    linear = load_preset(TINY, SETS | {"sampling.lift": "linear"})
    one, other = count(linear), count(load_preset(TINY, SETS))
    assert (8, 16) not in one.visits and other.visits[8, 16] == 1
    assert sum(one.visits.values()) == sum(other.visits.values())
    assert one.sampling_flops < other.sampling_flops and one.training_flops == other.training_flops
    late = count(load_preset(TINY, SETS | {"sampling.lift": "linear", "sampling.transitions": [-1.9]}))
    assert late.visits[16, 16] >= one.visits[16, 16] and late.sampling_flops >= one.sampling_flops


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (
            {"process.levels": 1, "process.resolution": {"kind": "equal"}},
            "is for kind 'ssd' with a resolution",
        ),
        (
            {
                "process.levels": 1,
                "process.resolution": {"kind": "equal"},
                "sampling.lift": "network",
                "sampling.crossing": "timestep",
            },
            "sampling.crossing: 'timestep' is for kind 'ssd' with a resolution transition",
        ),
        ({"sampling.transitions": [-1.0], "sampling.lift": "network"}, "needs sampling.lift = 'linear'"),
        ({"sampling.transitions": [-2.5]}, "trained from -0.5 down to -2, not at -2.5"),
        ({"sampling.transitions": [0.0]}, "trained from -0.5 down to -2, not at 0"),
        ({"sampling.transitions": [-1.0, -2.0]}, "only the first of"),
        (
            {"sampling.transitions": [-1.0], "process.resolution": {"kind": "equal"}},
            "needs process.resolution",
        ),
    ],
)
def test_maps_and_transitions_where_they_mean_nothing_are_refused(sets, said):
    given = SETS | {"sampling.lift": "linear"} | sets
    if given["process.resolution"]["kind"] == "equal":
        given |= {"training.overlap_share": 0.0, "training.overlap_log_snr": -2.5}
    with pytest.raises(PresetError, match=said.replace(".", r"\.")):
        load_preset(TINY, given)


def test_noise_that_would_be_another_is_refused():
    sets = SETS | {"process.final_snr": 1e-6, "sampling.lift": "linear", "sampling.transitions": [-1.5]}
    with pytest.raises(ProcessError, match="raises it from the last transition on"):
        build_sampling_process(load_preset(TINY, sets))


def test_the_best_map_is_that_of_gaussian_data():
    """In the limit of many images: Sigma R^T (R Sigma R^T)^-1, where a pixel's neighbours tell all."""
    process, x = build_process(by_area()), images(20_000)
    lift = fit_lift([x], process)
    basis = matrices.dct(8)
    frequency = torch.arange(8, dtype=torch.float64)
    fade = (0.5 / (1 + frequency[:, None].square() + frequency.square())).flatten()
    kron = torch.kron(basis.mT, basis.mT)
    sigma = kron @ torch.diag(fade) @ kron.mT
    reduce = torch.kron(matrices.area(8, 4), matrices.area(8, 4))
    best = sigma @ reduce.mT @ torch.linalg.inv(reduce @ sigma @ reduce.mT)
    small = process.degrade(images(300, seed=3), process.T) - 0.2
    ideal = (small.flatten(1) @ best.mT).view(-1, 1, 8, 8) + 0.2
    spread = float(ideal.var())
    assert float((lift.enlarge(small + 0.2) - ideal).square().mean()) < 0.02 * spread
    assert np.isfinite(spread)
