"""Settings with which a training would end in an error are refused where it begins, and by its dry run."""

import pytest
from conftest import CPU, TINY

import ssdiff as package
from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.training.feasible import check_feasible

MATCHED = {"process.resolution": {"kind": "log_snr", "at": [-0.5]}, "process.resize": "area"}
OVERLAP = {"training.overlap_share": 0.3}
REFUSED = {
    "guidance that counts nowhere": (
        {"sampling.guidance": 2.0, "sampling.guidance_interval": [90.0, 99.0]},
        "holds no timestep of the process",
    ),
    "an overlap without timesteps": (
        MATCHED | OVERLAP | {"training.overlap_log_snr": -0.51},
        "no timestep lies between the first transition and a log-SNR of -0.51",
    ),
    "a transition that moves noise": (
        MATCHED
        | OVERLAP
        | {
            "process.noise": {"kind": "cosine"},
            "process.final_snr": 1e-6,
            "sampling.lift": "linear",
            "sampling.transitions": [-2.0],
        },
        "because process.final_snr raises it",
    ),
}


@pytest.mark.parametrize("dry", [False, True], ids=["training", "dry run"])
@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_what_would_fail_later_is_refused_before_anything_is_written(ssdiff, tmp_path, dry, changes, words):
    preset, out = tmp_path / "preset.toml", tmp_path / "run"
    preset.write_text(load_preset(TINY, changes).to_toml())
    command = ("train", "--preset", preset, "--out", out, *CPU)
    code, _, err = ssdiff(*command, *(["--dry-run"] if dry else []))
    assert code == 2 and err.count("\n") == 1 and words in err
    assert not out.exists()


@pytest.mark.parametrize("name", package.presets())
def test_every_preset_is_feasible(name):
    preset = load_preset(name)
    check_feasible(preset, build_process(preset))
