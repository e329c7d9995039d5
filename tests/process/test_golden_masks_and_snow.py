"""Masks, snow and further routines of cold diffusion against the published implementation."""

from functools import cache

import numpy as np
import pytest
import torch
from golden import golden, normal

from ssdiff.operators.colour import rgb_to_lab
from ssdiff.process.degradations.mask import ColourFade
from ssdiff.process.degradations.registry import build_degradation
from ssdiff.process.degradations.snow import LEVELS, fall, flakes, zoom_field

MASKS, SNOW, STATISTICS, ROUTINES = (
    golden(group) for group in ("cold_mask_generation", "cold_snow", "cold_snow_statistics", "cold_routines")
)
OF_OTHERS = {"eight_bits"}  # how training images are cut, no degradation


def entry(group, name):
    return group.meta["arrays"][name]


def image(words, shape):
    """The clamped input of an entry, 'seed 501, clamped, ...'."""
    return normal(int(words.split()[1].strip(",")), shape).clamp(-1, 1)


@cache
def masks(side, T, kernel_std, initial, reverse):
    options = {"kernel_std": kernel_std, "initial": initial, "bumps": T, "reverse": reverse}
    return build_degradation("mask", (side, side), T, **options)


@pytest.mark.parametrize("name", MASKS.arrays)
def test_masks_of_generation(name):
    case = entry(MASKS, name)
    side, t = case["size"], case["t"]
    kept = masks(side, case["T"], case["kernel_std"], case["initial_mask"], case["reverse"])
    if case["what"].startswith("m_t"):
        ours = kept.degrade(torch.ones(1, 1, side, side), t)[0, 0]
    else:
        colour = torch.tensor(np.random.RandomState(502).uniform(-0.5, 0.5, (1, 3)))
        fade = ColourFade(kept, lambda images, channels: colour, complete=case["reverse"])
        ours = fade.degrade(image(case["x"], (1, 3, side, side)), t)
    thin = slice(None, None, 1 if case["stored"] == "whole" else 4)
    MASKS.check(name, ours[..., thin, thin], atol=2e-6)


def fields(case, level):
    """Numpy's fields (B, 1, H, W), and which of their layers are vertical."""
    random = np.random.RandomState(case["field_seed"])
    count, size = case.get("shape", [1])[0] if "fields" in case else 1, (case["size"], case["size"])
    drawn = np.stack([random.normal(level.mean, level.std, size) for _ in range(count)])
    vertical = [i in case["vertical_images"] for i in range(count)] if "fields" in case else None
    if vertical is None:
        vertical = [random.uniform() > 0.5]
        assert vertical == [case["direction"] == "vertical"]
    return torch.tensor(drawn, dtype=torch.float32)[:, None], torch.tensor(vertical)


@pytest.mark.parametrize("name", SNOW.arrays)
def test_snow_of_given_fields(name):
    case = entry(SNOW, name)
    level, size, t = LEVELS[case["level"]], (case["size"], case["size"]), case.get("t", 1)
    field, vertical = fields(case, level)
    progress = torch.tensor([(t - 1) / (case["T"] - 1)])

    def now(ends):
        return (ends[0] + (ends[1] - ends[0]) * progress)[:, None, None, None]

    kind, atol = name.split("_")[0], 2e-5
    if kind in ("zoomed", "clipped"):
        ours, atol = zoom_field(field, size, level.zoom), 1e-5
        if kind == "clipped":
            ours = torch.where(ours < now(level.threshold), 0, ours).clamp(0, 1)
    else:
        ours = flakes(field, size, level, progress, vertical)
        if kind != "layer":
            brightness = None if case["fix_brightness"] else now(level.brightness)
            ours = fall(image(case["x"], (len(field), 3, *size)), ours, brightness)
    ours = ours if kind in ("D", "single") else ours[0, 0]
    thin = slice(None, None, 4 if "every 4th" in case.get("stored", "") else 1)
    SNOW.check(name, ours[..., thin, thin], atol=atol)


@pytest.mark.parametrize("case", STATISTICS.meta["cases"], ids=lambda c: f"level{c['level']}-t{c['t']}")
def test_snow_of_other_fields_has_the_same_statistics(case):
    n, size = 400, (case["size"], case["size"])
    snow = build_degradation("snow", size, case["T"], level=case["level"], seed=11)
    s = (snow.degrade(-torch.ones(n, 1, *size), case["t"]) + 1)[:, 0] / 2
    spread = case["spread"] * (1 / n + 1 / case["n"]) ** 0.5  # standard error of a difference of means
    assert abs(float(s.mean()) - case["mean"]) < 4 * spread
    assert abs(float(s.mean((1, 2)).std()) / case["spread"] - 1) < 4 * (0.5 / n + 0.5 / case["n"]) ** 0.5
    stds = s.flatten(1).std(1)
    assert abs(float(stds.mean()) - case["std"]) < 4 * float(stds.std()) * (1 / n + 1 / case["n"]) ** 0.5
    empty = (s < 1e-6).float().mean((1, 2))
    error = float(empty.std()) * (1 / n + 1 / case["n"]) ** 0.5
    assert abs(float(empty.mean()) - case["empty"]) < 4 * error
    rows, columns = s.diff(dim=1).abs().mean((1, 2)), s.diff(dim=2).abs().mean((1, 2))
    ratio = (rows / columns)[columns > 0].log()  # a field may be without a flake
    vertical = float((ratio < 0).float().mean())
    assert abs(vertical - (1 - case["share_above_0"])) < 4 * 0.5 * (1 / n + 1 / case["n"]) ** 0.5
    for share, wanted in zip((0.1, 0.9), case["ratio_q10_q50_q90"][::2], strict=True):
        assert abs(float(ratio.quantile(share)) - wanted) < 0.25  # the median falls between two humps
    assert float((s - s.flip(1, 2)).abs().max()) <= 1e-6 + case["turn"]


def routine(case):
    """Our options of a published routine."""
    official = case["official_routine"]
    match case["op"]:
        case "downsample":
            named = [name for name in ("bilinear", "area") if name in official]
            return {
                "full_size": True,
                "filter": named[0] if named else "bicubic",
                "by": "half" if "factor_2" in official else "pixel",
                "blur": "with_blur" in official,
            }
        case "desaturate":
            options = {"rule": official.lower(), "space": "lab" if case["lab"] else "rgb"}
            if official == "Constant":
                options |= {"factor": case["factor"], "grey_last": case["total_remove"]}
            return options
        case "blur":
            rules = {"Linear_Accum_Std": "accumulated", "Linear_Dec_Std": "falling"}
            options = {"std": rules.get(official, "individual"), "padding": "circular"}
            if "start" in case:
                options |= {"first": case["start"], "last": case["target"]}
            return options
    return {"std": "constant", "kernel_std": case["kernel_std"], "bumps": case["T"]}


@pytest.mark.parametrize("name", sorted(set(ROUTINES.arrays) - OF_OTHERS))
def test_further_routines(name):
    case = entry(ROUTINES, name)
    x = image(case["x"], case["input_shape"])
    if name == "lab_of_x":
        ROUTINES.check(name, rgb_to_lab(x), atol=1e-3)
        return
    degradation = build_degradation(case["op"], tuple(x.shape[2:]), case["T"], **routine(case))
    if "_lab_" in name:
        ROUTINES.check(name, degradation.degrade_lab(rgb_to_lab(x), case["t"]), atol=1e-3)
    else:
        ROUTINES.check(name, degradation.degrade(x, case["t"]), atol=1e-5)
