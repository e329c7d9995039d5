"""Arguments of the wrong type or range: each function of the public API says what, where, how to mend it."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import ssdiff
from ssdiff.arguments import require_number, require_whole
from ssdiff.errors import CheckpointError, SsdiffError, UsageError
from ssdiff.process.degradations.base import LinearDegradation
from ssdiff.process.degradations.registry import DEGRADATIONS
from ssdiff.sampling.registry import SAMPLERS

DDPM = ssdiff.build_process(ssdiff.load_preset("ddpm-celeba64", {"data.size": 16, "process.T": 20}))
IMAGES = torch.zeros(2, 3, 16, 16)


class Half(nn.Module):
    """Predict half of what is there; one weight of a type."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=dtype))

    def forward(self, x, t):
        assert x.dtype == self.weight.dtype
        return x * self.weight


PIPE = ssdiff.Pipeline(DDPM, Half())
WRONG = {
    "no preset to build a process": (lambda: ssdiff.build_process("shapes32"), "preset is of type str"),
    "no preset to build a model": (lambda: ssdiff.build_model(None), "preset is of type NoneType"),
    "overrides": (lambda: ssdiff.load_preset("shapes32", 3), "overrides is of type int"),
    "a field": (lambda: ssdiff.load_preset("shapes32", {3: 4}), "the field 3 is of type int"),
    "preset of a pipeline": (
        lambda: ssdiff.Pipeline(DDPM, Half(), preset="shapes32"),
        "preset is of type str; load one: ssdiff.load_preset(name)",
    ),
    "sampling": (lambda: ssdiff.Pipeline(DDPM, Half(), sampling={}), "sampling is of type dict"),
    "precision": (lambda: ssdiff.Pipeline(DDPM, Half(), precision="bf16"), "precision is of type str"),
    "channels": (lambda: ssdiff.Pipeline(DDPM, Half(), channels=0), "channels must be at least 1, not 0"),
    "classes": (lambda: ssdiff.Pipeline(DDPM, Half(), classes=-1), "classes must be at least 0, not -1"),
    "prediction": (lambda: ssdiff.Pipeline(DDPM, Half(), predict=3), "unknown prediction 3"),
    "model to load": (lambda: ssdiff.load(3), "the model is of type int; give a path"),
    "weights to import": (lambda: ssdiff.import_official(3, "celeba64"), "source is of type int"),
    "n": (lambda: PIPE.sample(None), "n must be a whole number, not None"),
    "seed": (lambda: PIPE.sample(1, steps=1, seed="1"), "seed must be a whole number, not '1'"),
    "seed of a fraction": (lambda: PIPE.sample(1, steps=1, seed=1.5), "seed must be a whole number, not 1.5"),
    "progress": (lambda: PIPE.sample(1, steps=1, progress=3), "progress is of type int; give a function"),
    "bytes to degrade": (lambda: PIPE.degrade(IMAGES + 255, 5), "x0 has values from 255 to 255"),
    "not a number to degrade": (lambda: PIPE.degrade(IMAGES / 0, 5), "x0 has values from nan to nan"),
    "bytes to restore": (lambda: PIPE.restore(IMAGES + 255, 5), "x_t has values from 255 to 255"),
    "no values": (lambda: ssdiff.degrade(IMAGES.to("meta"), "blur", 3), "images is on the device meta"),
    "device": (lambda: ssdiff.load(device="gpu"), "device 'gpu' is not available"),
    "cost": (lambda: ssdiff.cost(None), "the preset or model is of type NoneType"),
    "batch of cost": (lambda: ssdiff.cost("shapes32", batch="a"), "batch must be a whole number"),
    "seconds": (lambda: ssdiff.cost("shapes32", seconds="a"), "seconds must be a number"),
    "metrics": (lambda: ssdiff.evaluate(IMAGES, IMAGES, None), "metrics is of type NoneType"),
    "a metric": (lambda: ssdiff.evaluate(IMAGES, IMAGES, [3]), "unknown metric 3"),
    "n of evaluate": (lambda: ssdiff.evaluate(IMAGES, IMAGES, n="a"), "n must be a whole number"),
    "extractor": (lambda: ssdiff.evaluate(IMAGES, IMAGES, extractor=Half()), "extractor is of type Half"),
    "images to evaluate": (lambda: ssdiff.evaluate_restoration(IMAGES), "images is of type Tensor"),
    "model to evaluate": (lambda: ssdiff.evaluate_restoration("shapes", 3), "model is of type int"),
    "truth": (lambda: ssdiff.evaluate_restoration("shapes", truth=3), "truth is of type int"),
    "batch to evaluate": (
        lambda: ssdiff.evaluate_restoration("shapes", batch="a"),
        "batch must be a whole number",
    ),
    "budget": (
        lambda: ssdiff.plan_schedule("shapes", "shapes32", budget=None),
        "budget must be a number, not None",
    ),
    "images to plan by": (
        lambda: ssdiff.plan_schedule("shapes", "shapes32", images="a"),
        "images must be a whole number",
    ),
    "size": (lambda: ssdiff.scale_space("shapes", "ve", size="a"), "size must be a whole number"),
    "report": (lambda: ssdiff.report("run", 3), "out is of type int"),
    "run": (lambda: ssdiff.report(3, "no-report.html"), "run is of type int"),
    "samplers": (
        lambda: ssdiff.samplers("ssd"),
        "samplers are those of a process or a pipeline",
    ),
    "data": (lambda: ssdiff.train("shapes32", data=3), "data is of type int"),
    "run folder": (lambda: ssdiff.train("shapes32", out=3), "out is of type int"),
    "stop": (lambda: ssdiff.train("shapes32", stop=3), "stop is of type int; give a function"),
    "preset to train": (lambda: ssdiff.train(3), "unknown preset '3'"),
    "plugins": (lambda: ssdiff.train("shapes32", plugins=3), "plugins is of type int"),
    "one plugin": (
        lambda: ssdiff.train("shapes32", plugins="absent.py"),
        "absent.py is not there; give it with --plugin",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = WRONG[name]
    with pytest.raises(SsdiffError) as caught:
        call()
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir()), "nothing was begun"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_a_network_gets_images_of_the_type_of_its_weights(dtype, given):
    found = ssdiff.Pipeline(DDPM, Half(dtype)).predict_x0(torch.full((1, 3, 16, 16), 0.25, dtype=given), 5)
    assert found.dtype == given
    assert found.unique().tolist() == [0.125]


BAD_SAMPLERS = {
    "of another shape": (lambda walk: ((s, torch.zeros(1)) for _, s in walk.steps), "images (1,)"),
    "of another timestep": (lambda walk: ((s + 1, walk.x) for _, s in walk.steps), "of timestep 2, where"),
    "no pairs": (lambda walk: (s for _, s in walk.steps), "a int, where"),
    "nothing": (lambda walk: iter(()), "nothing, where"),
}


@pytest.mark.parametrize("name", BAD_SAMPLERS)
def test_a_sampler_that_yields_no_states_is_named(name, monkeypatch):
    walk, message = BAD_SAMPLERS[name]

    def bad(given):
        yield from walk(given)

    monkeypatch.setattr(SAMPLERS, "_parts", dict(SAMPLERS._parts))  # it is gone after the test
    ssdiff.register_sampler("bad")(bad)
    with pytest.raises(UsageError) as caught:
        PIPE.sample(2, steps=2, sampler="bad")
    assert message in str(caught.value)
    assert "sampler bad yields" in str(caught.value)


@pytest.mark.parametrize(
    "register",
    [
        ssdiff.register_degradation,
        ssdiff.register_model,
        ssdiff.register_noise_schedule,
        ssdiff.register_prediction,
        ssdiff.register_sampler,
    ],
)
def test_a_decorator_without_a_name_is_refused_at_once(register):
    def mine():
        yield

    with pytest.raises(UsageError, match=r"mine cannot be the name of a .*; give one in small letters"):
        register(mine)
    with pytest.raises(UsageError, match="3 cannot be the name of a"):
        register(3)


def test_a_part_without_a_name_of_its_own_is_refused():
    with pytest.raises(UsageError, match=r"'mine' has the signature partial\(T\); write partial\(size, T"):
        ssdiff.register_degradation("mine")(partial(lambda size, T: None, 3))
    with pytest.raises(UsageError, match=r"'mine' has the signature Half\("):
        ssdiff.register_degradation("mine")(Half())


def test_an_option_that_must_be_given_is_named(monkeypatch):
    def needy(size, T, *, strength):
        return LinearDegradation(size, T, lambda t: None)

    ssdiff.degradations()
    monkeypatch.setattr(DEGRADATIONS, "_parts", dict(DEGRADATIONS._parts))
    ssdiff.register_degradation("needy")(needy)
    with pytest.raises(UsageError, match="needy needs strength; its options are: strength"):
        ssdiff.degrade(IMAGES, "needy", 3)


def test_ranges():
    require_whole("n", 3, 3, 3)
    with pytest.raises(UsageError, match="n must be at most 3, not 4"):
        require_whole("n", 4, 3, 3)
    with pytest.raises(UsageError, match="n must be a whole number, not True"):
        require_whole("n", True)
    require_number("x", 3)
    with pytest.raises(UsageError, match="x must be a number, not nan"):
        require_number("x", float("nan"))


def test_a_seed_of_numpy_is_the_same_seed():
    numpy = pytest.importorskip("numpy")
    assert torch.equal(PIPE.sample(1, 2, seed=numpy.int64(7)), PIPE.sample(1, 2, seed=7))


def test_a_path_of_a_missing_model_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="no run or checkpoint at"):
        ssdiff.load(Path(tmp_path / "absent"))
