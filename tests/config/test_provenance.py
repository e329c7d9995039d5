"""Published figures belong to one set of settings and data: whatever changes one takes them away."""

import re

import pytest

from ssdiff.config import provenance
from ssdiff.config.load import for_data_set, load_preset, override, parse_preset, presets

FIGURE = "FID 4.28"
OLD_SUMMARY = "SSD, CelebA 64 px, 4 levels (FID 4.28)"  # of version 0.2.0


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_shipped_preset_shows_its_figure_and_a_stored_one_too():
    preset = load_preset("celeba64")
    assert preset.title == f"celeba64: SSD, CelebA 64 px, 4 levels (published: {FIGURE})"
    assert parse_preset(preset.to_toml()) == preset
    assert for_data_set(preset, "celeba") == preset == for_data_set(preset, None)


def test_no_summary_holds_a_figure():
    for name in presets():
        assert not re.search(r"\bFID|\d\.\d\d", load_preset(name).summary), name


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"data.size": 32}, "data.size"),
        ({"training.lr": 2e-4, "data.size": 32}, "data.size, training.lr"),
        ({"sampling": {"steps": 100}}, "sampling.steps"),
        ({"process.resolution": {"kind": "equal"}}, "process.resolution"),
        ({"data.source": "cifar10"}, "data.source"),
        ({"model.width": 64, "name": "mine"}, "model.width"),
    ],
)
def test_changed_settings_lose_it(changed, fields):
    preset, told = load_preset("celeba64", changed), f"changed from celeba64: {fields}"
    assert (preset.summary, preset.published, preset.base) == (told, "", "celeba64")
    assert override(load_preset("celeba64"), changed) == preset
    assert parse_preset(preset.to_toml()) == preset


@pytest.mark.parametrize(
    "changed",
    [
        {"sampling.eta": 1.0},
        {"training.log_every": 7},
        {"training.seed": 3},
        {"data.corrupt": "skip"},
        {"data.size": 64},
        {},
    ],
)
def test_what_no_result_depends_on_keeps_it(changed):
    assert load_preset("celeba64", changed).published == FIGURE


def test_a_change_that_is_taken_back_brings_it_back():
    there = override(load_preset("celeba64"), {"data.size": 32})
    assert override(there, {"data.size": 64}) == load_preset("celeba64")


def test_every_field_counts_or_is_said_not_to():
    preset = load_preset("celeba64").model_dump()
    known = {
        f"{section}.{name}" for section, table in preset.items() if isinstance(table, dict) for name in table
    }
    assert known > provenance._INCIDENTAL


def test_another_data_set_loses_it():
    preset = for_data_set(load_preset("celeba64"), "/somewhere/faces64.zip")
    assert (preset.title, preset.published) == ("celeba64: settings of celeba64 on faces64.zip", "")
    assert parse_preset(preset.to_toml()) == preset
    both = for_data_set(load_preset("celeba64", {"data.size": 32}), "faces64.zip")
    assert both.summary == "changed from celeba64: data.size, data set faces64.zip"
    assert for_data_set(both, "celeba").summary == "changed from celeba64: data.size"
    unnamed = load_preset("imagenet64")  # it names no data set, so nothing says that one is ImageNet
    assert unnamed.published and not for_data_set(unnamed, "imagenet.zip").published


def test_a_file_that_extends_is_told_from_what_and_keeps_its_own_words(tmp_path):
    same = load_preset(write(tmp_path, "same.toml", 'extends = "celeba64"\n'))
    assert same.title == f"same: SSD, CelebA 64 px, 4 levels (published: {FIGURE})"
    changed = write(tmp_path, "mine.toml", 'extends = "celeba64"\n[data]\nsize = 32\n')
    assert load_preset(changed).title == "mine: changed from celeba64: data.size"
    child = write(tmp_path, "child.toml", 'extends = "mine.toml"\n[training]\nlr = 1e-3\n')
    assert load_preset(child).title == "child: changed from celeba64: data.size, training.lr"
    words = write(tmp_path, "words.toml", 'extends = "celeba64"\nsummary = "my faces"\n[data]\nsize = 32\n')
    assert load_preset(words).title == "words: my faces"


@pytest.mark.parametrize("renamed", [False, True])
def test_a_shown_preset_that_is_edited_loses_it(renamed, tmp_path):
    shown = load_preset("celeba64").to_toml().replace("width = 128", "width = 64")
    if renamed:
        shown = shown.replace('name = "celeba64"', 'name = "mine"')
    assert load_preset(write(tmp_path, "x.toml", shown)).about == "changed from celeba64: model.width"


def test_a_file_with_figures_of_its_own_loses_them_by_a_change(tmp_path):
    path = write(tmp_path, "own.toml", 'summary = "my run"\npublished = "FID 3.1"\n[data]\nsize = 32\n')
    assert load_preset(path).title == "own: my run (published: FID 3.1)"
    assert load_preset(path, {"training.log_every": 3}).published == "FID 3.1"
    for changed in (
        load_preset(path, {"training.lr": 1e-3}),
        override(load_preset(path), {"training.lr": 1e-3}),
    ):
        assert changed.title == "own: changed from own: training.lr"
    assert not for_data_set(load_preset(path), "elsewhere").published


def test_a_file_that_is_only_called_like_a_preset_is_its_own(tmp_path):
    preset = load_preset(write(tmp_path, "celeba64.toml", 'summary = "my faces"\n[data]\nsize = 32\n'))
    assert (preset.title, preset.base) == ("celeba64: my faces", "")
    assert parse_preset(preset.to_toml()) == preset


def stored_by_an_older_version(**changed):
    """The preset of a run of 0.2.0, which had the figure in its summary and nothing about its origin."""
    text = load_preset("celeba64", {"data.resize": "antialias", **changed}).to_toml()
    text = re.sub(r"(?m)^(base|published|summary) = .*\n", "", text)
    newer = "list|part|classes_from|resize|margin|padding|crop|ema_every|ema_start"
    text = re.sub(rf"(?m)^({newer}) = (?!\"area\"|\"bilinear\").*\n", "", text)
    return f'summary = "{OLD_SUMMARY}"\n{text}'


def test_an_old_run_does_not_claim_what_it_is_not():
    old = parse_preset(stored_by_an_older_version())
    assert old.about == "changed from celeba64: data.resize"
    small = parse_preset(stored_by_an_older_version(**{"data.size": 32}))
    assert small.about == "changed from celeba64: data.size, data.resize"


def test_a_long_list_of_changes_ends_in_a_number():
    many = {f"training.{name}": 0.5 for name in ("lr", "ema", "weight_decay", "snr_floor", "label_dropout")}
    summary = load_preset("celeba64", {**many, "data.size": 32, "model.width": 64}).summary
    assert summary.endswith("training.snr_floor, 1 more") and len(summary) < 300
