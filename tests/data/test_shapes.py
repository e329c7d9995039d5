"""The drawn data set."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdiff.data import shapes
from ssdiff.data.shapes import SHAPES, draw
from ssdiff.errors import UsageError


@given(st.integers(0, 60), st.integers(1, 12), st.integers(-3, 2**70))
@settings(max_examples=15, deadline=None)
def test_an_image_depends_on_seed_and_number_only(start, count, seed):
    whole, labels = draw(72, 16, seed=seed)
    part, part_labels = draw(count, 16, seed=seed, start=start)
    assert torch.equal(part, whole[start : start + count])
    assert torch.equal(part_labels, labels[start : start + count])


def test_chunks_do_not_show(monkeypatch):
    whole = draw(40, 16)[0]
    monkeypatch.setattr(shapes, "_CHUNK", 7 * 16**2)
    assert torch.equal(draw(40, 16)[0], whole)


def test_form_and_labels():
    images, labels = draw(80, 20)
    assert images.shape == (80, 3, 20, 20) and images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    for group in labels.view(10, 8):
        assert sorted(group.tolist()) == list(range(len(SHAPES)))
    assert not torch.equal(labels[:8], labels[8:16])
    assert draw(0, 8)[0].shape == (0, 3, 8, 8)


def test_seeds_and_images_differ():
    images = draw(64, 8)[0]
    assert len(images.flatten(1).unique(dim=0)) == 64
    assert not torch.equal(images, draw(64, 8, seed=1)[0])


def test_grey_is_the_luma():
    colour, grey = draw(16, 24)[0].double(), draw(16, 24, 1)[0].double()
    luma = (colour * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert (luma - grey).abs().max() <= 1.01


def test_sizes_show_the_same_picture():
    large, small = draw(32, 64)[0].float(), draw(32, 16)[0].float()
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert (shrunk - small).abs().mean() < 3


def test_shapes_stand_clear_of_the_border_and_of_the_ground():
    images = draw(256, 32)[0].float()
    # Shapes are saturated and grounds are not.
    for edge in (images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]):
        assert (edge.amax(1) - edge.amin(1)).max() < 50
    contrast = images.amax((2, 3)) - images.amin((2, 3))
    assert contrast.amax(1).min() > 60


@pytest.mark.parametrize("k", range(len(SHAPES)))
def test_outlines_are_distances(k):
    """|gradient| is 1 almost everywhere, and the shape fits the unit circle."""
    axis = torch.linspace(-1.6, 1.6, 321, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    distance = shapes._OUTLINES[k](x, y)
    slope = torch.stack(torch.gradient(distance, spacing=(axis, axis))).square().sum(0).sqrt()
    assert slope.median().item() == pytest.approx(1, abs=1e-3)
    assert slope[1:-1, 1:-1].max() < 1.05
    assert (distance[(x**2 + y**2).sqrt() > 1.05] > 0).all()
    share = (distance < 0).double().mean() * 3.2**2 / torch.pi
    assert 0.2 < share < 0.9


def test_bad_arguments():
    for options in ({"size": 0}, {"count": -1}, {"channels": 2}, {"start": -1}):
        with pytest.raises(UsageError, match="shapes need"):
            draw(**{"count": 1, "size": 8, **options})
