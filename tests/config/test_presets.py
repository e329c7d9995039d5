"""Presets load, override, refuse and round-trip; an error names field, range and nearest name in one line."""

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdiff.config import Preset
from ssdiff.config.load import (
    differences,
    load_preset,
    override,
    parse_override,
    parse_preset,
    presets,
    shipped_preset,
)
from ssdiff.errors import PresetError

SSD = [
    *("celeba64", "celeba64-2l", "celeba128", "celeba128-3l", "celeba256", "celeba256-3l", "celeba256-4l"),
    *("imagenet64", "imagenet64-4l", "imagenet64-cond"),
]
NAMES = [
    *SSD,
    *(f"{name}-matched" for name in SSD),
    *("celeba64-apart", "imagenet64-apart"),
    *("ddpm-celeba64", "ddpm-celeba256", "ddpm-imagenet64", "shapes32", "fashion32", "faces64-small"),
]
QUICK = settings(max_examples=60, deadline=None)


def refusal(name="celeba64", **overrides):
    """The message for overrides, given as section__field."""
    with pytest.raises(PresetError) as caught:
        load_preset(name, {key.replace("__", "."): value for key, value in overrides.items()})
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# Shipped presets


def test_every_name_of_the_design_is_shipped():
    assert set(presets()) >= set(NAMES)
    assert list(presets()) == sorted(presets())


@pytest.mark.parametrize("name", presets())
def test_shipped_preset(name):
    preset = load_preset(name)
    assert preset.name == name
    assert preset.summary
    assert shipped_preset(name).startswith("# "), "a comment says what run this is and its published numbers"
    assert parse_preset(preset.to_toml()) == preset


@pytest.mark.parametrize("name", [name for name in presets() if name.endswith("-matched")])
def test_matched_twin_differs_from_its_published_preset_only_in_noise_shares_and_steps(name):
    twin, published = load_preset(name), load_preset(name.removesuffix("-matched"))
    assert twin.process.snr_preserving == 1
    assert len(twin.process.resolution.at) == twin.process.levels - 1
    changed = {line.split(":")[0] for line in differences(twin, published)}
    assert changed == {
        "name",
        "summary",
        "base",
        *(["published"] if published.published else []),
        "process.snr_preserving",
        "process.resize",
        "process.resolution.kind",
        "process.resolution.at",
        "process.resolution.gamma",
        "training.transition_share",
        "training.size_power",
        "training.sample_steps",
        "sampling.steps",
        "sampling.sampler",
        "sampling.renoise",
        "sampling.correction",
    }


@pytest.mark.parametrize("name", [name for name in presets() if name.endswith("-apart")])
def test_apart_differs_from_its_matched_twin_only_in_full_size_and_transitions(name):
    apart, matched = load_preset(name), load_preset(f"{name.removesuffix('apart')}matched")
    assert {line.split(":")[0] for line in differences(apart, matched)} == {
        *("name", "summary", "base", "process.resolution.at", "model.own"),
        *("training.transitions", "training.transition_share", "sampling.lift", "sampling.crossing"),
    }
    assert apart.process.resolution.at[0] == matched.process.resolution.at[0] - 0.5


@pytest.mark.parametrize(
    ("name", "levels", "multipliers", "steps"),
    [
        ("celeba64", 4, (1, 2, 3, 4), 1_000_000),
        ("celeba64-2l", 2, (1, 2, 3, 4), 1_000_000),
        ("celeba128", 5, (1, 1, 2, 3, 4), 300_000),
        ("celeba256", 6, (1, 1, 2, 2, 4, 4), 300_000),
        ("imagenet64-cond", 2, (1, 2, 3, 4), 1_000_000),
        ("ddpm-celeba256", 1, (1, 1, 2, 2, 4, 4), 300_000),
    ],
)
def test_official_settings(name, levels, multipliers, steps):
    preset = load_preset(name)
    training = preset.training
    assert preset.process.levels == levels
    assert (preset.process.T, preset.process.factor, preset.process.noise.kind) == (1000, 2.0, "linear")
    assert (preset.model.width, preset.model.multipliers) == (128, multipliers)
    assert (preset.model.blocks, preset.model.attention, preset.model.heads) == (2, (16, 8), 4)
    assert (training.batch, training.lr, training.ema, training.steps) == (64, 1e-4, 0.9999, steps)
    assert (training.weight_decay, preset.model.dropout, training.min_snr_gamma) == (0, 0, 5)


def test_name_and_summary_are_not_inherited(tmp_path):
    preset = load_preset(write(tmp_path, "mine.toml", 'extends = "celeba64"\n[training]\nlr = 2e-4\n'))
    assert (preset.name, preset.training.lr) == ("mine", 2e-4)
    assert preset.summary == "changed from celeba64: training.lr"
    assert preset.data.source == "celeba"


# Files


def test_a_title_without_a_summary_is_the_name():
    assert Preset(name="mine").title == "mine"
    assert Preset(name="mine", summary="my photographs").title == "mine: my photographs"


def test_extends_a_file_beside_it(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "base.toml", 'extends = "shapes32"\n[model]\nwidth = 64\n')
    path = write(tmp_path / "sub", "child.toml", 'extends = "../base.toml"\n[data]\nsource = ""\n')
    preset = load_preset(path)
    assert (preset.model.width, preset.data.size, preset.data.source) == (64, 32, None)
    assert load_preset(str(path)) == preset


def test_cycle_is_refused(tmp_path):
    write(tmp_path, "a.toml", 'extends = "b.toml"')
    path = write(tmp_path, "b.toml", 'extends = "a.toml"')
    with pytest.raises(PresetError, match=r"extend each other: .*b\.toml -> .*a\.toml -> .*b\.toml"):
        load_preset(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\nsize = = 3\n", r"x\.toml is not TOML: .*line 2"),
        ("[data\n", r"x\.toml is not TOML: .*line 1"),
        ("extends = 3", "extends: must be the name or file of a preset, not 3"),
        ('extends = "celeb64"', "unknown preset 'celeb64'; did you mean celeba64"),
        ('extends = "none.toml"', r"no preset file .*none\.toml"),
        ("[modle]\nwidth = 3", "modle: unknown field; did you mean model?"),
        ("data = 3", "data: must be a table, not 3"),
        ('"a\\nb" = 3', r"'a\\nb': unknown field"),
        ("x = " + "[" * 5000, r"x\.toml is not TOML"),
    ],
)
def test_bad_file(tmp_path, text, message):
    with pytest.raises(PresetError, match=message) as caught:
        load_preset(write(tmp_path, "x.toml", text))
    assert "\n" not in str(caught.value)


def test_absent_file_unreadable_file_and_folder(tmp_path):
    with pytest.raises(
        PresetError, match=r"no preset file .*celeba6\.toml; did you mean the preset celeba64\?"
    ):
        load_preset(tmp_path / "celeba6.toml")
    with pytest.raises(
        PresetError, match="no preset file zzz/qqqq; give the name of a preset or a TOML file"
    ):
        load_preset("zzz/qqqq")
    with pytest.raises(PresetError, match="cannot read preset file"):
        load_preset(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(PresetError, match="is not UTF-8 text"):
        load_preset(tmp_path / "binary.toml")


def test_relative_path_and_home(tmp_path, monkeypatch):
    write(tmp_path, "x.toml", 'extends = "shapes32"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(tmp_path))
    assert load_preset("x.toml") == load_preset("~/x.toml") == load_preset("./x.toml")


def test_stored_text_may_not_reach_for_other_files(tmp_path):
    write(tmp_path, "x.toml", "")
    with pytest.raises(PresetError, match="checkpoint: extends: unknown field"):
        parse_preset(f'name = "a"\nextends = "{tmp_path.as_posix()}/x.toml"', where="checkpoint")
    with pytest.raises(PresetError, match="name: must be given"):
        parse_preset("")
    with pytest.raises(PresetError, match="checkpoint is not TOML"):
        parse_preset("=", where="checkpoint")


# docs/faults.md, rows 1 to 5


def test_unknown_name():
    assert "unknown preset 'celeb64-matched'; did you mean celeba64-matched" in refusal("celeb64-matched")
    assert "choose from" in refusal("zzz")


def test_typo_in_a_field():
    assert "training.lrr: unknown field; did you mean training.lr?" in refusal(training__lrr=1)
    assert "trainnig: unknown field; did you mean training?" in refusal(trainnig__lr=1)
    assert "model.zzz: unknown field; choose from kind, width, " in refusal(model__zzz=1)
    message = refusal(process__resolution__gama=1)
    assert "process.resolution.gama: unknown field; did you mean process.resolution.gamma?" in message


def test_every_problem_is_reported():
    message = refusal(training__lr=-1.0, model__widht=3, data__channels=2)
    assert all(field in message for field in ("training.lr", "model.width", "data.channels"))


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -1e-4, 0, "fast", True, [1e-4], {"a": 1}, None]
)
def test_learning_rate(value):
    assert "training.lr: must be a finite number > 0 and <= 10, not" in refusal(training__lr=value)


def test_whole_numbers():
    assert "training.steps: must be a whole number >= 1 and <= 2147483647, not 0" in refusal(
        training__steps=0
    )
    assert "training.steps: must be a whole number >= 1 and <= 2147483647, not 1.5" in refusal(
        training__steps=1.5
    )
    assert "model.multipliers[1]: must be a valid integer, not 'a'" in refusal(model__multipliers=[1, "a"])
    assert "model.multipliers: must be a list, not 3" in refusal(model__multipliers=3)
    assert "training.betas[1]: must be less than 1" in refusal(training__betas=[0.9, 2.0])


def test_a_decay_that_nothing_uses():
    message = refusal(training__lr_decay_share=0.5)
    assert "training.lr_decay_share: nothing falls with training.lr_schedule = 'constant'" in message


def test_choices():
    kinds = "'ssd', 'ddpm', 'blurring', 'heat', 'blur-noise', 'cold' or 'linear'"
    assert f"process.kind: must be {kinds}, not 'sdd'; did you mean 'ssd'?" in refusal(process__kind="sdd")
    assert "sampling.sampler: must be 'ancestral', " in refusal(sampling__sampler="zzz")
    message = refusal(process__resolution__kind="equl")
    assert "process.resolution.kind: must be 'convex_decay', 'equal', " in message
    assert message.endswith("did you mean 'equal'?")
    assert "process.noise: must be a table, not 'linear'" in refusal(process__noise="linear")


def test_size_that_does_not_divide_names_valid_sizes():
    assert "data.size: 66 cannot be halved 3 times" in refusal(data__size=66)
    assert refusal(data__size=66).endswith("it must be a multiple of 8, nearest: 64, 72")
    assert refusal(data__size=4).endswith("nearest: 8")
    assert refusal(data__size=4095).endswith("nearest: 4088, 4096")
    assert load_preset("celeba64", {"data.size": 96, "model.attention": [12]}).data.size == 96


def test_sampling_steps():
    assert "sampling.steps: must be a whole number >= 1, not 0" in refusal(sampling__steps=0)
    assert "sampling.steps: must be 1..1000 (process.T), not 1001" in refusal(sampling__steps=1001)
    assert load_preset("celeba64", {"process.T": 100}).sampling.steps == 100
    assert "not 8" in refusal("shapes32", process__T=7)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("celeba64", {"model.attention": [16, 7]}, "model.attention: 7 is not a resolution .* 64, 32, 16, 8"),
        (
            "celeba64",
            {"model.multipliers": [1, 2]},
            "process.levels: 4 levels need as many model.multipliers, not 2",
        ),
        ("celeba64", {"model.heads": 5}, "model.heads: 5 does not divide the 384 channels at 16 px"),
        ("celeba64", {"process.kind": "ddpm"}, "process.levels: kind 'ddpm' has 1 level, not 4"),
        ("celeba64", {"process.predict": "eps"}, "process.predict: 'eps' needs levels = 1, not 4"),
        ("celeba64", {"process.T": 3}, "process.levels: 4 levels need T of at least that, not 3"),
        ("celeba64", {"sampling.guidance": 2.0}, "sampling.guidance: needs model.classes > 0"),
        (
            "celeba64-matched",
            {"process.levels": 2},
            r"process.resolution.at: .*levels = 2 needs 1 values, not 3",
        ),
        ("celeba64-matched", {"process.resolution.at": [-1, -1, -2]}, "must be strictly decreasing, not"),
        (
            "celeba64",
            {"process.noise.beta_end": 1e-5},
            "process.noise.beta_end: 1e-05 is below beta_start 0.0001",
        ),
        (
            "celeba64",
            {"process.noise": {"kind": "log_snr", "last": 9.2}},
            "process.noise.last: 9.2 must be below",
        ),
        ("celeba64", {"name": "a/b"}, "name: must be up to 100 letters"),
        ("celeba64", {"summary": "a\nb"}, "summary: must be one line"),
    ],
)
def test_settings_at_odds(name, overrides, message):
    with pytest.raises(PresetError, match=message) as caught:
        load_preset(name, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transitions", [[1, 2, 3], [2, 2, 3], [3, 2, 4], [2, 3, 1001]])
def test_explicit_transitions_must_increase_within_the_process(transitions):
    message = refusal(process__resolution={"kind": "explicit", "transitions": transitions})
    assert message.endswith(
        f"process.resolution.transitions: must be strictly increasing within 2..1000, not {transitions}"
    )


def test_explicit_transitions():
    for transitions in ([2, 3, 4], [2, 500, 1000]):
        preset = load_preset(
            "celeba64", {"process.resolution": {"kind": "explicit", "transitions": transitions}}
        )
        assert preset.process.resolution.transitions == tuple(transitions)


# Overrides


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("training.lr=3e-4", "training.lr", 3e-4),
        ("training.steps=1_000", "training.steps", 1000),
        ("data.flip = false", "data.flip", False),
        ("model.attention=[16, 8]", "model.attention", [16, 8]),
        ("sampling.sampler=ddim", "sampling.sampler", "ddim"),
        ('sampling.sampler="dpm++"', "sampling.sampler", "dpm++"),
        ("sampling.sampler=dpm++", "sampling.sampler", "dpm++"),
        ('process.noise={ kind = "cosine" }', "process.noise", {"kind": "cosine"}),
        ("data.source=a=b/c d", "data.source", "a=b/c d"),
        ("data.source=", "data.source", ""),
        ("training.lr=nan", "training.lr", pytest.approx(float("nan"), nan_ok=True)),
        ("a=1\nb = 2", "a", "1\nb = 2"),
        ("a=1 # note", "a", 1),
        ("a=" + "[" * 5000, "a", "[" * 5000),
    ],
)
def test_parse_override(text, field, value):
    assert parse_override(text) == (field, value)


@pytest.mark.parametrize("text", ["training.lr", "=3", "", " = 3"])
def test_parse_override_refuses(text):
    with pytest.raises(PresetError, match=r"sets nothing; write section\.field=value"):
        parse_override(text)


def test_nested_and_dotted_overrides_agree():
    dotted = load_preset("celeba64", {"model.width": 64, "model.heads": 2, "training.lr": 1})
    assert load_preset("celeba64", {"model": {"width": 64, "heads": 2}, "training": {"lr": 1}}) == dotted
    assert (
        override(load_preset("celeba64"), {"model.width": 64, "model": {"heads": 2}, "training.lr": 1})
        == dotted
    )
    assert dotted.training.lr == 1.0


@pytest.mark.parametrize(
    ("field", "most"),
    [("training.batch", 1000000), ("training.steps", 2147483647), ("sampling.batch", 1000000)],
)
@pytest.mark.parametrize("count", [2**31, 2**63 - 1, 2**63])
def test_counts_that_overflow_are_refused(field, most, count):
    with pytest.raises(PresetError, match=rf"{field}: .* <= {most}, not {count}"):
        load_preset("shapes32", {field: count})


def test_overrides_of_thousands_of_parts_are_refused():
    deep: dict[str, object] = {"a": 1}
    for _ in range(500):
        deep = {"a": deep}
    for overrides in ({"a." * 5000 + "a": 1}, deep, {"training": deep}):
        with pytest.raises(PresetError, match="too many parts"):
            load_preset("shapes32", overrides)


def test_override_checks_and_leaves_the_preset_alone():
    preset = load_preset("shapes32")
    assert override(preset, {}) == preset
    with pytest.raises(PresetError, match=r"preset 'shapes32': data\.size: 33 cannot be halved"):
        override(preset, {"data.size": 33})
    assert preset == load_preset("shapes32")


@pytest.mark.parametrize("order", [1, -1])
def test_a_new_kind_drops_the_fields_of_the_old_one(order):
    items = [("process.resolution.kind", "log_snr"), ("process.resolution.at", [-1, -3, -5])][::order]
    preset = load_preset("celeba64", dict(items))
    assert preset.process.resolution.at == (-1.0, -3.0, -5.0)
    back = override(preset, {"process.resolution.kind": "sigmoid_like", "process.noise.kind": "cosine"})
    assert back.process.resolution.gamma == 2.0
    assert back.process.noise.offset == 0.008


def test_a_union_without_a_kind_means_the_default_kind():
    preset = parse_preset('name = "a"\n[process]\nresolution = { gamma = 1 }\nnoise = { beta_end = 0.01 }')
    assert (preset.process.resolution.kind, preset.process.resolution.gamma) == ("convex_decay", 1.0)
    assert (preset.process.noise.kind, preset.process.noise.beta_end) == ("linear", 0.01)
    assert override(preset, {"process.resolution.kind": "equal"}).process.resolution.kind == "equal"


def test_a_preset_cannot_be_changed():
    preset = load_preset("shapes32")
    with pytest.raises(ValueError, match="frozen"):
        preset.name = "other"
    with pytest.raises(ValueError, match="frozen"):
        preset.training.lr = 1.0
    assert hash(preset) == hash(load_preset("shapes32"))


# Comparison


def test_compare():
    a = load_preset("celeba64")
    b = load_preset("celeba64", {"model.width": 64, "training.lr": 1, "process.noise.kind": "cosine"})
    assert differences(a, a) == []
    assert differences(a, b, sections=("model",)) == ["model.width: 128 != 64"]
    assert differences(a, b, sections=("process", "model", "training")) == [
        "process.noise.kind: 'linear' != 'cosine'",
        "process.noise.beta_start: 0.0001 != unset",
        "process.noise.beta_end: 0.02 != unset",
        "model.width: 128 != 64",
        "training.lr: 0.0001 != 1.0",
        "process.noise.offset: unset != 0.008",
    ]


# Any preset


def numbers(low, high):
    return st.floats(low, high, allow_nan=False, exclude_min=True)


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
overrides = st.fixed_dictionaries(
    {},
    optional={
        "summary": texts,
        "data.source": st.none() | texts.filter(bool),
        "data.background": st.floats(0, 1),
        "data.flip": st.booleans(),
        "process.snr_preserving": st.floats(0, 1),
        "process.noise": st.one_of(
            st.just({"kind": "linear"}),
            st.builds(lambda offset: {"kind": "cosine", "offset": offset}, numbers(0, 0.9)),
            st.builds(lambda last: {"kind": "log_snr", "first": 9.5, "last": last}, numbers(-60, 9)),
        ),
        "process.resolution": st.one_of(
            st.just({"kind": "equal"}),
            st.builds(
                lambda kind, gamma: {"kind": kind, "gamma": gamma},
                st.sampled_from(["convex_decay", "sigmoid_like", "tanh_like"]),
                numbers(0, 1e6),
            ),
            st.builds(
                lambda at: {"kind": "log_snr", "at": sorted(at, reverse=True)},
                st.lists(st.floats(-30, 30), min_size=3, max_size=3, unique=True),
            ),
            st.builds(
                lambda transitions: {"kind": "explicit", "transitions": sorted(transitions)},
                st.lists(st.integers(2, 1000), min_size=3, max_size=3, unique=True),
            ),
        ),
        "model.classes": st.integers(0, 1000),
        "model.attention": st.lists(st.sampled_from([64, 32, 16, 8]), max_size=4),
        "training.lr": numbers(0, 10),
        "training.betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
        "training.seed": st.integers(0, 2**63 - 1),
        "training.steps": st.integers(1, 2**31 - 1),
        "sampling.steps": st.integers(1, 1000),
    },
)


@QUICK
@given(overrides)
def test_round_trip(changes):
    preset = load_preset("celeba64", changes)
    assert parse_preset(preset.to_toml()) == preset
    assert differences(preset, parse_preset(preset.to_toml())) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(
    [
        f"{section}.{field}"
        for section, table in Preset.model_fields.items()
        for field in getattr(table.annotation, "model_fields", ())
    ]
) | st.text(max_size=20)


@QUICK
@given(st.dictionaries(fields, values, max_size=3))
def test_any_override_gives_a_preset_or_one_line(changes):
    try:
        preset = load_preset("celeba64", changes)
    except PresetError as error:
        assert re.fullmatch(r"[^\n\r]+", str(error))
    else:
        assert parse_preset(preset.to_toml()) == preset


SNOW = """
[process]
kind = "cold"
T = 9
degradation = { kind = "snow", level = 3 }
[sampling]
sampler = "alg2"
"""


def test_stored_snow_means_what_it_meant(tmp_path):
    """A run or model of ssdiff 0.2 says nothing of the motion; a preset that a user writes means today's."""
    old = {"level": 3, "motion": "slanted", "whiten": True}
    stored = parse_preset('name = "mine"\n' + SNOW)
    assert stored.process.degradation.options == old
    assert parse_preset(stored.to_toml()) == stored
    of_run = load_preset(write(tmp_path, "preset.toml", 'name = "mine"\n' + SNOW))
    assert of_run.process.degradation.options == old
    mine = load_preset(write(tmp_path, "mine.toml", SNOW))
    assert mine.process.degradation.options == {"level": 3, "motion": "axis"}
    assert 'motion = "axis"' in mine.to_toml() and parse_preset(mine.to_toml()) == mine
    assert override(stored, {"training.lr": 1e-3}).process == stored.process


def test_options_without_effect_leave_what_is_stored():
    text = 'name = "mine"\n' + SNOW.replace('"snow", level = 3', '"blur", padding = "zero", max_std = 3.0')
    assert parse_preset(text).process.degradation.options == {"max_std": 3.0}
    for key, value in (("kernel", 5), ("std", "individual"), ("last", 2.0)):
        kept = parse_preset(text.replace("max_std = 3.0", f"{key} = {value!r}")).process.degradation.options
        assert kept == {"padding": "zero", key: value}


def test_a_degradation_of_another_kind_takes_no_options_along():
    preset = load_preset("cold-snow-cifar10", {"process.degradation.kind": "blur"})
    assert preset.process.degradation.options == {}


def test_a_mask_that_fades_into_a_colour_generates_without_a_fit():
    assert load_preset("cold-mask-celeba128-gen").generates
    text = refusal("cold-mask-celeba128-gen", sampling__terminal_prior={"grid": 1})
    assert "sampling.terminal_prior: a mask with fill = 'colour' begins at the colour of each image" in text
    assert not load_preset("cold-mask-celeba128-gen", {"process.degradation.reverse": False}).generates
    assert not load_preset("cold-mask-celeba128-gen", {"process.degradation.fill": "grey"}).generates


def test_published_masks_and_snow():
    mask = load_preset("cold-mask-celeba128-gen")
    assert (mask.process.T, mask.sampling.steps, mask.sampling.terminal_prior) == (750, 750, None)
    options = mask.process.degradation.options
    assert options["kernel_std"] == 0.05 and options["initial"] == 1 and options["bumps"] == 750
    for name, level in (("cold-snow-celeba128", 4), ("cold-snow-cifar10", 3)):
        process = load_preset(name).process
        assert process.T == 200 and process.degradation.options["level"] == level
        assert not process.degradation.options["whiten"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data__crop": "random"}, "data.crop: 'random' needs room"),
        ({"data__padding": 4}, "data.padding: is for data.crop = 'random'"),
        ({"data__part": 1}, "data.part: is for a list of images"),
        ({"data__margin": 0.5}, "data.margin: must be a finite number >= 1"),
        ({"data__resize": "offical"}, "did you mean 'official'"),
        ({"training__ema_every": 0}, "training.ema_every: must be a whole number >= 1"),
    ],
)
def test_crops_lists_and_averages_that_make_no_sense(overrides, message):
    assert message in refusal(**overrides)


def test_a_list_is_found_from_where_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub", "mine.toml", 'extends = "celeba64"\n[data]\nlist = "train.txt"\n')
    assert load_preset(path).data.list == str(tmp_path / "sub" / "train.txt")
    preset = load_preset("celeba64", {"data.list": "train.txt", "data.part": 0})
    assert (preset.data.list, preset.data.part) == (str(tmp_path / "train.txt"), 0)
    assert parse_preset(preset.to_toml()) == preset
    assert load_preset(path, {"data.list": ""}).data.list is None


CROPPED, PADDED = ("stretch", 1.12, 0, "random", True), ("bilinear", 1.0, 4, "random", True)
AS_THEY_ARE = ("antialias", 1.0, 0, "middle", False)
COLD_DATA = {
    "cold-blur-mnist": CROPPED,
    "cold-blur-cifar10": CROPPED,
    "cold-downsample-cifar10": PADDED,
    "cold-mask-cifar10": PADDED,
    "cold-downsample-mnist": ("stretch", 1.12, 0, "middle", False),
    "cold-mask-mnist": ("bilinear", 1.0, 0, "middle", False),
    "cold-snow-cifar10": AS_THEY_ARE,
    "cold-desaturate-cifar10": AS_THEY_ARE,
    "cold-snow-celeba128": ("none", 1.0, 0, "middle", False),
    "cold-desaturate-celeba128": ("none", 1.0, 0, "middle", False),
}


PUBLISHED_COLD = [name for name in presets() if name.startswith("cold-") and not name.endswith("-photos")]


@pytest.mark.parametrize("name", PUBLISHED_COLD)
def test_cold_diffusion_is_trained_as_published(name):
    preset = load_preset(name)
    data, training = preset.data, preset.training
    assert (data.resize, data.margin, data.padding, data.crop, data.flip) == COLD_DATA.get(name, CROPPED)
    assert data.size == (32 if name.endswith(("mnist", "cifar10")) else 128)
    assert (training.lr, training.loss, training.grad_accum_steps, training.weight_decay) == (
        2e-5,
        "l1",
        2,
        0,
    )
    assert (training.ema, training.ema_every, training.ema_start) == (0.995, 10, 2_000)
    assert (training.grad_clip_norm, training.warmup, training.lr_schedule) == (0, 0, "constant")
    small_batches = name in ("cold-snow-celeba128", "cold-desaturate-celeba128")
    masks = name == "cold-mask-celeba128"
    assert training.batch == (100 if masks else 16 if small_batches else 32)
    assert training.steps == (350_000 if masks else 700_000)


@pytest.mark.parametrize("name", [*SSD, "ddpm-celeba64", "ddpm-imagenet64", "blurring-celeba64"])
def test_scale_space_diffusion_cuts_images_as_its_authors(name):
    assert load_preset(name).data.resize == "official"
