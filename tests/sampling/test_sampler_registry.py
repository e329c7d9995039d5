"""Samplers by name: which fit, what is refused, own ones."""

import subprocess
import sys

import pytest
import torch

import ssdiff
from ssdiff.build import build_process
from ssdiff.config.load import load_preset, override
from ssdiff.errors import PresetError, UsageError
from ssdiff.priors.image_spectrum import fit_spectrum
from ssdiff.registry import credited_to
from ssdiff.sampling.registry import SAMPLERS, register_sampler, sampler_help, samplers

SMALL = {"data.size": 16, "process.T": 20, "sampling.steps": 5}


def process(name, **sets):
    return build_process(load_preset(name, SMALL | sets))


@pytest.fixture
def forgetful():
    """What a test registers is gone after it."""

    class Gone(Exception):
        pass

    with pytest.raises(Gone), credited_to("a test"):
        yield
        raise Gone


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ddpm-celeba64", ("ancestral", "ddim", "dpm++", "direct")),
        ("blurring-celeba64", ("ancestral", "ddim", "dpm++", "direct")),
        ("blurdiff-church64", ("ancestral", "ddim", "dpm++", "unsharp", "direct")),
        ("ihdm-cifar10", ("ancestral", "ddim", "direct")),
        ("cold-noise-celeba128", ("alg1", "alg2", "ddim", "direct")),
        ("cold-mask-cifar10", ("alg1", "alg2", "direct")),
    ],
)
def test_each_process_knows_its_samplers(name, wanted):
    sets = {"process.T": 20, "sampling.sampler": "ancestral"} if name.startswith("ihdm") else {}
    found = process(name, **sets)
    assert found.samplers() == samplers(found) == ssdiff.samplers(found) == wanted


def test_a_sampler_of_one_kind_of_process(forgetful):
    assert load_preset("blurdiff-church64", {"sampling.sampler": "unsharp"}).sampling.sampler == "unsharp"
    for name in ("ddpm-celeba64", "blurring-celeba64", "ihdm-cifar10", "cold-noise-celeba128"):
        with pytest.raises(PresetError, match=r"sampling\.sampler: must be .* not 'unsharp'"):
            load_preset(name, {"sampling.sampler": "unsharp"})
    with pytest.raises(UsageError, match="unknown sampler 'unsharp' for this noisy process"):
        bundled().plan(4, "unsharp")


def test_all_samplers_have_help_and_no_alias_is_listed():
    assert "posterior" not in samplers() and SAMPLERS.get("posterior") is SAMPLERS.get("ancestral")
    for name in samplers():
        assert f"{name}: " in sampler_help() and SAMPLERS.get(name).help


def test_an_own_sampler_is_known_everywhere(forgetful):
    @register_sampler("halfway", help="half of each step's noise is fresh", eta=0.5)
    def halfway(walk):
        x = walk.x
        for t, s in walk.steps:
            x = walk.step(x, walk.predict(x, t), t, s)
            yield s, x

    pipe = bundled()
    assert "halfway" in pipe.process.samplers()
    plan = pipe.plan(4, "halfway")
    assert plan.eta == 0.5 and plan.sampler == "halfway"
    ours, theirs = (pipe.sample(2, steps=4, **options) for options in OPTIONS)
    assert torch.equal(ours, theirs)
    assert load_preset("shapes32", {"sampling.sampler": "halfway"}).sampling.sampler == "halfway"
    with pytest.raises(PresetError, match="did you mean halfway"):
        load_preset("shapes32", {"sampling.sampler": "halfwy"})
    with pytest.raises(PresetError, match=r"has 0\.5"):
        load_preset("shapes32", {"sampling.sampler": "halfway", "sampling.eta": 0.2})


OPTIONS = ({"sampler": "halfway"}, {"sampler": "ddim", "eta": 0.5})


@pytest.mark.parametrize("corrects", [False, True])
def test_an_own_sampler_gives_back_what_steps_lose_if_it_says_so(forgetful, corrects):
    @register_sampler("own", corrects=corrects)
    def own(walk):
        x = walk.x
        for t, s in walk.steps:
            x = walk.step(x, walk.predict(x, t), t, s)
            if walk.correct and s and walk.same_size(t, s):
                x = walk.correct(x, t, s)
            yield s, x

    pipe = bundled()
    pipe.preset = override(pipe.preset, {"sampling.correction": 0.5, "sampling.sampler": "ddim"})
    pipe.spectrum = fit_spectrum([torch.randn(50, 3, 32, 32) / 3], pipe.process)
    told = [pipe.plan(5, name).told.get("correction") for name in ("ddim", "own", "dpm++")]
    assert told == [0.5, 0.5 if corrects else None, None]
    found = [pipe.sample(2, 5, name) for name in ("ddim", "own")]
    assert torch.equal(*found) == corrects


def bundled():
    return ssdiff.load("ssdiff/assets/shapes32.safetensors", device="cpu")


def plain(walk):
    return iter(())


def two(walk, more):
    yield 0, walk.x


def keyword(*, walk):
    yield 0, walk.x


@pytest.mark.parametrize(
    ("name", "function", "options", "message"),
    [
        ("ddim", two, {}, "no generator function of one argument"),
        ("own", two, {}, "no generator function of one argument"),
        ("own", plain, {}, "no generator function of one argument"),
        ("own", keyword, {}, "no generator function of one argument"),
        ("own", 3, {}, "no generator function of one argument"),
        ("An Own", None, {}, "cannot be the name of a sampler"),
        ("ddim", None, {}, "there is a sampler 'ddim' already"),
        ("posterior", None, {}, "there is a sampler 'posterior' already"),
        ("own", None, {"aliases": ("dpm++",)}, "there is a sampler 'dpm\\+\\+' already"),
        ("own", None, {"eta": 2.0}, "eta must be in"),
        ("own", None, {"spacing": "even"}, "unknown spacing 'even'"),
    ],
)
def test_what_cannot_be_registered(forgetful, name, function, options, message):
    def good(walk):
        yield 0, walk.x

    with pytest.raises(UsageError, match=message) as refused:
        register_sampler(name, **options)(good if function is None else function)
    assert refused.value.hint


def test_the_registry_needs_no_torch():
    program = "import sys, ssdiff; print(ssdiff.samplers(), 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "'dpm++'" in found.stdout and found.stdout.strip().endswith("False")
