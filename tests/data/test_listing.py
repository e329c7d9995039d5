"""Which files of a folder or zip file count as images, and what is said of the others."""

import json
import os
import zipfile

import pytest
from PIL import Image

from ssdiff.data.listing import pick_images
from ssdiff.data.open import open_data
from ssdiff.errors import DataError


def save(path, colour=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (colour, 9, 9)).save(path, format="PNG")


def load(folder, cache, **options):
    return open_data(folder, size=8, channels=3, cache=cache, **options)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a.png", ".b.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/c.png"], ["a.png"]),
        (["cats/1.png", "__MACOSX/cats/._1.png", "$RECYCLE.BIN/x.jpg"], ["cats/1.png"]),
        (["train/a/1.png", "val/a/2.png", "test/b/3.png"], ["train/a/1.png"]),
        (["train/a/1.png", "cats/a/2.png"], ["cats/a/2.png", "train/a/1.png"]),  # a class of trains
        (["train/1.png", "2.png"], ["2.png", "train/1.png"]),
        (["val/1.png", "test/2.png"], ["test/2.png", "val/1.png"]),  # none is for training
    ],
)
def test_what_counts(names, wanted):
    assert list(pick_images(names).names) == wanted


def test_what_is_left_out_is_said():
    chosen = pick_images(["1.png", "2.heic", "3.HEIC", "4.avif", "notes.txt"])
    assert chosen.notes == ("left out 3 files that are not read here (1 .avif, 2 .heic): convert them first",)
    (note,) = pick_images(["train/1.png", "val/2.png", "val/3.png"]).notes
    assert "took train/ alone" in note and "val/ (2 images)" in note
    assert pick_images(["train/1.png", "val/2.png"], splits=False).notes == ()


def test_only_files_that_are_not_read(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.heic").touch()
    with pytest.raises(DataError, match=r"no images in .*1 \.heic"):
        load(tmp_path / "set", tmp_path)


def test_a_run_within_the_data_and_links_to_themselves(tmp_path):
    folder = tmp_path / "set"
    for name in ("a.png", "run/samples/step-1.png"):
        save(folder / name)
    (folder / "run" / "checkpoints").mkdir()
    (folder / "run" / "preset.toml").touch()
    os.symlink("self.png", folder / "self.png")
    found = load(folder, tmp_path)
    assert len(found) == 1
    assert sorted(found.notes) == [
        "left out run/, a run of ssdiff",
        "left out self.png, a link that leads to itself",
    ]


def test_classes_of_edm(tmp_path):
    folder = tmp_path / "set"
    for number in range(3):
        save(folder / "00000" / f"img{number}.png", number)
    labels = [[f"00000/img{number}.png", label] for number, label in enumerate((7, 10, 7))]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    found = load(folder, tmp_path)
    assert found.class_names == ("7", "10") and found.labels.tolist() == [0, 1, 0]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    assert load(tmp_path / "set.zip", tmp_path).labels.tolist() == [0, 1, 0]
    (folder / "dataset.json").write_text('{"labels": null}')
    assert load(folder, tmp_path).labels is None
    for damaged, words in (
        ("[", "is damaged"),
        ('{"labels": [["x.png", 1]]}', "no label for 00000/img0.png"),
    ):
        (folder / "dataset.json").write_text(damaged)
        with pytest.raises(DataError, match=words):
            load(folder, tmp_path)


def test_archives_of_windows(tmp_path):
    save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("cats\\1.png", "dogs\\1.png", "__MACOSX\\cats\\._1.png"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, b"junk" if "MACOSX" in name else (tmp_path / "a.png").read_bytes())
    found = load(tmp_path / "set.zip", tmp_path)
    assert found.class_names == ("cats", "dogs") and len(found) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images.npy", b""),
        ("images.npy", b"\x93NUMPY\x01\x00\x76\x00{(" + b" " * 400),
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b'{"max_pixels": Infinity}'),
    ],
)
def test_a_damaged_cache_is_made_again(tmp_path, name, content):
    save(tmp_path / "set" / "a.png")
    first = load(tmp_path / "set", tmp_path / "cache")
    (first.folder / name).write_bytes(content)
    again = load(tmp_path / "set", tmp_path / "cache")
    assert (
        again.fingerprint == first.fingerprint
        and (again.whole == load(tmp_path / "set", tmp_path).whole).all()
    )


def test_an_added_class_takes_nobodys_number(tmp_path):
    for name in ("cats/1.png", "dogs/1.png", "dogs/2.png"):
        save(tmp_path / "set" / name)
    before = load(tmp_path / "set", tmp_path)
    save(tmp_path / "set" / "ants" / "1.png", 77)
    after = load(tmp_path / "set", tmp_path).in_order(before.class_names)
    assert after.class_names == ("cats", "dogs", "ants") and sorted(after.labels.tolist()) == [0, 1, 1, 2]
    assert after.labels[after.whole[:, 0, 0, 0].argmax()] == 2
    gone = before.in_order(("birds", "cats"))
    assert gone.class_names == ("birds", "cats", "dogs") and gone.labels.tolist() == [1, 2, 2]
    assert before.in_order(before.class_names) is before
