"""Whole pictures: their prepared set, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ssdiff.config.load import load_preset
from ssdiff.data import PictureSet, open_data
from ssdiff.errors import DataError, PresetError, UsageError

SIZES = ((20, 31), (16, 16), (40, 17))  # heights and widths


def array(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for k, size in enumerate(SIZES):
        Image.fromarray(array(k, *size)).save(tmp_path / "pictures" / f"{k}.png")
    return tmp_path / "pictures"


@pytest.fixture
def load(folder, tmp_path):
    return lambda **options: open_data(
        folder, **{"size": 16, "channels": 3, "cache": tmp_path / "cache", "whole": True, **options}
    )


def test_pictures_are_kept_as_they_are(load):
    for found in (load(), load()):  # made, then read back
        assert isinstance(found, PictureSet)
        assert found.sizes.tolist() == [list(size) for size in SIZES] and len(found) == 3
        for k, size in enumerate(SIZES):
            assert np.array_equal(found.picture(k), array(k, *size).transpose(2, 0, 1))
    assert found.images.shape == (3, 3, 16, 16)
    assert np.array_equal(found.images[0], array(0, *SIZES[0]).transpose(2, 0, 1)[:, 2:18, 8:24])
    assert torch.equal(found.batch(torch.tensor([2, 0]))[1], torch.from_numpy(found.images[0]))
    assert "3 images" in str(found) and "0.0 megapixels" in str(found)
    assert found.to_dict()["sizes"] == [list(size) for size in SIZES] and found.to_dict()["side"] == 16
    assert not found.whole.flags.writeable


def test_one_set_is_not_taken_for_another(load):
    whole, squares, grey = load(), load(whole=False), load(channels=1)
    assert len({whole.folder, squares.folder, grey.folder}) == 3
    assert len({whole.fingerprint, squares.fingerprint, grey.fingerprint}) == 3
    assert grey.picture(0).shape == (1, *SIZES[0])


def test_the_fingerprint_knows_shapes(folder, load):
    """Equal bytes in another shape are other pictures."""
    before = load().fingerprint
    Image.fromarray(array(0, 20, 31).reshape(31, 20, 3)).save(folder / "0.png")
    assert load().fingerprint != before


@pytest.mark.parametrize("name", ["images.npy", "sizes.npy", "manifest.json"])
def test_a_damaged_set_is_prepared_anew(load, name):
    path = load().folder / name
    path.write_bytes(path.read_bytes()[:-8])
    assert [load().picture(k).shape[1:] for k in range(3)] == list(SIZES)


def test_a_picture_smaller_than_a_patch(folder, load):
    Image.fromarray(array(9, 40, 15)).save(folder / "small.png")
    with pytest.raises(DataError, match=r"small.png has 15 x 40 pixels, patches have 16 a side"):
        load()
    left_out = load(corrupt="skip")
    assert len(left_out) == 3 and "small.png" in left_out.skipped[0][0]
    manifest = json.loads((left_out.folder / "manifest.json").read_text())
    assert manifest["count"] == 3 and len(manifest["skipped"]) == 1


def test_whole_pictures_are_not_scaled(load):
    with pytest.raises(UsageError, match="kept as they are"):
        load(margin=1.5)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"data.crop": "middle"}, 'data.patches: .*data.crop = "random"'),
        ({"data.scales": [1.0, 0.5]}, r"data.scales: \[1.0, 0.5\] is no range"),
        ({"data.scales": [0.0, 1.0]}, "data.scales"),
        ({"data.margin": 1.2}, "data.margin: is not for patches"),
        ({"data.resize": "none"}, "data.resize: is not for patches"),
        ({"data.padding": 4}, "data.padding: is not for patches"),
        ({"data.patches": False, "data.margin": 1.2}, "data.scales: are those of patches"),
    ],
)
def test_settings_that_do_not_go_with_patches(sets, message):
    with pytest.raises(PresetError, match=message):
        load_preset("photos64", sets)
