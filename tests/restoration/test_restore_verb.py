"""``ssdiff.restore``: images in any form, the numbers of the command, and every refusal."""

import numpy as np
import pytest
import torch
from conftest import CPU, TINY, train
from PIL import Image

import ssdiff
from ssdiff.errors import SsdiffError, UsageError
from ssdiff.evaluation.image_quality import psnr
from ssdiff.images import Pictures, read_image, to_pillow, to_uint8
from ssdiff.restoration import TASKS

SIDE = 16


@pytest.fixture(scope="module")
def cold(cold_folder):
    return ssdiff.load(cold_folder, device="cpu")


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    options = ("--set", "model.classes=0", "--set", "training.steps=2")
    return train(TINY, tmp_path_factory.mktemp("verb") / "ssd", *options)


@pytest.fixture(scope="module")
def plain(plain_folder):
    """An unconditional model."""
    return ssdiff.load(plain_folder, device="cpu")


@pytest.fixture
def x():
    grid = torch.linspace(-1, 1, SIDE)
    one = torch.stack([grid[:, None].expand(SIDE, SIDE), grid.expand(SIDE, SIDE), -grid.expand(SIDE, SIDE)])
    return torch.stack([one, one.flip(-1)])


def test_clean_images_are_degraded_restored_and_compared(cold, x):
    result = ssdiff.restore(x, cold, degrade=True, seed=1)
    assert result.images.shape == result.degraded.shape == x.shape and result.sampler == "alg2"
    degraded = cold.degrade(x, cold.process.T, seed=1)
    assert torch.equal(result.degraded, degraded.clamp(-1, 1))
    assert torch.equal(result.images, cold.restore(degraded, sampler="alg2", seed=1))
    assert torch.equal(result.psnr, psnr(x.double(), result.images.double()))
    assert result.ssim.shape == result.rmse.shape == (2,)
    assert result.to_dict()["psnr"] == pytest.approx(float(result.psnr.mean()))
    assert result.picture().size == (3 * (SIDE + 2) + 2, 2 * (SIDE + 2) + 2)
    assert result._repr_png_().startswith(b"\x89PNG")


def test_degraded_images_with_and_without_their_truth(cold, x):
    degraded = cold.degrade(x, cold.process.T)
    without = ssdiff.restore(degraded, cold)
    assert without.psnr is without.ssim is without.rmse is None
    assert without.to_dict() == {"n": 2, "sampler": "alg2", "psnr": None, "ssim": None, "rmse": None}
    assert without.picture().size[0] == 2 * (SIDE + 2) + 2
    known = ssdiff.restore(degraded, cold, truth=x)
    assert torch.equal(known.images, without.images) and known.psnr.shape == (2,)


def test_a_noisy_model_is_given_images_at_any_timestep(plain, x):
    for t in (plain.process.T, 2):
        small = plain.process.degrade(x, t)
        found = ssdiff.restore(small, plain, t=t)
        numbers = torch.arange(2)
        x_t = plain.process.from_degraded(small, t, numbers, 0)
        assert found.sampler == "ancestral"
        assert torch.equal(found.images, plain.restore(x_t, t, "ancestral", images=numbers))


def test_the_form_of_the_images_is_kept(cold, x, tmp_path):
    pictures = [to_pillow(one) for one in x]
    pictures[0].save(tmp_path / "photo.png")
    pictures[0].resize((50, 40)).save(tmp_path / "large.png")
    many = ssdiff.restore(pictures, cold, degrade=True)
    assert isinstance(many.images, Pictures) and isinstance(many.degraded, Pictures) and len(many.images) == 2
    one = ssdiff.restore(tmp_path / "photo.png", cold, degrade=True)
    assert isinstance(one.images, Image.Image) and one.images.size == (SIDE, SIDE)
    large = ssdiff.restore(str(tmp_path / "large.png"), cold, degrade=True)
    assert large.images.size == (SIDE, SIDE)
    assert ssdiff.restore(x[0], cold, degrade=True).images.shape == x[0].shape


def test_the_command_writes_the_same_bytes(cold, cold_folder, x, tmp_path, monkeypatch, result):
    monkeypatch.chdir(tmp_path)
    for i, one in enumerate(x):
        to_pillow(one).save(f"{i}.png")
    files = ("0.png", "1.png")
    options = ("--degrade", "--seed", 3, "--t", 3, "--sampler", "alg1")
    values = result("restore", *files, "--ckpt", cold_folder, *options, "--out", "o/", *CPU)
    mine = ssdiff.restore(list(files), cold, degrade=True, seed=3, t=3, sampler="alg1")
    for i, picture in enumerate(mine.images):
        with Image.open(f"o/{i}-restored.png") as written:
            assert np.array_equal(np.asarray(written), np.asarray(picture))
    assert values["mean"]["alg1"]["psnr"] == pytest.approx(mine.to_dict()["psnr"], abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"op": "super-resolve", "factor": 4},
        {"op": "deblur", "std": 1.5},
        {"op": "colourise"},
        {"op": "inpaint", "noise_std": 0.1, "draws": 2},
    ],
    ids=str,
)
def test_tasks_that_the_model_never_saw(plain, x, options):
    result = ssdiff.restore(x, plain, degrade=True, steps=4, **options)
    assert result.images.shape == x.shape and bool(torch.isfinite(result.psnr).all())


def test_a_mask_as_tensor_picture_and_file(plain, x, tmp_path):
    missing = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    missing[:, :8] = True
    picture = Image.fromarray(missing.numpy().astype(np.uint8) * 255)
    picture.save(tmp_path / "mask.png")
    options = {"op": "inpaint", "degrade": True, "steps": 4}
    first = ssdiff.restore(x, plain, mask=missing, **options).images
    assert float((first - x)[..., 8:].abs().max()) < 0.03 < float((first - x)[..., :8].abs().max())
    for mask in (picture, tmp_path / "mask.png"):
        assert torch.equal(ssdiff.restore(x, plain, mask=mask, **options).images, first)


def test_batches_and_progress(cold, x):
    told = []
    small = ssdiff.restore(x, cold, degrade=True, batch=1, progress=lambda *what: told.append(what))
    done = [at for _, at, _ in told]
    assert {what[::2] for what in told} == {("restoring", 2)} and done == sorted(done)
    assert done[0] == 0 and 1 in done and done[-1] == 2 and 0 < done[1] < 1
    whole = ssdiff.restore(x, cold, degrade=True).images
    assert int((to_uint8(small.images).int() - to_uint8(whole).int()).abs().max()) <= 1


FAULTS = {
    "a tile that is too large": ("cold", lambda x: x[..., :8], {"tile": 16}, "fewer than a tile of 16"),
    "a tile that does not suit": ("cold", lambda x: x[..., :9], {"tile": 9}, "trained for 16"),
    "an overlap": ("cold", lambda x: x[..., :9], {"overlap": 9}, "0 to 8 pixels, not 9"),
    "degraded ones to be resized": ("cold", None, {"whole": False}, "add --degrade"),
    "nothing to invert": ("plain", None, {"op": "inpaint", "invert_mask": True}, "needs a mask"),
    "a clean tensor of another size": ("cold", lambda x: x[..., :8], {"degrade": True}, "(3, 16, 16)"),
    "a mask of another size": (
        "plain",
        lambda x: x[..., :8],
        {"op": "inpaint", "mask": torch.eye(9).bool()},
        "the mask has 9 x 9 pixels, the image 8 x 16",
    ),
    "nothing known": (
        "plain",
        None,
        {"op": "inpaint", "mask": torch.ones(16, 16).bool()},
        "nothing is known",
    ),
    "nothing missing": (
        "plain",
        None,
        {"op": "inpaint", "mask": torch.zeros(16, 16).bool()},
        "all is known",
    ),
    "a factor that does not divide": (
        "plain",
        lambda x: torch.zeros(1, 3, 21, 30),
        {"op": "super-resolve", "factor": 2, "degrade": True, "whole": True},
        "does not divide 30 x 21",
    ),
    "bytes": ("cold", to_uint8, {}, "from_uint8"),
    "0..255": ("cold", lambda x: (x + 1) * 127.5, {}, "x / 127.5 - 1"),
    "grey": ("cold", lambda x: x[:, :1], {}, "needed is (3, "),
    "mixed sizes": ("cold", lambda x: [x[0], x[1, :, :8]], {}, "different shapes"),
    "empty list": ("cold", lambda x: [], {}, "empty list"),
    "nothing": ("cold", lambda x: None, {}, "type NoneType"),
    "a file that is not there": ("cold", lambda x: "gone.png", {}, "cannot read gone.png"),
    "truth of another size": ("cold", None, {"truth": torch.zeros(2, 3, 8, 8)}, "truth has the shape"),
    "fewer truths": ("cold", None, {"truth": torch.zeros(1, 3, 16, 16)}, "truth has 1 images, for 2"),
    "truth twice": ("cold", None, {"truth": torch.zeros(2, 3, 16, 16), "degrade": True}, "leave one out"),
    "operator": ("cold", None, {"op": "mask"}, "trained for blur, not for mask"),
    "a task of a cold model": ("cold", None, {"op": "deblur"}, "needs a model of kind ssd or ddpm"),
    "timestep": ("cold", None, {"t": 5}, "outside 1..4"),
    "sampler": ("cold", None, {"sampler": "euler"}, "sampler 'euler'"),
    "draws": ("cold", None, {"draws": 0}, "at least 1"),
    "draws of a cold model": ("cold", None, {"draws": 2}, "one way only"),
    "steps": ("cold", None, {"steps": 9}, "between 1 and 4"),
    "batch": ("cold", None, {"batch": 0}, "batch must be"),
    "draws as text": ("cold", None, {"draws": "2"}, "draws must be a whole number"),
    "a factor beyond all memory": (
        "plain",
        None,
        {"op": "super-resolve", "factor": 10**6},
        "would have 16000000 x 16000000 pixels",
    ),
    "a factor beyond 63 bits": (
        "plain",
        None,
        {"op": "super-resolve", "factor": 2**63},
        "choose a smaller factor",
    ),
    "factor as text": (
        "plain",
        None,
        {"op": "super-resolve", "factor": "2"},
        "factor must be a whole number",
    ),
    "eta as text": ("plain", None, {"sampler": "ddim", "eta": "1", "degrade": True}, "eta must be in"),
    "noise without op": ("cold", None, {"noise_std": 0.1}, "inpaint, colourise, and none was given"),
    "timestep of a task": ("plain", None, {"op": "deblur", "t": 3}, "t does not go with"),
    "mask of another task": (
        "plain",
        None,
        {"op": "deblur", "mask": "m.png"},
        "is for op inpaint, not for deblur",
    ),
    "a mask of floats": ("plain", None, {"op": "inpaint", "mask": torch.ones(16, 16)}, "bool"),
    "no mask": ("plain", None, {"op": "inpaint", "mask": 3}, "mask is of type int"),
    "factor": ("plain", None, {"op": "super-resolve", "factor": 3, "degrade": True}, "does not divide"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_input_is_explained(name, cold, plain, x):
    model, spoil, options, words = FAULTS[name]
    with pytest.raises(SsdiffError) as caught:
        ssdiff.restore(spoil(x) if spoil else x, {"cold": cold, "plain": plain}[model], **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


USES = {
    "factor": (4, {"super-resolve"}),
    "reduction": ("area", {"super-resolve"}),
    "std": (2.0, {"deblur"}),
    "length": (3.0, {"deblur"}),
    "angle": (0.0, {"deblur"}),
    "kernel": ("gone.png", {"deblur"}),
    "mask": ("gone.png", {"inpaint"}),
    "invert_mask": (True, {"inpaint"}),
    "noise_std": (0.0, set(TASKS) - {"jpeg"}),
    "quality": (50, {"jpeg"}),
}


@pytest.mark.parametrize("name", USES)
def test_an_option_that_an_op_has_no_use_for_is_refused(name, plain, x):
    value, used_by = USES[name]
    for op in {None, *TASKS} - used_by:
        with pytest.raises(UsageError) as caught:
            ssdiff.restore(x, plain, op=op, **{name: value})
        said = str(caught.value)
        assert said.startswith(f"{name} (--{name.replace('_', '-')}) is for op ")
        assert said.endswith("leave it out") and all(task in said for task in used_by)


def test_a_network_of_ones_own_without_a_preset(plain, x):
    class Grey(torch.nn.Module):
        def forward(self, x_t, index, resolution, labels=None):
            return torch.zeros(len(x_t), x_t.shape[1], resolution, resolution)

    pipe = ssdiff.Pipeline(plain.process, Grey())
    result = ssdiff.restore(x, pipe, op="inpaint", degrade=True, steps=3)
    assert float((result.images - x)[..., :4].abs().max()) < 0.03
    with pytest.raises(SsdiffError):
        ssdiff.restore(x, pipe, op="mask")


def test_a_path_is_no_pipeline(x):
    with pytest.raises(SsdiffError, match="load one"):
        ssdiff.restore(x, "model.safetensors")


def test_files_are_read_as_the_command_reads_them(cold, x, tmp_path):
    to_pillow(x[0]).save(tmp_path / "a.png")
    assert torch.equal(
        ssdiff.restore(read_image(tmp_path / "a.png"), cold).images,
        ssdiff.restore([read_image(tmp_path / "a.png")], cold).images[0],
    )
