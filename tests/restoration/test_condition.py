"""Models that know classes restore by the class that stands for none, unless one is named."""

import numpy as np
import pytest
import torch
from conftest import CPU, TINY, train
from PIL import Image

import ssdiff
from ssdiff.errors import UsageError
from ssdiff.restoration import TASKS, Options, Trained, choose_method

NONE = 8
NAMES = tuple("abcdefgh")
SAMPLERS = {task: ("ancestral", "ddim") for task in TASKS}
SAMPLERS["denoise"] += ("direct",)
SAMPLERS["jpeg"] = ("plug-and-play",)
for task in ("super-resolve", "deblur", "inpaint"):
    SAMPLERS[task] += ("plug-and-play",)


class Listening(torch.nn.Module):
    """Says a shade of its class, and remembers which ones it was told."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def forward(self, x, index, resolution, labels=None):
        self.heard.append(labels.tolist())
        return (labels / 10).reshape(-1, 1, 1, 1).expand(-1, x.shape[1], resolution, resolution).to(x)


def listening(**changes):
    preset = ssdiff.load_preset(TINY, {"sampling.guidance": 2.0, **changes})
    pipe = ssdiff.Pipeline(ssdiff.build_process(preset), Listening(), preset=preset, class_names=NAMES)
    return pipe, pipe.model.heard


@pytest.fixture
def x():
    return torch.linspace(-1, 1, 256).reshape(1, 16, 16).expand(3, 3, 16, 16).clone()


def asked(task, sampler):
    """Arguments of `ssdiff.restore` for a task."""
    known = {"denoise": {"noise_std": 0.2}, "jpeg": {"quality": 30}}.get(task, {})
    return {"op": task, "sampler": sampler, "degrade": True, **known}


@pytest.mark.parametrize(
    ("task", "sampler"), [(task, one) for task, all_ in SAMPLERS.items() for one in all_]
)
def test_the_network_is_told_no_class_or_the_one_that_is_named(task, sampler, x):
    pipe, heard = listening()
    ssdiff.restore(x, pipe, **asked(task, sampler))
    assert heard and {label for call in heard for label in call} == {NONE}
    heard.clear()
    ssdiff.restore(x, pipe, **asked(task, sampler), classes="c", guidance=1)
    assert heard and {label for call in heard for label in call} == {2}
    plain = len(heard)
    heard.clear()
    ssdiff.restore(x, pipe, **asked(task, sampler), classes=2)
    assert {label for call in heard for label in call} == {2, NONE} and len(heard) == 2 * plain


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_several_classes_are_used_in_turn_by_image_number(batch, x):
    pipe, heard = listening()
    ssdiff.restore(x, pipe, **asked("inpaint", "ddim"), classes=["b", 5], guidance=1, batch=batch, steps=2)
    labels = [1, 5, 1]
    assert {tuple(call) for call in heard} == {tuple(labels[at : at + batch]) for at in range(0, 3, batch)}


@pytest.mark.parametrize("classes", [None, "a"])
@pytest.mark.parametrize(
    ("op", "sampler"), [(None, "ancestral"), ("inpaint", "plug-and-play"), ("deblur", "ddim")]
)
def test_the_work_is_counted_with_guidance(classes, op, sampler, x):
    pipe, heard = listening()
    done = []
    options = {"degrade": True, "op": op, "sampler": sampler, "classes": classes, "batch": 3}
    ssdiff.restore(x, pipe, **options, progress=lambda stage, at, total: done.append(at))
    method = choose_method(pipe, op, options=Options(classes=classes and [classes]))
    assert method.evaluations(sampler) == len(heard) and done == sorted(done)
    assert done[-2] == pytest.approx(3) and done[-1] == 3


def test_the_models_own_degradation_takes_a_class(x):
    pipe, heard = listening()
    ssdiff.restore(x, pipe, degrade=True, sampler="ddim")
    assert {label for call in heard for label in call} == {NONE}
    plain = len(heard)
    heard.clear()
    ssdiff.restore(x, pipe, degrade=True, sampler="ddim", classes="d")
    assert {label for call in heard for label in call} == {3, NONE} and len(heard) == 2 * plain
    state = pipe.degrade(x, 5)
    shades = pipe.restore(state, 5, "direct", labels=[1, 2, 3], guidance=1).mean((1, 2, 3))
    assert shades.tolist() == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(UsageError, match="guidance weighs a class"):
        pipe.restore(state, 5, guidance=2.0)


def test_a_network_that_never_went_without_a_class_needs_one(x):
    pipe, heard = listening(**{"training.label_dropout": 0})
    for task in TASKS:
        with pytest.raises(UsageError, match=r"class of every image .* --class NAME"):
            ssdiff.restore(x, pipe, **asked(task, None))
    assert not heard
    ssdiff.restore(x, pipe, **asked("deblur", None), classes="a", guidance=1)
    assert {label for call in heard for label in call} == {0}
    with pytest.warns(UserWarning, match="class of every image"):
        ssdiff.restore(x, pipe, degrade=True)
    assert Trained(pipe, None, Options()).notes and not Trained(pipe, None, Options(classes=["a"])).notes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guidance": 2.0}, "guidance weighs a class, and none was given"),
        ({"classes": "z"}, "unknown class 'z'"),
        ({"classes": 8}, "unknown class '8'"),
        ({"classes": -1}, "unknown class '-1'"),
        ({"classes": 2.5}, "classes"),
        ({"classes": "a", "guidance": -1.0}, "guidance must be"),
        ({"classes": "a", "guidance": "2"}, "guidance must be"),
    ],
    ids=str,
)
@pytest.mark.parametrize("op", [None, "inpaint"])
def test_wrong_classes_are_explained(op, options, words, x):
    pipe, _ = listening()
    with pytest.raises(UsageError, match=words):
        ssdiff.restore(x, pipe, op=op, degrade=True, **options)


def test_the_command(run_folder, ssdiff, result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("x.png")

    def restored(*options):
        result("restore", "x.png", "--ckpt", run_folder, "--out", "y.png", "--overwrite", *options, *CPU)
        with Image.open("y.png") as picture:
            return np.asarray(picture).copy()

    for given in (("--op", "inpaint"), ("--degrade",)):
        none = restored(*given)
        star = restored(*given, "--class", "star")
        assert not np.array_equal(none, star)
        assert np.array_equal(star, restored(*given, "--class", "4", "--guidance", "1"))
        guided = restored(*given, "--class", "star", "--guidance", "3")
        assert not np.array_equal(star, guided)
        assert np.array_equal(guided, restored(*given, "--class", "star", "--set", "sampling.guidance=3"))
    arguments = ("restore", "x.png", "--ckpt", run_folder, "--out", "z.png", *CPU)
    for options, words in (
        (("--op", "deblur", "--guidance", 2), "give --class"),
        (("--op", "deblur", "--class", "stat"), "did you mean star"),
        (("--guidance", 2, "--set", "sampling.guidance=3", "--class", "star"), "say different things"),
    ):
        code, _, err = ssdiff(*arguments, *options)
        assert code == 2 and words in err and err.count("\n") == 1


def test_the_command_refuses_a_model_that_always_had_classes(ssdiff, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("x.png")
    run = train(TINY, tmp_path / "run", "--set", "training.label_dropout=0", "--set", "training.steps=1")
    arguments = ("restore", "x.png", "--op", "inpaint", "--ckpt", run, *CPU)
    code, _, err = ssdiff(*arguments)
    assert code == 2 and "--class NAME" in err and err.count("\n") == 1
    assert ssdiff(*arguments, "--class", "star")[0] == 0
