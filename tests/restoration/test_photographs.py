"""Tasks of photographs: noise, blurs of motion and by kernels, and which rule restores by default."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

import ssdiff
from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.data.inputs import plan_outputs
from ssdiff.errors import UsageError
from ssdiff.images import from_uint8, to_uint8
from ssdiff.operators.convolution import Convolution
from ssdiff.operators.inverse import regularised_inverse
from ssdiff.restoration import Options, RestoreTask, choose_method, restore_files, zero_shot
from ssdiff.restoration.kernels import motion_kernel
from ssdiff.restoration.tasks import Known, build_task

VARIANCE = 0.25
SMALL = {
    "data.size": 32,
    "process.levels": 2,
    "process.resolution.at": [0.0],
    "model.width": 8,
    "model.multipliers": [1, 2],
}
PLAIN = {"data.patches": False, "data.crop": "middle", "data.scales": [1.0, 1.0]}


class White(nn.Module):
    """The best denoiser of white data, as the prediction of photos64 has it."""

    def __init__(self, process):
        super().__init__()
        self.process, self.one = process, nn.Parameter(torch.ones(()))

    def forward(self, x, index, resolution, labels=None):
        state = self.process.states[int(index[0]) + 1]
        clean = x * state.signal * VARIANCE / (state.signal**2 * VARIANCE + state.sigma**2)
        output = self.one * (state.signal * x - clean) / state.sigma
        return nn.functional.interpolate(output, (resolution, resolution))


@pytest.fixture(scope="module")
def pipeline():
    preset = load_preset("photos64", SMALL)
    process = build_process(preset)
    return ssdiff.Pipeline(process, White(process), preset=preset)


def pictures(*shape, seed=0, spread=0.3):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return from_uint8(to_uint8(spread * drawn))


@pytest.mark.parametrize("size", [(32, 32), (40, 51)])
def test_denoising_is_the_mean_given_the_picture(pipeline, size):
    y, std = pictures(2, 3, *size), 25 / 127.5
    found = ssdiff.restore(y, pipeline, op="denoise", noise_std=std)
    assert found.sampler == "direct"
    assert_close(found.images, y * VARIANCE / (VARIANCE + std**2), atol=3e-3, rtol=0)


def test_noise_is_estimated_aloud_and_picture_by_picture(pipeline):
    y = torch.cat([pictures(1, 3, 64, 64, spread=0.1), pictures(1, 3, 64, 64, seed=1, spread=0.4)])
    with pytest.warns(UserWarning, match="estimated noise: std") as said:
        found = ssdiff.restore(y, pipeline, op="denoise").images
    stds = [float(str(one.message).split("std ")[1].split()[0]) / 127.5 for one in said]
    assert stds == pytest.approx([0.1, 0.4], rel=0.1)
    for one, x, std in zip(y, found, stds, strict=True):
        assert_close(x, one * VARIANCE / (VARIANCE + std**2), atol=6e-3, rtol=0)


def test_plug_and_play_is_what_a_model_of_patches_restores_by(pipeline):
    x = pictures(1, 3, 40, 48)
    for op in ("deblur", "super-resolve", "inpaint"):
        found = ssdiff.restore(x, pipeline, op=op, degrade=True, steps=3)
        assert found.sampler == "plug-and-play" and found.images.shape == x.shape
    assert ssdiff.restore(x, pipeline, op="colorize", degrade=True, steps=3).sampler == "ancestral"
    other = ssdiff.Pipeline(
        pipeline.process,
        pipeline.model,
        preset=load_preset("photos64", SMALL | {"data.patches": False, **PLAIN}),
    )
    assert ssdiff.restore(x, other, op="deblur", degrade=True, steps=3, whole=True).sampler == "ancestral"


@pytest.mark.parametrize("size", [(40, 48), (520, 64)])  # by matrices, and without
def test_photographs_are_reduced_by_area_unless_it_is_said(pipeline, size):
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for factor in (2, 4):
        by_area, other = (
            zero_shot(pipeline, "super-resolve", Options(), factor=factor, reduction=how).at(size).task
            for how in (None, "bilinear")
        )
        expected = nn.functional.avg_pool2d(x, factor)
        assert_close(by_area.operator.apply(x), expected, atol=1e-5, rtol=0)
        assert float((other.operator.apply(x) - expected).abs().max()) > 0.05


def test_a_motion_and_its_kernel_are_the_same(pipeline, tmp_path):
    x = pictures(1, 3, 40, 48)
    np.savetxt(tmp_path / "k.txt", motion_kernel(7, 20).numpy())
    options = {"op": "deblur", "degrade": True, "steps": 4, "noise_std": 2 / 127.5}
    by_motion = ssdiff.restore(x, pipeline, length=7, angle=20, **options)
    by_file = ssdiff.restore(x, pipeline, kernel=tmp_path / "k.txt", **options)
    by_tensor = ssdiff.restore(x, pipeline, kernel=motion_kernel(7, 20), **options)
    assert_close(by_file.images, by_motion.images, atol=2 / 255, rtol=0)
    assert torch.equal(by_tensor.images, by_motion.images)
    turned = ssdiff.restore(x, pipeline, length=7, angle=110, **options)
    assert float((turned.images - by_motion.images).abs().max()) > 0.05


def test_borders_of_a_given_blur_do_not_ring(pipeline):
    """What lay outside blurred the border: taken for a picture that goes around, it would ring far inside."""
    ramp, kernel = torch.linspace(-0.9, 0.9, 96).expand(1, 3, 96, 96), motion_kernel(11, 0)
    y = Convolution((96, 96), kernel).apply(ramp)[..., 16:80, 16:80]
    task = build_task("deblur", (64, 64), 3, Known(kernel=kernel))

    def error(measured):
        found = regularised_inverse(task.operator, measured, 1e-3)
        return float((found - ramp[..., 16:80, 16:80])[..., 12:-12].abs().mean())

    assert error(task.admit(y)) < 0.5 * error(y)
    assert_close(task.admit(y)[..., 6:-6], y[..., 6:-6])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"op": "deblur", "std": 1.0, "length": 5}, "std and length say two blurs at once"),
        ({"op": "deblur", "angle": 5.0}, "an angle is that of a motion"),
        ({"op": "denoise", "length": 5}, "is for op deblur, not for denoise"),
        ({"length": 5}, "is for op deblur, and none was given"),
        (
            {"op": "deblur", "reduction": "area"},
            "is for op super-resolve, not for deblur",
        ),
        ({"op": "super-resolve", "reduction": "box"}, "unknown reduction 'box'"),
        ({"op": "super-resolve", "reduction": ""}, "unknown reduction ''"),
        ({"op": "denoise", "draws": 2}, "one way only"),
        ({"op": "denoise", "steps": 4}, "one step"),
        ({"op": "deblur", "draws": 2}, "one way only"),
        ({"op": "deblur", "eta": 0.5}, "draws no noise"),
        ({"op": "colourise", "sampler": "plug-and-play"}, "plug-and-play is for deblur"),
        ({"op": "denoise", "degrade": True}, "nobody says how much noise"),
        ({"op": "deblur", "kernel": torch.ones(2, 3)}, "odd sides"),
        ({"op": "deblur", "kernel": torch.ones(41, 3)}, "the kernel has 3 x 41 pixels, the image 32 x 32"),
    ],
)
def test_what_does_not_go_together(pipeline, options, said):
    with pytest.raises(UsageError, match=said):
        ssdiff.restore(
            pictures(1, (options.get("op") == "colourise" and 1) or 3, 32, 32), pipeline, **options
        )


def test_files_say_what_was_estimated(pipeline, tmp_path):

    noisy = to_uint8(pictures(1, 3, 40, 64, spread=0.2))[0].permute(1, 2, 0).numpy()
    Image.fromarray(noisy).save(tmp_path / "noisy.png")
    method = choose_method(pipeline, "denoise", options=Options(), given=True)
    task = RestoreTask(pipeline, method, ["direct"])
    outputs = plan_outputs(
        [(str(tmp_path / "noisy.png"), "noisy.png")], str(tmp_path / "o.png"), "r.png", False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = restore_files(outputs.files, task)
    assert len(result.done) == 1 and any("estimated noise: std 2" in note for note in result.notes)
