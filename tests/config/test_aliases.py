"""Former preset keys: each is read under its name of today, told once, and refused beside it."""

import re
import warnings

import pytest

from ssdiff.config import aliases
from ssdiff.config.load import load_preset, override, parse_override, parse_preset
from ssdiff.errors import PresetError, RenamedSetting

# Former key, its name of today, and a value as TOML that is not the one of the preset below.
KEYS = [
    ("process.match", "process.snr_preserving", "0.5"),
    ("process.resolution.changes", "process.resolution.transitions", "[2, 3]"),
    ("model.checkpointing", "model.activation_checkpointing", "true"),
    ("training.accumulate", "training.grad_accum_steps", "2"),
    ("training.change_share", "training.transition_share", "0.25"),
    ("training.clip", "training.grad_clip_norm", "0.5"),
    ("training.decay", "training.lr_schedule", '"linear"'),
    ("training.decay_share", "training.lr_decay_share", "0.5"),
    ("training.keep", "training.max_checkpoints", "7"),
    ("training.min_snr", "training.min_snr_gamma", "3.0"),
    ("sampling.clip", "sampling.clip_denoised", "false"),
    ("sampling.details", "sampling.renoise", '"spectral"'),
    ("sampling.start", "sampling.terminal_prior", "{ grid = 2 }"),
]
BASE = {
    "data.size": "64",
    "process.levels": "3",
    "process.snr_preserving": "1.0",
    "process.resolution.kind": '"explicit"',
    "process.resolution.transitions": "[5, 9]",
    "training.lr_schedule": '"cosine"',
}
each_key = pytest.mark.parametrize(("old", "new", "value"), KEYS)


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(aliases, "_told", set())


@pytest.fixture
def silent():
    with warnings.catch_warnings(action="error"):
        yield


def toml(settings):
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


def former(old, new, value):
    """A preset with a key under its former name, as text."""
    return toml({key: other for key, other in {**BASE, old: value}.items() if key != new})


def preset(text):
    return parse_preset(f'name = "stored"\n{text}')


def told(old, new, where=""):
    return pytest.warns(RenamedSetting, match=f"{where}{re.escape(old)} is now called {re.escape(new)}$")


def test_every_renamed_key_is_tried():
    assert {tuple(old.split(".")) for old, *_ in KEYS} == set(aliases.RENAMED)


@each_key
def test_a_former_key_is_its_new_name(old, new, value):
    start = preset(toml(BASE))
    wanted = override(start, dict([parse_override(f"{new}={value}")]))
    assert wanted != start
    with told(old, new, where="^") as warned:
        assert override(start, dict([parse_override(f"{old}={value}")])) == wanted
        assert override(start, dict([parse_override(f"{old}={value}")])) == wanted
    assert len(warned) == 1, "once a process"


@each_key
def test_a_former_key_in_a_file_and_in_what_it_extends(old, new, value, tmp_path):
    wanted = preset(toml({**BASE, new: value}))
    (tmp_path / "base.toml").write_text(former(old, new, value))
    (tmp_path / "child.toml").write_text('name = "stored"\nextends = "base.toml"\n')
    with told(old, new, where=r".*base\.toml: ") as warned:
        assert load_preset(tmp_path / "child.toml") == wanted
    assert len(warned) == 1
    # What a preset says under the name of today wins over a former key of what it extends.
    if new in BASE:
        (tmp_path / "other.toml").write_text(f'extends = "base.toml"\n{new} = {BASE[new]}\n')
        assert load_preset(tmp_path / "other.toml", {"name": "stored"}) == preset(toml(BASE))


@each_key
def test_a_former_key_beside_its_new_name_is_refused(old, new, value, tmp_path):
    message = (
        f"{re.escape(old)} and {re.escape(new)} are one setting, given twice; leave {re.escape(old)} out"
    )
    path = tmp_path / "both.toml"
    path.write_text(toml({**BASE, old: value, new: value}))
    with pytest.raises(PresetError, match=message):
        load_preset(path)
    both = dict(parse_override(f"{key}={value}") for key in (old, new))
    with pytest.raises(PresetError, match=message):
        override(preset(toml(BASE)), both)


@each_key
def test_a_stored_preset_is_read_in_silence(old, new, value, silent):
    assert preset(former(old, new, value)) == preset(toml({**BASE, new: value}))


def test_values_are_renamed_too(silent):
    assert preset(toml({**BASE, "sampling.renoise": '"spectral"'})).sampling.renoise == "spectral"
    for key in ("sampling.renoise", "sampling.details"):
        assert preset(toml({**BASE, key: '"predicted"'})).sampling.renoise == "none"


def test_the_command_line_tells_it_in_one_line(ssdiff):
    show = ("presets", "show", "celeba64", "--set", "sampling.start.grid=2")
    code, out, err = ssdiff(*show)
    assert code == 0 and "terminal_prior" in out
    assert err == "ssdiff: note: sampling.start is now called sampling.terminal_prior\n"
    assert ssdiff(*show) == (0, out, "")


def test_the_command_line_hides_it_and_the_warnings_of_libraries(ssdiff, monkeypatch):
    quiet = ("train", "--dry-run", "--quiet", "--set", "training.keep=2", "--device", "cpu")
    code, _, err = ssdiff(*quiet)
    assert (code, err) == (0, "")

    def noisy(*_, **__):
        warnings.warn("from a library", UserWarning, stacklevel=1)
        return ["celeba64"]

    monkeypatch.setattr("ssdiff.config.load.presets", noisy)
    code, out, err = ssdiff("presets", "list")
    assert (code, err) == (0, "") and "celeba64" in out


@pytest.mark.parametrize("text", ["", 'blur_noise = { rate = "log", interleaved = false }\n'])
def test_a_stored_run_of_blur_diffusion_keeps_its_rates_and_range(text):
    """Nothing but new runs has `unit_range` in its table."""
    old = preset(f'[process]\nkind = "blur-noise"\n{text}').process.blur_noise
    assert old.former_rates and not old.unit_range and old.rate == ("log" if text else "quartic")
    written = load_preset("blurdiff-bedroom64-log")
    for settings in (written, override(written, {"process.blur_noise.unit_range": False})):
        again = parse_preset(settings.to_toml())
        assert again == settings and not again.process.blur_noise.former_rates


def test_a_run_without_a_table_stores_the_defaults_of_its_time(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('[process]\nkind = "heat"\n')
    new = load_preset(path)
    assert (new.process.heat.noise, new.process.heat.sampling_noise) == (0.02, 0.025)
    assert parse_preset(new.to_toml()) == new
    old = preset('[process]\nkind = "heat"\n').process.heat
    assert (old.noise, old.sampling_noise, old.sigma_max) == (0.01, 0.0125, 24.0)
    path.write_text('[process]\nkind = "blur-noise"\nblur_noise = { rate = "log" }\n')
    new = load_preset(path)
    assert not new.process.blur_noise.former_rates
    assert parse_preset(new.to_toml()) == new


def test_a_stored_cold_run_of_blur_and_noise_keeps_its_range(tmp_path):
    text = '[process]\nkind = "cold"\ndegradation = { kind = "blur-noise", rate = "log" }\n'
    sampler = '[sampling]\nsampler = "alg2"\n'
    assert preset(text + sampler).process.degradation.options == {
        "rate": "log",
        "unit_range": False,
        "former_rates": True,
    }
    path = tmp_path / "own.toml"
    path.write_text(text + sampler)
    new = load_preset(path)
    assert new.process.degradation.options == {"rate": "log", "unit_range": True}
    assert parse_preset(new.to_toml()) == new
