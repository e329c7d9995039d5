"""Networks of other signatures: denoisers by noise level, learned variances, the example of the docs."""

import re
from pathlib import Path

import pytest
import torch

from ssdiff import Pipeline, build_process, load_preset
from ssdiff.errors import UsageError
from ssdiff.models.adapter import NoiseLevelDenoiser

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
PRESET = load_preset("ddpm-celeba64", {"data.size": 8, "model.multipliers": [1], "model.attention": [8]})


class Gaussian(torch.nn.Module):
    """The best denoiser of pixels of a normal distribution."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x, sigma):
        share = self.std**2 / (self.std**2 + sigma[:, None, None, None] ** 2)
        return self.mean + share * (x - self.mean)


@pytest.mark.parametrize(("unit_range", "mean", "std"), [(True, 0.6, 0.1), (False, 0.2, 0.2)])
def test_a_denoiser_by_noise_level_gives_the_posterior_mean(unit_range, mean, std):
    """Pixels of mean 0.2 and std 0.2 in [-1, 1], said in either range."""
    process = build_process(PRESET)
    network = NoiseLevelDenoiser(Gaussian(mean, std), process.states, unit_range=unit_range)
    pipeline = Pipeline(process, network)
    x = torch.randn(2, 3, 8, 8)
    for t in (1, 400, 1000):
        a, sigma = float(process.states[t].signal), float(process.states[t].sigma)
        gain = a * 0.2**2 / (a**2 * 0.2**2 + sigma**2)
        wanted = (0.2 + gain * (x - a * 0.2)).clamp(-1, 1)
        torch.testing.assert_close(pipeline.predict_x0(x, t), wanted, atol=1e-4, rtol=0)
    assert not network.state_dict(), "the levels are the process's"


def test_a_denoiser_by_noise_level_refuses_what_it_cannot():
    process = build_process(PRESET)
    network = NoiseLevelDenoiser(Gaussian(0.0, 1.0), process.states)
    x, index = torch.zeros(1, 3, 8, 8), torch.tensor([0])
    with pytest.raises(UsageError, match="no classes and no change of size"):
        network(x, index, 16)
    with pytest.raises(UsageError, match="no classes"):
        network(x, index, 8, torch.tensor([0]))
    with pytest.raises(UsageError, match=r"gives \(1, 1, 8, 8\)"):
        Mono = type("Mono", (torch.nn.Module,), {"forward": lambda self, x, sigma: x[:, :1]})
        NoiseLevelDenoiser(Mono(), process.states)(x, index, 8)
    cold = build_process(load_preset("cold-blur-cifar10"))
    with pytest.raises(UsageError, match="a process with noise"):
        NoiseLevelDenoiser(Gaussian(0.0, 1.0), cold.states)


@pytest.mark.parametrize("names", [("x", "t"), ("x", "t", "y=None")])
def test_twice_the_channels_are_a_mean_and_a_variance(names):
    space = {"torch": torch}
    exec(
        "class Net(torch.nn.Module):\n"
        f"    def forward(self, {', '.join(names)}):\n"
        "        return torch.cat([x * 0.5, x + 9], 1)\n",
        space,
    )
    x = torch.randn(2, 3, 8, 8)
    output = Pipeline(build_process(PRESET), space["Net"](), predict="eps").model(x, torch.tensor([3, 3]), 8)
    assert torch.equal(output, x * 0.5)


def test_the_example_of_the_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    exec(code, {"__name__": "page"})
