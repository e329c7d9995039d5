"""The compiled network, and what happens where it cannot be compiled."""

from functools import partial

import pytest
import torch
import torch._dynamo
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.compilers import nop
from torch.testing import assert_close
from trainers import TINY, trainer

from ssdiff.errors import ResourceError
from ssdiff.training import compile as compiling


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without the code generator, which takes minutes; graphs, gradients, guards are real."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    # One graph for a function is fewer than any process needs.
    with torch._dynamo.config.patch(recompile_limit=1):
        yield


def one_batch_of_each_path(one):
    """Pair of resolutions to the number of the first micro-batch that takes it."""
    first, states = {}, one.process.states
    for counter in range(200):
        t = int(one._timesteps.draw(counter, torch.arange(4))[0])
        first.setdefault((states[t].resolution, states[t - 1].resolution), counter)
    return first


def losses_and_gradients(one, counter):
    one.model.zero_grad(set_to_none=True)
    one._sums.zero_()
    one._backward(counter)
    return one._sums.clone(), {name: weight.grad for name, weight in one.model.named_parameters()}


def assert_same_step(fast, plain, counter):
    (loss, gradients), (expected, wanted) = (losses_and_gradients(one, counter) for one in (fast, plain))
    assert_close(loss, expected, rtol=1e-4, atol=0)
    scale = max(float(value.abs().max()) for value in wanted.values() if value is not None)
    for name, value in wanted.items():
        assert (value is None) == (gradients[name] is None), name
        if value is not None:
            assert_close(gradients[name], value, rtol=1e-4, atol=1e-4 * scale)


def test_a_compiled_network_takes_the_same_steps(traced):
    fast, plain = trainer(compile=True), trainer()
    paths = one_batch_of_each_path(plain)
    assert len(paths) == 3
    for counter in paths.values():
        assert_same_step(fast, plain, counter)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for _ in range(6):
        fast.advance()
        plain.advance()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "one for each path, no more"
    for kind, part in plain.state().items():
        other = fast.state()[kind]
        assert part.keys() == other.keys()
        assert all(value.shape == other[name].shape for name, value in part.items())
    again = trainer()
    again.restore(6, fast.state())
    again.advance()


class Breaking(torch.nn.Module):
    def forward(self, x, index, resolution, labels=None):
        torch._dynamo.graph_break()
        return x * resolution


class Sound(torch.nn.Module):
    def forward(self, x, index, resolution, labels=None):
        return x * resolution


def test_where_compiling_fails_nothing_falls_back(traced):
    x = torch.ones(1, 1, 8, 8)
    with pytest.raises(ResourceError, match=r"cannot be compiled for 8 -> 16 px.*training.compile=false"):
        compiling.compiled(Breaking())(x, x, 16, None)
    network = compiling.compiled(Sound())
    with torch._dynamo.config.patch(accumulated_recompile_limit=2):
        for side in (8, 9):
            assert_close(network(x, x, side, None), side * x)
        with pytest.raises(ResourceError, match=r"for 8 -> 10 px: .*recompile.limit"):
            network(x, x, 10, None)


def test_where_compiling_the_gradients_fails_the_forward_pass_says_so(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no room for this kernel")

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=nop, bw_compiler=broken)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    x = torch.ones(1, 1, 8, 8, requires_grad=True)
    with pytest.raises(ResourceError, match=r"for 8 -> 8 px: .*no room for this kernel"):
        compiling.compiled(Sound())(x, x, 8, None)
    compiling.require_compiler.cache_clear()
    with pytest.raises(ResourceError, match=r"does not work for cpu: .*no room for this kernel"):
        compiling.require_compiler(torch.device("cpu"))


def test_without_a_compiler_there_is_no_run(ssdiff, monkeypatch, tmp_path):
    def compiler(function, **options):
        def run(*arguments):
            raise torch._inductor.exc.InvalidCxxCompiler()

        return run

    compiling.require_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", compiler)
    with pytest.raises(ResourceError, match=r"No working C\+\+ compiler.*set training.compile=false"):
        trainer(compile=True)
    out = tmp_path / "run"
    code, _, err = ssdiff(
        "train", "--preset", TINY, "--out", out, "--device", "cpu", "--set", "training.compile=true"
    )
    assert code == ResourceError.code and "training.compile=false" in err and "Traceback" not in err
    assert not out.exists()
