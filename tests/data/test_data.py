"""Sources of images and the prepared cache."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import resource
import struct
import sys
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from ssdiff.config import DataSettings
from ssdiff.data import DATA_NAMES, evenly, open_data, sources
from ssdiff.data import cache as data_cache
from ssdiff.data.shapes import draw
from ssdiff.errors import DataError, ResourceError, UsageError
from ssdiff.images.resize import SCALINGS


def png(seed, size=8, mode="RGB"):
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def pack(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def load(cache):
    def load(source, **options):
        return open_data(source, **{"size": 8, "channels": 3, "cache": cache, **options})

    return load


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(*_):
        raise AssertionError("a file was decoded")

    return lambda: monkeypatch.setattr(sources.Fit, "decode", refuse)


# Room for crops


def test_images_with_room_for_crops_show_their_middle(tmp_path, load, no_decoding):
    folder = fill(tmp_path / "set", {f"{k}.png": png(k, 20) for k in range(3)})
    data = load(folder, resize="stretch", margin=1.12, size=10)
    assert data.whole.shape == (3, 3, 11, 11) and data.images.shape == (3, 3, 10, 10)
    assert (data.images == data.whole[:, :, :10, :10]).all()  # a half goes to the even number
    assert data.folder.parent.name == "prepared" and not data.images.flags.writeable
    assert data.to_dict()["side"] == 11 and "10 px in 11 px for crops" in str(data)
    wider = load(folder, resize="stretch", margin=1.3, size=10)
    assert (wider.images == wider.whole[:, :, 2:12, 2:12]).all() and wider.whole.shape[-1] == 13
    no_decoding()
    assert load(folder, resize="stretch", margin=1.12, size=10).fingerprint == data.fingerprint


def test_every_way_of_scaling_has_a_set_of_its_own(tmp_path, load):
    folder = fill(tmp_path / "set", {f"{k}.png": png(k, 33) for k in range(2)})
    sets = [load(folder, **options) for options in ({}, *({"resize": way} for way in SCALINGS[1:]))]
    sets += [load(folder, margin=1.5), load(folder, size=12)]
    assert len({data.folder for data in sets}) == len(sets)
    assert (sets[-2].whole == sets[-1].whole).all() and sets[-2].fingerprint != sets[-1].fingerprint


def test_sets_prepared_before_serve_on(tmp_path, load):
    """The key and the fingerprint of version 0.2.0."""
    data = load(fill(tmp_path / "set", {"a.png": png(0)}))
    source = sources.FolderSource(tmp_path / "set")
    digest = hashlib.sha256(f"{data_cache.FORMAT} 8 3 1.0\n".encode())
    for line in source.identity():
        digest.update(line.encode() + b"\n")
    assert data.folder.name == digest.hexdigest()
    assert data.fingerprint == hashlib.sha256(b"(3, 8, 8)" + data.images.tobytes()).hexdigest()


def test_the_ways_of_scaling_are_those_of_presets():
    [ways] = [get_args(DataSettings.model_fields["resize"].annotation)]
    assert ways == SCALINGS


# Folders


def test_a_folder_is_searched_and_sorted(tmp_path, load):
    names = ["b.PNG", "a.png", "sub/deep/c.Png", "Z.png"]
    folder = fill(tmp_path / "set", {name: png(k) for k, name in enumerate(names)})
    fill(folder, {"notes.txt": b"x", ".hidden.png": b"x", ".git/x.png": b"x", "__MACOSX/x.png": b"x"})
    data = load(folder)
    assert len(data) == 4 and data.images.dtype == np.uint8 and not data.images.flags.writeable
    for row, name in enumerate(sorted(names)):
        expected = np.asarray(Image.open(io.BytesIO(png(names.index(name))))).transpose(2, 0, 1)
        assert (data.images[row] == expected).all()
    assert data.labels is None and data.class_names == () and data.source == str(folder.resolve())


def test_links_are_followed_and_loops_end(tmp_path, load):
    folder = fill(tmp_path / "set", {"a/1.png": png(1)})
    fill(tmp_path / "other", {"2.png": png(2)})
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "b").symlink_to(tmp_path / "other")
    (folder / "broken.png").symlink_to(tmp_path / "nowhere")
    assert len(load(folder)) == 2


def test_batches_gather_rows(tmp_path, load):
    data = load(fill(tmp_path / "set", {f"{k}.png": png(k) for k in range(5)}))
    batch = data.batch(torch.tensor([3, 0, 3]))
    assert batch.dtype == torch.uint8 and batch.shape == (3, 3, 8, 8)
    assert torch.equal(batch[0], batch[2]) and (batch[1].numpy() == data.images[0]).all()
    batch.zero_()
    assert data.images.any()


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        (["cat/1.png", "dog/1.png", "cat/x/2.png"], ("cat", "dog"), [0, 0, 1]),
        (["all/cat/1.png", "all/dog/1.png"], ("cat", "dog"), [0, 1]),
        (["cat/1.png", "dog/1.png", "3.png"], (), None),
        (["cat/1.png", "cat/2.png"], (), None),
        (["1.png"], (), None),
    ],
)
def test_folders_side_by_side_are_classes(kind, names, classes, labels, tmp_path, load):
    files = {name: png(0) for name in names}
    data = load(fill(tmp_path / "set", files) if kind == "folder" else pack(tmp_path / "set.zip", files))
    assert data.class_names == classes
    assert (None if data.labels is None else data.labels.tolist()) == labels
    assert data.labels is None or data.labels.dtype == np.int64


def test_any_image_becomes_the_wanted_size_and_channels(tmp_path, load):
    folder = fill(tmp_path / "set", {"grey.png": png(0, 20, "L"), "small.png": png(1, 3), "same.png": png(2)})
    assert load(folder, channels=1).images.shape == (3, 1, 8, 8)
    data = load(folder)
    assert data.images.shape == (3, 3, 8, 8)
    assert (data.images[0, 0] == data.images[0, 2]).all()  # grey.png comes first


def saved(image, ending="png"):
    stream = io.BytesIO()
    image.save(stream, ending)
    return stream.getvalue()


def test_a_set_of_other_channels_is_converted_where_that_is_wanted(tmp_path, load):
    """Row 10 of docs/faults.md: a few grey images among others are usual, a whole set is a mistake."""
    folder = fill(tmp_path / "grey", {f"{k}.png": png(k, mode="L") for k in range(4)})
    for _ in range(2):
        with pytest.raises(DataError, match=r"all 4 images.*grey \(mode L; 0\.png\).*3 channels") as caught:
            load(folder, convert="some")
        assert "data.channels = 1" in caught.value.hint and 'data.convert = "all"' in caught.value.hint
    assert len(load(folder, convert="some", channels=1)) == 4
    assert load(folder).notes == ("4 of 4 images are grey, taken as RGB",)

    mixed = fill(tmp_path / "mixed", {"0.png": png(0), "1.png": png(1, mode="L"), "2.png": png(2)})
    data = load(mixed, convert="some")
    assert data.notes == ("1 of 3 images are grey, taken as RGB",)
    assert (data.images[1] == data.images[1, 0]).all() and (data.images[0] != data.images[0, 0]).any()
    assert load(mixed, convert="some", channels=1).notes == ("2 of 3 images are coloured, taken as grey",)
    with pytest.raises(DataError, match=r"1 of 3 images.*mode L; 1\.png"):
        load(mixed, convert="none")
    with pytest.raises(UsageError, match="convert"):
        load(mixed, convert="few")


@pytest.mark.parametrize(
    ("mode", "ending", "grey"),
    [
        *(("1", "png", True), ("L", "jpeg", True), ("LA", "png", True), ("I;16", "png", True)),
        *(("P", "gif", False), ("RGB", "jpeg", False), ("RGBA", "png", False), ("CMYK", "jpeg", False)),
    ],
)
def test_what_counts_as_grey(mode, ending, grey, tmp_path, load):
    image = Image.effect_mandelbrot((8, 8), (-2, -1, 1, 1), 9).convert("L")
    coloured = Image.merge("RGB", (image, image.rotate(90), image.rotate(180))).quantize(8)
    made = (
        coloured
        if mode == "P"
        else (image if grey else coloured).convert("L" if grey else "RGB").convert(mode)
    )
    folder = fill(tmp_path / "set", {f"0.{ending}": saved(made, ending)})
    assert len(load(folder, convert="none", channels=1 if grey else 3)) == 1
    with pytest.raises(DataError, match="mode"):
        load(folder, convert="some", channels=3 if grey else 1)


def test_a_palette_is_grey_if_what_is_used_of_it_is(tmp_path, load):
    image = Image.new("P", (8, 8))
    image.putpalette([0, 0, 0, 90, 90, 90, 255, 0, 0])
    image.putpixel((1, 1), 1)
    folder = fill(tmp_path / "set", {"0.png": saved(image)})
    assert len(load(folder, convert="none", channels=1)) == 1
    image.putpixel((2, 2), 2)
    fill(folder, {"0.png": saved(image)})
    assert len(load(folder, convert="none", channels=3)) == 1


def test_a_single_file_may_be_bad_in_any_set(tmp_path, load):
    folder = fill(tmp_path / "set", {"0.png": png(0), "1.png": b"bad"})
    assert len(load(folder, corrupt="skip").skipped) == 1


@pytest.mark.parametrize("kind", ["missing", "empty", "other files", "empty zip"])
def test_missing_and_empty_sources(kind, tmp_path, load):
    source = tmp_path / "set"
    if kind == "empty zip":
        source = pack(tmp_path / "set.zip", {"a.txt": b""})
    elif kind != "missing":
        fill(source, {"a.txt": b""} if kind == "other files" else {})
        source.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=str(source)) as caught:
        load(source)
    assert caught.value.code == 3
    assert kind == "missing" or ".jpeg" in str(caught.value)


def test_names_are_suggested_and_settings_checked(tmp_path, load):
    with pytest.raises(DataError, match=r"did you mean fashion-mnist\?"):
        load("fashion-mist")
    with pytest.raises(DataError, match="no zip"):
        load(fill(tmp_path, {"x.png": png(0)}) / "x.png")
    for bad in ({"size": 0}, {"channels": 4}, {"background": 2.0}, {"corrupt": "ignore"}):
        with pytest.raises(UsageError):
            load("shapes", **bad)


# Unreadable files


def test_the_first_bad_file_is_named(tmp_path, load, cache):
    folder = fill(tmp_path / "set", {f"{k}.png": png(k) for k in range(4)})
    fill(folder, {"2.png": png(2)[:60], "3.png": b"no image"})
    with pytest.raises(DataError, match=r"2\.png.*corrupt") as caught:
        load(folder)
    assert caught.value.path.endswith("2.png")
    assert not [path for path in (cache / "prepared").iterdir() if path.is_dir()]


def test_few_bad_files_can_be_skipped(tmp_path, load):
    files = {f"{'ab'[k % 2]}/{k:03}.png": png(k) for k in range(120)}
    folder = fill(tmp_path / "set", {**files, "b/003.png": b"bad"})
    data = load(folder, corrupt="skip")
    assert len(data) == len(data.labels) == 119 and np.bincount(data.labels).tolist() == [60, 59]
    ((name, reason),) = data.skipped
    assert name.endswith("b/003.png") and "not an image" in reason
    again = load(folder, corrupt="skip")
    assert again.skipped == data.skipped and again.fingerprint == data.fingerprint
    with pytest.raises(DataError, match=r"b/003\.png"):
        load(folder)
    fill(folder, {"a/000.png": b"bad"})
    with pytest.raises(DataError, match=r"2 of 120 files.*more than 1%"):
        load(folder, corrupt="skip")
    with pytest.raises(DataError, match="no readable image"):
        load(fill(tmp_path / "single", {"1.png": b"bad"}), corrupt="skip")


def test_a_higher_pixel_limit_brings_skipped_images_back(tmp_path, load):
    folder = fill(tmp_path / "set", {"1.png": png(1), "2.png": png(2, 12)})
    assert len(load(folder, corrupt="skip", max_pixels=100)) == 1
    with pytest.raises(DataError, match="144 pixels"):
        load(folder, max_pixels=100)
    assert len(load(folder)) == 2


# Zip files


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_in_place(method, tmp_path, load, monkeypatch):
    files = {f"{k:03}.png": png(k) for k in range(7)}
    path = pack(tmp_path / "set.zip", files, method)
    monkeypatch.setattr(data_cache, "_BLOCK", 2)  # several threads
    data = load(path)
    assert data.fingerprint == load(fill(tmp_path / "set", files)).fingerprint
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "set", "set.zip"]


@pytest.mark.parametrize(
    "name", ["../a.png", "/a.png", "x/../../a.png", "C:\\a.png", "..\\a.png", "../notes.txt", "../folder/"]
)
def test_members_that_lead_outside(name, tmp_path, load):
    with pytest.raises(DataError, match="leads outside") as caught:
        load(pack(tmp_path / "set.zip", {"ok.png": png(0), name: b""}))
    assert repr(name) in str(caught.value) and "nothing was extracted" in str(caught.value)
    assert not (tmp_path.parent / "a.png").exists()


def test_encrypted_linked_and_exotic_members(tmp_path, load):
    path = pack(tmp_path / "set.zip", {"x.png": png(0)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"'x\.png' is encrypted"):
        load(path)
    link = zipfile.ZipInfo("x.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"'x\.png' is a symbolic link"):
        load(path)
    with pytest.raises(DataError, match=r"'x\.png' is compressed by method 12"):
        load(pack(path, {"x.png": png(0)}, zipfile.ZIP_BZIP2))


def test_bombs_are_refused_by_their_declared_size(tmp_path, load, no_decoding):
    no_decoding()
    path = pack(tmp_path / "set.zip", {"x.bmp": bytes(2**25 + 1)})
    with pytest.raises(DataError, match=r"'x\.bmp' claims to expand"):
        load(path)
    with pytest.raises(DataError, match=r"'x\.bmp' claims 33,554,433 bytes"):
        load(path, max_pixels=1000)


def test_a_lying_size_cannot_fill_the_memory(tmp_path, load):
    path = pack(tmp_path / "set.zip", {"x.bmp": bytes(2**22)})
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + 24  # the declared size
    content[start : start + 4] = struct.pack("<I", 1000)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.bmp"):
        load(path)


def test_a_damaged_member_is_named(tmp_path, load):
    path = pack(tmp_path / "set.zip", {"a.png": png(0), "b.png": png(1)}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(png(1)) + 50] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.zip: b\.png.*CRC"):
        load(path)


def test_a_truncated_zip(tmp_path, load):
    path = pack(tmp_path / "set.zip", {"a.png": png(0)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="zip"):
        load(path)


# The cache


def test_the_second_opening_decodes_nothing(tmp_path, load, no_decoding):
    folder = fill(tmp_path / "set", {f"{k}.png": png(k) for k in range(3)})
    calls = []
    first = load(folder, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 3)]
    no_decoding()
    second = load(folder, progress=lambda *_: pytest.fail("built again"))
    assert (second.images == first.images).all() and second.fingerprint == first.fingerprint


def test_settings_have_sets_of_their_own(tmp_path, load, cache):
    folder = fill(tmp_path / "set", {"1.png": png(1)})
    for options in ({}, {"size": 4}, {"channels": 1}, {"background": 0.0}):
        load(folder, **options)
    assert len([path for path in (cache / "prepared").iterdir() if path.is_dir()]) == 4


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("change", ["content", "name", "more", "less"])
def test_a_changed_source_is_prepared_again(kind, change, tmp_path, load):
    files = {f"{k}.png": png(k) for k in range(3)}

    def write(files):
        if kind == "zip":
            return pack(tmp_path / "set.zip", files)
        for path in (tmp_path / "set").glob("*"):
            path.unlink()
        fill(tmp_path / "set", files)
        for k, path in enumerate((tmp_path / "set").iterdir()):
            os.utime(path, ns=(0, next(clock) * 10**9 + k))
        return tmp_path / "set"

    clock = itertools.count(1)
    before = load(write(files))
    if change == "content":
        files["1.png"] = png(99)
    elif change == "name":
        files = {"x.png" if name == "0.png" else name: content for name, content in files.items()}
    elif change == "more":
        files["9.png"] = png(9)
    else:
        del files["1.png"]
    after = load(write(files))
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_is_that_of_the_pixels(tmp_path, load):
    files = {f"{k}.png": png(k) for k in range(3)}
    one, other = load(fill(tmp_path / "one", files)), load(fill(tmp_path / "other", files))
    assert one.fingerprint == other.fingerprint and len(one.fingerprint) == 64
    assert load(fill(tmp_path / "third", {**files, "0.png": png(7)})).fingerprint != one.fingerprint


@pytest.mark.parametrize("damage", ["shorter", "manifest", "no manifest", "no images", "other shape"])
def test_a_damaged_cache_is_made_again(damage, tmp_path, load, cache):
    folder = fill(tmp_path / "set", {f"{k}.png": png(k) for k in range(3)})
    expected = np.array(load(folder).images)
    (made,) = (path for path in (cache / "prepared").iterdir() if path.is_dir())
    if damage == "shorter":
        os.truncate(made / "images.npy", 200)
    elif damage == "manifest":
        (made / "manifest.json").write_text("{")
    elif damage == "other shape":
        manifest = json.loads((made / "manifest.json").read_text())
        (made / "manifest.json").write_text(json.dumps({**manifest, "count": 2}))
    else:
        (made / ("manifest.json" if damage == "no manifest" else "images.npy")).unlink()
    assert (load(folder).images == expected).all()


def test_several_builders_at_once(tmp_path, load, cache):
    folder = fill(tmp_path / "set", {f"{k}.png": png(k, 32) for k in range(60)})
    builds = []
    with ThreadPoolExecutor(4) as pool:
        sets = list(pool.map(lambda _: load(folder, progress=lambda *call: builds.append(call)), range(4)))
    assert len({data.fingerprint for data in sets}) == 1
    assert builds == [(60, 60)]
    assert len([path for path in (cache / "prepared").iterdir() if path.is_dir()]) == 1


def test_without_locks_the_first_to_finish_wins(tmp_path, load, cache, monkeypatch):
    class NoLock:
        def __init__(self, _path):
            pass

        def acquire(self):
            raise NotImplementedError

    monkeypatch.setattr(data_cache, "FileLock", NoLock)
    folder = fill(tmp_path / "set", {"1.png": png(1)})
    rival = []
    data = load(folder, progress=lambda *_: rival or rival.append(True) or rival.append(load(folder)))
    assert data.fingerprint == rival[1].fingerprint
    assert len(list((cache / "prepared").iterdir())) == 1


def test_a_build_that_fails_leaves_nothing(tmp_path, load, cache):
    folder = fill(tmp_path / "set", {"1.png": png(1)})

    def stop(*_):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        load(folder, progress=stop)
    assert not [path for path in (cache / "prepared").iterdir() if path.is_dir()]
    assert len(load(folder)) == 1


@pytest.fixture
def begun(tmp_path, load, cache, monkeypatch):
    """A set of ten images in blocks of two, one of which cannot be read, stopped after three blocks; its
    staging folder; and a function that goes on and tells how many images it decoded."""
    monkeypatch.setattr(data_cache, "_BLOCK", 2)
    monkeypatch.setattr(data_cache, "_SKIP_SHARE", 0.2)
    files = {f"{k}.png": png(k) for k in range(9)} | {"3.png": b"no image"}
    folder = fill(tmp_path / "set", {f"{name[0]}/{name}": content for name, content in files.items()})
    decoded, decode = [], sources.Fit.decode

    def counted(self, stream, name):
        decoded.append(name)
        return decode(self, stream, name)

    monkeypatch.setattr(sources.Fit, "decode", counted)

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(folder, corrupt="skip", progress=stop)
    (partial,) = (path for path in (cache / "prepared").iterdir() if path.is_dir())

    def go_on(**options):
        decoded.clear()
        found = load(folder, **{"corrupt": "skip", **options})
        assert not partial.exists() and not list((cache / "prepared").glob("*/*.jsonl"))
        return found, len(decoded)

    return partial, go_on


def straight(partial, load):
    """The same set, prepared at once."""
    return load(partial.parents[2] / "set", corrupt="skip", cache=partial.parents[2] / "other")


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


def assert_same_set(found, expected):
    assert found.fingerprint == expected.fingerprint and found.skipped == expected.skipped
    assert np.array_equal(found.images, expected.images) and np.array_equal(found.labels, expected.labels)


def test_a_build_that_was_stopped_is_gone_on_with(begun, load):
    partial, go_on = begun
    found, decoded = go_on()
    assert decoded == 3, "of nine files six were done"
    assert_same_set(found, straight(partial, load))


@pytest.mark.parametrize(
    ("damage", "decoded"),
    [
        (lambda images, journal: images.write_bytes(images.read_bytes()[:-1]), 5),
        (lambda images, journal: images.write_bytes(images.read_bytes() + b"torn"), 3),
        (lambda images, journal: images.write_bytes(images.read_bytes()[:150] + bytes(500)), 9),
        (lambda images, journal: images.unlink(), 9),
        (lambda images, journal: journal.write_bytes(journal.read_bytes()[:-20]), 5),
        (lambda images, journal: journal.write_bytes(journal.read_bytes() + b'{"stop"'), 3),
        (lambda images, journal: journal.write_bytes(b"[]\n" + journal.read_bytes()), 9),
        (lambda images, journal: journal.unlink(), 9),
        (lambda images, journal: as_pipe(images), 9),
        (lambda images, journal: as_pipe(journal), 9),
    ],
)
def test_what_a_kill_or_a_crash_tore_is_made_again(begun, load, damage, decoded):
    partial, go_on = begun
    damage(partial / "images.npy", partial / "blocks.jsonl")
    found, count = go_on()
    assert count == decoded
    assert_same_set(found, straight(partial, load))


def test_a_file_that_was_left_out_is_read_again_where_that_is_an_error(begun, load):
    _, go_on = begun
    with pytest.raises(DataError, match=r"3\.png"):
        go_on(corrupt="error")


def test_what_nobody_went_on_with_for_a_week_is_removed(begun, load, tmp_path):
    partial, _ = begun
    journal = partial / "blocks.jsonl"
    os.utime(journal, (journal.stat().st_mtime - 8 * 86400,) * 2)
    load(fill(tmp_path / "another", {"1.png": png(1)}))
    assert not partial.exists()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_a_pipe_in_a_prepared_set_is_not_waited_for(begun, load, name):
    _, go_on = begun
    found, _ = go_on()
    as_pipe(Path(found.images.filename).with_name(name))
    assert_same_set(go_on()[0], found)


def test_leftovers_of_a_killed_build_are_removed(tmp_path, load, cache):
    folder = fill(tmp_path / "set", {"1.png": png(1)})
    load(folder)
    (made,) = (path for path in (cache / "prepared").iterdir() if path.is_dir())
    leftover = made.with_name(f".{made.name[:16]}-dead")
    made.rename(leftover)
    load(folder)
    assert made.is_dir() and not leftover.exists()


def test_full_disks_and_bad_places(tmp_path, load, cache, monkeypatch):
    folder = fill(tmp_path / "set", {f"{k}.png": png(k) for k in range(9)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ResourceError, match="SSDIFF_HOME"):
            load(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in (cache / "prepared").iterdir() if path.is_dir()]
    usage = types.SimpleNamespace(free=10)
    monkeypatch.setattr(data_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match=r"needs 1,728 bytes.*10 are free"):
        load(folder)
    with pytest.raises(ResourceError, match="cannot prepare"):
        load(folder, cache=folder / "0.png")


# Sets with names


def test_shapes(load, monkeypatch):
    monkeypatch.setattr("ssdiff.data.builtin.SHAPES_COUNT", 300)
    data = load("shapes", size=12)
    images, labels = draw(300, 12)
    assert (data.images == images.numpy()).all() and (data.labels == labels.numpy()).all()
    assert len(data.class_names) == 8 and data.source == "shapes"
    assert load("shapes", channels=1).images.shape == (300, 1, 8, 8)


def idx(array, dimensions):
    return struct.pack(f">BBBB{dimensions}I", 0, 0, 8, dimensions, *array.shape) + array.tobytes()


@pytest.fixture
def digits():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (5, 8, 8), np.uint8), np.array([3, 1, 4, 1, 9], np.uint8)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_of_idx_files(zipped, digits, tmp_path, load):
    images, labels = digits
    files = {"train-images-idx3-ubyte": idx(images, 3), "train-labels-idx1-ubyte": idx(labels, 1)}
    files["t10k-images-idx3-ubyte"] = b"not looked at"
    if zipped:
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    data = load(fill(tmp_path / "idx", files), channels=1)
    assert (data.images[:, 0] == images).all() and data.labels.tolist() == [3, 1, 4, 1, 9]
    assert data.class_names == tuple("0123456789")
    assert load(tmp_path / "idx").images.shape == (5, 3, 8, 8)


def test_damaged_idx_files(digits, tmp_path, load):
    images, labels = digits
    name, folder = "train-images-idx3-ubyte", tmp_path / "idx"
    for content, words in [
        (idx(images, 3)[:-1], "ends after 319 of 320"),
        (b"\0\0\x0d\3" + idx(images, 3)[4:], "not an idx file"),
        (b"\0\0", "not an idx file"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 4), "claims"),
    ]:
        with pytest.raises(DataError, match=words):
            load(fill(folder, {name: content}))
    assert load(fill(folder, {name: idx(images, 3)})).labels is None
    for bad in (labels[:4], labels + 1):
        with pytest.raises(DataError, match="labels"):
            load(fill(folder, {"train-labels-idx1-ubyte": idx(bad, 1)}))
    (folder / name).unlink()
    with pytest.raises(DataError, match=r"cannot read.*gz"):
        load(fill(folder, {f"{name}.gz": gzip.compress(idx(images, 3))[:40]}))


def torchvision_with(monkeypatch, **classes):
    module = types.ModuleType("torchvision")
    module.datasets = types.SimpleNamespace(**classes)
    monkeypatch.setitem(sys.modules, "torchvision", module)


def test_mnist_is_downloaded_once(digits, cache, load, monkeypatch):
    images, labels = digits
    downloads = []

    def dataset(root, train, download):
        downloads.append((train, download))
        files = {"train-images-idx3-ubyte": idx(images, 3), "train-labels-idx1-ubyte": idx(labels, 1)}
        fill(Path(root) / "FashionMNIST" / "raw", files)

    torchvision_with(monkeypatch, FashionMNIST=dataset)
    data = load("fashion-mnist")
    assert data.class_names[9] == "ankle boot" and data.source == "fashion-mnist" and len(data) == 5
    assert len(load("fashion-mnist", size=4)) == 5
    assert downloads == [(True, True)]


def test_cifar10(cache, load, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)

    def dataset(root, train, download):
        if not (Path(root) / "cifar-10-batches-py").exists():
            fill(Path(root), {f"cifar-10-batches-py/data_batch_{k}": b"x" for k in range(1, 6)})
        return types.SimpleNamespace(data=pixels, targets=[0, 1, 2, 3, 4, 9])

    torchvision_with(monkeypatch, CIFAR10=dataset)
    data = load("cifar10")
    assert (data.images == pixels.transpose(0, 3, 1, 2)).all() and data.labels.tolist() == [0, 1, 2, 3, 4, 9]
    torchvision_with(monkeypatch)  # not needed any more
    assert load("cifar10").class_names[9] == "truck"


def test_celeba_takes_the_training_split(cache, load):
    folder = cache / "torchvision" / "celeba"
    fill(folder / "img_align_celeba", {f"{k:06}.jpg": png(k, 10) for k in range(6)})
    rows = [f"{k:06}.jpg {int(k in (1, 4))}" for k in range(6)]
    fill(folder, {"list_eval_partition.txt": "\n".join(rows).encode()})
    data = load("celeba")
    assert len(data) == 4 and data.source == "celeba" and data.labels is None


def test_a_failed_download_says_what_else_works(cache, load, monkeypatch):
    def offline(**_):
        raise RuntimeError("Error downloading\nTried everything")

    torchvision_with(monkeypatch, MNIST=offline, CIFAR10=offline, CelebA=offline)
    monkeypatch.setitem(sys.modules, "gdown", types.ModuleType("gdown"))
    for name in ("mnist", "cifar10", "celeba"):
        with pytest.raises(ResourceError, match=r"Tried everything; place the files there.*--data") as caught:
            load(name)
        assert str(cache) in str(caught.value) and "\n" not in str(caught.value)


def test_a_broken_torchvision_names_both_builds(load, monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "torchvision", Broken("torchvision"))
    with pytest.raises(
        ResourceError, match=r"torchvision \S+ does not.*nms.*pip install --force-re"
    ) as caught:
        load("mnist")
    assert torch.__version__ in str(caught.value)


class FakeLmdb(types.ModuleType):
    """As much of lmdb as is used."""

    Error = type("Error", (Exception,), {})

    def __init__(self, records):
        super().__init__("lmdb")
        self.records, self.closed = records, False

    def open(self, path, **options):
        assert options["readonly"]
        if not self.records:
            raise self.Error("damaged")
        return self

    def begin(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def cursor(self):
        return self

    def iternext(self, keys, values):
        return iter(sorted(self.records))

    def get(self, key):
        return self.records[key]

    def close(self):
        self.closed = True


def test_lsun(cache, load, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match="bedroom_train_lmdb"):
        load("lsun-bedroom")
    fill(cache / "torchvision" / "bedroom_train_lmdb", {"data.mdb": b"x"})
    with pytest.raises(ResourceError, match=r"scale-space-diffusion\[data\]"):
        load("lsun-bedroom")
    lmdb = FakeLmdb({b"a1": png(1), b"a0": png(0)})
    monkeypatch.setitem(sys.modules, "lmdb", lmdb)
    data = load("lsun-bedroom")
    assert len(data) == 2 and data.labels is None and lmdb.closed
    monkeypatch.setitem(sys.modules, "lmdb", FakeLmdb({}))
    with pytest.raises(DataError, match="damaged"):
        load("lsun-bedroom")


@pytest.mark.parametrize(("total", "count"), [(1, 1), (7, 1), (7, 2), (7, 7), (7, 50), (20_001, 500)])
def test_evenly_spread_numbers(total, count):
    numbers = evenly(total, count)
    assert numbers.dtype == np.int64 and len(numbers) == min(total, count)
    assert numbers[0] == 0 and (numbers[-1] == total - 1 or count == 1)
    gaps = np.diff(numbers)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_every_name_is_known():
    assert {"shapes", "cifar10", "mnist", "fashion-mnist", "celeba", "lsun-bedroom"} < set(DATA_NAMES)


def test_a_damaged_table_of_labels_in_a_zip_is_named(tmp_path, load):
    path = pack(
        tmp_path / "set.zip", {"a.png": png(0), "dataset.json": b'{"labels": null}'}, zipfile.ZIP_STORED
    )
    content = bytearray(path.read_bytes())
    content[content.index(b"labels")] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.zip: dataset\.json.*CRC"):
        load(path)


def test_a_pipe_among_the_files_of_a_set_is_not_waited_for(digits, tmp_path, load):
    folder = fill(tmp_path / "idx", {"train-images-idx3-ubyte": idx(digits[0], 3)})
    os.mkfifo(folder / "train-labels-idx1-ubyte")
    with pytest.raises(DataError, match="a pipe"):
        load(folder)


def test_labels_that_are_a_link_to_nothing_are_named(digits, tmp_path, load):
    folder = fill(tmp_path / "idx", {"train-images-idx3-ubyte": idx(digits[0], 3)})
    (folder / "train-labels-idx1-ubyte").symlink_to("gone")
    with pytest.raises(DataError, match=r"cannot read .*labels-idx1-ubyte: No such file"):
        load(folder)
