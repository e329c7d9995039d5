"""`ssdiff eval fid` and its like, and `eval restore`, as a user runs them."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import CPU, TINY, train, train_cold
from PIL import Image

OWN = ("--extractor", "tinynet:Tiny", *CPU)


def pictures(folder, count, side=16, seed=0, ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    for k, value in enumerate(values):
        Image.fromarray(value).save(folder / f"{k:04d}.{ending}")
    return folder


@pytest.fixture
def sets(tmp_path):
    return pictures(tmp_path / "ours", 30), pictures(tmp_path / "theirs", 40, seed=1)


def test_a_run_against_its_own_training_data(result, run_folder, tmp_path):
    out = tmp_path / "fid.json"
    options = ("--ckpt", run_folder, "-n", 20, "--steps", 4, "--seed", 5, *OWN)
    values = result("eval", "fid", *options, "--out", out)
    assert values["name"] == "FD-Tiny" and values["value"] == values["distance"] > 0
    assert json.loads(out.read_text()) == values
    images, reference = values["images"], values["reference"]
    assert (images["count"], images["step"], images["seed"], images["sampler"]) == (20, 12, 5, "ancestral")
    assert images["steps"] == 5 and images["size"] == reference["size"] == 16
    assert reference["source"] == "shapes" and len(reference["sha256"]) == 64
    assert len(values["extractor"]["sha256"]) == 64 and "torch" in values["versions"]
    assert len(values["warnings"]) == 1
    again = result("eval", "fid", *options)
    assert again["reference"]["cached"] is True and again["value"] == values["value"]
    assert result("eval", "fid", *options, "--batch", 7)["value"] == pytest.approx(values["value"], rel=1e-3)


@pytest.mark.parametrize("metric", ["fid", "kid", "prc", "mind"])
def test_two_folders(result, sets, metric):
    more = ("--subset-size", 20) if metric == "kid" else ()
    values = result("eval", metric, sets[0], "--reference", sets[1], *OWN, *more)
    assert (values["images"]["count"], values["reference"]["count"]) == (30, 40)
    assert all(
        np.isfinite(value) for key, value in values.items() if key in ("distance", "mean", "precision")
    )


def test_a_zip_is_its_folder(result, sets, tmp_path):
    with zipfile.ZipFile(tmp_path / "ours.zip", "w") as archive:
        for file in sorted(sets[0].iterdir()):
            archive.write(file, file.name)
    whole, packed = (
        result("eval", "fid", source, "--reference", sets[1], *OWN)
        for source in (sets[0], tmp_path / "ours.zip")
    )
    assert whole["value"] == packed["value"]
    assert whole["images"]["sha256"] == packed["images"]["sha256"]


def test_a_reference_that_changed_under_its_name(result, sets):
    first = result("eval", "fid", sets[0], "--reference", sets[1], *OWN)
    pictures(sets[1], 40, seed=2)
    second = result("eval", "fid", sets[0], "--reference", sets[1], *OWN)
    assert second["reference"]["cached"] is False and second["value"] != first["value"]


def test_sizes(ssdiff, result, sets, tmp_path):
    small = pictures(tmp_path / "small", 30, side=12)
    code, _, err = ssdiff("eval", "fid", small, "--reference", sets[1], *OWN)
    assert code == 3 and "12 x 12" in err and "16 x 16" in err and "--resize" in err
    values = result("eval", "fid", small, "--reference", sets[1], "--resize", 10, *OWN)
    assert values["images"]["size"] == 10 and values["reference"]["resized"] is True


def test_jpeg_is_warned_of(result, sets, tmp_path):
    lossy = pictures(tmp_path / "lossy", 30, ending="jpg")
    values = result("eval", "mind", lossy, "--reference", sets[1], *OWN)
    assert [warning for warning in values["warnings"] if "JPEG" in warning]


def test_two_processes_share_the_work_and_find_the_same(result, shell, run_folder, sets):
    options = ("eval", "fid", "--ckpt", run_folder, "-n", 9, "--steps", 2, "--reference", sets[1], *CPU)
    alone = result(*options, "--extractor", "tinynet:Tiny")["value"]
    options += ("--extractor", "tinynet:Watched")
    finished = shell(*options, "--json", processes=2, cwd=Path(__file__).parents[1])
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1])["value"] == pytest.approx(alone, rel=1e-3)
    assert all(f"rank {rank} saw 20" in finished.stderr for rank in (0, 1)), finished.stderr


def test_a_checkpoint_knows_its_training_data_too(result, run_folder, sets, tmp_path):
    """Not the preset's source, which `--data` replaced."""
    options = ("--data", sets[0], "--set", "model.classes=0", "--set", "training.steps=2")
    folder = train(TINY, tmp_path / "own", *options)
    checkpoint = max((folder / "checkpoints").glob("step-*"))
    options = ("eval", "fid", "-n", 8, "--steps", 2, *OWN)
    for source in (folder, checkpoint):
        values = result(*options, "--ckpt", source)
        assert values["reference"]["source"] == str(sets[0]) and values["reference"]["count"] == 30
        assert not [warning for warning in values["warnings"] if "changed" in warning]
    pictures(sets[0], 31, seed=7)
    changed = result(*options, "--ckpt", folder)
    assert [warning for warning in changed["warnings"] if "changed since" in warning]


def test_nothing_is_drawn_before_too_few_images_are_refused(ssdiff, run_folder, monkeypatch):
    from ssdiff.pipeline import Pipeline

    monkeypatch.setattr(Pipeline, "walk", lambda *_, **__: pytest.fail("drawn"))
    code, _, err = ssdiff("eval", "kid", "--ckpt", run_folder, "-n", 20, *OWN)
    assert code == 3 and "kid needs 1000 images on each side, not 20" in err


def test_arrays_have_a_size_too(ssdiff, sets, tmp_path):
    folder = tmp_path / "idx"
    folder.mkdir()
    shape = b"".join(n.to_bytes(4, "big") for n in (20, 28, 28))
    (folder / "train-images-idx3-ubyte").write_bytes(bytes((0, 0, 8, 3)) + shape + bytes(20 * 28 * 28))
    code, _, err = ssdiff("eval", "fid", sets[0], "--reference", folder, *OWN)
    assert code == 3 and "28 x 28" in err and "16 x 16" in err


def test_a_header_that_states_too_many_pixels(ssdiff, sets):
    file = sets[1] / "0000.png"
    file.write_bytes(file.read_bytes()[:16] + (60_000).to_bytes(4, "big") * 2 + file.read_bytes()[24:])
    code, _, err = ssdiff("eval", "fid", sets[0], "--reference", sets[1], *OWN)
    assert code == 3 and "0000.png" in err


def test_images_that_are_restored_exactly(ssdiff, tmp_path):
    """An infinite PSNR is no number in JSON."""
    folder = train_cold(tmp_path / "run", 'kind = "downsample", full_size = true')
    flat = tmp_path / "flat"
    flat.mkdir()
    for k in range(3):
        Image.new("RGB", (16, 16), (80 * k,) * 3).save(flat / f"{k}.png")
    code, out, err = ssdiff("eval", "restore", flat, "--ckpt", folder, "--json", *CPU)
    assert code == 0, err
    values = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert values["rows"]["degraded"]["psnr"] is None and values["rows"]["alg2"]["psnr"] > 0
    assert values["steps"] == {"alg2": 4, "alg1": 4, "direct": 1} and values["t"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("kid", "{ours}", "--reference", "{theirs}"), 3, "kid needs 1000 images on each side, not 40"),
        (("is", "{ours}"), 2, "is needs the logits of a classifier"),
        (("is", "{ours}", "--reference", "{theirs}"), 2, "is compares with nothing"),
        (("fid", "{ours}"), 2, "give a reference (--reference"),
        (("fid", "{ours}", "--reference", "{theirs}", "-n", 5), 2, "n is for a model's images"),
        (("fid", "{ours}", "--reference", "{theirs}", "--subset-size", 5), 2, "subset_size is for kid"),
        (("fid", "{ours}", "--reference", "{theirs}", "--weights-file", "x"), 2, "--weights-file is for"),
        (("fid", "{ours}", "--reference", "nowhere"), 3, "no data set, folder or zip"),
        (("fid", "--ckpt", "{ours}", "-n", 5), 4, "no"),
        (("fid", "{ours}", "--reference", "{theirs}", "--out", "x.txt"), 2, ".json"),
        (("fid", "-n", 0), 2, "-n must be at least 1"),
    ],
)
def test_refusals(ssdiff, sets, arguments, code, message):
    named = [str(part).format(ours=sets[0], theirs=sets[1]) for part in arguments]
    done, _, err = ssdiff("eval", *named, *OWN)
    assert done == code and message in err and err.count("\n") == 1


def test_offline_without_weights(ssdiff, sets, tmp_path, monkeypatch):
    nowhere = (tmp_path / "nowhere.pth").as_uri()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("ssdiff.evaluation.features._URL", nowhere)
    code, _, err = ssdiff("eval", "fid", sets[0], "--reference", sets[1], *CPU)
    assert code == 6 and str(tmp_path / "hub") in err and "SHA-256" in err and err.count("\n") == 1
    assert nowhere in err and "--weights-file" in err


def test_the_table_of_restoration(result, ssdiff, run_folder, sets, tmp_path):
    out = tmp_path / "restore.json"
    options = ("eval", "restore", sets[0], "--ckpt", run_folder, "--t", 5, "-n", 12, *OWN)
    values = result(*options, "--steps", 3, "--out", out)
    assert list(values["rows"]) == ["degraded", "ancestral", "ddim", "direct"] and values["count"] == 12
    for row in values["rows"].values():
        assert set(row) == {"psnr", "ssim", "rmse", "distance"} and row["rmse"] > 0
    assert json.loads(out.read_text()) == values
    code, text, _ = ssdiff(*options, "--steps", 3)
    assert code == 0 and "FD-Tiny" in text and text.count("\n") == 5
    code, _, err = ssdiff(*options, "--out", out)
    assert code == 2 and "--overwrite" in err
    code, _, err = ssdiff("eval", "restore", tmp_path / "gone", "--ckpt", run_folder, *CPU)
    assert code == 3
