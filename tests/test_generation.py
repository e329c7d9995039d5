"""Images of a model in every form and file, by the library."""

import numpy as np
import pytest
import torch
from PIL import Image

import ssdiff
from ssdiff.errors import SsdiffError
from ssdiff.generation import check_destination, generate, override_sampling
from ssdiff.images import Pictures, grid, to_pillow, to_uint8
from ssdiff.weights import single_file


@pytest.fixture(scope="module")
def pipe():
    return ssdiff.load(single_file.bundled(), device="cpu")


@pytest.fixture(scope="module")
def drawn(pipe):
    return pipe.sample(3, steps=2, seed=5)


def test_a_sample_as_tensor_pictures_and_array(pipe, drawn):
    pictures = pipe.sample(3, steps=2, seed=5, output="pil")
    array = pipe.sample(3, steps=2, seed=5, output="np")
    assert torch.equal(pipe.sample(3, steps=2, seed=5, output="pt"), drawn)
    assert isinstance(pictures, Pictures) and len(pictures) == 3
    assert array.dtype == np.uint8 and array.shape == (3, 32, 32, 3)
    assert np.array_equal(np.stack([np.asarray(one) for one in pictures]), array)
    assert np.array_equal(np.asarray(pictures.grid(3)), np.asarray(to_pillow(grid(to_uint8(drawn), 3))))
    assert pictures._repr_png_().startswith(b"\x89PNG") and Pictures()._repr_png_() is None


def test_progress_counts_images(pipe):
    told = []
    pipe.sample(2, steps=2, batch=1, progress=lambda *what: told.append(what))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[0] == ("sampling", 0, 2) and told[-1] == ("sampling", 2, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n must be"),
        ({"n": 2.5}, "n must be"),
        ({"first": -1}, "first must be"),
        ({"batch": 0}, "batch must be"),
        ({"output": "jpg"}, "'pil'"),
        ({"sampler": "dpm"}, "sampler 'dpm'"),
        ({"steps": 0}, "between 1 and"),
        ({"eta": 2.0, "sampler": "ddim"}, "eta"),
        ({"labels": [99]}, "labels must be"),
    ],
    ids=str,
)
def test_bad_options_are_explained(pipe, options, words):
    with pytest.raises(SsdiffError) as caught:
        pipe.sample(**{"n": 1} | options)
    assert words in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_none(device):
    with pytest.raises(SsdiffError, match="not available"):
        ssdiff.load(single_file.bundled(), device=device)


def test_every_kind_of_file(pipe, drawn, tmp_path):
    options = {"steps": 2, "seed": 5}
    generate(pipe, 3, tmp_path / "grid.png", **options)
    with Image.open(tmp_path / "grid.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(to_pillow(grid(to_uint8(drawn)))))
    result = generate(pipe, 3, tmp_path / "all.npz", **options)
    stored = np.load(tmp_path / "all.npz")
    assert np.array_equal(stored["arr_0"], to_uint8(drawn).permute(0, 2, 3, 1).numpy())
    assert stored["seed"] == "5" and result.to_dict()["steps"] == stored["steps"]
    generate(pipe, 2, f"{tmp_path}/many/", first=1, **options)
    assert sorted(path.name for path in (tmp_path / "many").glob("*.png")) == ["000001.png", "000002.png"]
    generate(pipe, 3, tmp_path / "walk.gif", **options)
    film = check_destination(str(tmp_path / "film.png"), range(3), trajectory=True)
    assert film.kind == "strip"
    told = []
    generate(pipe, 3, film, progress=lambda *what: told.append(what), **options)
    assert told[-1] == ("sampling", 3, 3)


def test_classes_by_name_and_number(pipe, tmp_path):
    generate(pipe, 2, tmp_path / "a.npz", steps=2, classes=["star", "0"])
    generate(pipe, 2, tmp_path / "b.npz", steps=2, classes=[pipe.class_names.index("star"), 0])
    a, b = np.load(tmp_path / "a.npz"), np.load(tmp_path / "b.npz")
    assert np.array_equal(a["arr_0"], b["arr_0"]) and a["labels"].tolist() == b["labels"].tolist()


@pytest.mark.parametrize(
    ("out", "options", "words"),
    [
        ("x.xyz", {}, ".xyz"),
        ("here.png", {}, "exists"),
        ("x.png", {"classes": ["starr"]}, "did you mean star"),
        ("x.png", {"classes": [99]}, "unknown class"),
        ("x.png", {"n": 0}, "n must be"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_found_first(pipe, tmp_path, out, options, words):
    (tmp_path / "here.png").write_bytes(b"mine")
    with pytest.raises(SsdiffError) as caught:
        generate(pipe, **{"n": 1, "out": tmp_path / out} | options)
    assert words in str(caught.value) and [path.name for path in tmp_path.iterdir()] == ["here.png"]


def test_only_settings_of_sampling_change(pipe):
    with pytest.raises(SsdiffError, match="model is trained"):
        override_sampling(pipe, {"model.classes": 3})
