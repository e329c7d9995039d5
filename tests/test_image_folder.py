"""A folder of images that a stopped job left half full: filled up by the same one, refused to others."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from children import die, in_child

import ssdiff
from ssdiff import generation
from ssdiff.errors import OutputError
from ssdiff.files import write_atomic
from ssdiff.generation import check_destination, generate
from ssdiff.image_folder import finished_images, record_job
from ssdiff.weights import single_file

N, OPTIONS = 11, {"steps": 2, "batch": 4}


@pytest.fixture(scope="module")
def pipe():
    return ssdiff.load(single_file.bundled(), device="cpu")


@pytest.fixture(scope="module")
def whole(pipe, tmp_path_factory):
    """What a job that nobody stopped leaves."""
    folder = tmp_path_factory.mktemp("whole") / "many"
    generate(pipe, N, folder, **OPTIONS)
    return contents(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def images_of(folder):
    return sorted(name for name in contents(folder) if name.endswith(".png"))


@pytest.fixture
def drawn(monkeypatch):
    """The parts that are drawn, as positions."""
    parts, draw = [], generation.Generation.draw
    monkeypatch.setattr(
        generation.Generation,
        "draw",
        lambda self, part, advance: parts.append(list(part)) or draw(self, part, advance),
    )
    return parts


def test_a_killed_job_goes_on_bit_for_bit(pipe, whole, drawn, tmp_path, monkeypatch):
    folder, saved = tmp_path / "many", []

    def killed():
        save = generation.images.save_image
        monkeypatch.setattr(
            generation.images,
            "save_image",
            lambda *what: die() if len(saved) >= 6 else (saved.append(1), save(*what))[1],
        )
        generate(pipe, N, folder, **OPTIONS)

    assert in_child(killed)[0] == -signal.SIGKILL
    before = contents(folder)
    assert 4 <= len(images_of(folder)) < N and all(
        whole[name] == data for name, data in before.items() if name in whole
    )
    times = {name: (folder / name).stat().st_mtime_ns for name in images_of(folder)}
    result = generate(pipe, N, folder, **OPTIONS)
    assert result.kept == len(times) and f"{result.kept} of them there already" in str(result)
    assert {name: data for name, data in contents(folder).items() if name in whole} == whole
    assert all((folder / name).stat().st_mtime_ns == then for name, then in times.items())
    assert drawn == [[4, 5, 6, 7], [8, 9, 10]]


def test_what_is_missing_alone_is_drawn(pipe, whole, drawn, tmp_path):
    folder = tmp_path / "many"
    for name, data in whole.items():
        write_atomic(folder / name, data)
    (folder / "000009.png").unlink()
    told = []
    result = generate(pipe, N, folder, progress=lambda *what: told.append(what), **OPTIONS)
    assert drawn == [[8, 9, 10]] and contents(folder) == whole and told[-1] == ("sampling", N, N)
    assert result.to_dict()["kept"] == N - 1
    drawn.clear()
    assert "all 11 images are there already" in str(generate(pipe, N, folder, **OPTIONS)) and drawn == []


def test_more_images_of_the_same(pipe, whole, drawn, tmp_path):
    folder = tmp_path / "many"
    generate(pipe, 4, folder, **OPTIONS)
    generate(pipe, N, folder, **OPTIONS)
    assert contents(folder) == whole and [4, 5, 6, 7] in drawn and drawn.count([0, 1, 2, 3]) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"steps": 3}, "steps"),
        ({"sampler": "ddim"}, 'sampler "dpm++", not "ddim"'),
        ({"guidance": 1.0}, "guidance"),
        ({"classes": ["star"]}, "classes"),
        ({"t": 700}, "timesteps"),
    ],
    ids=str,
)
def test_another_recipe_is_refused(pipe, tmp_path, change, words):
    folder = tmp_path / "many"
    generate(pipe, 2, folder, **OPTIONS)
    before = contents(folder)
    with pytest.raises(OutputError, match="images of another job") as caught:
        generate(pipe, 3, folder, **OPTIONS | change)
    assert words in str(caught.value) and "--overwrite" in str(caught.value) and contents(folder) == before
    generate(pipe, 2, folder, first=2, **OPTIONS | change)  # other numbers are another matter
    anew = check_destination(f"{folder}/", range(2), overwrite=True)
    assert generate(pipe, 2, anew, **OPTIONS | change).kept == 0
    assert generate(pipe, 2, folder, **OPTIONS | change).kept == 2


def test_other_weights_are_another_model(pipe, tmp_path):
    generate(pipe, 1, tmp_path / "many", **OPTIONS)
    other = ssdiff.load(single_file.bundled(), device="cpu")
    with torch.no_grad():
        next(iter(other.model.parameters())).view(-1)[0] += 1e-3
    with pytest.raises(OutputError, match="other weights"):
        generate(other, 2, tmp_path / "many", **OPTIONS)


def test_a_job_killed_while_it_replaces_speaks_for_nothing(pipe, tmp_path, monkeypatch):
    """Some images are of the old job and some of the new: no job may take either for its own."""
    folder = tmp_path / "many"
    generate(pipe, N, folder, **OPTIONS)

    def killed():
        monkeypatch.setattr(generation.Generation, "draw", lambda *_: die())
        generate(pipe, N, check_destination(f"{folder}/", range(N), overwrite=True), seed=1, **OPTIONS)

    assert in_child(killed)[0] == -signal.SIGKILL
    for seed in (0, 1):
        with pytest.raises(OutputError, match=r"000000\.png exists"):
            generate(pipe, N, folder, seed=seed, **OPTIONS)


@pytest.mark.parametrize("damage", [b"", b"[" * 10**5, b"[]", b"{" * 10, b'{"seed": ' + b"9" * 5000 + b"}"])
def test_a_damaged_record_speaks_for_nothing(tmp_path, damage):
    record_job(tmp_path, range(3), {"seed": 0})
    (tmp_path / "000001.png").write_bytes(b"mine")
    assert finished_images(tmp_path, range(3), {"seed": 0}) == {1}
    (tmp_path / ".samples-000000-000002.json").write_bytes(damage)
    with pytest.raises(OutputError, match=r"000001\.png exists"):
        finished_images(tmp_path, range(3), {"seed": 0})


def test_numbers_may_be_billions(tmp_path):
    began = time.perf_counter()
    record_job(tmp_path, range(10**15), {"seed": 0})
    (tmp_path / "100000000000000.png").write_bytes(b"mine")
    (tmp_path / "0000001.png").write_bytes(b"not ours: image 1 is 000001.png")
    assert finished_images(tmp_path, range(10**15), {"seed": 0}) == {10**14}
    assert finished_images(tmp_path, range(10), {"seed": 1}) == set()
    assert time.perf_counter() - began < 1


def test_the_command_goes_on(ssdiff, run_folder, tmp_path):
    command = ("sample", "--ckpt", run_folder, "--batch", 4, "--device", "cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "ssdiff", *map(str, command), "-n", "100000", "--out", f"{tmp_path}/many/"],
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "many").is_dir() or len(images_of(tmp_path / "many")) < 3:
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    kept = len(set(images_of(tmp_path / "many")) & {f"{i:06d}.png" for i in range(12)})
    code, out, _ = ssdiff(*command, "-n", 12, "--out", f"{tmp_path}/many/")
    assert code == 0 and (f"12 images, {kept} of them there already" in out or "all 12 images" in out)
    ssdiff(*command, "-n", 12, "--out", f"{tmp_path}/one/")
    names = images_of(tmp_path / "one")
    assert len(names) == 12
    assert all(
        (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes() for name in names
    )
    code, _, err = ssdiff(*command, "-n", 12, "--seed", 1, "--out", f"{tmp_path}/many/")
    assert code == 2 and "seed 0, not 1" in err and err.count("\n") == 1


def test_a_batch_beyond_all_memory_is_refused_at_once(pipe, tmp_path):
    with pytest.raises(Exception, match="memory"):
        generate(pipe, 10**14, str(tmp_path / "d"), steps=1, batch=10**14)
