"""Plans and predictions of a pipeline, with a network of known output."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssdiff.build import build_process
from ssdiff.config import SamplingSettings
from ssdiff.config.load import load_preset
from ssdiff.errors import ProcessError, SsdiffError, UsageError
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


def bare(**options):
    """A pipeline without a preset."""
    return Pipeline(build_process(load_preset("celeba64", SETS)), Labelled(), **options)


def test_a_pipeline_needs_no_preset():
    pipe, with_preset = bare(), pipeline()
    assert pipe.preset is None and pipe.generates and (pipe.channels, pipe.classes) == (3, 0)
    images = pipe.sample(3, steps=5, seed=2, sampler="ddim")
    assert torch.equal(images, with_preset.sample(3, steps=5, seed=2, sampler="ddim"))
    x_t = pipe.degrade(images, 30, seed=1)
    assert torch.equal(x_t, with_preset.degrade(images, 30, seed=1))
    assert torch.equal(pipe.restore(x_t, 30, steps=4), with_preset.restore(x_t, 30, steps=4))
    assert bare(channels=1).sample(2, steps=2).shape == (2, 1, 16, 16)
    with pytest.raises(UsageError, match="a pipeline with a preset"):
        pipe.required_preset()


def test_settings_of_a_pipeline_without_a_preset():
    pipe = bare(classes=4, sampling=SamplingSettings(steps=3, sampler="ddim", guidance=2.0))
    assert (pipe.plan().evaluations, pipe.plan().sampler, pipe.plan().guidance) == (3, "ddim", 2.0)
    assert_close(pipe.sample(3, guidance=1.0)[:, 0, 0, 0], 0.1 * torch.tensor([0.0, 1, 2]))
    cold = Pipeline(build_process(load_preset("cold-mask-cifar10", {"data.size": 16})), Labelled())
    assert cold.plan().sampler == "alg2" and not cold.generates
    with pytest.raises(UsageError, match="the model is a restoration model"):
        cold.sample(1)


def test_what_a_preset_says_follows_it():
    pipe = pipeline()
    pipe.preset = load_preset("celeba64", SETS | {"sampling.steps": 4, "name": "another"})
    assert pipe.plan().evaluations == 5 and pipe.name == "another"


GOOD = torch.zeros(2, 3, 16, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.predict_x0(GOOD, 0), r"timestep 0 is outside 1\.\.40"),
        (lambda p: p.predict_x0(GOOD, 41), r"timestep 41 is outside 1\.\.40"),
        (lambda p: p.predict_x0(GOOD, 2.5), "timestep 2.5 is outside"),
        (lambda p: p.predict_x0(GOOD, True), "timestep True is outside"),
        (lambda p: p.predict_x0(GOOD, torch.tensor([3, 4])), "is outside"),
        (lambda p: p.predict_x0(GOOD, 40), r"images at timestep 40 are \(B, 3, 8, 8\), not \(2, 3, 16, 16\)"),
        (lambda p: p.predict_x0(GOOD[0], 5), "images at timestep 5 are"),
        (lambda p: p.predict_x0(GOOD[:, :1], 5), "images at timestep 5 are"),
        (lambda p: p.predict_x0(GOOD.numpy(), 5), "must be a tensor of shape .* not a ndarray"),
        (lambda p: p.predict_x0((GOOD * 255).byte(), 5), "must be floats .* not uint8"),
        (lambda p: p.predict_x0(GOOD.to("meta"), 5), "on the device meta"),
        (lambda p: p.predict_x0(GOOD, 5, torch.tensor([1, 2])), "this model has no classes"),
        (lambda p: p.predict_x0(GOOD, 5, guidance=2.0), "guidance needs a class-conditional model"),
        (lambda p: p.degrade(GOOD, 0), "timestep 0 is outside"),
        (lambda p: p.degrade(GOOD[..., :8], 5), "images at timestep 0 are"),
        (lambda p: p.degrade("face.png", 5), "not a str"),
        (lambda p: p.degrade(GOOD, 5, images=torch.arange(3)), "3 image numbers for 2 images"),
        (lambda p: p.degrade(GOOD, 5, images=torch.rand(2)), "must be a tensor of"),
        (lambda p: p.degrade(GOOD, 5, images=[0, 1]), "must be a tensor of"),
        (lambda p: p.restore(GOOD), "images at timestep 40 are"),
        (lambda p: p.restore(GOOD, 41), "timestep 41 is outside"),
        (lambda p: p.restore(GOOD, "5"), "timestep 5 is outside"),
        (lambda p: p.restore(GOOD, 5, "alg2"), "unknown sampler 'alg2' for this noisy process"),
        (lambda p: p.restore(GOOD, 5, 3), "unknown sampler 3"),
        (lambda p: p.restore(GOOD, 5, steps=2.0), "steps must be a whole number"),
        (lambda p: p.restore(GOOD.long(), 5), "must be floats"),
        (lambda p: p.sample(0), "n must be"),
        (lambda p: p.sample(2.0), "n must be"),
        (lambda p: p.sample(2, batch=0), "batch must be"),
        (lambda p: p.sample(2, first=-1), "first must be"),
        (lambda p: p.sample(2, labels=[0, 1]), "this model has no classes"),
        (lambda p: p.sample(2, guidance=float("nan")), "guidance must be finite"),
        (lambda p: p.sample(2, sampler="ddim", eta=float("nan")), "eta must be in"),
        (lambda p: p.sample(2, sampler="dirct"), "unknown sampler 'dirct' .*did you mean direct"),
        (lambda p: p.plan(sampler="direct"), "smaller than the image"),
        (lambda p: p.plan(t=0), "timestep 0 is outside"),
        (lambda p: list(p.walk(torch.rand(2), p.plan())), "image numbers"),
        (lambda p: list(p.walk(torch.arange(2), p.plan(), x=GOOD)), "images at timestep 40 are"),
        (lambda p: list(p.walk(torch.arange(3), p.plan(t=5), x=GOOD)), r"are \(3, 3, 16, 16\)"),
        (lambda p: Pipeline(p.process, p.model, predict="velocity"), "unknown prediction 'velocity'"),
        (lambda p: Pipeline(p.process, nn.Flatten()).predict_x0(GOOD, 5), "no signature of a network"),
    ],
)
def test_wrong_arguments_are_explained(call, message):
    """No torch error reaches the caller: what, where, how to mend it."""
    with pytest.raises(SsdiffError, match=message):
        call(bare())


@pytest.mark.parametrize("labels", [[4], [-1], [0, 1], [0.5], ["cat"], torch.tensor([[0]]), torch.tensor(0)])
def test_wrong_labels_are_explained(labels):
    pipe = bare(classes=4)
    with pytest.raises(UsageError, match=r"labels must be 1 classes in 0\.\.3"):
        pipe.sample(1, labels=labels)


def test_a_network_of_another_size_is_explained():
    class Same(Labelled):
        def forward(self, x, index, resolution, labels=None):
            return x

    pipe = Pipeline(build_process(load_preset("celeba64", SETS)), Same())
    transition = next(t for t in range(1, 41) if pipe.process.states[t].size == (8, 8))
    with pytest.raises(UsageError, match=rf"makes \(2, 3, 8, 8\) of timestep {transition}, not \(2, 3, 16"):
        pipe.predict_x0(torch.zeros(2, 3, 8, 8), transition)
