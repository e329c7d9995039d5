"""Crops and resizes of published training and test code: their bytes, by the functions that training uses."""

import numpy as np
import pytest
import torch
from golden import golden
from PIL import Image

from ssdiff.data.sources import Fit
from ssdiff.errors import DataError
from ssdiff.images.resize import crop, scale, square
from ssdiff.training.batches import cut

GOLDEN = golden("preprocessing")
MARGIN = 1.12  # of the Cold Diffusion runs


def picture(entry):
    """The picture of an entry, by the formula of the archive."""
    h, w = entry["h"], entry["w"]
    noise = np.random.RandomState(entry["picture_seed"]).randint(-20, 21, (h, w, 3))
    y, x, c = np.arange(h)[:, None, None], np.arange(w)[None, :, None], np.arange(3)
    waves = 128 + 55 * np.sin(2 * np.pi * (c + 1) * x / 37) + 50 * np.cos(2 * np.pi * y / (23 + 3 * c))
    return Image.fromarray(np.clip(np.floor(waves) + noise, 0, 255).astype(np.uint8))


def cut_as_in_training(image, entry, padding=0):
    """The crop of one prepared image, by the function that cuts batches; (rows, columns, channels)."""
    prepared = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    row, column = torch.tensor([entry["crop_row"]]), torch.tensor([entry["crop_column"]])
    found = cut(prepared, row, column, entry["target"], padding)
    found = found.flip(-1) if entry["mirrored"] else found
    return found[0].permute(1, 2, 0).numpy()


def prepare(entry, **options):
    """What the cache of prepared images holds of a picture; (rows, columns, channels)."""
    return Fit(entry["target"], 3, **options).convert(np.array(picture(entry))).transpose(1, 2, 0)


def ssd(entry):
    return prepare(entry, resize="official")


def ssd_random(entry):
    scaled = scale(picture(entry), entry["shorter_side"], "official")
    return np.array(crop(scaled, entry["target"], entry["crop_row"], entry["crop_column"]))


def cold_train(entry):
    fit = Fit(entry["target"], 3, resize="stretch", margin=MARGIN)
    assert fit.side == entry["resized_to"]
    return cut_as_in_training(Image.fromarray(prepare(entry, resize="stretch", margin=MARGIN)), entry)


def cold_test(entry):
    return square(Image.fromarray(prepare(entry, resize="stretch", margin=MARGIN)), entry["target"], "none")


def cold_pad4(entry):
    return cut_as_in_training(scale(picture(entry), entry["target"], "bilinear"), entry, padding=4)


def plain(entry):
    return prepare(entry, resize="stretch")


ROUTINES = {f.__name__: f for f in (ssd, ssd_random, cold_train, cold_test, cold_pad4, plain)}


@pytest.mark.parametrize("name", GOLDEN.arrays)
def test_published_preprocessing(name):
    entry = GOLDEN.meta["arrays"][name]
    GOLDEN.check(name, np.array(ROUTINES[entry["routine"]](entry)), atol=1)


def test_every_routine_is_compared():
    assert {entry["routine"] for entry in GOLDEN.meta["arrays"].values()} == set(ROUTINES)


def test_an_image_that_is_not_scaled_must_be_large_enough():
    image = Image.new("L", (30, 20))
    assert square(image, 20, "none").size == (20, 20)
    with pytest.raises(DataError, match="30 x 20 pixels, fewer than the 24") as caught:
        square(image, 24, "none", "small.png")
    assert caught.value.path == "small.png"


@pytest.mark.parametrize("resize", ["antialias", "official", "bilinear", "stretch"])
@pytest.mark.parametrize("size", [(5, 5), (3, 11), (40, 13), (13, 40), (26, 13)])
def test_any_image_becomes_a_square(size, resize):
    image = Image.new("RGB", size, (10, 200, 30))
    found = square(image, 13, resize)
    assert found.size == (13, 13)
    assert (np.array(found) == (10, 200, 30)).all()
