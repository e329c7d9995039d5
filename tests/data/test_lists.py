"""Lists of images: which files of a folder or zip count, and every way in which a list can be wrong."""

import pytest
from test_data import fill, pack, png

from ssdiff.data import image_sizes, native_sizes, open_data
from ssdiff.data.lists import read_list
from ssdiff.errors import DataError, UsageError

FILES = {"a.png": png(0), "b.png": png(1), "sub/c.png": png(2, 9)}


@pytest.fixture
def load(tmp_path):
    return lambda source, **options: open_data(
        source, size=8, channels=3, cache=tmp_path / "cache", **options
    )


@pytest.fixture
def listed(tmp_path):
    def write(text):
        path = tmp_path / "list.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_only_listed_images_count(kind, tmp_path, load, listed):
    source = fill(tmp_path / "set", FILES) if kind == "folder" else pack(tmp_path / "set.zip", FILES)
    whole = load(source)
    data = load(source, names=listed("\n./sub/c.png\r\na.png\n\n"))
    assert len(data) == 2 and (data.images == whole.images[[0, 2]]).all()
    assert load(source, names=listed("a.png\nsub/c.png")).fingerprint == data.fingerprint
    assert load(source).fingerprint == whole.fingerprint != data.fingerprint
    assert native_sizes(source, listed("a.png\nb.png")) == {(8, 8)}
    assert len(image_sizes(source)) == 3


def test_a_part_of_a_numbered_list(tmp_path, load, listed):
    folder = fill(tmp_path / "set", FILES)
    names = listed("a.png 0\nb.png\t1\nsub/c.png   0\n")
    assert len(load(folder, names=names, part=0)) == 2
    assert len(load(folder, names=names, part=1)) == 1
    with pytest.raises(DataError, match=r"part 2 of .* lists no image; it has the parts 0, 1"):
        load(folder, names=names, part=2)
    with pytest.raises(DataError, match=r"not there: a\.png 0, b\.png\t1.*; .*--data-part"):
        load(folder, names=names)


@pytest.mark.parametrize(
    ("text", "part", "message"),
    [
        ("", None, "lists no image"),
        ("\n \n", None, "lists no image"),
        ("a.png\nb.png\na.png", None, r"line 3: a\.png is listed twice"),
        ("a.png\n./a.png", None, r"line 2: a\.png is listed twice"),
        ("../a.png", None, r"line 1: '\.\./a\.png' leads outside"),
        ("sub/../../a.png", None, "leads outside"),
        ("/etc/a.png", None, "leads outside"),
        ("C:\\a.png", None, "leads outside"),
        ("a.png\nb.png 0", 0, r"line 1: 'a\.png' does not end in the number"),
        (b"\xff\xfe", None, "not UTF-8"),
        (
            "a.png\nd.png\ne.png\nf.png\ng.png",
            None,
            r"4 of 5 images .* not there: d\.png, e\.png, f\.png, \.\.\.",
        ),
        ("a.png\nnotes.txt", None, r"1 of 2 images .* not there: notes\.txt"),
    ],
)
def test_what_is_wrong_with_a_list(text, part, message, tmp_path, load, listed):
    folder = fill(tmp_path / "set", {**FILES, "notes.txt": b"x"})
    with pytest.raises(DataError, match=message) as caught:
        load(folder, names=listed(text), part=part)
    assert caught.value.code == 3 and "\n" not in str(caught.value)


def test_lists_that_are_not_there_or_have_no_use(tmp_path, load, listed):
    with pytest.raises(DataError, match="there is no list of images"):
        load(fill(tmp_path / "set", FILES), names=tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="cannot read"):
        read_list(tmp_path)
    with pytest.raises(UsageError, match="a part is chosen by a list"):
        load(tmp_path / "set", part=1)
    with pytest.raises(UsageError, match=r"data\.list .* shapes has none"):
        load("shapes", names=listed("a.png"))
    with pytest.raises(UsageError, match=r"data\.classes_from .* shapes has none"):
        load("shapes", classes_from="prefix")


def test_a_class_before_the_underscore(tmp_path, load, listed):
    names = ["n02_1.png", "n01_1.png", "deep/n01_2_x.png", "n03_9.png"]
    folder = fill(tmp_path / "set", {name: png(k) for k, name in enumerate(names)})
    data = load(folder, classes_from="prefix")
    assert data.class_names == ("n01", "n02", "n03")
    assert data.labels.tolist() == [0, 0, 1, 2]  # in the order of the names: deep/, n01, n02, n03
    plain = load(folder)
    assert plain.labels is None and plain.fingerprint != data.fingerprint
    few = load(folder, classes_from="prefix", names=listed("n03_9.png\nn01_1.png"))
    assert few.class_names == ("n01", "n03") and few.labels.tolist() == [0, 1]
    assert load(pack(tmp_path / "set.zip", {"x_1.png": png(0)}), classes_from="prefix").class_names == ("x",)


@pytest.mark.parametrize("name", ["plain.png", "_1.png", "a_b/plain.png"])
def test_a_name_without_a_prefix(name, tmp_path, load):
    with pytest.raises(DataError, match=rf"{name} has no class before an underscore"):
        load(fill(tmp_path / "set", {name: png(0)}), classes_from="prefix")
