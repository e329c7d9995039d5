"""Networks as CUDA graphs: the same results, where there is a GPU; and what can be seen without one."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssdiff.build import build_model, build_process
from ssdiff.config.load import load_preset
from ssdiff.distributed import World
from ssdiff.training import graphs
from ssdiff.training.batches import Batches
from ssdiff.training.graphs import Graphs, _Passes
from ssdiff.training.trainer import Trainer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SETTINGS = {
    "data.size": 16,
    "process.T": 40,
    "process.levels": 3,
    "process.resolution": {"kind": "log_snr", "at": [1.0, -1.0]},
    "process.snr_preserving": 1.0,
    "model.width": 16,
    "model.multipliers": [1, 2, 2],
    "model.blocks": 1,
    "training.grad_accum_steps": 4,
    "training.batch": 8,
    "training.steps": 12,
    "training.transitions": True,
    "training.transition_share": 0.1,
    "sampling.lift": "network",
}


def make(device="cpu", precision=torch.float32, **sets):
    preset = load_preset(
        "shapes32", SETTINGS | {key.replace("__", "."): value for key, value in sets.items()}
    )
    numbers = np.random.default_rng(0)
    batches = Batches(
        numbers.integers(0, 256, (64, 3, 16, 16), dtype=np.uint8),
        numbers.integers(0, 8, 64),
        torch.device(device),
        World(),
        preset.training.batch,
        0,
        flip=True,
        classes=8,
        label_dropout=0.1,
    )
    torch.manual_seed(0)
    model = build_model(preset).to(device, memory_format=torch.channels_last)
    with torch.no_grad():
        for weight in model.parameters():  # the last layers are zero, which would hide everything
            weight.add_(0.02 * torch.randn(weight.shape).to(weight))
    return Trainer(preset.training, build_process(preset), model, batches, precision=precision)


@needs_gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "sets",
    [
        {},
        {"model__dropout": 0.3},
        {"model__own": 1},
        {"model__own": 1, "training__own_after": 0.5},
        {"training__overlap_share": 0.5, "model__own": 1, "training__overlap_log_snr": -2.0},
    ],
    ids=["shared", "dropout", "own", "own-after", "overlap"],
)
@pytest.mark.parametrize("small", [1 << 16, 8 * 8 * 8], ids=["all", "smaller-sizes"])
def test_training_is_repeatable_and_that_without(sets, precision, small, monkeypatch):
    monkeypatch.setattr(graphs, "SMALL", small)
    plain, replayed, again = (
        make("cuda", precision, training__cuda_graphs=on, **sets) for on in (False, True, True)
    )
    for _ in range(12):
        for one in (plain, replayed, again):
            one.advance()
    assert isinstance(replayed._run, Graphs) and replayed._run._works and replayed._run._passes
    for kind, part in replayed.state().items():
        for name, value in part.items():
            assert torch.equal(value, again.state()[kind][name]), (kind, name)
            assert_close(value, plain.state()[kind][name], rtol=1e-4, atol=1e-5, msg=f"{kind} {name}")
    assert replayed.averages() == again.averages()


@needs_gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_training_without_graphs_is_repeatable(precision):
    one, other = (make("cuda", precision, training__cuda_graphs=False) for _ in range(2))
    for _ in range(8):
        one.advance()
        other.advance()
    for kind, part in one.state().items():
        for name, value in part.items():
            assert torch.equal(value, other.state()[kind][name]), (kind, name)


def test_a_step_leaves_the_settings_of_others(monkeypatch):
    seen = []
    one = make()
    monkeypatch.setattr(one, "_backward", lambda counter: seen.append(torch.backends.cudnn.deterministic))
    monkeypatch.setattr(one, "_weights", [])
    monkeypatch.setattr(one, "_optimizers", [])
    with contextlib.suppress(IndexError, ValueError, RuntimeError):
        one.advance()
    assert seen == [True] * 4
    assert not torch.backends.cudnn.deterministic


@needs_gpu
def test_what_cannot_be_captured_runs_as_it_is():
    one = make("cuda")
    network = one.model.forward
    one.model.forward = lambda x, *rest: network(x * float(x.sum() > -1e9), *rest)  # the host waits
    with pytest.warns(UserWarning, match="without CUDA graphs"):
        one.advance()
    one.advance()
    assert not one._run._works


def test_a_processor_has_none():
    one = make()
    assert one._run is one.model


class Fake:
    """A graph of a product with a weight."""

    def __init__(self, work):
        self.replay = work


def linear_passes(weight, total):
    x, output, gradient = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    forward = Fake(lambda: output.copy_(weight.detach() * x))
    backward = Fake(lambda: total.add_(gradient * x))
    return _Passes((x,), output, gradient, [weight], [total], forward, backward)


def run(passes, values):
    anchor = torch.zeros((), requires_grad=True)
    graphs._Replay.apply(anchor, passes, torch.tensor(values)).sum().backward()


def test_gradients_add_up_and_begin_anew():
    weight, total = nn.Parameter(torch.tensor([1.0, 2.0, 3.0])), torch.full((3,), 7.0)
    passes = linear_passes(weight, total)
    run(passes, [1.0, 1.0, 1.0])
    run(passes, [1.0, 2.0, 3.0])
    assert weight.grad.tolist() == [2, 3, 4]
    (weight * torch.tensor([10.0, 0, 0])).sum().backward()  # a micro-batch that is no graph
    assert weight.grad.tolist() == [12, 3, 4]
    weight.grad = None
    (weight * torch.tensor([10.0, 0, 0])).sum().backward()
    run(passes, [1.0, 1.0, 1.0])
    assert weight.grad.tolist() == [11, 1, 1]
    weight.grad = None
    run(passes, [5.0, 5.0, 5.0])
    assert weight.grad.tolist() == [5, 5, 5]


def test_a_failed_capture_is_told_once_and_trains_all_the_same(monkeypatch):
    def fails(self, inputs, resolution, mixed):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Graphs, "_captured", fails)
    one, other = make(), make()
    one._run = Graphs(one.model)
    with pytest.warns(UserWarning, match="not permitted when stream is capturing"):
        one.advance()
    one.advance()
    other.advance()
    other.advance()
    for value, expected in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(value, expected)


def test_memory_that_is_full_is_not_taken_for_a_network_that_cannot_be_captured(monkeypatch):
    def full(self, inputs, resolution, mixed):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(Graphs, "_captured", full)
    one = make()
    one._run = Graphs(one.model)
    with pytest.raises(Exception, match=r"training\.batch|memory"):
        one.advance()


def test_a_precision_that_is_chosen_later_is_that_of_the_graphs(monkeypatch):
    seen = []

    def fails(self, inputs, resolution, mixed):
        output = self._predict(inputs, resolution, mixed)
        seen.append((mixed, output.dtype))
        raise RuntimeError("seen")

    monkeypatch.setattr(Graphs, "_captured", fails)
    one = make()
    for precision in (torch.bfloat16, torch.float32):
        one._run = Graphs(one.model)
        one.precision = precision  # as a run does, when its probe has told
        with pytest.warns(UserWarning, match="seen"):
            one.advance()
    assert seen == [(torch.bfloat16, torch.bfloat16), (None, torch.float32)]
