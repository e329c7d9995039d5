"""Every kind of process from its preset to a picture, and every cold and diagonal preset through a step."""

import math

import numpy as np
import pytest
import torch
from conftest import TINY

from ssdiff import load
from ssdiff.build import build_model, build_process
from ssdiff.config.load import load_preset, presets
from ssdiff.process.cold import ColdProcess
from ssdiff.training.losses import Visit, objective

CPU = ("--device", "cpu")
FAMILIES = ("cold-", "blurdiff-", "blurring-", "ihdm-")
NAMES = [name for name in presets() if name.startswith(FAMILIES)]

KINDS = {
    "blurring": 'kind = "blurring"\nnoise = { kind = "cosine" }\npredict = "eps"',
    "heat": 'kind = "heat"\nheat = { sigma_max = 6.0 }',
    "heat-difference": 'kind = "heat"\nheat = { sigma_max = 6.0 }\npredict = "difference"',
    "blur-noise": 'kind = "blur-noise"\npredict = "eps"',
    "unsharp": 'kind = "blur-noise"\nblur_noise = { rate = "log", unit_range = true }\n'
    'noise = { kind = "exp" }\npredict = "eps"',
    "noise": 'kind = "cold"\ndegradation = { kind = "noise" }',
    "mean": 'kind = "cold"\ndegradation = { kind = "blur", kernel = 5, first = 2.0, to_mean = true }',
    "halved": 'kind = "cold"\ndegradation = { kind = "downsample", full_size = true }',
    "snow": 'kind = "cold"\ndegradation = { kind = "snow", level = 1 }',
    "mask": 'kind = "cold"\ndegradation = { kind = "mask", centre = "random" }',
    "colour": 'kind = "cold"\ndegradation = { kind = "mask", reverse = true, fill = "colour", bumps = 6 }',
    "animorph": 'kind = "cold"\nnoise = { kind = "cosine" }\ndegradation = { kind = "animorph" }',
    "linear": 'kind = "linear"\nresolution = { kind = "convex_decay" }\n'
    'stages = [{ kind = "resize", at = 0.3, size = [16, 8] }, { kind = "desaturate", from = 0.3, to = 0.8 }]',
}
STARTS = {
    "heat-difference": "clip_denoised = false",
    "heat": 'terminal_prior = { grid = 2, basis = "cosines", components = 2 }',
    "mean": "terminal_prior = { components = 2, noise = 0.002 }",
    "halved": "terminal_prior = { grid = 4 }",
}


@pytest.fixture
def preset(tmp_path):
    """A file with a tiny preset of a kind."""

    def write(kind):
        process = KINDS[kind]
        T = 2 if kind == "halved" else 6
        sampler = "alg2" if '"cold"' in process else "unsharp" if kind == "unsharp" else "ancestral"
        path = tmp_path / f"{kind}.toml"
        path.write_text(
            f'extends = "{TINY.as_posix()}"\n[process]\nlevels = 1\n'
            f"snr_preserving = 0.0\nT = {T}\n{process}\n"
            f"[model]\nclasses = 0\n[training]\nsteps = 2\ncheckpoint_every = 1\nsample_steps = 2\n"
            f'[sampling]\nsteps = 2\nsampler = "{sampler}"\n{STARTS.get(kind, "")}\n'
        )
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_train_resume_and_sample(result, ssdiff, preset, tmp_path, kind):
    run, more = tmp_path / "run", ("--with", "shapes") if kind == "animorph" else ()
    values = result("train", "--preset", preset(kind), "--out", run, *more, *CPU)
    assert values["step"] == 2
    assert result("train", "--resume", run, "--set", "training.steps=3", *CPU)["step"] == 3
    single = tmp_path / "model.safetensors"
    result("export", run, "--out", single)
    code, _, err = ssdiff("sample", "--ckpt", single, "-n", 3, "--out", tmp_path / "grid.png", *more, *CPU)
    if kind in ("snow", "mask"):
        assert code == 2 and "ssdiff restore" in err
    else:
        assert code == 0, err
    pipe, clean = load(run, device="cpu"), torch.rand(2, 3, 16, 16) * 2 - 1
    restored = pipe.restore(pipe.degrade(clean, pipe.process.T, seed=3), seed=3)
    assert restored.shape == clean.shape and restored.isfinite().all()


def test_animorphosis_needs_its_second_set(ssdiff, preset, tmp_path):
    code, _, err = ssdiff("train", "--preset", preset("animorph"), "--out", tmp_path / "run", *CPU)
    assert code == 2 and "--with" in err


def test_image_i_is_the_same_in_any_batch(preset, result, tmp_path):
    for kind in ("noise", "mean", "heat", "colour"):
        run = tmp_path / kind
        result("train", "--preset", preset(kind), "--out", run, *CPU)
        pipe = load(run, device="cpu")
        whole = pipe.sample(5, seed=4)
        assert float((pipe.sample(2, seed=4, first=3, batch=1) - whole[3:]).abs().max()) < 1e-4
        assert float((pipe.sample(5, seed=5) - whole).abs().max()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_has_a_loss_and_gradients(name):
    small = {"data.size": 32, "model.width": 16, "model.multipliers": [1, 2]}
    if (network := load_preset(name).model.kind) not in ("convnext-unet", "conv-unet"):
        small |= {"model.blocks": 1, "model.dropout": 0.0, "model.attention": [16]}
        small |= {"model.heads": 2} if network == "flexi-unet" else {}
    settings = load_preset(
        name,
        small | ({"process.T": 5, "sampling.steps": 5} if name.endswith("downsample-celeba128-gen") else {}),
    )
    kind = settings.process.degradation.kind if settings.process.degradation else ""
    other = (lambda images, shape: torch.zeros(len(images), *shape)) if kind == "animorph" else None
    process, model = build_process(settings, other=other), build_model(settings)
    x0 = torch.rand(3, settings.data.channels, 32, 32) * 2 - 1
    t = torch.tensor([1, process.T // 2 + 1, process.T])
    visit = Visit(torch.arange(3), 0, torch.arange(3))
    losses = objective(process, settings.training, settings.process.predict)(model, x0, t, visit, None)
    assert losses.shape == (3,) and losses.isfinite().all()
    losses.mean().backward()
    assert math.isfinite(sum(float(w.grad.norm()) for w in model.parameters() if w.grad is not None))
    assert isinstance(process, ColdProcess) == name.startswith("cold-")


def test_every_published_name_is_there():
    assert len([name for name in NAMES if name.startswith("cold-") and "photos" not in name]) == 20
    assert {"blurring-celeba64", "ihdm-cifar10", "blurdiff-church64"} <= set(NAMES)


def test_the_symmetry_of_a_fitted_terminal_prior(preset, result, ssdiff, tmp_path):
    run = tmp_path / "run"
    result("train", "--preset", preset("mean"), "--out", run, *CPU)
    draw = ("sample", "--ckpt", run, "-n", 2, *CPU)

    def images(noise):
        out = tmp_path / f"{noise}.npz"
        result(
            *draw,
            "--out",
            out,
            *(("--set", f"sampling.terminal_prior.noise={noise}") if noise is not None else ()),
        )
        return np.load(out)["arr_0"]

    plain, same, perfect = (images(noise) for noise in (None, 0.002, 0))
    assert np.array_equal(plain, same) and not np.array_equal(plain, perfect)
    for sets, message in (
        ("training.steps=5", "only settings of sampling can change"),
        ("sampling.terminal_prior.grid=2", "only sampling.terminal_prior.noise can change"),
        ("sampling.steps=999", "sampling.steps"),
    ):
        code, _, err = ssdiff(*draw, "--out", tmp_path / "no.npz", "--set", sets)
        assert code == 2 and message in err and not (tmp_path / "no.npz").exists()
