"""What a network's output stands for: x0, eps, v and own targets make one loss and one sampler."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import ssdiff
from ssdiff.build import build_model, build_process
from ssdiff.config.load import load_preset
from ssdiff.errors import PresetError, UsageError
from ssdiff.pipeline import Pipeline
from ssdiff.process.prediction import PREDICTIONS, Prediction, prediction, register_prediction
from ssdiff.registry import credited_to
from ssdiff.training.losses import gaussian_loss

NAMES = ("x0", "eps", "v")
KINDS = {"ddpm": "ddpm-celeba64", "blurring": "blurring-celeba64", "blur-noise": "blurdiff-bedroom64"}
SMALL = {
    "data.size": 8,
    "model.multipliers": [1, 1],
    "model.attention": [],
    "process.T": 30,
    "sampling.steps": 10,
}


class Flow(Prediction):
    """u = eps - x_0, of rectified flow."""

    def target(self, process, clean, noise, t):
        return noise - clean

    def weight(self, weight, snr):
        return weight / (1 + snr.sqrt()).square()

    def clean(self, process, x_t, output, t):
        a, sigma = process.coefficients(t, x_t)
        return (x_t - sigma * output) / (a + sigma)


@pytest.fixture
def flow():
    class Gone(Exception):
        pass

    with pytest.raises(Gone), credited_to("a test"):
        register_prediction("flow")(Flow)
        yield "flow"
        raise Gone


def process(kind):
    return build_process(load_preset(KINDS[kind], SMALL))


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_timesteps(count, T):
    return torch.randint(2, T + 1, (count,), generator=torch.Generator().manual_seed(3))


# A noise prediction gives nothing back of frequencies that are lost.
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in NAMES if kind == "ddpm" or name != "eps"]
)
def test_the_clean_image_comes_back_from_a_perfect_output(kind, name):
    found, x0, noise = process(kind), normal(0, 5, 3, 8, 8), normal(1, 5, 3, 8, 8)
    meant, t = prediction(name), random_timesteps(5, found.T)
    output = meant.target(found, x0, noise, t)
    clean = meant.clean(found, found.marginal(x0, t, noise), output, t)
    assert_close(clean, x0, atol=1e-9, rtol=0)


def test_every_target_has_the_same_loss(flow):
    """An error of the clean image, whatever the output stands for: the weights make up for the units."""
    found, x0, noise = process("ddpm"), normal(0, 6, 3, 8, 8), normal(1, 6, 3, 8, 8)
    t, error = random_timesteps(6, found.T), 0.1 * normal(2, 6, 3, 8, 8)

    def loss(name, error):
        meant = prediction(name)
        x_t = found.marginal(x0, t, noise)
        # The output that means x_0 + error: outputs depend on the clean image linearly, at a fixed x_t.
        exact = meant.target(found, x0, noise, t)
        one = meant.clean(found, x_t, exact + 1, t) - meant.clean(found, x_t, exact, t)
        output = exact + error / one
        return gaussian_loss(lambda x, i, r, y: output, found, x0, t, noise, predict=name)

    wanted = loss("x0", error)
    assert float(wanted.min()) > 0
    for name in ("eps", "v", flow):
        assert_close(loss(name, error), wanted, atol=0, rtol=1e-3)
    for name in (*NAMES, flow):
        assert float(loss(name, 0 * error).abs().max()) < 1e-9


class Oracle(nn.Module):
    """The best network for white data of standard deviation 0.5, by what its output shall stand for."""

    def __init__(self, found, name):
        super().__init__()
        self.found, self.meant = found, prediction(name)

    def forward(self, x, index, resolution, labels=None):
        t = int(index[0]) + 1
        a, sigma = self.found.states[t].signal, self.found.states[t].sigma
        clean = x * a * 0.25 / (0.25 * a**2 + sigma**2)
        return self.meant.target(self.found, clean, (x - a * clean) / sigma, t)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++"])
def test_sampling_is_the_same_with_each(flow, sampler):
    found = process("ddpm")
    drawn = {
        name: Pipeline(found, Oracle(found, name), predict=name).sample(3, steps=8, sampler=sampler)
        for name in (*NAMES, flow)
    }
    for name in (*NAMES, flow):
        assert_close(drawn[name], drawn["x0"], atol=2e-3, rtol=0)
    assert 0.1 < float(drawn["x0"].std()) < 0.9


def test_preconditioning_is_v_at_one_size_and_goes_across_transitions():
    found = build_process(load_preset("celeba64-2l-matched", SMALL))
    meant = prediction("preconditioned")
    x0 = torch.rand(2, 3, *found.states[0].size) * 2 - 1
    kinds = set()
    for t in range(1, found.T + 1):
        noise = torch.randn(2, 3, *found.states[t].size)
        clean = found.target(x0, t)
        output, x_t = meant.target(found, clean, noise, t), found.noised(clean, t, noise)
        assert output.shape == clean.shape  # of the finer image
        assert_close(meant.clean(found, x_t, output, t), clean, atol=1e-4, rtol=0)
        pair = torch.tensor([t, t])
        assert_close(meant.clean(found, x_t, output, pair), clean, atol=1e-4, rtol=0)
        kinds.add(output.shape == x_t.shape)
        if output.shape == x_t.shape:
            assert_close(output, prediction("v").target(found, clean, noise, t), atol=1e-4, rtol=0)
    assert kinds == {True, False}
    with pytest.raises(PresetError, match="'preconditioned' is for kind 'ddpm' or 'ssd', not 'heat'"):
        load_preset("ihdm-cifar10", {"process.predict": "preconditioned", "sampling.clip_denoised": True})


def test_presets_know_predictions(flow):
    sets = SMALL | {"process.predict": "v"}
    assert load_preset("ddpm-celeba64", sets).process.predict == "v"
    assert load_preset("ddpm-celeba64", SMALL | {"process.predict": flow}).process.predict == "flow"
    with pytest.raises(PresetError, match="'preconditioned', 'v' or 'x0', not 'flwo'; did you mean flow"):
        load_preset("ddpm-celeba64", SMALL | {"process.predict": "flwo"})
    with pytest.raises(PresetError, match="'difference' is for kind 'heat', not 'ddpm'"):
        load_preset("ddpm-celeba64", SMALL | {"process.predict": "difference"})
    with pytest.raises(PresetError, match=r"sampling\.clip_denoised: images that predict 'difference' means"):
        load_preset("ihdm-cifar10", {"sampling.clip_denoised": True})
    heat = build_process(load_preset("ihdm-cifar10"))
    with pytest.raises(UsageError, match="predict 'difference' means images that leave"):
        Pipeline(heat, build_model(load_preset("ddpm-celeba64", SMALL)), predict="difference")
    for name, kind in (("celeba64", "needs levels = 1"), ("ihdm-cifar10", "hardly any noise")):
        with pytest.raises(PresetError, match=f"process.predict: .*{kind}"):
            load_preset(name, {"process.predict": "v"})


def test_what_cannot_be_registered():
    class Half(Prediction):
        def target(self, process, clean, noise, t):
            return clean

    for name, part, message in (
        ("v", Flow, "there is a prediction 'v' already"),
        ("half", Half, "has no clean, weight"),
        ("half", lambda x: x, "'half' is none"),
        ("Half", Flow, "cannot be the name"),
    ):
        with pytest.raises(UsageError, match=message) as refused:
            ssdiff.register_prediction(name)(part)
        assert refused.value.hint
    assert PREDICTIONS.names() == ("difference", "eps", "preconditioned", "v", "x0")


def test_noise_cannot_be_predicted_across_sizes_or_of_nothing():
    class Same(nn.Module):
        def forward(self, x, t):
            return x

    for name in ("celeba64", "cold-mask-cifar10"):
        found = build_process(load_preset(name, {"data.size": 16, "process.T": 20, "sampling.steps": 5}))
        with pytest.raises(UsageError, match="needs a process with noise and one size"):
            Pipeline(found, Same(), predict="v")
