"""Runs of the two networks of cold diffusion: trained, resumed bit for bit, stored, and runs of before."""

import pytest
import torch

import ssdiff
from ssdiff.build import build_model
from ssdiff.checkpoints import load as load_checkpoint
from ssdiff.config.load import load_preset, parse_preset
from ssdiff.weights import single_file

SMALL = {
    "data.size": 16,
    "model.width": 8,
    "model.multipliers": [1, 2],
    "process.T": 5,
    "sampling.steps": 5,
    "training.batch": 4,
    "training.steps": 4,
    "training.checkpoint_every": 2,
    "training.sample_every": 0,
    "training.sample_count": 2,
    "training.sample_steps": 2,
    "training.ema_start": 0,
    "training.ema_every": 1,
}
CHANGES = {
    "cold-desaturate-cifar10": SMALL,
    "cold-downsample-cifar10": SMALL
    | {"process.T": 3, "sampling.steps": 3, "model.attention": [8], "model.blocks": 1},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_resumes_bit_for_bit_and_is_stored_whole(name, home, tmp_path):
    preset = load_preset(name, CHANGES[name])
    whole = ssdiff.train(preset, "shapes", tmp_path / "whole", device="cpu")
    half = ssdiff.train(
        load_preset(name, CHANGES[name] | {"training.steps": 2}), "shapes", tmp_path / "half", device="cpu"
    )
    ssdiff.train(None, resume=half.folder, overrides={"training.steps": 4}, device="cpu")
    newest = [single_file.newest_checkpoint(run) for run in (whole.folder, half.folder)]
    one, other = (load_checkpoint(path, ["ema", "weights"]).tensors for path in newest)
    for kind in ("ema", "weights"):
        assert all(torch.equal(value, other[kind][key]) for key, value in one[kind].items()), kind
    again = ssdiff.load(half.folder, device="cpu")
    assert again.preset.model == preset.model
    x = torch.zeros(1, 3, 16, 16)
    assert again.restore(x, 2).shape == x.shape


@pytest.mark.parametrize("name", CHANGES)
def test_stored_settings_say_everything(name):
    preset = load_preset(name)
    assert parse_preset(preset.to_toml()) == preset
    fields = preset.to_toml().split("[model]")[1].split("[training]")[0]
    assert "width" in fields and "multipliers" in fields and "heads" not in fields


def test_runs_of_the_presets_former_network_keep_it():
    """A run stores its whole preset; presets of before said no kind of network, or the Flexi-UNet's."""
    former = load_preset(
        "cold-blur-cifar10", {"model.kind": "flexi-unet", "model.width": 32, "model.attention": [8]}
    ).to_toml()
    for text in (former, former.replace('kind = "flexi-unet"\n', "")):
        preset = parse_preset(text)
        assert type(build_model(preset)).__name__ == "FlexiUNet" and preset.model.attention == (8,)
