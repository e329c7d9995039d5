"""Patches of whole pictures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import ssdiff
from ssdiff.data import PictureSet
from ssdiff.distributed import World
from ssdiff.images import from_uint8
from ssdiff.training.batches import Batches
from ssdiff.training.patches import Patches


def pictures(arrays, size=16):
    sizes = np.array([array.shape[1:] for array in arrays], np.int64)
    flat = np.concatenate([array.ravel() for array in arrays])
    return PictureSet(flat, size, None, (), "", "", sizes=sizes, channels=arrays[0].shape[0])


def noise(*sizes, channels=3):
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (channels, *size), np.uint8) for size in sizes]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**20), st.integers(0, 2**40), st.sampled_from([1, 3]))
def test_at_scale_one_a_patch_is_a_window_bit_for_bit(seed, counter, channels):
    arrays = noise((16, 16), (16, 30), (41, 20), channels=channels)
    numbers = torch.arange(3).repeat(4)
    found = Patches(pictures(arrays), (1.0, 1.0), seed)(numbers, torch.arange(12), counter % 2**32)
    for number, patch in zip(numbers.tolist(), found, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(arrays[number], (16, 16), axis=(1, 2))
        windows = windows.transpose(1, 2, 0, 3, 4).reshape(-1, channels, 16, 16)
        assert any(torch.equal(from_uint8(torch.tensor(window)), patch) for window in windows)


def test_every_window_is_drawn_about_equally_often():
    ramp = np.arange(18 * 17, dtype=np.int64).reshape(1, 18, 17).astype(np.uint8)
    patches = Patches(pictures([ramp]), (1.0, 1.0), 0)
    drawn = patches(torch.zeros(3000, dtype=torch.int64), torch.arange(3000), 0)[:, 0, 0, 0]
    _, counts = drawn.unique(return_counts=True)
    assert len(counts) == 6 and counts.min() > 400


def test_a_reduced_patch_is_antialiased_and_keeps_lines_and_means():
    height, width = 64, 80
    stripes = np.zeros((1, height, width), np.uint8)
    stripes[:, :, ::2] = 255  # at half the resolution nothing of them may be left
    ramp = np.broadcast_to(np.linspace(40, 200, width).astype(np.uint8), (1, height, width)).copy()
    found = Patches(pictures([stripes, ramp]), (0.5, 0.5), 3)(torch.tensor([0, 1]), torch.arange(2), 7)
    inner = found[:, 0, :, 2:-2]
    assert float(inner[0].abs().max()) < 0.05
    steps = inner[1].diff(dim=-1)
    assert_close(steps, torch.full_like(steps, 2 * 2 * (160 / 79) / 255), atol=0.012, rtol=0)


def test_a_small_picture_is_reduced_less():
    arrays = noise((16, 20), (20, 16))
    found = Patches(pictures(arrays), (0.1, 0.4), 0)(torch.tensor([0, 1]), torch.arange(2), 0)
    assert [tuple(patch.shape) for patch in found] == [(3, 16, 16)] * 2
    for patch, array in zip(found, arrays, strict=True):  # the whole shorter side: as contrasting as it was
        assert float(patch.std()) > 0.9 * float(from_uint8(torch.tensor(array)).std())


def test_patches_depend_on_seed_place_and_step_alone():
    images = pictures(noise((50, 60), (30, 70)))

    def draw(seed=0, rank=0, world=1, batch=4):
        patches = Patches(images, (0.5, 1.0), seed)
        return Batches(patches, None, torch.device("cpu"), World(rank, world), batch, seed, flip=True)

    whole = draw()
    assert torch.equal(whole(5)[0], draw()(5)[0])  # whatever was drawn before
    assert torch.equal(torch.cat([draw(rank=r, world=2, batch=2)(5)[0] for r in (0, 1)]), whole(5)[0])
    assert not torch.equal(whole(5)[0], whole(6)[0]) and not torch.equal(whole(5)[0], draw(1)(5)[0])
    assert whole(5)[0].min() >= -1 and whole(5)[0].max() <= 1


@pytest.mark.parametrize("preset", ["photos64", "cold-blur-photos"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, preset):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, array in enumerate(noise((40, 50), (33, 64))):
        Image.fromarray(array.transpose(1, 2, 0)).save(folder / f"{k}.png")
    small = {
        "data.size": 32,
        "model.width": 8,
        "model.multipliers": [1, 2],
        "training.batch": 2,
        "training.warmup": 0,
        "training.lr_schedule": "constant",
        "training.lr_decay_share": 1.0,
        "training.checkpoint_every": 2,
        "training.sample_count": 2,
        "training.sample_steps": 2,
    }

    def weights(run):
        return {name: value.clone() for name, value in ssdiff.load(run).model.state_dict().items()}

    whole = ssdiff.train(preset, folder, tmp_path / "a", overrides=small | {"training.steps": 4})
    part = ssdiff.train(preset, folder, tmp_path / "b", overrides=small | {"training.steps": 2})
    ssdiff.train(resume=part.folder, overrides={"training.steps": 4})
    expected, found = weights(whole.folder), weights(tmp_path / "b")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(float(value.abs().max()) > 0 for name, value in expected.items() if name.startswith("head"))
