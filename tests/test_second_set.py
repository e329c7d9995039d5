"""Animorphosis through its whole life: the second set is remembered, found again, named anew or refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import CPU, train
from PIL import Image
from torch.testing import assert_close

import ssdiff
from ssdiff import checkpoints
from ssdiff.config import DataSettings
from ssdiff.errors import DataError, UsageError
from ssdiff.images import grid as picture_of
from ssdiff.images import to_pillow, to_uint8
from ssdiff.images.read import read_image
from ssdiff.process.base import degradation_streams
from ssdiff.second_set import find_second_set
from ssdiff.training.resume import check_other_unchanged

SIDE, T = 16, 6
PRESET = """
extends = "{tiny}"
[process]
kind = "cold"
T = {T}
levels = 1
snr_preserving = 0.0
noise = {{ kind = "cosine" }}
degradation = {{ kind = "animorph" }}
[model]
classes = 0
[training]
steps = 2
loss = "l1"
[sampling]
steps = {T}
sampler = "alg2"
clip_denoised = false
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with clean images `faces`, a second set `pets`, a run and the file exported of it."""
    from conftest import TINY

    from ssdiff import cli

    folder = tmp_path_factory.mktemp("animorphosis")
    for name, seed in (("faces", 1), ("pets", 2)):
        (folder / name).mkdir()
        for i in range(5):
            values = np.random.RandomState(100 * seed + i).randint(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / name / f"{i}.png")
    preset = folder / "morph.toml"
    preset.write_text(PRESET.format(tiny=TINY.as_posix(), T=T))
    train(preset, folder / "run", "--data", folder / "faces", "--with", folder / "pets")
    assert cli.run(["export", str(folder / "run"), "--out", str(folder / "model.safetensors"), "-q"]) == 0
    return folder


@pytest.fixture
def pipe(place):
    return ssdiff.load(place / "run", device="cpu")


def pets(place):
    return torch.stack([read_image(place / "pets" / f"{i}.png", channels=3) for i in range(5)])


def nearest(x, images):
    """(B,) largest difference of each x to the image of the set that is nearest."""
    return (x[:, None] - images[None]).abs().amax(dim=(2, 3, 4)).min(dim=1).values


def first_state(pipe, n=8, seed=0):
    numbers = torch.arange(n)
    return next(iter(pipe.walk(numbers, pipe.plan(), seed)))[1]


def test_sampling_begins_at_images_of_the_second_set_by_number(pipe, place):
    x = first_state(pipe)
    # x_T is sigma_T z of a grey image, sigma_T = 1 to a few parts in a hundred at T = 6.
    sigma = float(first_state(pipe.with_other(torch.full((1, 3, SIDE, SIDE), 1.0)))[0, 0, 0, 0])
    assert 0.99 < sigma <= 1
    assert float(nearest(x / sigma, pets(place)).max()) < 1e-5
    assert len({image.numpy().tobytes() for image in x}) > 1
    assert_close(first_state(pipe, 3), x[:3])
    assert not torch.equal(first_state(pipe, seed=1), x)


def test_image_i_is_the_same_in_any_batch(pipe):
    whole = pipe.sample(5, seed=4)
    assert_close(pipe.sample(2, seed=4, first=3, batch=1), whole[3:], atol=1e-4, rtol=0)


def test_restoration_of_an_image_of_the_second_set_begins_at_it(pipe, place):
    """As sampling does from the image of that number: with whatever network the same result."""
    images = torch.arange(3)
    seed = 0
    z = pipe.process.degradation._other(degradation_streams(images, seed), (3, SIDE, SIDE))
    restored = pipe.restore(z, seed=seed)
    assert_close(pipe.with_other(z[:1]).sample(1), restored[:1], atol=2e-2, rtol=0)
    for sampler in ("alg1", "alg2", "ddim", "direct"):
        found = ssdiff.restore(z[:2], pipe, sampler=sampler)
        assert_close(found.images, pipe.restore(z[:2], sampler=sampler))
    file = ssdiff.restore(str(place / "pets" / "0.png"), pipe)
    same = ssdiff.restore(pets(place)[:1], pipe).images[0]
    assert np.array_equal(np.asarray(file.images), np.asarray(to_pillow(same)))


def test_degraded_images_are_restored_with_what_was_mixed_into_them(pipe, monkeypatch):
    """A perfect network: Algorithm 2 is exact only with the z of each image."""
    clean = torch.rand(3, 3, SIDE, SIDE) * 2 - 1
    monkeypatch.setattr(pipe, "_network", lambda x, t, labels: clean[: len(x)])
    numbers = torch.tensor([7, 1, 4])
    for t in (T, 3):
        x_t = pipe.degrade(clean, t, seed=2, images=numbers)
        for sampler in ("alg1", "alg2", "ddim"):
            assert_close(pipe.restore(x_t, t, sampler, seed=2, images=numbers), clean, atol=1e-5, rtol=0)


def test_the_extra_noise_disturbs_the_start_and_not_d(pipe, place):
    noisy = ssdiff.load(place / "run", device="cpu")
    noisy.sampling = pipe.sampling.model_copy(update={"start_noise": 0.1})
    difference = first_state(noisy) - first_state(pipe)
    assert 0.09 < float(difference.std()) < 0.11
    z = pets(place)[:2]
    numbers = torch.arange(2)
    assert torch.equal(noisy.process.degrade(z, 3, numbers), pipe.process.degrade(z, 3, numbers))
    assert not torch.equal(noisy.restore(z), pipe.restore(z))
    assert torch.equal(noisy.restore(z), noisy.restore(z))


def test_commands(result, ssdiff, place, tmp_path):
    run = place / "run"
    result("sample", "--ckpt", run, "-n", 3, "--out", tmp_path / "a.npz", *CPU)
    result("sample", "--ckpt", run, "-n", 3, "--out", tmp_path / "part.npz", "--t", 3, *CPU)
    found = [np.load(tmp_path / f"{name}.npz")["arr_0"] for name in ("a", "part")]
    assert not np.array_equal(*found)
    given = result("restore", place / "pets", "--ckpt", run, "--compare", "--out", tmp_path / "r", *CPU)
    assert len(given["images"]) == 5
    more = result("restore", place / "faces", "--ckpt", run, "--degrade", "--out", tmp_path / "d", *CPU)
    assert more["mean"].keys() == {"degraded", "alg2"}
    rows = result("eval", "restore", place / "faces", "--ckpt", run, *CPU)["rows"]
    assert list(rows) == ["degraded", "alg2", "alg1", "ddim", "direct"]
    truth = ("eval", "restore", place / "pets", "--truth", place / "faces", "--ckpt", run, *CPU)
    assert list(result(*truth)["rows"]) == ["degraded", "alg2", "alg1", "ddim", "direct"]
    assert list(result(*truth, "--t", 3)["rows"]) == ["degraded", "ddim", "direct"]
    path = place / "pets" / "0.png"
    low = ("restore", path, "--ckpt", run, "--t", 3, "--out", tmp_path / "low.png", *CPU)
    code, _, err = ssdiff(*low, "--sampler", "alg2")
    assert code == 2 and "choose one of ddim, direct" in err
    result(*low)
    (page,) = [tmp_path / "report.html"]
    result("eval", "report", run, "--out", page, "--samples", 2, *CPU)
    assert "2 samples" in page.read_text("utf-8")


def test_distances_begin_at_the_second_set(result, place):
    about = ("eval", "fid", "--extractor", "tinynet:Tiny", "-n", 4, *CPU)
    run = result(*about, "--ckpt", place / "run")
    file = ("--ckpt", place / "model.safetensors", "--reference", place / "faces")
    single = result(*about, *file, "--with", place / "pets")
    assert run["value"] == pytest.approx(single["value"])


def test_a_single_file_needs_the_second_set_named(result, ssdiff, place, tmp_path):
    model, out = place / "model.safetensors", tmp_path / "out.png"
    for arguments in (("sample", "-n", 2), ("restore", place / "faces", "--degrade")):
        out = tmp_path / arguments[0]
        code, _, err = ssdiff(*arguments, "--ckpt", model, "--out", out, *CPU)
        assert code == 2 and "--with FOLDER" in err and not out.exists()
        result(*arguments, "--ckpt", model, "--out", out, "--with", place / "pets", *CPU)
    # An image that it begins at needs no set.
    result("restore", place / "pets" / "1.png", "--ckpt", model, "--out", tmp_path / "one.png", *CPU)
    drawn = ssdiff_load(model, place).sample(2)
    assert torch.equal(drawn, ssdiff_load(place / "run", place).sample(2))


def ssdiff_load(source, place):
    return ssdiff.load(source, device="cpu", other=place / "pets")


def test_a_set_that_was_moved_is_named_anew(result, ssdiff, place, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(place / "pets", moved / "pets")
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    source = tmp_path / "gone"
    shutil.copytree(place / "pets", source)
    train(place / "morph.toml", tmp_path / "other", "--data", place / "faces", "--with", source)
    shutil.rmtree(source)
    out = tmp_path / "out.png"
    code, _, err = ssdiff("sample", "--ckpt", tmp_path / "other", "--out", out, *CPU)
    assert code == 3 and str(source) in err and "--with" in err and err.count("\n") == 1 and not out.exists()
    result("sample", "--ckpt", tmp_path / "other", "-n", 2, "--out", out, "--with", moved / "pets", *CPU)
    code, _, err = ssdiff("train", "--resume", tmp_path / "other", "--set", "training.steps=3", *CPU)
    assert code == 3 and str(source) in err
    more = ("--set", "training.steps=3", "--with", moved / "pets", *CPU)
    assert result("train", "--resume", tmp_path / "other", *more)["step"] == 3
    more = ("--set", "training.steps=4", "--with", place / "faces", *CPU)
    code, _, err = ssdiff("train", "--resume", tmp_path / "other", *more)
    assert code == 4 and "the second set has changed" in err
    assert result("train", "--resume", tmp_path / "other", *more, "--accept-changed-data")["step"] == 4


def test_a_checkpoint_without_fingerprint_goes_on():
    """Those of 0.2.0 know where the second set is, not what was in it."""

    class Start:
        loaded = checkpoints.Loaded.__new__(checkpoints.Loaded)

    object.__setattr__(Start.loaded, "meta", {"other": "pets"})
    check_other_unchanged(Start, "abc")


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("missing", 3, "second set: there is no data set"),
        ("empty", 3, "second set:"),
        ("file.png", 3, "second set:"),
    ],
)
def test_a_bad_second_set_is_one_line_and_nothing_written(ssdiff, place, tmp_path, name, code, message):
    bad = tmp_path / name
    if name == "empty":
        bad.mkdir()
    elif name == "file.png":
        shutil.copy(place / "pets" / "0.png", bad)
    run, out = tmp_path / "run", tmp_path / "out"
    for arguments in (
        ("train", "--preset", place / "morph.toml", "--data", place / "faces", "--out", run),
        ("sample", "--ckpt", place / "run", "--out", out / "x.png"),
        ("sample", "--ckpt", place / "run", "--out", out),
        ("restore", place / "faces", "--degrade", "--ckpt", place / "run", "--out", out),
        ("restore", place / "pets", "--ckpt", place / "run", "--out", out),
        ("eval", "restore", place / "faces", "--ckpt", place / "run", "--out", out / "x.json"),
    ):
        if arguments[-1].suffix:
            out.mkdir(exist_ok=True)
        found, _, err = ssdiff(*arguments, "--with", bad, *CPU)
        assert found == code and message in err and err.count("\n") == 1, (arguments, err)
        assert not run.exists() and not list(out.glob("**/*")), arguments
        shutil.rmtree(out, ignore_errors=True)


def test_a_second_set_is_refused_where_nothing_is_mixed_in(ssdiff, place, tmp_path, run_folder):
    out = tmp_path / "x.png"
    for arguments in (
        ("sample", "--ckpt", run_folder, "--out", out),
        ("restore", place / "pets" / "0.png", "--ckpt", run_folder, "--out", out),
        ("train", "--preset", "shapes32", "--out", out),
    ):
        code, _, err = ssdiff(*arguments, "--with", place / "pets", *CPU)
        assert code == 2 and "(--with) is for animorphosis" in err and not out.exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "shape"),
        (torch.zeros(2, 1, SIDE, SIDE), "shape"),
        ([], "empty list"),
        (lambda numbers, shape: None, "NoneType"),
        (lambda numbers, shape: torch.zeros(1, 3, 4, 4), "needed is"),
    ],
)
def test_images_of_another_size_are_refused(pipe, other, message):
    with pytest.raises(UsageError, match=message):
        pipe.with_other(other)


def test_every_form_of_a_second_set(pipe, place):
    images = pets(place)
    files = [place / "pets" / f"{i}.png" for i in range(5)]
    settings = DataSettings(size=SIDE)
    numbers, shape = torch.tensor([0, 3, 5]), (3, SIDE, SIDE)
    expected = images[numbers % 5]
    for other in (images, [str(file) for file in files], lambda numbers, shape: images[numbers % 5]):
        assert_close(find_second_set(other, settings)(numbers, shape), expected)
    found = find_second_set(place / "pets", settings, seed=pipe.preset.training.seed)
    assert_close(found(numbers, shape), pipe.process.degradation._other(numbers, shape))
    with pytest.raises(DataError, match="second set"):
        find_second_set(place / "nothing", settings)
    process = ssdiff.build_process(pipe.preset)
    drawn = ssdiff.Pipeline(process, pipe.model, preset=pipe.preset, other=images).sample(2)
    assert torch.equal(drawn, pipe.sample(2, other=images))
    bare = ssdiff.Pipeline(process, pipe.model, sampling=pipe.sampling, other=images).sample(2)
    assert torch.equal(bare, drawn)


def test_a_run_shows_samples_from_its_second_set(place):
    assert json.loads((place / "run" / "status.json").read_text())["state"] == "finished"
    (grid,) = (place / "run" / "samples").glob("*.png")
    samples = ssdiff.load(place / "run", device="cpu").sample(4, 4)  # as sample_count and sample_steps say
    assert np.array_equal(np.asarray(Image.open(grid)), np.asarray(to_pillow(picture_of(to_uint8(samples)))))
