"""The verb `ssdiff.train`: what it takes, tells and returns."""

import json
from pathlib import Path

import pytest
from PIL import Image

import ssdiff
from ssdiff.config.load import load_preset
from ssdiff.errors import Interrupted, PresetError, UsageError

TINY = Path(__file__).parents[1] / "assets" / "tiny.toml"


def test_a_run_tells_of_itself_and_returns_a_model(tmp_path):
    events, told = [], []
    result = ssdiff.train(
        TINY,
        "shapes",
        str(tmp_path / "run"),
        overrides={"training.steps": 3},
        device="cpu",
        on_event=events.append,
        progress=lambda *values: told.append(values),
    )
    assert (result.folder, result.step, result.generates) == (tmp_path / "run", 3, True)
    assert [values for values in told if values[0] == "training"] == [("training", k, 3) for k in range(4)]
    kinds = [event.kind for event in events]
    assert kinds[0] == "start" and kinds.count("step") == 3 and kinds[-1] == "samples"
    assert result.pipeline(device="cpu").sample(2, steps=2).shape == (2, 3, 16, 16)
    assert result.grid is not None and result._repr_png_() == result.grid.read_bytes()
    assert json.loads(json.dumps(result.to_dict()))["run"] == str(tmp_path / "run")
    with Image.open(result.grid) as picture:
        assert picture.format == "PNG"


def test_settings_as_an_object_and_a_stop_that_can_be_resumed(tmp_path):
    settings = load_preset(TINY, {"training.steps": 9})
    out, steps = tmp_path / "run", []
    with pytest.raises(Interrupted, match="stopped at step 2"):
        ssdiff.train(
            settings,
            out=out,
            overrides={"training.steps": 4},
            device="cpu",
            on_event=lambda event: steps.append(event.step) if event.kind == "step" else None,
            stop=lambda: len(steps) == 2,
        )
    result = ssdiff.train(resume=out, device="cpu")
    assert result.step == 4, "the overrides are part of the run"
    assert ssdiff.train(resume=out, overrides={"training.steps": 5}, device="cpu").step == 5


PLUGIN = """
import torch
import ssdiff

@ssdiff.register_noise_schedule("train-cubic")
def cubic(T: int, *, most: float = 100.0):
    return most * (torch.arange(1, T + 1, dtype=torch.float64) / T) ** 3
"""


def test_parts_of_a_plugin_are_trained_with_and_remembered(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    settings = {"training.steps": 2, "process.noise": {"kind": "train-cubic", "most": 50.0}}
    with pytest.raises(PresetError, match="train-cubic"):
        ssdiff.train(TINY, out=tmp_path / "run", overrides=settings, device="cpu")
    result = ssdiff.train(
        TINY, out=tmp_path / "run", overrides=settings, device="cpu", plugins=[tmp_path / "mine.py"]
    )
    first = result.pipeline(device="cpu").process.states[1]
    assert first.sigma / first.signal == pytest.approx(50 / 20**3)
    assert load_preset(result.folder / "preset.toml").plugins == (str(tmp_path / "mine.py"),)


def test_nothing_to_train():
    with pytest.raises(UsageError, match="nothing says what to train"):
        ssdiff.train(device="cpu")
