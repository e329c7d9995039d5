"""Degradations by name: exact laws, agreement with the matrices and the process, bounded memory."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.errors import ProcessError, UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Scale
from ssdiff.operators.fft import Blocks, Mirrored, gaussian_response, heat_response
from ssdiff.operators.separable import Separable
from ssdiff.process.degradations import snow
from ssdiff.process.degradations.base import LinearDegradation
from ssdiff.process.degradations.registry import build_degradation, degradations
from ssdiff.process.degradations.resize import resize_process

SIZE = (30, 43)
RANDOM = ("noise", "snow", "blur-noise")
LINEAR = sorted(set(degradations()) - {*RANDOM, "animorph"})
SPATIAL = sorted(set(LINEAR) - {"desaturate", "mask"})


def build(name, size=SIZE, T=1000, **options):
    """A degradation; animorphosis turns everything into grey gradients."""
    if name == "animorph":
        options["other"] = lambda images, shape: torch.linspace(-1, 1, shape[2]).expand(len(images), *shape)
    return build_degradation(name, size, T, **options)


def colours(name):
    return 3 if name == "desaturate" else 1


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def photo(height, width, seed=0):
    """(1, 3, height, width) with the falling spectrum of photographs."""
    white = torch.fft.rfft2(draw(1, 3, height, width, seed=seed))
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    return torch.fft.irfft2(white / (rows.hypot(columns) + 1 / width), s=(height, width)).clamp(-1, 1)


def detail(x):
    """Variance of the differences between neighbouring pixels, of the image seen at one size."""
    large = F.interpolate(x, SIZE, mode="nearest-exact")
    return float(large.diff(dim=-1).square().mean() + large.diff(dim=-2).square().mean())


@pytest.mark.parametrize("name", degradations())
def test_severity_0_is_the_image_itself(name):
    x = draw(2, 3, *SIZE)
    assert torch.equal(build(name).degrade(x, 0), x)


@pytest.mark.parametrize("name", degradations())
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (9, 3), SIZE])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_any_size_and_number_of_severities(name, size, steps):
    degradation = build(name, size, steps)
    assert (degradation.T, degradation.size) == (steps, size)
    for t in range(steps + 1):
        y = degradation.degrade(draw(2, colours(name), *size, dtype=torch.float32), t)
        assert y.shape[:2] == (2, colours(name)) and y.dtype == torch.float32 and y.isfinite().all()
        assert y.shape[2:] == size or name == "downsample"


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=10, deadline=None)
@given(t=st.integers(0, 1000), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_linear(name, t, a, b):
    degradation = build(name)
    x, y = draw(2, 3, *SIZE), draw(2, 3, *SIZE, seed=1)
    together = degradation.degrade(a * x + b * y, t)
    assert_close(together, a * degradation.degrade(x, t) + b * degradation.degrade(y, t), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", LINEAR)
def test_grey_stays_grey_and_a_batch_is_its_images(name):
    degradation, x = build(name), draw(3, 3, *SIZE)
    y = degradation.degrade(x, 600)
    assert_close(degradation.degrade(x[1:2], 600), y[1:2])
    if name != "mask":
        assert_close(degradation.degrade(torch.full_like(x, 0.3), 600), torch.full_like(y, 0.3))
    if name != "desaturate":
        assert_close(degradation.degrade(x[:, :1], 600), y[:, :1])


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize("seed", [0, 1])
def test_detail_falls_step_by_step_and_all_the_way(name, seed):
    degradation, x = build(name), photo(*SIZE, seed=seed)
    strip = [detail(degradation.degrade(x, round(1000 * i / 7))) for i in range(8)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(strip))
    assert strip[-1] < 0.5 * strip[0]
    if name != "downsample":  # whose few sizes keep several severities together
        assert all(later < 0.97 * earlier for earlier, later in itertools.pairwise(strip))


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("std", [0.3, 1.0, 2.7, 40.0])
def test_mirrored_is_the_dense_blur(n, std):
    x = draw(2, 1, n, 11)
    reflect = Mirrored(gaussian_response(n, std), gaussian_response(11, std), repeat_edge=False)
    dense = Separable(matrices.gaussian_blur(n, std), matrices.gaussian_blur(11, std))
    assert_close(reflect.apply(x), dense.apply(x), atol=1e-13, rtol=0)
    assert_close(reflect.adjoint(x), dense.adjoint(x), atol=1e-13, rtol=0)
    heat = Mirrored(heat_response(n, std), heat_response(11, std), repeat_edge=True)
    dense = Separable(matrices.heat(n, std), matrices.heat(11, std))
    assert_close(heat.apply(x), dense.apply(x), atol=1e-13, rtol=0)
    assert_close(heat.adjoint(x), dense.adjoint(x), atol=1e-13, rtol=0)


def test_norms():
    reflect = Mirrored(gaussian_response(9, 1.5), gaussian_response(6, 1.5), repeat_edge=False)
    dense = Separable(matrices.gaussian_blur(9, 1.5), matrices.gaussian_blur(6, 1.5))
    assert reflect.norm() == pytest.approx(dense.norm(), rel=1e-6) and dense.norm() > 1
    assert Blocks((9, 6), (2, 3)).norm() == 1


def test_half_precision_is_computed_in_float32():
    degradation, x = build_degradation("blur", SIZE), draw(1, 3, *SIZE, dtype=torch.bfloat16)
    y = degradation.degrade(x, 500)
    assert y.dtype == torch.bfloat16
    assert_close(y, degradation.degrade(x.float(), 500).bfloat16())


@pytest.mark.parametrize("blocks", [(1, 1), (3, 5), (12, 20), (7, 13)])
def test_blocks_are_a_projection_that_keeps_the_mean(blocks):
    operator = Blocks((12, 20), blocks)
    x, y = draw(2, 3, 12, 20), draw(2, 3, 12, 20, seed=1)
    once = operator.apply(x)
    assert_close(operator.apply(once), once)
    assert_close((once * y).sum(), (x * operator.adjoint(y)).sum())
    assert_close(once.mean(dim=(2, 3)), x.mean(dim=(2, 3)))
    assert len(once[0, 0].unique()) <= math.prod(blocks)


@pytest.mark.parametrize("blocks", [(4, 5), (2, 10)])
def test_blocks_that_divide_the_image_are_area_and_nearest(blocks):
    x = draw(1, 1, 12, 20)
    small = Separable(matrices.area(12, blocks[0]), matrices.area(20, blocks[1])).apply(x)
    large = Separable(matrices.nearest(blocks[0], 12), matrices.nearest(blocks[1], 20)).apply(small)
    assert_close(Blocks((12, 20), blocks).apply(x), large)


@pytest.mark.parametrize("blocks", [(1, 1), (3, 5), (12, 20), (7, 13)])
def test_blocks_as_matrices(blocks):
    x, dense = draw(2, 3, 12, 20), Separable(matrices.blocks(12, blocks[0]), matrices.blocks(20, blocks[1]))
    assert_close(dense.apply(x), Blocks((12, 20), blocks).apply(x))


def test_downsample_is_a_chain_of_antialiased_halvings():
    x, degradation = draw(1, 3, 50, 71), build_degradation("downsample", (50, 71))
    half = F.interpolate(x, (25, 36), mode="bilinear", antialias=True)
    quarter = F.interpolate(half, (12, 18), mode="bilinear", antialias=True)
    results = [degradation.degrade(x, t) for t in range(1, 1001)]
    assert list(dict.fromkeys(tuple(y.shape[2:]) for y in results)) == [(50, 71), (25, 36), (12, 18)]
    assert_close(results[-1], quarter)
    assert_close(results[600], half)
    # The published schedule: level k begins where 1 - sqrt(1 - tau) reaches k / 3.
    assert [y.shape[2] for y in results] == [
        (50, 25, 12)[min(int((1 - math.sqrt(1 - i / 999)) * 3), 2)] for i in range(1000)
    ]


@pytest.mark.parametrize(("size", "smallest"), [((64, 64), 8), ((15, 90), 8), ((3, 3), 2), ((256, 300), 8)])
def test_downsample_keeps_8_pixels_if_it_can(size, smallest):
    assert min(build_degradation("downsample", size).degrade(draw(1, 1, *size), 1000).shape[2:]) == smallest


@settings(max_examples=20, deadline=None)
@given(s=st.integers(1, 100), t=st.integers(1, 100))
def test_heat_is_a_semigroup(s, t):
    degradation, x = build_degradation("dct-blur", SIZE, 100), draw(1, 1, *SIZE)
    stds = [0.5 * (SIZE[1] / 2 / 0.5) ** ((u - 1) / 99) for u in (s, t)]
    once = Mirrored(*(heat_response(n, math.hypot(*stds)) for n in SIZE), repeat_edge=True).apply(x)
    assert_close(degradation.degrade(degradation.degrade(x, s), t), once)


def test_stds_rise_geometrically_to_the_one_asked_for():
    x = draw(1, 1, *SIZE)
    top = build_degradation("blur", SIZE, 11, max_std=4.8).degrade(x, 11)
    assert_close(top, Separable(matrices.gaussian_blur(30, 4.8), matrices.gaussian_blur(43, 4.8)).apply(x))
    middle = build_degradation("blur", SIZE, 11, max_std=4.8).degrade(x, 6)  # sqrt(0.3 * 4.8) = 1.2
    assert_close(middle, Separable(matrices.gaussian_blur(30, 1.2), matrices.gaussian_blur(43, 1.2)).apply(x))


@pytest.mark.parametrize("name", degradations())
@pytest.mark.parametrize("options", [{}, {"centre": "random"}, {"full_size": True}])
def test_a_batch_of_severities_is_its_images(name, options):
    T = 4
    try:
        degradation = build(name, T=T, **options)
    except UsageError:
        return  # an option of others
    x, images, t = draw(4, 3, *SIZE), torch.tensor([9, 3, 3, 70]), torch.tensor([2, 4, 1, 2])
    if name == "downsample" and not options:
        return  # sizes differ
    whole = degradation.degrade(x, t, images)
    for i in range(4):
        alone = degradation.degrade(x[i : i + 1], int(t[i]), images[i : i + 1])
        assert_close(whole[i : i + 1], alone, atol=1e-6, rtol=0)
    for wrong in (torch.tensor([0, 1, 1, 1]), torch.tensor([1, 1, 5, 1])):
        with pytest.raises(ProcessError, match=r"outside 1\.\.4"):
            degradation.degrade(x, wrong, images)


def test_colours_fade_to_the_mean_and_need_three_channels():
    degradation, x = build("desaturate", T=10), draw(2, 3, *SIZE)
    mean = x.mean(1, keepdim=True)
    for t in (1, 5, 10):
        assert_close(degradation.degrade(x, t), x + t / 10 * (mean - x))
    with pytest.raises(ProcessError, match="mixes 3 channels, the image has 1"):
        degradation.degrade(x[:, :1], 5)


def test_a_hole_grows_until_nothing_is_left():
    middle, ones = build("mask", T=50), torch.ones(4, 3, *SIZE, dtype=torch.float64)
    kept = [float(middle.degrade(ones, t).mean()) for t in range(51)]
    assert kept[0] == 1 and kept[-1] < 0.8
    assert all(later < earlier for earlier, later in itertools.pairwise(kept))
    hole = middle.degrade(ones, 5)[0, 0]
    assert float(hole[SIZE[0] // 2 - 1, SIZE[1] // 2 - 1]) == 0 and float(hole[0, 0]) > 0.99
    own = build("mask", T=50, centre="random").degrade(ones, 5)
    places = {divmod(int(image[0].argmin()), SIZE[1]) for image in own}
    assert len(places) == 4  # each image has its own centre
    assert torch.equal(own, build("mask", T=50, centre="random").degrade(ones, 5))


@pytest.mark.parametrize(
    "options", [{}, {"centre": "random"}, {"bumps": 7}, {"std": "constant", "kernel_std": 2.0}]
)
def test_reversed_masks_keep_what_the_others_take(options):
    ones, images = torch.ones(3, 1, *SIZE, dtype=torch.float64), torch.tensor([4, 0, 77])
    plain, turned = build("mask", T=20, **options), build("mask", T=20, reverse=True, **options)
    for t in (1, 8, 19):
        together = plain.degrade(ones, 20 - t, images) + turned.degrade(ones, t, images)
        assert_close(together, ones, atol=1e-12, rtol=0)
    assert float(turned.degrade(ones, 20, images).abs().max()) == 0
    one, all_at_once = turned.degrade(ones, 8, images), turned.degrade(ones, torch.tensor([8, 8, 8]), images)
    assert_close(one, all_at_once, atol=1e-15, rtol=0)


@pytest.mark.parametrize("centre", ["middle", "random"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_fade_into_a_colour_of_their_own(centre, channels):
    fade = build("mask", T=20, reverse=True, fill="colour", centre=centre, seed=3)
    grey = build("mask", T=20, reverse=True, centre=centre, seed=3)
    x, images = draw(300, channels, *SIZE), torch.arange(300) * 5
    end = fade.degrade(x, 20, images)
    colour = end.mean((2, 3), keepdim=True)
    assert_close(end, colour.expand_as(end), atol=1e-15, rtol=0)
    assert float(colour.abs().max()) <= 0.5 and float(colour.std()) == pytest.approx(1 / 12**0.5, abs=0.03)
    assert len(colour[:, 0].unique()) == 300
    assert_close(
        fade.degrade(x[:4], 7, images[:4]), grey.degrade(x[:4] - colour[:4], 7, images[:4]) + colour[:4]
    )
    assert torch.equal(fade.degrade(x[2:3], 20, images[2:3]), end[2:3])
    other = build("mask", T=20, reverse=True, fill="colour", centre=centre, seed=4)
    assert not torch.equal(other.degrade(x, 20, images), end)


def test_snow_gets_denser_with_severity_and_level_and_stays_in_range():
    x = 0.5 * photo(*SIZE).repeat(2, 1, 1, 1) - 0.4
    error = {}
    for level in (1, 2, 3, 4):
        strip = [build("snow", T=20, level=level).degrade(x, t) for t in (1, 10, 20)]
        assert all(float(y.abs().max()) <= 1 for y in strip)
        assert not torch.equal(strip[2][0], strip[2][1])  # a layer for each image
        error[level] = [float((y - x).square().mean()) for y in strip]
        assert error[level][0] < error[level][1] < error[level][2]
    assert error[1][2] < error[2][2] < error[4][2]


def layers(t=200, count=64, **options):
    """The snow of black images alone, (count, H, W) in [0, 1]."""
    black = -torch.ones(count, 1, *SIZE, dtype=torch.float64)
    return (build("snow", T=200, **options).degrade(black, t)[:, 0] + 1) / 2


def test_snow_falls_along_an_axis_and_is_its_own_half_turn():
    s = layers(t=120)
    assert_close(s, s.flip(1, 2))
    steeper = s.diff(dim=1).abs().mean((1, 2)) > s.diff(dim=2).abs().mean((1, 2))
    assert 16 < int(steeper.sum()) < 48  # rows and columns with even odds
    # Of a point the published blur makes a symmetric row: what lies beside it is equal on both sides.
    level, point = snow.LEVELS[3], torch.zeros(2, 1, 21, 21, dtype=torch.float64)
    point[..., 10, 10] = 1.0
    one = snow.LEVELS[3]._replace(zoom=1.0, threshold=(0.5, 0.5))
    row, column = snow.flakes(point, (21, 21), one, torch.tensor([0.1]), torch.tensor([False, True]))[:, 0]
    assert_close(row, row.flip(1))
    assert_close(row, column.mT)
    assert int((row > 0).sum()) == level.taps and float(row.sum()) == pytest.approx(1)


@pytest.mark.parametrize(("share", "count"), [(1, 64), (16, 4), (0, 1)])
def test_images_share_layers_of_snow(share, count):
    s = layers(share=share)
    assert len(s.unique(dim=0)) == count
    assert share == 0 or torch.equal(s[0], s[share - 1])


def test_whitening_and_the_snow_of_former_models():
    x = 0.5 * photo(*SIZE) - 0.4
    bare, whitened = (build("snow", T=20, whiten=whiten).degrade(x, 20) for whiten in (False, True))
    assert bool((whitened >= bare).all()) and float((whitened - bare).mean()) > 0.2
    ramp = torch.linspace(-1, 0.2, 30 * 43 * 3, dtype=torch.float64).reshape(1, 3, 30, 43)
    # Written down from ssdiff 0.2, with its only motion.
    for level, t, number, values in (
        (3, 10, 7, (-0.5375870596093049, -0.11083541588261836, 0.12955227868783514, 0.3699399732582891)),
        (1, 20, 8, (-0.5532620832256396, -0.1284546394417161, 0.26876828870921354, 0.3610672008270872)),
    ):
        old = build("snow", T=20, level=level, seed=5, motion="slanted", whiten=True)
        found = old.degrade(ramp, t, torch.tensor([number])).flatten()[:: 3 * 397]
        assert_close(found, torch.tensor(values, dtype=torch.float64))


def test_animorphosis_ends_in_the_other_image():
    degradation, x = build("animorph"), draw(2, 3, *SIZE)
    other = torch.linspace(-1, 1, SIZE[1], dtype=torch.float64).expand_as(x)
    assert float((degradation.degrade(x, 1000) - other).abs().max()) < 0.01
    assert float((degradation.degrade(x, 1) - x).abs().max()) < 0.03


def test_kernels_one_after_the_other():
    """T kernels at once equal T kernels in sequence; the last severity can be the mean colour."""
    degradation = build("blur", T=7, kernel=5, std="incremental", first=0.4, padding="circular", to_mean=True)
    x = draw(2, 3, *SIZE)
    y = x
    for i in range(6):
        offset = torch.arange(-2, 3, dtype=torch.float64)
        taps = torch.exp(-0.5 * (offset / (0.4 * (i + 1))) ** 2)
        taps = taps / taps.sum()
        padded = F.pad(y.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="circular")
        y = F.conv2d(padded, (taps[:, None] * taps)[None, None]).reshape_as(x)
        assert_close(degradation.degrade(x, i + 1), y)
    assert_close(degradation.degrade(x, 7), x.mean((2, 3), keepdim=True).expand_as(x))


@pytest.mark.parametrize(
    ("std", "taps", "stds"),
    [
        ("accumulated", None, [0.4, math.sqrt(1.0**2 - 0.4**2), math.sqrt(1.6**2 - 1.0**2)]),
        ("falling", None, [1.6 / math.hypot(1, 0.7, 0.4) * share for share in (1, 0.7, 0.4)]),
    ],
)
def test_kernels_with_taps_of_their_own(std, taps, stds):
    degradation = build("blur", T=3, std=std, first=0.4, last=1.6, padding="circular")
    x, together = draw(1, 1, *SIZE), Scale()
    for t, value in enumerate(stds, start=1):
        taps = 2 * int(2 * value) + 3
        step = Separable(*(matrices.gaussian_blur(n, value, taps, "circular") for n in SIZE))
        together = step @ together
        assert_close(degradation.degrade(x, t), together.apply(x))
    assert math.hypot(*stds) == pytest.approx(1.6)


def test_individual_kernels_are_no_chain():
    degradation, x = build("blur", T=6, std="individual", padding="circular"), draw(1, 1, *SIZE)
    assert_close(degradation.degrade(x, 1), x)
    once = Separable(*(matrices.gaussian_blur(n, 18.0, 9, "circular") for n in SIZE))
    assert_close(degradation.degrade(x, 5), once.apply(x))


@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "area"])
@pytest.mark.parametrize("by", ["half", "pixel"])
@pytest.mark.parametrize("blur", [False, True])
def test_down_and_up_step_by_step(filter, by, blur):
    degradation = build("downsample", T=4, full_size=True, filter=filter, by=by, blur=blur)
    y = x = draw(2, 3, *SIZE)
    soft = Separable(*(matrices.gaussian_blur(n, 0.5, 3) for n in SIZE)) if blur else Scale()
    for t in range(1, 5):
        small = [n // 2**t if by == "half" else n - t + 1 for n in SIZE]
        corners = {} if filter == "area" else {"align_corners": False}
        less = F.interpolate(soft.apply(y), small, mode=filter, **corners)
        y = soft.apply(F.interpolate(less, SIZE, mode="nearest-exact"))
        assert_close(degradation.degrade(x, t), y, atol=1e-5 if by == "pixel" else 1e-12, rtol=0)


def test_colours_fade_by_a_factor_and_through_lab():
    x = draw(2, 3, *SIZE)
    mean = x.mean(1, keepdim=True)
    left = build("desaturate", T=20, rule="constant")
    for t in (1, 7, 20):
        assert_close(left.degrade(x, t), mean + 0.9**t * (x - mean))
    last = build("desaturate", T=20, rule="constant", factor=0.5, grey_last=True)
    assert_close(last.degrade(x, 19), mean + 0.5**19 * (x - mean))
    assert_close(last.degrade(x, 20), mean.expand_as(x))
    lab = build("desaturate", T=20, space="lab")
    plain = build("desaturate", T=20)
    assert_close(lab.degrade(x, 7), plain.degrade(x, 7), atol=1e-9, rtol=0)
    assert_close(lab.degrade(1.5 * x, 7), plain.degrade((1.5 * x).clamp(-1, 1), 7), atol=1e-9, rtol=0)
    assert torch.equal(lab.degrade(1.5 * x, 0), 1.5 * x)


def test_coloured_noise_is_one_draw_an_image_and_blurs():
    degradation, x = build("blur-noise", T=100), draw(2, 3, *SIZE)
    both = degradation.degrade(x, 60, torch.tensor([4, 5]))
    assert_close(degradation.degrade(x[1:], 60, torch.tensor([5])), both[1:])
    half, zero = degradation.degrade(0.5 * x, 60), degradation.degrade(0 * x, 60)
    assert_close(half - zero, 0.5 * (degradation.degrade(x, 60) - zero))  # affine
    assert not torch.equal(zero[0], zero[1])


def test_coloured_noise_has_the_options_of_the_process():
    x = draw(1, 3, *SIZE)
    published, signed = build("blur-noise", T=100), build("blur-noise", T=100, unit_range=False)
    zero = torch.zeros_like(x)
    assert_close(published.degrade(zero, 60), 2 * signed.degrade(zero, 60))
    mean = published.degrade(x, 60) - published.degrade(zero, 60)
    blurred = build("blur-noise", T=100, sigma_max=0.3, rate="log")
    kept = blurred.degrade(x, 60) - blurred.degrade(zero, 60)
    assert float(kept.abs().mean()) < 0.9 * float(mean.abs().mean())
    former = build("blur-noise", T=100, rate="log", former_rates=True, unit_range=False)
    assert not torch.equal(former.degrade(x, 60), build("blur-noise", T=100, rate="log").degrade(x, 60))


def test_noise_is_one_draw_an_image():
    degradation, x = build_degradation("noise", (40, 50), seed=3), draw(2, 3, 40, 50)
    zero = torch.zeros_like(x)
    numbers = torch.tensor([7, 2])
    z = degradation.degrade(zero, 1000, numbers)
    assert_close(degradation.degrade(zero, 10, numbers) / z, torch.full_like(z, ratio(10)))
    assert torch.equal(degradation.degrade(zero[:1], 1000, numbers[1:]), z[1:])
    assert torch.equal(degradation.degrade(zero, 5), degradation.degrade(zero, 5, torch.tensor([0, 1])))
    assert abs(float(z.mean())) < 0.03 and float(z.std()) == pytest.approx(1, abs=0.03)
    assert float((z[0] * z[1]).mean()) == pytest.approx(0, abs=0.05)
    assert float((z[:, 0] * z[:, 1]).mean()) == pytest.approx(0, abs=0.05)
    other = build_degradation("noise", (40, 50), seed=4).degrade(zero, 1000, numbers)
    assert not torch.equal(other, z)


def ratio(t):
    """sigma_t / sigma_T of the linear schedule."""
    keep = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    return float(((1 - keep[t - 1]) / (1 - keep[-1])).sqrt())


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_noise_keeps_the_variance_and_is_affine(t):
    degradation, x = build_degradation("noise", SIZE), draw(1, 3, *SIZE)
    signal = degradation.degrade(x, t) - degradation.degrade(torch.zeros_like(x), t)
    keep = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t - 1]
    assert_close(signal, keep.sqrt() * x)


@pytest.mark.parametrize("name", ["celeba64", "celeba256-4l-matched", "ddpm-celeba64"])
@pytest.mark.parametrize("size", [(48, 80), (64, 64)])
def test_preset_at_any_size_is_the_process_built_for_it(name, size):
    preset = load_preset(name)
    built, x = build_process(preset, size), draw(1, 3, *size)
    process = build_process(preset)
    clean = resize_process(process, size)
    noisy = resize_process(process, size, noisy=True, seed=1)
    assert clean.T == noisy.T == built.T
    for t in (1, 400, 700, 1000):
        assert_close(clean.degrade(x, t), built.degrade(x, t))
        z = noisy.degrade(torch.zeros_like(x), t) / process.states[t].sigma
        # SNR-preserving noise follows ||R||, which depends a little on the size.
        assert_close(
            noisy.degrade(x, t),
            built.marginal(x, t, z),
            atol=0.02 * preset.process.snr_preserving + 1e-9,
            rtol=0,
        )
    assert torch.equal(noisy.degrade(x, 0), x)


@pytest.mark.parametrize(("size", "made"), [((64, 64), 1), ((9000, 9000), 2)])
def test_operators_are_kept_while_they_are_small(size, made):
    calls = []
    degradation = LinearDegradation(size, 1000, lambda t: calls.append(t) or Scale())
    for t in (1, 2, 1):
        degradation.operator(t)
    assert calls.count(1) == made


@pytest.mark.parametrize("t", [-1, 11])
@pytest.mark.parametrize("name", degradations())
def test_severity_out_of_range(name, t):
    with pytest.raises(ProcessError, match=rf"severity {t} is outside 0\.\.10"):
        build(name, T=10).degrade(draw(1, 3, *SIZE), t)


@pytest.mark.parametrize("name", degradations())
def test_images_of_another_size(name):
    with pytest.raises(ProcessError, match=r"\(30, 43\) pixels, the images have \(43, 30\)"):
        build(name).degrade(draw(1, 3, *SIZE).mT, 0)


@pytest.mark.parametrize(
    ("name", "steps", "options", "message"),
    [
        ("blurr", 10, {}, "unknown degradation 'blurr'; did you mean blur"),
        ("blur-noise", 10, {"sigma_min": 0.3}, "0 <= sigma_min <= sigma_max, not 0.3 and 0.15"),
        ("blur-noise", 10, {"kernel_std": 0.0}, "kernel_std must be a positive number of pixels"),
        ("xyz", 10, {}, "choose from animorph, blur, blur-noise, dct-blur, desaturate"),
        ("blur", 0, {}, "T >= 1"),
        ("pixelate", 10, {"max_std": 3.0}, "pixelate has no option 'max_std'; its options are: largest"),
        ("blur", 10, {"sd": 3.0}, "options are: max_std, kernel, std, first, growth, padding, to_mean, last"),
        ("blur", 10, {"std": "falling"}, "std = 'falling' needs last"),
        ("blur", 10, {"std": "falling", "last": 2.0, "kernel": 3}, "chooses its own taps; leave kernel out"),
        ("blur", 10, {"padding": "circular"}, "are for kernels .*; give kernel, or leave them out"),
        ("blur", 10, {"last": 2.0}, "std = 'constant' needs kernel"),
        ("blur", 10, {"last": 2.0, "kernel": 3}, "std = 'constant' has no last"),
        ("blur", 10, {"std": "accumulated", "first": 2.0, "last": 1.0}, "must stay positive"),
        ("blur", 50, {"std": "individual"}, "taps is too wide"),
        ("downsample", 5, {"by": "pixel"}, "set full_size = true"),
        (
            "downsample",
            4,
            {"full_size": True, "filter": "lanczos"},
            "filter must be 'bicubic', 'bilinear' or 'area'",
        ),
        ("downsample", 31, {"full_size": True, "by": "pixel"}, "by none, 30 times, not 31"),
        ("desaturate", 10, {"factor": 0.9}, "for rule = 'constant'"),
        ("desaturate", 10, {"rule": "constant", "factor": 1.0}, "factor must be between 0 and 1"),
        ("desaturate", 10, {"space": "hsv"}, "space must be 'rgb' or 'lab', not 'hsv'"),
        ("mask", 10, {"std": "constant"}, "give kernel_std"),
        ("mask", 10, {"fill": "noise"}, "fill must be 'grey' or 'colour', not 'noise'"),
        ("mask", 10, {"reverse": "yes"}, "reverse must be true or false, not 'yes'"),
        ("snow", 10, {"share": -1}, "share is a number of images"),
        ("snow", 10, {"motion": "diagonal"}, "motion must be 'axis' or 'slanted', not 'diagonal'"),
        ("snow", 10, {"whiten": 0.5}, "whiten must be true or false, not 0.5"),
        ("blur", 10, {"kernel": 5, "max_std": 3.0}, "max_std does not go with kernel"),
        ("blur", 10, {"kernel": 5, "std": "square"}, "unknown std 'square'"),
        ("blur", 10, {"kernel": 5, "padding": "odd"}, "or padding 'odd'"),
        ("blur", 10, {"kernel": 4}, "odd number of taps"),
        ("blur", 10, {"kernel": 5, "std": "affine", "growth": -1.0}, "must stay positive"),
        ("blur", 10, {"kernel": 99}, "99 taps is too wide for"),
        ("blur", 10**6, {"kernel": 5}, "too much"),
        ("downsample", 5, {"full_size": True}, "can be halved 4 times, not 5"),
        ("mask", 10, {"centre": "left"}, "centre must be 'middle' or 'random', not 'left'"),
        ("mask", 10, {"bumps": 0}, "at least 1"),
        ("mask", 10, {"kernel_std": -1.0}, "kernel_std must be a positive number"),
        ("mask", 10, {"bumps": "x"}, "an option has a value of the wrong kind: bumps = 'x'"),
        ("snow", 10, {"level": 5}, "snow has no level 5"),
        ("animorph", 10, {}, "name that one by other"),
        ("blur", 10, {"max_std": 0.0}, "max_std must be a positive number"),
        ("dct-blur", 10, {"max_std": math.nan}, "max_std must be a positive number"),
    ],
)
def test_usage_errors(name, steps, options, message):
    with pytest.raises(UsageError, match=message):
        build_degradation(name, SIZE, steps, **options)
