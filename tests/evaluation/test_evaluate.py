"""`ssdiff.evaluate`: what it takes, what it gives, what it refuses."""

import numpy as np
import pytest
import torch
from conftest import CPU
from PIL import Image

import ssdiff
from ssdiff.errors import DataError, SsdiffError, UsageError
from ssdiff.images import from_uint8

TINY = {"extractor": "tinynet:Tiny", "device": "cpu"}


def noise(count, side=16, seed=0):
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture
def folder(tmp_path):
    """The images of noise(40, seed=1) as files."""
    for k, image in enumerate(noise(40, seed=1)):
        path = tmp_path / "images" / f"{k:04d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "images"


def test_bytes_floats_and_files_are_the_same_images(folder):
    ours = noise(30)
    by_bytes = ssdiff.evaluate(ours, folder, **TINY)
    by_floats = ssdiff.evaluate(from_uint8(ours), str(folder), **TINY)
    in_memory = ssdiff.evaluate(ours, noise(40, seed=1), **TINY)
    assert by_bytes.values == by_floats.values == in_memory.values
    assert by_bytes.value == by_bytes.values["fid"]["distance"] > 0
    assert by_bytes.reference["source"] == str(folder) and by_bytes.generated["source"] == "tensor"


def test_several_metrics_look_at_the_images_once(monkeypatch):
    from ssdiff.evaluation import generative

    theirs = noise(40, seed=3)
    looked, collect = [], generative.sets.collect
    monkeypatch.setattr(
        generative.sets, "collect", lambda network, parts: looked.append(1) or collect(network, parts)
    )
    metrics = ("fid", "kid", "prc", "mind")
    both = ssdiff.evaluate(noise(30), theirs, metrics, subset_size=20, **TINY)
    assert len(looked) == 2 and tuple(both.values) == metrics
    for name in metrics:
        more = {"subset_size": 20} if name == "kid" else {}
        alone = ssdiff.evaluate(noise(30), theirs, name, **more, **TINY)
        assert alone.values[name] == both.values[name]
    results = both.to_dict()["results"]
    assert [one["metric"] for one in results] == list(metrics)
    assert [one["subset_size"] for one in results] == [None, 20, None, None]
    assert str(both).count("against 40") == 4
    assert both._repr_html_().count("<tr>") == 1 + 1 + 2 + 2 + 1


def test_a_pipeline_a_run_and_the_command_agree(run_folder, folder, result):
    options = {"n": 12, "steps": 3, "seed": 5, **TINY}
    told = []
    of_run = ssdiff.evaluate(run_folder, folder, progress=lambda *now: told.append(now), **options)
    of_pipeline = ssdiff.evaluate(ssdiff.load(run_folder, device="cpu"), folder, **options)
    arguments = ("--ckpt", run_folder, "--reference", folder, "-n", 12, "--steps", 3, "--seed", 5)
    printed = result("eval", "fid", *arguments, "--extractor", "tinynet:Tiny", *CPU)
    assert of_run.values == of_pipeline.values
    once = {"seconds": 0, "reference": {**printed["reference"], "cached": None}}
    found = of_run.to_dict()
    assert {**found, **once} == {**printed, **once} and found.keys() == printed.keys()
    assert [now for now in told if now[0] == "generating"][-1][1:] == (12, 12)


def test_a_pipeline_knows_its_training_data(run_folder):
    found = ssdiff.evaluate(ssdiff.load(run_folder, device="cpu"), n=8, steps=2, **TINY)
    assert found.reference["source"] == "shapes"


def test_two_models_draw_different_images(run_folder):
    found = ssdiff.evaluate(run_folder, run_folder, n=12, steps=2, **TINY)
    assert found.value > 1e-6 and found.reference["count"] == 12


@pytest.mark.parametrize(
    ("generated", "changes", "error", "message"),
    [
        (noise(3)[0], {}, UsageError, r"generated has the shape \(3, 16, 16\)"),
        (torch.zeros(4, 2, 8, 8), {}, UsageError, r"generated has the shape \(4, 2, 8, 8\)"),
        (torch.zeros(4, 16, 16, 3), {}, UsageError, "move the channels first"),
        (torch.zeros(0, 3, 8, 8), {}, UsageError, "generated is empty"),
        (noise(4).float(), {}, UsageError, r"values from .* needed are \[-1, 1\]"),
        (torch.full((4, 3, 8, 8), torch.nan), {}, UsageError, "values from nan"),
        (noise(4).long(), {}, UsageError, "values of type torch.int64"),
        (noise(4, side=8), {}, DataError, "8 x 8.*16 x 16.*resize=N"),
        (noise(1), {}, DataError, "fid needs 2 images"),
        (np.zeros((4, 3, 16, 16)), {}, UsageError, "generated is of type ndarray"),
        (noise(4), {"metrics": "fdi"}, UsageError, "unknown metric 'fdi'; did you mean fid"),
        (noise(4), {"metrics": ()}, UsageError, "no metric"),
        (noise(4), {"n": 3}, UsageError, "n is for a model's images, not for a tensor"),
        (noise(4), {"resize": 0}, UsageError, "resize must be at least 1, not 0"),
        (noise(4), {"subset_size": 3}, UsageError, "subset_size is for kid"),
        (noise(4), {"reference": None}, UsageError, "nothing to compare with"),
        (noise(4), {"metrics": ("is",), "reference": None}, UsageError, "is needs the logits"),
        (noise(4), {"reference": "nowhere"}, DataError, "no data set, folder or zip"),
        (noise(4), {"reference": noise(4).float()}, UsageError, "reference has values"),
    ],
)
def test_refusals(generated, changes, error, message):
    options = {"reference": noise(8, seed=1), **TINY, **changes}
    with pytest.raises(error, match=message) as caught:
        ssdiff.evaluate(generated, **options)
    assert isinstance(caught.value, SsdiffError)


def test_a_model_of_no_images_or_none(run_folder, cold_folder):
    with pytest.raises(UsageError, match="n must be at least 1, not 0"):
        ssdiff.evaluate(run_folder, n=0, **TINY)
    with pytest.raises(UsageError, match=r"cannot sample unconditionally; use ssdiff.evaluate_restoration"):
        ssdiff.evaluate(cold_folder, n=4, **TINY)


def test_restorations(cold_folder, folder, result):
    found = ssdiff.evaluate_restoration(folder, cold_folder, n=4, device="cpu", steps=2)
    arguments = ("--ckpt", cold_folder, "-n", 4, "--steps", 2, *CPU)
    printed = result("eval", "restore", folder, *arguments)
    assert {**found.to_dict(), "seconds": 0} == {**printed, "seconds": 0}
    assert found._repr_html_().count("<tr>") == 1 + len(found.rows) and "PSNR" in str(found)
    with pytest.raises(UsageError, match="n must be at least 1"):
        ssdiff.evaluate_restoration(folder, cold_folder, n=0)
