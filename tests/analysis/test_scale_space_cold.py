"""Cold processes as scale-spaces: semigroup and invariances of D, what theory expects of each kind."""

import pytest
import torch

import ssdiff
from ssdiff.analysis import scale_space_theory as theory
from ssdiff.analysis.scale_space_cold import ColdCurves, check_cold
from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.operators.pixelwise import Mask
from ssdiff.process.cold import ColdProcess
from ssdiff.process.degradations.base import LinearDegradation

SIDE = 16


@pytest.fixture(scope="module")
def colour():
    return torch.rand(12, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def checks_of(process, images, preset=None):
    found = check_cold("p", process, images, theory.expected_of_cold(preset, images.shape[1]))
    return {check.law: check for check in found}


PRESETS = [
    "cold-blur-mnist",
    "cold-blur-cifar10",
    "cold-blur-celeba128",
    "cold-blur-celeba128-gen",
    "cold-desaturate-cifar10",
    "cold-noise-celeba128",
    "cold-mask-cifar10",
    "cold-mask-celeba128-gen",
    "cold-snow-cifar10",
]


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_is_against_theory(name, colour):
    preset = load_preset(name)
    images = colour[:, : preset.data.channels]
    process = build_process(preset, (SIDE, SIDE))
    checks = checks_of(process, images, preset)
    assert not [(c.law, c.deviation) for c in checks.values() if c.surprising]
    assert checks[theory.CLEAN_START].passed
    assert len(checks) == 9


def test_equal_kernels_add_up(colour):
    """Constant kernels are a semigroup in t; kernels that grow are a chain, but no additive one."""
    constant = checks_of(*made("cold-blur-mnist", colour[:, :1]))
    growing = checks_of(*made("cold-blur-celeba128", colour))
    assert constant[theory.ADDITIVE].passed and constant[theory.ADDITIVE].expected
    assert not growing[theory.ADDITIVE].passed and growing[theory.ADDITIVE].expected is None
    assert constant[theory.FACTORS].passed and growing[theory.FACTORS].passed


def made(name, images):
    preset = load_preset(name)
    return build_process(preset, (SIDE, SIDE)), images, preset


def test_colours_fade_pixel_by_pixel(colour):
    checks = checks_of(*made("cold-desaturate-cifar10", colour))
    for law in (theory.PERMUTATION, theory.ROTATION, theory.GREY_VALUE, theory.MAXIMUM_MINIMUM):
        assert checks[law].passed and checks[law].expected, law


def test_noise_is_not_moved_with_the_image(colour):
    checks = checks_of(*made("cold-noise-celeba128", colour))
    assert not checks[theory.MIRROR].passed and checks[theory.MIRROR].expected is False


class Waves(LinearDegradation):
    """Loses one half of an image at odd severities, the other at even ones."""

    def __init__(self, size, top):
        left = torch.zeros(size, dtype=torch.float64)
        left[:, : size[1] // 2] = 1
        super().__init__(size, top, lambda t: Mask(left if t % 2 else 1 - left))


def test_checks_find_a_degradation_that_takes_back_what_it_lost(colour):
    checks = checks_of(ColdProcess(Waves((SIDE, SIDE), 10)), colour[:, :1])  # severities 3 and 8
    assert not checks[theory.FACTORS].passed and checks[theory.FACTORS].deviation == pytest.approx(1)
    assert not checks[theory.MIRROR].passed and checks[theory.FACTORS].expected is None


def test_what_cannot_be_measured_says_so(colour):
    large = torch.rand(9, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    preset = load_preset("cold-blur-mnist")
    checks = checks_of(build_process(preset, (40, 40)), large, preset)
    assert checks[theory.FACTORS].verdict == "-" and "1024 values" in checks[theory.FACTORS].note
    assert not checks[theory.FACTORS].surprising
    snow = checks_of(*made("cold-snow-cifar10", colour))
    assert snow[theory.FACTORS].note == "D is not linear"


def test_channels_are_measured_apart_where_they_stay_apart(colour):
    wide = torch.rand(9, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    preset = load_preset("cold-blur-cifar10")  # 1728 values, 576 a channel
    checks = checks_of(build_process(preset, (24, 24)), wide, preset)
    assert checks[theory.FACTORS].measured and checks[theory.FACTORS].passed


def test_curves_of_a_blur(colour):
    process = build_process(load_preset("cold-blur-mnist"), (SIDE, SIDE))
    curves = ColdCurves("p", process, colour[:, :1])
    begin, end = ({p.quantity: p.value for p in curves.at(t)} for t in (0, process.T))
    assert begin["sample-frechet"] == pytest.approx(0, abs=1e-9) and end["sample-frechet"] > 0.1
    assert end["variance"] < begin["variance"] and end["mean"] == pytest.approx(begin["mean"])
    assert end["image-entropy"] > begin["image-entropy"]
    assert end["sample-entropy"] < begin["sample-entropy"]  # a blur has no noise that fills what it loses


def test_command_beside_filters(result, tmp_path):
    arguments = ("cold-blur-mnist", "cold-desaturate-cifar10", "heat", "--channels", 3, "--images", 24)
    values = result(
        "eval", "scale-space", *arguments, "--size", 8, "--points", 3, "--out", tmp_path / "o", "--seed", 3
    )
    assert values["channels"] == 3 and not [row for row in values["properties"] if row["unexpected"]]
    rows = {(row["process"], row["property"]): row for row in values["properties"]}
    assert rows["heat", "maximum-minimum principle"]["expected"] is True
    assert rows["cold-blur-mnist", "additive semigroup of D"]["passed"] is True
    assert rows["cold-desaturate-cifar10", "permutation of pixels"]["passed"] is True


def test_colours_cannot_fade_in_grey(ssdiff, tmp_path):
    arguments = ("eval", "scale-space", "cold-desaturate-cifar10", "--images", 20, "--size", 8)
    code, _, err = ssdiff(*arguments, "--out", tmp_path / "o")
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "o").exists()


def test_a_process_of_ones_own_has_no_theory(colour):
    process = ColdProcess(Waves((SIDE, SIDE), 4))
    found = ssdiff.scale_space(colour[:, :1], {"waves": process}, points=3)
    assert {check.law for check in found.checks if check.expected is not None} == {theory.CLEAN_START}
