"""``ssdiff degrade`` on files: names, sizes, strips, many images, every refusal."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ssdiff.build import build_process
from ssdiff.cli import run
from ssdiff.cli.completion import DEGRADATIONS
from ssdiff.config.load import load_preset
from ssdiff.images import read_image, to_uint8, upscale_nearest
from ssdiff.process.degradations.base import random_noise
from ssdiff.process.degradations.registry import build_degradation, degradations

WIDTH, HEIGHT = 60, 40
_ROTATED = 6  # EXIF: turn clockwise to see it upright


def scene(width=WIDTH, height=HEIGHT):
    """A smooth colour picture with an edge, so that every side is different."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([255 * x / width, 255 * y / height, 200 * (x > y)], axis=-1)
    return Image.fromarray(picture.astype(np.uint8))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene().save("photo.png")
    scene(50, 50).rotate(90).save("other.png")
    return tmp_path


def degrade(*arguments):
    return run(["degrade", *(str(argument) for argument in arguments)])


def extra(op):
    return ("--with", "other.png") if op == "animorph" else ()


def read_other(shape):
    return read_image("other.png", size=shape[1:])[None]


def as_json(capsys, *arguments):
    assert degrade(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)["images"]


@pytest.mark.parametrize("op", degradations())
@pytest.mark.parametrize("t", [0, 700, 1000])
def test_every_operator(op, t):
    assert degrade("photo.png", "--op", op, "--t", t, "--seed", 5, *extra(op)) == 0
    clean = read_image("photo.png")
    options = {"other": lambda numbers, shape: read_other(shape)} if op == "animorph" else {}
    expected = build_degradation(op, (HEIGHT, WIDTH), seed=5, **options).degrade(clean[None], t)[0]
    written = read_image(f"photo-{op}-t{t}.png")
    assert written.shape == expected.shape
    assert torch.equal(to_uint8(written), to_uint8(expected))
    assert (t == 0) == torch.equal(written, clean)


def test_the_help_names_every_operator(capsys):
    assert run(["degrade", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(op in text for op in DEGRADATIONS)


def test_the_line_of_the_design(capsys):
    scene(64, 64).save("img.png")
    assert degrade("img.png", "--op", "downsample", "--t", 700) == 0
    assert Image.open("img-downsample-t700.png").size == (32, 32)
    assert "img-downsample-t700.png: downsample t=700 of 1000, 64 x 64 -> 32 x 32" in capsys.readouterr().out


def test_downsample_is_the_default_and_upscale_repeats_its_pixels():
    assert degrade("photo.png", "--t", 999) == 0
    assert degrade("photo.png", "--t", 999, "--upscale", "--out", "large.png") == 0
    small, large = read_image("photo-downsample-t999.png"), read_image("large.png")
    assert small.shape == (3, 10, 15)
    assert torch.equal(upscale_nearest(small, (HEIGHT, WIDTH)), large)


def test_a_rotated_photograph_is_upright(capsys):
    exif = Image.Exif()
    exif[0x0112] = _ROTATED
    scene().rotate(90, expand=True).save("camera.jpg", quality=98, exif=exif)
    assert Image.open("camera.jpg").size == (HEIGHT, WIDTH)
    [entry] = as_json(capsys, "camera.jpg", "--op", "blur", "--t", 1)
    assert entry["size_in"] == entry["size_out"] == [HEIGHT, WIDTH]
    difference = (read_image("camera-blur-t1.png") - read_image("photo.png")).abs().mean()
    assert difference < 0.1


def test_grey_sixteen_bits_and_transparency():
    Image.new("L", (20, 30), 77).save("grey.png")
    Image.fromarray(np.full((30, 20), 77 * 257, dtype=np.uint16)).save("deep.png")
    Image.new("RGBA", (20, 30), (0, 0, 0, 0)).save("clear.png")
    assert degrade("grey.png", "deep.png", "clear.png", "--op", "blur", "--t", 500) == 0
    for name, mode, value in (("grey", "L", 77), ("deep", "L", 77), ("clear", "RGB", (255, 255, 255))):
        result = Image.open(f"{name}-blur-t500.png")
        assert (result.mode, result.size, result.getpixel((3, 3))) == (mode, (20, 30), value)


@pytest.mark.parametrize("op", degradations())
def test_strip(op, capsys):
    [entry] = as_json(capsys, "photo.png", "--op", op, "--strip", 8, *extra(op))
    assert [frame["t"] for frame in entry["strip"]] == [0, 143, 286, 429, 571, 714, 857, 1000]
    picture = read_image(f"photo-{op}-strip8.png")
    assert picture.shape == (3, HEIGHT, 8 * WIDTH + 7 * 2) and entry["size_out"] == list(picture.shape[1:])
    assert torch.equal(picture[:, :, :WIDTH], read_image("photo.png"))
    quality = [math.inf if frame["psnr"] is None else frame["psnr"] for frame in entry["strip"]]
    assert quality[0] == math.inf and quality[-1] < quality[1]


def test_a_strip_ends_at_t(capsys):
    [entry] = as_json(capsys, "photo.png", "--strip", 3, "--t", 600, "--op", "pixelate")
    assert [frame["t"] for frame in entry["strip"]] == [0, 300, 600]
    assert degrade("photo.png", "--t", 600, "--op", "pixelate") == 0
    frame = read_image("photo-pixelate-t600.png")
    assert torch.equal(read_image("photo-pixelate-strip3.png")[:, :, -WIDTH:], frame)


def test_preset(capsys):
    [entry] = as_json(capsys, "photo.png", "--preset", "celeba64", "--t", 700)
    assert (entry["op"], entry["preset"], entry["T"]) == ("downsample", "celeba64", 1000)
    expected = build_process(load_preset("celeba64"), (HEIGHT, WIDTH)).degrade(
        read_image("photo.png")[None], 700
    )
    assert torch.equal(to_uint8(read_image("photo-celeba64-t700.png")), to_uint8(expected[0]))


def test_preset_with_noise_is_a_function_of_seed_and_image_number():
    scene().save("twin.png")
    for out, seed in (("a/", 0), ("b/", 0), ("c/", 1)):
        options = ("--preset", "ddpm-celeba64", "--noise", "--t", 300, "--seed", seed, "--out", out)
        assert degrade("photo.png", "twin.png", *options) == 0
    a, b, c = (read_image(f"{out}/photo-ddpm-celeba64-noise-t300.png") for out in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert not torch.equal(a, read_image("a/twin-ddpm-celeba64-noise-t300.png"))
    state = build_process(load_preset("ddpm-celeba64")).states[300]
    inside = a.abs() < 0.99  # bytes cannot tell what lies outside
    residual = ((a - state.signal * read_image("photo.png")) / state.sigma)[inside]
    assert 0.4 < float(residual.std()) < 1.1


@pytest.mark.parametrize(
    ("name", "t"),
    [
        ("blurring-celeba64", 300),
        ("ihdm-cifar10", 100),
        ("blurdiff-church64", 600),
        ("cold-mask-cifar10", 30),
        ("cold-blur-cifar10", 30),
        ("cold-downsample-cifar10", 2),
        ("cold-desaturate-cifar10", 10),
        ("cold-snow-cifar10", 100),
    ],
)
def test_every_kind_of_preset_at_the_size_of_the_image(name, t, capsys):
    [entry] = as_json(capsys, "photo.png", "--preset", name, "--t", t)
    process = build_process(load_preset(name), (HEIGHT, WIDTH))
    clean, written = read_image("photo.png"), read_image(f"photo-{name}-t{t}.png")
    if name == "cold-snow-cifar10":  # the layer is that of --seed, not of the training
        assert not torch.equal(clean, written)
    else:
        assert torch.equal(to_uint8(written), to_uint8(process.degrade(clean[None], t)[0]))
    assert entry["preset"] == name and entry["T"] == process.T


@pytest.mark.parametrize("name", ["blurring-celeba64", "blurdiff-church64", "ihdm-cifar10"])
def test_noise_of_a_diagonal_preset(name):
    assert degrade("photo.png", "--preset", name, "--noise", "--t", 150, "--seed", 3) == 0
    process = build_process(load_preset(name), (HEIGHT, WIDTH))
    noise = random_noise(3)(torch.tensor([0]), (3, HEIGHT, WIDTH))
    expected = process.marginal(read_image("photo.png")[None], 150, noise)[0]
    difference = read_image(f"photo-{name}-noise-t150.png") - expected.clamp(-1, 1)
    assert difference.abs().max() < 1 / 127


def test_images_that_do_not_suit_the_operator_do_not_stop_the_others(folder, capsys):
    scene(6, 5).save("tiny.png")
    options = ("--op", "blur", "--T", 3, "--set", "kernel=15", "--set", "padding=circular", "--t", 2)
    assert degrade("tiny.png", "photo.png", *options) == 7
    assert (folder / "photo-blur-t2.png").exists() and not (folder / "tiny-blur-t2.png").exists()
    output = capsys.readouterr()
    assert "tiny.png: a kernel of 15 taps is too wide" in output.err
    assert degrade("tiny.png", *options) == 2


def test_colours_of_a_grey_image_cannot_fade(capsys):
    Image.new("L", (20, 30), 77).save("grey.png")
    assert degrade("grey.png", "--op", "desaturate", "--t", 500) == 3
    err = capsys.readouterr().err
    assert "grey.png" in err and "3 channels, the image has 1" in err


def test_animorphosis_of_many_images_takes_partners_in_turn(folder, capsys):
    (folder / "pets").mkdir()
    for k, level in enumerate((50, 200)):
        Image.new("L", (30 + 20 * k, 20), level).save(folder / f"pets/{k}.png")
        scene().save(f"in{k}.png")
    scene().save("in2.png")
    files = [f"in{k}.png" for k in range(3)]
    assert degrade(*files, "--op", "animorph", "--with", "pets", "--t", 1000) == 0
    levels = [np.asarray(Image.open(f"in{k}-animorph-t1000.png")).mean() for k in range(3)]
    assert abs(levels[0] - 50) < 5 and abs(levels[1] - 200) < 5 and abs(levels[2] - 50) < 5
    capsys.readouterr()
    [entry] = as_json(
        capsys, "photo.png", "--preset", "cold-animorph-celeba128", "--with", "other.png", "--t", 1
    )
    assert entry["op"] == "animorph"


def test_preset_file_with_its_own_number_of_severities(capsys):
    text = 'name = "two words"\nextends = "shapes32"\n[process]\nT = 20\n[sampling]\nsteps = 5\n'
    with open("own.toml", "w", encoding="utf-8") as file:
        file.write(text)
    [entry] = as_json(capsys, "photo.png", "--preset", "own.toml", "--t", 20)
    assert (entry["T"], entry["out"]) == (20, "photo-two-words-t20.png")


def test_options_reach_the_operator(capsys):
    assert degrade("photo.png", "--op", "blur", "--t", 5, "--T", 5, "--max-std", 2) == 0
    expected = build_degradation("blur", (HEIGHT, WIDTH), 5, max_std=2.0).degrade(
        read_image("photo.png")[None], 5
    )
    assert torch.equal(to_uint8(read_image("photo-blur-t5.png")), to_uint8(expected[0]))


def test_folders_keep_their_sub_folders(folder, capsys):
    for name in ("in/a/x.png", "in/b/x.PNG", "in/y.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        scene().save(folder / name)
    (folder / "in/notes.txt").write_text("no image")
    entries = as_json(capsys, "in", "photo.png", "--op", "pixelate", "--t", 300, "--out", "new")
    assert sorted(
        path.relative_to(folder / "new").as_posix() for path in (folder / "new").rglob("*.png")
    ) == [
        "a/x-pixelate-t300.png",
        "b/x-pixelate-t300.png",
        "photo-pixelate-t300.png",
        "y-pixelate-t300.png",
    ]
    assert all(math.isfinite(entry["psnr"]) and entry["seconds"] >= 0 for entry in entries)


def test_bad_files_do_not_stop_the_others(folder, capsys):
    (folder / "bad.png").write_bytes((folder / "photo.png").read_bytes()[:80])
    (folder / "page.jpg").write_text("<html>")
    assert degrade("photo.png", "bad.png", "page.jpg", "gone.png", "--t", 999, "--json") == 7
    assert (folder / "photo-downsample-t999.png").exists()
    output = capsys.readouterr()
    result, error = (json.loads(line) for line in output.out.splitlines())
    assert [entry["image"] for entry in result["images"]] == ["photo.png"]
    assert [entry["image"] for entry in result["failures"]] == ["bad.png", "page.jpg", "gone.png"]
    assert error["code"] == 7 and "3 of 4 images failed" in error["error"]
    assert all(name in output.err for name in ("bad.png", "page.jpg", "gone.png"))
    assert len(output.err.splitlines()) == 4


def test_all_files_bad(folder, capsys):
    (folder / "bad.png").write_bytes(b"")
    assert degrade("bad.png", "gone.png", "--t", 1) == 3
    assert "2 of 2 images failed" in capsys.readouterr().err
    assert degrade("bad.png", "--t", 1) == 3
    assert capsys.readouterr().err.count("\n") == 1
    (folder / "empty").mkdir()
    assert degrade("empty", "--t", 1) == 3


def test_nothing_is_overwritten_unless_told_to(folder, capsys):
    scene().save("second.png")
    (folder / "second-blur-t9.png").write_text("mine")
    assert degrade("photo.png", "second.png", "--op", "blur", "--t", 9) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert not (folder / "photo-blur-t9.png").exists()
    assert (folder / "second-blur-t9.png").read_text() == "mine"
    assert degrade("photo.png", "second.png", "--op", "blur", "--t", 9, "--overwrite") == 0
    assert read_image("second-blur-t9.png").shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--t", "1001"], 2, "severity 1001 is outside 0..1000"),
        (["--t", "-1"], 2, "outside 0..1000"),
        (["--t", "6", "--T", "5"], 2, "outside 0..5"),
        (["--t", "1", "--T", "0"], 2, "T must be at least 1"),
        (["--t", "1", "--T", str(10**20)], 2, "T must be at most 100000"),
        ([], 2, "t is missing; give a severity (--t), 0..1000"),
        (["--t", "x"], 2, "Invalid value for '--t'"),
        (["--t", "1", "--op", "blurr"], 2, "did you mean blur"),
        (["--t", "1", "--op", "animorph"], 2, "name that one by other (--with)"),
        (
            ["--t", "1", "--op", "snow", "--with", "other.png"],
            2,
            "is for animorph, not for snow",
        ),
        (["--t", "1", "--op", "animorph", "--with", "gone"], 3, "cannot read gone"),
        (["--t", "1", "--op", "snow", "--set", "level=9"], 2, "no level 9; choose one of 1, 2, 3, 4"),
        (["--t", "1", "--op", "snow", "--set", "levle=1"], 2, "snow has no option 'levle'"),
        (["--t", "1", "--op", "mask", "--set", "bumps=many"], 2, "wrong kind"),
        (["--t", "1", "--op", "blur-noise", "--set", "rate=odd"], 2, "unknown rate 'odd'"),
        (
            ["--t", "1", "--T", "7", "--op", "downsample", "--set", "full_size=true"],
            2,
            "halved 5 times, not 7",
        ),
        (["--t", "1", "--op", "blur", "--T", "3", "--set", "kernel=91"], 2, "91 taps is too wide for 40"),
        (["--t", "1", "--op", "blur", "--T", "3", "--set", "kernel=4"], 2, "odd number of taps, not 4"),
        (["--t", "1", "--preset", "cold-snow-cifar10", "--noise"], 2, "is a cold process"),
        (["--t", "1", "--preset", "cold-animorph-celeba128"], 2, "name some by other (--with)"),
        (["--t", "1", "--preset", "celeba64", "--with", "other.png"], 2, "turns images into no others"),
        (["--t", "1", "--preset", "celeba64", "--set", "level=1"], 2, "level does not go with a preset"),
        (["--t", "1", "--max-std", "3"], 2, "downsample has no option 'max_std'"),
        (["--t", "1", "--op", "blur", "--max-std", "-3"], 2, "positive number of pixels"),
        (["--t", "1", "--noise"], 2, "noise needs a preset"),
        (["--t", "1", "--preset", "celeba65"], 2, "celeba64"),
        (["--t", "1", "--preset", "celeba64", "--op", "blur"], 2, "op does not go with a preset"),
        (["--t", "1", "--preset", "celeba64", "--T", "9"], 2, "T does not go with a preset"),
        (["--t", "1", "--preset", "celeba64", "--max-std", "9"], 2, "max_std does not go with"),
        (["--t", "5000", "--preset", "celeba64"], 2, "outside 0..1000"),
        (["--strip", "1"], 2, "strip must be between 2 and 1001"),
        (["--strip", "5", "--t", "3"], 2, "between 2 and 4"),
        (["--t", "1", "--out", "x.bmp"], 2, "supported are .png"),
        (["photo.png", "--t", "1"], 2, "would both become"),
        (["other.png", "--t", "1", "--out", "x.png"], 2, "is one file, for 2 images"),
        (["--t", "1", "--max-pixels", "100"], 3, "max_pixels"),
        (["--t", "1", "--max-pixels", "0"], 2, "--max-pixels must be at least 1"),
        (["--t", "1", "--device", "abacus"], 6, "abacus"),
    ],
)
def test_refusals(arguments, code, message, folder, capsys):
    before = sorted(folder.iterdir())
    assert degrade("photo.png", *arguments) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error
    assert sorted(folder.iterdir()) == before


def test_quiet(capsys):
    assert degrade("photo.png", "--t", 5, "-q") == 0
    output = capsys.readouterr()
    assert output.out == output.err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="permissions")
def test_a_folder_that_cannot_be_written(folder):
    (folder / "locked").write_text("a file, no folder")
    assert degrade("photo.png", "--t", 1, "--out", "locked/x.png") == 6


def test_results_that_are_there_stay(capsys, folder):
    """The others are what they would have been in one go, though a mask of noise draws by image number."""
    (folder / "in" / "deep").mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        scene().save(f"in/{name}.png")
    common = ("in", "--op", "noise", "--t", 500)
    assert degrade(*common, "--out", "whole/") == 0
    assert degrade(*common, "--out", "part/") == 0
    removed, kept = folder / "part" / "b-noise-t500.png", folder / "part" / "a-noise-t500.png"
    removed.unlink()
    kept.write_bytes(b"mine")
    capsys.readouterr()
    assert degrade(*common, "--out", "part/", "--skip-existing", "--json") == 0
    out, err = capsys.readouterr()
    assert "2 of 3 results are there already" in err and len(json.loads(out)["kept"]) == 2
    assert kept.read_bytes() == b"mine"
    assert removed.read_bytes() == (folder / "whole" / removed.name).read_bytes()
    assert degrade(*common, "--out", "part/", "--skip-existing", "--quiet") == 0
    assert degrade(*common, "--out", "part/", "--skip-existing", "--overwrite") == 2


@pytest.mark.parametrize("again", ["--skip-existing", "--overwrite"])
def test_results_are_no_images_to_be_degraded(capsys, folder, again):
    """Whether they lie beside the images or in a folder of theirs."""
    (folder / "in").mkdir()
    scene().save("in/a.png")
    for out in ("in", "in/results/"):
        command = ("in/a.png" if out == "in" else "in", "--op", "blur", "--t", 9, "--out", out)
        assert degrade(*command) == 0
        before = sorted(path.name for path in folder.rglob("*"))
        assert degrade("in", *command[1:], again) == 0
        assert "left out" in capsys.readouterr().err
        assert sorted(path.name for path in folder.rglob("*")) == before
        (folder / "in" / "a-blur-t9.png").unlink(missing_ok=True)


def test_images_of_one_name_do_not_meet(folder):
    """A photograph often lies beside its other formats; a result is called the same whichever is given."""
    (folder / "in").mkdir()
    for name in ("a.jpg", "a.png", "a.WEBP", "b.jpg"):
        scene().save(f"in/{name}")
    named = [
        "a-downsample-t1.png",
        "a.WEBP-downsample-t1.png",
        "a.jpg-downsample-t1.png",
        "b-downsample-t1.png",
    ]
    assert degrade("in", "--t", 1, "--out", "whole/") == 0
    assert sorted(path.name for path in (folder / "whole").iterdir()) == named
    for path in sorted((folder / "in").iterdir()):
        assert degrade(path, "--t", 1, "--out", "single/") == 0
    assert sorted(path.name for path in (folder / "single").iterdir()) == named
