"""Sizes that get weights of their own: from the start, or after a share of the steps."""

import math
import signal
import time

import pytest
import torch
from test_resume import TINY, final, published, start
from trainers import trainer

import ssdiff
from ssdiff import checkpoints
from ssdiff.build import build_model, build_process
from ssdiff.config.load import load_preset
from ssdiff.distributed import World
from ssdiff.errors import CheckpointError
from ssdiff.evaluation import cost
from ssdiff.training.trainer import Trainer
from ssdiff.weights.convert import export_model
from ssdiff.weights.describe import describe_model

OWN = {"model.own": 1, "training.own_after": 0.5, "training.grad_accum_steps": 2}


def make(**sets):
    preset = load_preset(TINY, OWN | {key.replace("__", "."): value for key, value in sets.items()})
    plain = trainer()
    torch.manual_seed(0)
    model = build_model(preset)
    return Trainer(preset.training, build_process(preset), model, plain._batches)


def advanced(one, steps):
    for _ in range(steps):
        one.advance()
    return one


def same(one, other):
    for kind, part in one.items():
        assert part.keys() == other[kind].keys(), kind
        for name, value in part.items():
            assert torch.equal(value, other[kind][name]), (kind, name)


@pytest.mark.parametrize("saved_at", [4, 6, 7], ids=["before", "at", "after"])
def test_resuming_about_the_branching_is_bitwise(saved_at):
    straight = advanced(make(), 9)
    assert straight.own_since == 6
    first = advanced(make(), saved_at)
    state = {
        kind: {name: value.clone() for name, value in part.items()} for kind, part in first.state().items()
    }
    second = make()
    second.restore(saved_at, state, own_since=first.own_since)
    assert second.own_since == (6 if saved_at > 6 else None)
    same(straight.state(), advanced(second, 9 - saved_at).state())


def test_a_run_that_is_told_to_have_branched_from_the_start_branches_with_its_state():
    first = advanced(make(), 4)
    state = {
        kind: {name: value.clone() for name, value in part.items()} for kind, part in first.state().items()
    }
    second = make(training__own_after=0.0)
    second.restore(4, state, own_since=None)
    advanced(second, 1)
    assert second.own_since == 4
    kept = second.state()["optimizer"]
    numbers = {name: float(value) for name, value in kept.items() if name.startswith("step.networks.")}
    assert {name.split(".")[2] for name in numbers} == {"0", "1"}
    before = {name: float(value) for name, value in state["optimizer"].items() if name.startswith("step.")}
    for name, steps in numbers.items():
        first_name = name.replace("networks.1.", "networks.0.")
        assert steps >= before.get(name, before.get(first_name, 0.0)), name


def test_a_run_is_the_shared_one_until_it_branches():
    ours, shared = advanced(make(), 6), advanced(make(model__own=0, training__own_after=0.0), 6)
    for kind in ("weights", "ema"):
        state = shared.state()[kind]
        found = ours.state()[kind]
        for name, value in found.items():
            assert torch.equal(value, state[name.split(".", 2)[2]]), name
    advanced(ours, 3)
    weights = ours.state()["weights"]
    assert any(
        not torch.equal(value, weights[name.replace("networks.0.", "networks.1.")])
        for name, value in weights.items()
        if name.startswith("networks.0.")
    )


def test_branching_copies_the_average_and_the_optimisers_state():
    one = advanced(make(), 6)
    before = one.state()
    one._branch()
    after = one.state()
    same({kind: before[kind] for kind in ("weights", "ema")}, after)
    assert all(torch.equal(value, after["optimizer"][entry]) for entry, value in before["optimizer"].items())
    copied = [entry for entry in after["optimizer"] if entry not in before["optimizer"]]
    assert copied
    for entry in copied:
        source = entry.replace("networks.1.", "networks.0.")
        assert torch.equal(after["optimizer"][entry], before["optimizer"][source])


def test_each_network_is_clipped_by_itself():
    clip = 1e-3
    one = make(training__own_after=0.0, training__grad_clip_norm=clip)
    advanced(one, 1)  # two micro-batches of different sizes
    for optimizer in one._optimizers:
        moments = [state["exp_avg"] for state in optimizer.state.values()]
        size = math.sqrt(sum(float(moment.square().sum()) for moment in moments))
        assert size == pytest.approx(clip * (1 - one.settings.betas[0]), rel=1e-3)


def test_a_network_without_a_micro_batch_stays_as_it_is():
    one = make(training__own_after=0.0, training__grad_accum_steps=1)
    for _ in range(8):
        before = {name: value.clone() for name, value in one.model.state_dict().items()}
        side = one.process.states[int(one._timesteps.draw(one.step, one._batches.positions)[0])].resolution
        one.advance()
        idle = "networks.1." if side == 16 else "networks.0."
        for name, value in one.model.state_dict().items():
            assert not name.startswith(idle) or torch.equal(value, before[name])


def test_two_processes_train_the_same_networks():
    parts = [trainer(World(rank, 2)) for rank in (0, 1)]
    preset = load_preset(TINY, OWN | {"training.own_after": 0.0})
    models = []
    for part in parts:
        torch.manual_seed(0)
        one = Trainer(preset.training, build_process(preset), build_model(preset), part._batches)
        for counter in range(2):
            one._backward(counter)
        models.append({name for name, weight in one.model.named_parameters() if weight.grad is not None})
    assert models[0] == models[1], "a gradient is averaged over processes that all have it"


def run(*more):
    """Settings of a command."""
    sets = {"model.own": "1", "training.own_after": "0.25"} | dict(more)
    return [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]


def killed_at(out, step, sets):
    """Run until a checkpoint of the step is there, then kill."""
    process = start(out, *sets)
    while process.poll() is None and not any(name >= f"step-{step:08d}" for name in published(out)):
        time.sleep(0.003)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_kills_at_the_branching_leave_the_uninterrupted_result(tmp_path):
    straight, out, sets = tmp_path / "straight", tmp_path / "killed", run()
    assert start(straight, *sets).wait(timeout=240) == 0
    killed_at(out, 10, sets)
    killed_at(out, 11, sets)
    early = describe_model(out)
    assert "weights of its own" in str(early)
    assert start(out, *sets).wait(timeout=240) == 0
    ours, theirs = final(out), final(straight)
    assert ours.meta["own_since"] == theirs.meta["own_since"] == 10
    same(theirs.tensors, ours.tensors)

    assert "16 px has weights of its own since step 10" in str(describe_model(out))
    file = tmp_path / "model.safetensors"
    export_model(out, file)
    told = describe_model(file)
    assert told.to_dict()["own_since"] == 10 and told.to_dict()["own"] == [16]
    assert "16 px has weights of its own since step 10" in str(told)
    drawn = ssdiff.load(file).sample(2, 4, labels=[0, 1])
    assert torch.equal(drawn, ssdiff.load(out).sample(2, 4, labels=[0, 1]))
    with pytest.raises(CheckpointError, match="it branched at step 10"):
        ssdiff.train(resume=out, overrides={"training.own_after": 0.5, "training.steps": 60})


def train(tmp_path, name, steps, **more):
    sets = {"training.steps": steps, "training.checkpoint_every": 1, **more}
    return ssdiff.train(TINY, "shapes", tmp_path / name, overrides=sets, device="cpu")


def test_a_run_that_has_not_branched_says_so_and_can_be_loaded(tmp_path):
    done = []
    sets = {"training.steps": 10, "model.own": 1, "training.own_after": 0.9}
    with pytest.raises(ssdiff.errors.Interrupted):
        ssdiff.train(
            TINY,
            "shapes",
            tmp_path / "run",
            overrides=sets,
            device="cpu",
            on_event=lambda event: done.append(event.step),
            stop=lambda: max(done, default=0) > 7,
        )
    told = describe_model(tmp_path / "run")
    assert "16 px has weights of its own not yet; all sizes share them" in str(told)
    assert told.own_since is None and checkpoints.list_steps(tmp_path / "run" / "checkpoints")
    assert ssdiff.load(tmp_path / "run").sample(1, 4).shape == (1, 3, 16, 16)
    ended = ssdiff.train(resume=tmp_path / "run", overrides={"training.own_after": 0.95}, device="cpu")
    assert describe_model(ended.folder).own_since == 9, "there is one step after it at least"


def test_a_training_begins_with_the_weights_for_all_sizes(tmp_path):
    shared = train(tmp_path, "shared", 2)
    sets = {"model.own": 1, "training.steps": 1, "training.lr": 1e-10}
    own = ssdiff.train(
        None, "shapes", tmp_path / "own", overrides=sets, device="cpu", init=shared.folder, init_weights="raw"
    )
    model, begun = (
        ssdiff.load(own.folder, weights="raw").model,
        ssdiff.load(shared.folder, weights="raw").model,
    )
    for part in model.parts():
        for name, value in part.state_dict().items():
            torch.testing.assert_close(value, begun.state_dict()[name], atol=1e-6, rtol=0)
    again = {"training.steps": 1, "training.own_after": 0.5}
    with pytest.raises(CheckpointError, match="cannot begin shared"):
        ssdiff.train(None, "shapes", tmp_path / "x", overrides=again, device="cpu", init=own.folder)
    assert not (tmp_path / "x").exists()
    with pytest.raises(CheckpointError, match="one network for all sizes cannot begin with") as caught:
        ssdiff.train(TINY, "shapes", tmp_path / "x", device="cpu", init=own.folder)
    assert caught.value.hint == "set model.own=1" and not (tmp_path / "x").exists()
    export_model(own.folder, file := tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match="but that of ssdiff"):
        ssdiff.import_official(file, TINY)


def test_a_dry_run_knows_it(monkeypatch):
    monkeypatch.setattr(cost, "_DRY_RUN_SECONDS", 0.01)
    preset = load_preset(TINY, OWN)
    found, plain = (cost.dry_run(one, "cpu") for one in (preset, load_preset(TINY)))
    assert found.parameters > plain.parameters and found.memory > plain.memory
    assert [path.flops for path in found.paths] == [path.flops for path in plain.paths]
