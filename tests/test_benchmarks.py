"""The study of SNR-preserving noise, at the size of a toy."""

import importlib
import itertools
import json
import os
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs import Program

import ssdiff
from ssdiff.runs import RunFolder

TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"


@pytest.fixture
def photos(tmp_path):
    """A zip of 24 images of 16 px, with most of their variance in coarse structure."""
    path, numbers = tmp_path / "photos.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as target:
        for k in range(24):
            stream, grain = BytesIO(), numbers.integers(0, 32, (16, 16, 3), dtype=np.uint8)
            coarse = Image.fromarray(numbers.integers(0, 224, (4, 4, 3), dtype=np.uint8))
            Image.fromarray(np.asarray(coarse.resize((16, 16))) + grain).save(stream, "png")
            target.writestr(f"{k:02}.png", stream.getvalue())
    return path


def study(photos, out, *more, code=0):
    options = ["--scale", "toy", "--data", photos, "--out", out, "--extractor", "tinynet:Tiny", *more]
    return call("matched_noise.py", *options, home=out / "home", code=code)


def stage_swaps(*runs):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("stage_swap").StageSwaps(*map(ssdiff.load, runs), 3, "ddim").all()
    finally:
        sys.path.pop(0)


def call(name, *options, home, code=0):
    environment = {
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "SSDIFF_HOME": str(home),
    }
    done = Program(BENCHMARKS / name, options, environment).finished()
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_curves_are_means_over_seeds_in_order_of_cost(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    report = importlib.import_module("study_report")
    row = {"variant": "DDPM", "images": 1, "sampler": "ddim", "share": 0.0}
    found = [
        {**row, "steps": steps, "seed": seed, "sampling_flops": 1e9 * steps, "fd": fd}
        for seed, steps, fd in ((0, 50, 4.0), (1, 10, 7.0), (1, 50, 6.0))
    ]
    drawn = report.curve("DDPM", found, "sampling_flops", 1e9)
    assert (list(drawn.x), list(drawn.y)) == ([10.0, 50.0], [7.0, 5.0])
    assert report.standard_error([4.0, 6.0]) == pytest.approx(1.0)


def test_octaves_add_up(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    octaves = importlib.import_module("variance").octaves
    images = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = octaves(images)
    assert list(found) == [16, 8, 4]
    assert list(found.values()) == pytest.approx([3 / 4, 3 / 16, 1 / 16], rel=0.05)
    assert sum(found.values()) == pytest.approx(float(images.double().var(dim=0).mean()), rel=1e-4)


def test_the_study_stops_in_time_in_the_midst_of_training_and_goes_on(photos, tmp_path):
    out = tmp_path / "study"
    endless = ("--variants", "DDPM", "--budgets", "80000000")
    run, step = RunFolder(out / "runs" / "ddpm-seed0-80000000"), 0
    for minutes in (0.1, 0.2, 0.4, 0.8, 1.6):  # loading takes longer than the first where much else is done
        assert "goes on from here" in study(photos, out, *endless, "--minutes", minutes)
        before, step = step, (run.read_status() or {"step": 0})["step"]
        if before:
            break
    assert 0 < before < step < 10_000_000


def test_the_study_ends_with_a_table(photos, tmp_path):
    out = tmp_path / "study"
    assert "goes on from here" in study(photos, out, "--minutes", "0.01")
    study(photos, out, "--budgets", "32")
    assert {row["images"] for row in json.loads((out / "results.json").read_text())} == {32}
    ended = study(photos, out)
    assert "nothing is left" in ended
    assert f"resume {out / 'runs' / 'ddpm-seed0-32' / 'checkpoints' / 'step-00000003'}\n" in ended
    rows = json.loads((out / "results.json").read_text())
    assert len(rows) == 2 * 2 * 2  # variants, budgets, chains
    plain, corrected = ([row["fd"] for row in rows if row["share"] == share] for share in (0, 1))
    assert all(one != other for one, other in zip(plain, corrected, strict=True))
    assert {row["images"] for row in rows} == {32, 64}
    by_name = {row["variant"]: row for row in rows}
    assert by_name["matched SSD, 2 levels"]["training_flops"] < by_name["DDPM"]["training_flops"]
    assert all(row["fd"] > 0 and row["fd_train"] > 0 and row["training_seconds"] > 0 for row in rows)
    assert (out / "table.md").read_text().count("\n") == 2 + len(rows)
    assert (out / "table.md").read_text().count("| 3, ddim, share 1 |") == 4
    assert Image.open(out / "distance.png").width > 500
    assert "train " not in study(photos, out).partition("|")[0]
    more = study(photos, out, "--variants", "DDPM", "--chains", "2:ancestral,4:ancestral")
    assert more.count("draw 8 images of ddpm-seed0-64") == 2
    assert len(json.loads((out / "results.json").read_text())) == len(rows) + 2
    assert "draw 8 images" not in study(photos, out, "--variants", "DDPM", "--chains", "4:ancestral")
    runs = [out / "runs" / f"{name}-seed0-64" for name in ("matched-ssd-2-levels", "ddpm")]
    compared = call("denoisers.py", *runs, "--data", photos, "--timesteps", 3, home=out / "home")
    cells = [line.strip("| ").split(" | ") for line in compared.splitlines()[2:]]
    assert [(row[1], row[3]) for row in cells] == [("16", "16"), ("8", "16"), ("8", "16")]
    assert all(0.1 < float(row[5]) < 10 for row in cells)
    kept = call("variance.py", *runs, "--data", photos, "--steps", 3, "--starts", 2, home=out / "home")
    cells = [line.strip("| ").split(" | ") for line in kept.splitlines() if line[2] in "-0123456789"]
    assert [row[1] for row in cells if "---" not in row] == ["8", "16", "16", "16"]
    assert all(0 < float(share) < 5 for row in cells if "---" not in row for share in row[2:])
    evaluated = (
        "--reference",
        photos,
        "--extractor",
        "tinynet:Tiny",
        "--images",
        12,
        "--steps",
        3,
        "--batch",
        6,
    )
    swapped = call("stage_swap.py", *runs, *evaluated, home=out / "home")
    rows = [line.strip("| ").split(" | ") for line in swapped.splitlines()[2:]]
    assert len(rows) == 5 and all(float(cell) > -1 for row in rows for cell in row[1:])
    drawn = [draw(torch.arange(3)) for draw in stage_swaps(*runs).values()]
    assert all(images.shape == (3, 3, 16, 16) for images in drawn)
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in itertools.combinations(drawn, 2))
    turned = call("stage_swap.py", *reversed(runs), *evaluated, home=out / "home", code=2)
    assert "full size at every timestep" in turned
    other = study(photos, out, "--extractor", "tinynet:Other", code=1)
    assert "holds another study (extractor)" in other
    for wrong in ("4:dim", "ddim", "4:ddim:2", "4:dpm++:0.5", "4:ddim:0.5:1"):
        assert f"{wrong} is not STEPS:SAMPLER" in study(photos, out, "--chains", wrong, code=2)


def test_few_steps_of_second_order_are_nearer_to_the_data(photos, tmp_path):
    names = ("DDPM", "matched SSD, 3 levels", "matched SSD, spectral details")
    options = ("--variants", "; ".join(names), "--steps", "10,20")
    table = call("few_steps.py", "--data", photos, *options, home=tmp_path)
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0] == ["variant", "sampler", "10 steps", "20 steps"]
    found = {(name, sampler): list(map(float, values)) for name, sampler, *values in rows[2:]}
    assert len(found) == 6
    for name in names[:2]:
        first, second = found[name, "ddim"], found[name, "dpm++"]
        assert all(b < a / 2 for a, b in zip(first, second, strict=True)), table
    predicted, spectral = found[names[1], "ddim"], found[names[2], "ddim"]
    assert all(b < a for a, b in zip(predicted, spectral, strict=True)), table


def test_few_steps_of_a_trained_network(photos, run_folder, tmp_path):
    options = ("--samplers", "ancestral; ddim 0.5; dpm++", "--extractor", "tinynet:Tiny", "--images", 24)
    options += ("--set", "sampling.crossing=timestep", "--set", "sampling.clip_denoised=false")
    table = call(
        "few_steps.py", "--ckpt", run_folder, "--data", photos, *options, "--steps", "2,4", home=tmp_path
    )
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0] == ["sampler", "2 steps, seconds", "4 steps, seconds"]
    assert [name for name, *_ in rows[2:]] == ["ancestral", "ddim, eta 0.5", "dpm++"]
    distances = [float(cell.partition(",")[0]) for _, *cells in rows[2:] for cell in cells]
    assert all(distance > 0 for distance in distances) and len(set(distances)) > 3


def test_from_command_to_picture(run_folder, tmp_path):
    table = call("start_up.py", "--ckpt", run_folder, "-n", 2, "--steps", 2, "--repeat", 1, home=tmp_path)
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [name for name, *_ in rows][-3:] == ["draw", "write", "ssdiff sample"] and len(rows) == 7
    spent = {name: float(seconds) for name, _, seconds in rows}
    assert spent["ssdiff sample"] > 0 and spent["import PyTorch"] > 0
    assert "at least 1" in call("start_up.py", "-n", 0, "--repeat", 1, home=tmp_path, code=2)


def test_few_steps_of_an_unknown_variant(photos, tmp_path):
    error = call("few_steps.py", "--data", photos, "--variants", "DDIM", home=tmp_path, code=2)
    assert "no variant 'DDIM'" in error and "matched SSD, 3 levels" in error


def test_photographs_are_measured_once_beside_the_classical_tools(tmp_path):
    from PIL import ImageFilter

    folder, numbers = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for k in range(2):
        grain = Image.fromarray(numbers.integers(0, 256, (41, 50, 3), dtype=np.uint8))
        grain.filter(ImageFilter.GaussianBlur(2)).save(folder / f"test_{k}.png")
    small = {"data.size": 32, "process.levels": 2, "process.resolution.at": [0.0], "model.width": 8}
    small |= {"model.multipliers": [1, 2], "training.steps": 1, "training.sample_count": 1}
    run = ssdiff.train("photos64", folder, tmp_path / "run", overrides=small | {"training.sample_steps": 2})
    options = [folder, "--prefix", "test_", "--out", tmp_path / "o.json", "--ckpt", run.folder]
    chosen = ["--tasks", "denoise", "super-resolve 2", "--tools", "bicubic", "ssdiff"]
    said = call("photos.py", *options, *chosen, "--save", tmp_path / "pictures", home=tmp_path / "home")
    rows = [line.split(" | ")[0:2] for line in said.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        ["| denoise", "ssdiff"],
        ["| super-resolve 2", "bicubic"],
        ["| super-resolve 2", "ssdiff"],
    ]
    found = json.loads((tmp_path / "o.json").read_text())
    assert len(found) == 6 and 25 < found["super-resolve 2/bicubic/test_0"][""]["psnr"] < 60
    assert len(list((tmp_path / "pictures").iterdir())) == 10
    again = call("photos.py", *options, *chosen, home=tmp_path / "home")  # nothing is measured twice
    assert again.splitlines() == said.splitlines()[-5:]
    # 41 x 50 pixels in tiles of 32
    ratio = call(
        "seams.py", *options[:3], *options[5:], "--tasks", "denoise", "--tile", 32, home=tmp_path / "home"
    )
    task, tiled, whole, count = ratio.splitlines()[-1].strip("| ").split(" | ")
    assert (task, count) == ("denoise", "2") and 0.5 < float(tiled) < 2 and 0.5 < float(whole) < 2


def test_the_set_of_photographs_holds_each_turned_and_in_grey(photos, tmp_path):
    said = call(
        "photo_set.py", photos, "--out", tmp_path / "o.zip", "--prefix", "0", "--without", "03", home=tmp_path
    )
    assert "9 photographs" in said
    with zipfile.ZipFile(tmp_path / "o.zip") as found:
        names = found.namelist()
        plain, turned, grey = (
            np.array(Image.open(BytesIO(found.read(f"01{ending}.png"))))
            for ending in ("", "-turned", "-grey")
        )
    assert len(names) == 27 and not any("03" in name for name in names)
    assert np.array_equal(turned, np.rot90(plain)) and np.ptp(grey, axis=2).max() == 0
    assert np.abs(grey[..., 0] - np.rot90(plain @ [0.299, 0.587, 0.114])).max() <= 1


def test_a_training_step_is_measured_in_both_precisions_beside_the_peak_of_each(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("training_step")
    preset = str(TESTS / "assets" / "tiny.toml")
    options = ["--preset", preset, "--device", "cpu", "--batches", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["training_step.py", *options])
    module.main()
    first, *parts = capsys.readouterr().out.split("matrix peak ")
    assert len(parts) == 2 and first.endswith("fp32: ") and parts[0].endswith("bf16: ")
    for part in parts:
        assert float(part.split()[0]) > 0  # TFLOP/s
        rows = [line.split() for line in part.splitlines() if "->" in line and "%" in line]
        assert [(row[0], row[2]) for row in rows] == [("16", "16"), ("8", "16"), ("8", "8")]
        assert all(float(row[6]) > 0 and row[-1] == "%" for row in rows)


@pytest.fixture
def gpu_campaign(monkeypatch, tmp_path):
    """The benchmark as a function of its arguments; it returns what it wrote as JSON."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu_campaign")
    tiny = ["--preset", TESTS / "assets" / "tiny.toml", "--device", "cpu", "--precisions", "fp32"]
    tiny += ["--out", tmp_path / "measured", "--seconds", "0.01"]

    def run(part, *more):
        monkeypatch.setattr(sys, "argv", ["gpu_campaign.py", part, *map(str, [*tiny, *more])])
        module.main()
        return json.loads((tmp_path / "measured" / f"{part}.json").read_text())

    return run


def test_the_gpu_campaign_measures_steps_by_mode_size_and_batch(gpu_campaign, tmp_path):
    found = gpu_campaign("step", "--batches", "2,1", "--modes", "eager,channels-last,graphs")
    modes = {}
    for row in found["rows"]:
        modes.setdefault(row["mode"], []).append(row)
    assert {(row["size"], row["batch"]) for row in modes["eager"]} == {(16, 2), (16, 1), (8, 2), (8, 1)}
    for row in modes["eager"] + modes["channels-last"]:
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["seconds"])
        assert row["of_peak"] == pytest.approx(row["tflops"] * 1e12 / found["matrix_peak"]["fp32"])
        assert row["first"] > 0 and 0 < row["of_peak"] < 1.5
    assert all(row["skipped"] and "CUDA" in row["said"] for row in modes["graphs"])
    lines = (tmp_path / "measured" / "step.txt").read_text().splitlines()
    assert [row["said"] for row in found["rows"]] == lines[-len(found["rows"]) :]


def test_the_gpu_campaign_leaves_out_what_does_not_fit_and_goes_on_after_what_fails(gpu_campaign):
    rows = gpu_campaign("step", "--batches", "2", "--modes", "eager", "--minutes", "0.1")["rows"]
    assert all(row["skipped"] and "left out: about 8 s" in row["said"] for row in rows) and len(rows) == 2
    rows = gpu_campaign("sampling", "--batches", "2", "--chains", "nothing:2,ddim:2")["rows"]
    assert "nothing" in rows[0]["failed"] and rows[1]["images_per_second"] > 0


def test_the_gpu_campaign_goes_on_with_the_study(photos, tmp_path):
    options = ["study", "--data", photos, "--work", tmp_path / "work", "--out", tmp_path / "measured"]
    options += ["--scale", "toy", "--extractor", "tinynet:Tiny", "--budgets", 32, "--workers", 2]
    options += ["--variants", "DDPM; matched SSD, 2 levels"]
    said = call("gpu_campaign.py", *options, "--minutes", 0.001, home=tmp_path / "home")
    assert "goes on from here" in said
    said = call("gpu_campaign.py", *options, home=tmp_path / "home")
    assert "nothing is left" in said and "done or stopped" in said
    measured, networks = tmp_path / "measured", ("ddpm", "matched-ssd-2-levels")
    tables = {"study.txt", "study-results.json", "study-table.md", "study-distance.png"}
    assert {file.name for file in measured.iterdir()} == tables | {
        f"study-{k}-seed0-32.png" for k in networks
    }
    rows = json.loads((measured / "study-results.json").read_text())
    assert {(row["variant"], row["images"]) for row in rows} == {("DDPM", 32), ("matched SSD, 2 levels", 32)}
    [errors] = (tmp_path / "work").glob("runs/*/results/denoisers.json")
    kept, table = json.loads(errors.read_text()), (measured / "study-table.md").read_text()
    assert "| log-SNR | matched SSD, 2 levels (1) |" in table
    for row in kept:
        assert (
            f"| {row['log_snr']:.2f} | {row['one'][1] / row['other'][1]:.3f}, {row['one'][0]} px |" in table
        )
    options[-1] = "none"
    assert "no variant" in call("gpu_campaign.py", *options, home=tmp_path / "home", code=1)


@pytest.fixture
def recognised(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("recognised")


def test_what_is_recognised_and_what_is_sure(recognised):
    labels = torch.arange(16) % 8
    logits = 9.0 * torch.nn.functional.one_hot(labels, 8).float()
    logits[0] *= 0.1  # a disc, not surely
    logits[9] = logits[8]  # a ring that looks like a disc
    found = recognised.verdict(lambda images: logits, torch.zeros(16, 3, 32, 32), labels)
    assert (found.recognised, found.sure) == (15 / 16, 14 / 16)
    assert found.by_class == [1.0, 0.5, *[1.0] * 6] and found.confusion[1] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert 0.93 < found.certainty < 0.96


def test_a_judge_knows_shapes_but_neither_blobs_nor_mirrored_crescents(recognised, tmp_path):
    kept = tmp_path / "judge.safetensors"
    first, second = recognised.judge_of(0, 100, kept), recognised.judge_of(1, 100, None)
    images, labels = recognised.shapes(512, 5, recognised.FRESH)
    fresh = recognised.verdict(first, images, labels)
    assert min(fresh.recognised, recognised.verdict(second, images, labels).recognised) > 0.98
    assert recognised.verdict(first, images.flip(-1), labels).by_class[7] < 0.2
    blobs = recognised.verdict(first, recognised.blobs(images), labels)
    assert blobs.recognised < 0.7 and blobs.certainty < fresh.certainty - 0.1
    again = recognised.verdict(recognised.judge_of(0, 1, kept), images, labels)
    assert again == fresh, "the file keeps the judge"
    options = ("--judge", kept, "--per-class", 1, "--steps", "3,4", "--samplers", "ddim")
    table = call("recognised.py", *options, "--grid", tmp_path / "grid.png", home=tmp_path)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if "%" in line]
    assert [row[0] for row in rows[:2]] == ["fresh shapes", "blobs"] and len(rows) == 4
    assert Image.open(tmp_path / "grid.png").width > 8 * 32
    found = json.loads(call("recognised.py", *options, "--json", home=tmp_path))
    assert [row["steps"] for row in found["drawn"]] == [5, 6]  # with two resolution transitions
    assert sum(map(sum, found["drawn"][0]["confusion"])) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lessons", 2), "too few to judge"),
        (("--ckpt", "photos64"), "photos64 does not draw the shapes of 32 px"),
        (("--ckpt", "absent"), "absent"),
    ],
)
def test_no_verdict(options, message, tmp_path):
    assert message in call("recognised.py", *options, home=tmp_path, code=2)
