"""Plans and predictions of a pipeline, with a network of known output."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.errors import ProcessError, UsageError
from ssdiff.pipeline import Pipeline

SETS = {
    "data.size": 16,
    "process.T": 40,
    "process.levels": 2,
    "process.resolution": {"kind": "equal"},
    "model.multipliers": [1, 2],
    "model.attention": [8],
    "sampling.steps": 10,
}


class Labelled(nn.Module):
    """Gives the label (or a constant) everywhere."""

    def __init__(self, value=0.5):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, index, resolution, labels=None):
        value = self.value if labels is None else 0.1 * labels[:, None, None, None]
        return value * torch.ones(len(x), x.shape[1], resolution, resolution)


def pipeline(**sets):
    preset = load_preset("celeba64", SETS | sets)
    return Pipeline(build_process(preset), Labelled(), preset=preset)


def test_defaults_come_from_the_preset():
    plan = pipeline().plan()
    assert (plan.evaluations, plan.eta, plan.sampler, plan.guidance) == (11, 1.0, "ancestral", 1.0)
    ddim = pipeline(**{"sampling.sampler": "ddim"})
    assert ddim.plan().eta == 0.0 and ddim.plan(sampler="ancestral").eta == 1.0
    assert pipeline(**{"sampling.sampler": "ddim", "sampling.eta": 0.3}).plan().eta == 0.3
    assert pipeline().plan(sampler="ddim", eta=0.7).eta == 0.7
    second = pipeline().plan(sampler="dpm++")
    assert second.sampler == "dpm++" and second.eta == 0.0
    assert second.timesteps != plan.timesteps and second.timesteps[0] == 40


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sampler": "euler"}, UsageError),
        ({"eta": 0.5}, UsageError),
        ({"sampler": "ddim", "eta": 2.0}, UsageError),
        ({"guidance": 2.0}, UsageError),
        ({"guidance": -1.0}, UsageError),
        ({"steps": 0}, ProcessError),
        ({"steps": 41}, ProcessError),
        ({"sampler": "dpm++", "eta": 0.5}, UsageError),
    ],
)
def test_plans_out_of_range(options, error):
    with pytest.raises(error):
        pipeline().plan(**options)


def test_the_last_step_is_the_prediction():
    for sampler in ("ancestral", "ddim", "dpm++"):
        images = pipeline().sample(3, steps=5, sampler=sampler, batch=2)
        assert torch.equal(images, torch.full((3, 3, 16, 16), 0.5))


def test_guidance_extrapolates_from_no_class():
    pipe = pipeline(**{"model.classes": 4})
    x, labels = torch.zeros(2, 3, 16, 16), torch.tensor([1, 3])
    assert_close(pipe.predict_x0(x, 5)[:, 0, 0, 0], torch.tensor([0.4, 0.4]))
    assert_close(pipe.predict_x0(x, 5, labels)[:, 0, 0, 0], torch.tensor([0.1, 0.3]))
    assert_close(pipe.predict_x0(x, 5, labels, 2.0)[:, 0, 0, 0], torch.tensor([-0.2, 0.2]))
    assert_close(pipe.predict_x0(x, 5, labels, 9.0)[:, 0, 0, 0], torch.tensor([-1.0, -0.5]))


def test_noise_predictions_become_images():
    pipe = pipeline(
        **{
            "process.kind": "ddpm",
            "process.levels": 1,
            "process.predict": "eps",
            "sampling.clip_denoised": False,
        }
    )
    x0, t = torch.rand(2, 3, 16, 16), 30
    x_t = pipe.process.marginal(x0, t, torch.full_like(x0, 0.5))
    assert_close(pipe.predict_x0(x_t, t), x0, atol=1e-5, rtol=0)


def test_labels_are_checked():
    with pytest.raises(UsageError, match="no classes"):
        pipeline().sample(1, labels=[0])
    pipe = pipeline(**{"model.classes": 4})
    for labels in ([4], [-1], [0, 1]):
        with pytest.raises(UsageError, match=r"1 classes in 0\.\.3"):
            pipe.sample(1, labels=labels)
    assert_close(pipe.sample(6, steps=2)[:, 0, 0, 0], 0.1 * torch.tensor([0.0, 1, 2, 3, 0, 1]))


def test_progress_counts_images_and_steps():
    seen = []
    pipeline().sample(5, steps=4, batch=3, progress=lambda *told: seen.append(told))
    assert [stage for stage, _, _ in seen] == ["sampling"] * 11 and {total for *_, total in seen} == {5}
    done = [0, *(3 * step / 5 for step in range(1, 6)), *(3 + 2 * step / 5 for step in range(1, 6))]
    assert [value for _, value, _ in seen] == pytest.approx(done)
