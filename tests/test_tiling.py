"""Tiles of pictures of any size: where they lie, what they blend to, and pipelines at a size."""

import itertools

import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

import ssdiff
from ssdiff.build import build_model, build_process
from ssdiff.errors import UsageError
from ssdiff.models.blocks import Attention
from ssdiff.pipeline import Pipeline
from ssdiff.tiling import TiledNetwork, Tiling, attends, choose_tile, mirrored, unit_of, windows

COLD = {"process.kind": "cold", "process.T": 4, "process.levels": 1, "process.snr_preserving": 0.0}


class Local(torch.nn.Module):
    """Looks at two pixels each way."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, x, t):
        return self.convolution(x)


def pipeline(network=None, **changes):
    preset = ssdiff.load_preset(TINY, {"model.classes": 0} | changes)
    torch.manual_seed(0)
    return Pipeline(build_process(preset), network or build_model(preset).eval(), preset=preset)


@given(st.data())
def test_tiles_cover_a_line_and_their_weights_add_up_to_one(data):
    unit = data.draw(st.sampled_from([1, 2, 4]))
    tile = unit * data.draw(st.integers(2, 12))
    overlap = unit * data.draw(st.integers(0, tile // unit // 2))
    length = unit * data.draw(st.integers(1, 60))
    starts = Tiling((length, 1), tile, overlap, unit).starts(0)
    assert starts[0] == 0 and all(start % unit == 0 for start in starts)
    assert starts[-1] == max(0, length - tile)
    for before, after in itertools.pairwise(starts):
        assert after > before and before + tile - after >= overlap - unit
    total = torch.zeros(max(length, tile), dtype=torch.float64)
    for start, window in zip(starts, windows(starts, tile, max(length, tile)), strict=True):
        assert bool((window >= 0).all())
        total[start : start + tile] += window
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)


def test_no_tile_is_left_out_without_overlap():
    assert Tiling((30, 30), 10, 0).starts(0) == [0, 10, 20] and Tiling((30, 10), 10, 0).count == 3


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_a_mirror_image_goes_on(height, width, more_down, more_across):
    x = torch.arange(height * width).view(1, 1, height, width).float()
    wide = mirrored(x, height + more_down, width + more_across)
    assert wide.shape[-2:] == (height + more_down, width + more_across)
    assert torch.equal(wide[..., :height, :width], x)
    if more_down:
        assert torch.equal(wide[..., height, :width], x[..., -1, :])


@pytest.mark.parametrize("sizes", [(40, 56), (16, 90), (9, 70), (5, 5)])
@settings(deadline=None)
@given(st.integers(1, 40))
def test_tiles_of_what_knows_no_place_give_the_whole(sizes, at_once):
    tiled = TiledNetwork(Tiling(sizes, 16, 4, 2), [16, 16, 8], at_once)
    x = torch.randn(2, 3, *sizes, generator=torch.Generator().manual_seed(1))
    told = []
    result = tiled.run(lambda tiles, side: 2 * tiles, x, 1, sizes, told.append)
    assert torch.allclose(result, 2 * x, atol=1e-6) and sum(told) == pytest.approx(1)
    small = x[..., : sizes[0] // 2, : sizes[1] // 2]
    larger = tiled.run(
        lambda tiles, side: tiles.repeat_interleave(2, -1).repeat_interleave(2, -2),
        small,
        2,
        (2 * small.shape[-2], 2 * small.shape[-1]),
    )
    assert torch.allclose(larger, small.repeat_interleave(2, -1).repeat_interleave(2, -2), atol=1e-6)


def test_a_network_that_sees_little_sees_no_tiles():
    """Away from the outer border, tiles that share more than the network sees change nothing but rounding."""
    pipe = pipeline(Local(), **{"process.levels": 1})
    large = pipe.at_size((41, 60), overlap=8)
    assert large.tiling.count > 4 and large.process.states[0].size == (41, 60)
    x = torch.randn(1, 3, 41, 60)
    with torch.no_grad():
        whole = pipe.model.network.convolution(x)
    found = large.predict_x0(x, 3)
    whole = whole.clamp(-1, 1)
    # A tile ends in zeros, where its weight is small.
    assert float((found - whole).abs().mean()) < 0.01
    clear = torch.ones(41, 60, dtype=torch.bool)
    for dim in (0, 1):
        places = large.tiling.starts(dim)
        for border in (*places[1:], *(place + large.tiling.tile - 2 for place in places[:-1])):
            clear.narrow(dim, border, 2).fill_(False)
    assert torch.allclose(found[..., clear], whole[..., clear], atol=1e-5) and clear.float().mean() > 0.5


def test_a_pipeline_at_its_own_size_is_itself():
    pipe = pipeline()
    same = pipe.at_size((16, 16))
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(pipe.predict_x0(x, 2), same.predict_x0(x, 2), atol=1e-6)
    small = torch.randn(2, 3, 8, 8)
    top = pipe.process.T
    assert torch.allclose(pipe.predict_x0(small, top), same.predict_x0(small, top), atol=1e-6)
    assert torch.allclose(pipe.sample(2, seed=3), same.sample(2, seed=3), atol=1e-5)


def test_samples_of_another_size_are_functions_of_seed_and_number():
    large = pipeline().at_size((20, 30))
    assert large.process.states[0].size == (20, 30) and large.process.states[-1].size == (10, 15)
    images = large.sample(3, seed=1, batch=3)
    assert images.shape == (3, 3, 20, 30) and bool(images.isfinite().all())
    assert torch.allclose(large.sample(1, seed=1, first=2), images[2:], atol=1e-5)


def test_larger_tiles_of_a_flexi_unet_run_the_layers_of_the_level():
    """Not those of a large image, as which a tile would be taken by its pixels."""
    pipe = pipeline()
    asked = []
    pipe.model.register_forward_hook(lambda m, a, k, o: asked.append(k.get("native")), with_kwargs=True)
    large = pipe.at_size((32, 32), tile=32)
    large.predict_x0(torch.randn(1, 3, 16, 16), large.process.T)
    assert asked[-1] in ((8, 16), (8, 8))
    levels = []
    route = pipe.model._route
    pipe.model._route = lambda *a: levels.append(route(*a)[1:]) or route(*a)
    pipe.predict_x0(torch.randn(1, 3, 8, 8), pipe.process.T)
    large.predict_x0(torch.randn(1, 3, 16, 16), large.process.T)
    assert levels[0] == levels[1]


def test_tiles_of_attention_have_the_size_of_training():
    preset = ssdiff.load_preset("shapes32")
    assert attends(build_model(preset)) and attends(Attention(4, 1)) and not attends(Local())
    assert choose_tile((100, 90), 16, Attention(4, 1), lambda: 1, None)[0] == 16
    assert choose_tile((100, 90), 16, Local(), lambda: 1, None)[0] == 80
    assert choose_tile((9000, 9000), 16, Local(), lambda: 1, None)[0] == 512
    assert choose_tile((9000, 9000), 16, Local(), lambda: 2**27, None) == (32, 1)
    assert choose_tile((9, 9), 16, Local(), lambda: 1, None)[0] == 16
    assert unit_of([64, 32, 16]) == 4 and unit_of([64]) == 1 and unit_of([48, 32]) == 3


def test_what_has_no_other_size():
    pipe = pipeline()
    large = pipe.at_size((20, 30))
    with pytest.raises(UsageError, match="takes no other sizes"):
        large.at_size((40, 40))
    with pytest.raises(UsageError, match="preset"):
        Pipeline(pipe.process, Local()).at_size((20, 30))
    with pytest.raises(UsageError, match="kind linear"):
        wide = ssdiff.load_preset("linear-blur-downsample32", {"model.width": 8})
        Pipeline(build_process(wide), Local(), preset=wide).at_size((40, 40))
    for tile in (8, 24):
        with pytest.raises(UsageError, match="trained for 16"):
            pipe.at_size((40, 40), tile=tile)
    with pytest.raises(UsageError, match="overlap by 0 to 8"):
        pipe.at_size((40, 40), overlap=9)


def test_lengths_stay_in_pixels():
    """A tile of a blurred photograph looks as a blurred image of the model's size did in training."""
    for options in ({"kind": "blur"}, {"kind": "dct-blur"}, {"kind": "pixelate"}):
        settings = {"process.degradation": options, "training.loss": "l1", "sampling.sampler": "alg2"}
        preset = ssdiff.load_preset(TINY, COLD | settings | {"model.classes": 0})
        small, large = build_process(preset), build_process(preset, (16, 64), in_pixels=True)
        line = torch.randn(1, 1, 1, 16).expand(1, 1, 16, 16)
        wide = torch.cat([line, line.flip(-1), line, line.flip(-1)], -1)
        difference = small.degrade(line, 2) - large.degrade(wide, 2)[..., :16]
        assert float(difference[..., 8, 1:8].abs().max()) < 0.1, options
        relative = build_process(preset, (64, 64)).degrade(wide[:, :, :1].expand(1, 1, 64, 64), 2)
        assert float((small.degrade(line, 2)[..., 8, :] - relative[..., 8, :16]).abs().max()) > 0.1, options
