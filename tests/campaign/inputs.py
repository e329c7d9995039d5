"""Intact files of every kind that commands read, and the commands that read them."""

import gzip
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ssdiff.checkpoints import list_steps
from tests.campaign.scenarios import CPU, PRESET, Workplace

QUIET = ("--quiet",)


@dataclass(frozen=True)
class Input:
    """A file that commands read.

    Attributes:
        kind: of the file, in a word.
        name: its place below the folder where commands run.
        content: of the intact file.
        commands: that read it.
        beside: puts there what belongs to it.
    """

    kind: str
    name: str
    content: bytes
    commands: tuple[tuple[str, ...], ...]
    beside: Callable[[Path], object] = lambda folder: None


def inputs(workplace: Workplace) -> list[Input]:
    """Return the inputs that are to be damaged."""
    model = (workplace.root / "model.safetensors").read_bytes()
    return [
        *_pictures(workplace),
        *_archives(),
        *_lists(workplace),
        *_models(model),
        *_presets(),
        *_of_a_run(workplace),
        *_of_the_cache(workplace),
    ]


def _pictures(workplace: Workplace) -> Iterator[Input]:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8))
    deep = Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10) * 500)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = (Path(__file__).parent / "none").name.encode() * 40
    kinds: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "rgb.png": (rgb, {"exif": exif}),
        "alpha.png": (rgb.convert("RGBA"), {"icc_profile": profile}),
        "palette.png": (rgb.quantize(9), {"transparency": 3}),
        "deep.png": (deep, {}),
        "interlaced.png": (rgb.convert("1"), {}),
        "rgb.jpg": (rgb, {"exif": exif, "quality": 80}),
        "progressive.jpg": (rgb.convert("L"), {"progressive": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "lossy.webp": (rgb, {"exif": exif}),
        "lossless.webp": (rgb.convert("RGBA"), {"lossless": True}),
        "moving.webp": (rgb, {"save_all": True, "append_images": [rgb]}),
        "rgb.tiff": (rgb, {}),
        "deflated.tif": (rgb, {"compression": "tiff_adobe_deflate"}),
        "lzw.tif": (rgb.convert("RGBA"), {"compression": "tiff_lzw"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "deep.tif": (deep, {}),
        "float.tif": (deep.convert("F"), {}),
        "moving.gif": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "rgb.bmp": (rgb, {}),
        "grey.pgm": (rgb.convert("L"), {}),
        "rgb.ppm": (rgb, {}),
    }

    def neighbour(folder: Path) -> None:
        shutil.copy(workplace.data / "0.png", folder / "set" / "0.png")

    for name, (picture, options) in kinds.items():
        stream = BytesIO()
        picture.save(
            stream,
            {"tif": "TIFF", "jpg": "JPEG", "pgm": "PPM"}.get(name[-3:], name.split(".")[1].upper()),
            **options,
        )
        place = f"set/{name}"
        yield Input(
            "picture",
            place,
            stream.getvalue(),
            (
                ("degrade", place, "--t", "500", "--out", "out.png", *QUIET),
                ("degrade", "set", "--t", "900", "--op", "blur", "--out", "out/", *QUIET),
                (
                    "degrade",
                    place,
                    "--t",
                    "4",
                    "--T",
                    "8",
                    "--op",
                    "snow",
                    "--strip",
                    "3",
                    "--out",
                    "out.png",
                    *QUIET,
                ),
                (
                    "degrade",
                    "set/0.png",
                    "--t",
                    "9",
                    "--op",
                    "animorph",
                    "--with",
                    place,
                    "--out",
                    "out.png",
                    *QUIET,
                ),
                ("data", "prepare", "set", "--size", "8", *QUIET),
                ("data", "prepare", "set", "--size", "8", "--channels", "1", "--corrupt", "skip", *QUIET),
                (
                    "restore",
                    place,
                    "--ckpt",
                    "../model.safetensors",
                    "--op",
                    "super-resolve",
                    "--degrade",
                    "--factor",
                    "2",
                    "--steps",
                    "2",
                    "--out",
                    "out.png",
                    *CPU,
                ),
                (
                    "restore",
                    "set/0.png",
                    "--ckpt",
                    "../model.safetensors",
                    "--op",
                    "inpaint",
                    "--mask",
                    place,
                    "--steps",
                    "2",
                    "--out",
                    "out.png",
                    *CPU,
                ),
            ),
            neighbour,
        )


def _archives() -> Iterator[Input]:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(3):
            picture = BytesIO()
            Image.new("RGB", (8, 8), (number * 80, 9, 200)).save(picture, "PNG")
            archive.writestr(f"class{number % 2}/{number}.png", picture.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [["class0/0.png", 0], ["class1/1.png", 1]]}))
    yield Input(
        "archive",
        "set.zip",
        stream.getvalue(),
        (
            ("data", "prepare", "set.zip", "--size", "8", *QUIET),
            ("data", "prepare", "set.zip", "--size", "8", "--corrupt", "skip", *QUIET),
            ("eval", "restore", "set.zip", "--ckpt", "../model.safetensors", "--steps", "1", "-n", "1", *CPU),
        ),
    )
    idx = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (2, 8, 8)) + bytes(range(128))
    prepare = ("data", "prepare", "digits", "--size", "8", *QUIET)
    labels = bytes((0, 0, 8, 1)) + (2).to_bytes(4, "big") + bytes((1, 2))

    def with_labels(folder: Path) -> None:
        (folder / "digits" / "train-labels-idx1-ubyte").write_bytes(labels)

    def with_images(folder: Path) -> None:
        (folder / "digits" / "train-images-idx3-ubyte").write_bytes(idx)

    yield Input("digits", "digits/train-images-idx3-ubyte", idx, (prepare,), with_labels)
    yield Input("digits", "digits/train-images-idx3-ubyte.gz", gzip.compress(idx, mtime=0), (prepare,))
    yield Input("digits", "digits/train-labels-idx1-ubyte", labels, (prepare,), with_images)


def _lists(workplace: Workplace) -> Iterator[Input]:
    for content in (b"0.png\n1.png\n2.png\n", b"0.png 0\n1.png 1\n2.png 0\n"):
        part = ("--data-part", "0") if b" " in content else ()
        prepare = ("data", "prepare", "../data", "--size", "8", "--data-list", "list.txt", *part, *QUIET)
        yield Input("list", "list.txt", content, (prepare,))


def _models(model: bytes) -> Iterator[Input]:
    def sample(name: str) -> tuple[str, ...]:
        return ("sample", "--ckpt", name, "-n", "1", "--steps", "1", "--out", "out.png", *CPU)

    yield Input(
        "safetensors",
        "m.safetensors",
        model,
        (
            ("info", "m.safetensors"),
            sample("m.safetensors"),
            ("import", "m.safetensors", "--preset", "tiny.toml", "--out", "out.safetensors", *QUIET),
            ("eval", "cost", "m.safetensors", "--no-timing", *CPU),
        ),
    )
    import torch

    stream = BytesIO()
    torch.save({"module.a.weight": torch.zeros(3, 2), "b": torch.ones(4, dtype=torch.float16)}, stream)
    imports = ("import", "m.pt", "--preset", "celeba64", "--out", "out.safetensors", *QUIET)
    yield Input("pickle", "m.pt", stream.getvalue(), (imports, ("info", "m.pt"), sample("m.pt")))


def _presets() -> Iterator[Input]:
    yield Input(
        "preset",
        "p.toml",
        PRESET.encode(),
        (
            ("presets", "show", "p.toml"),
            ("train", "--preset", "p.toml", "--data", "../data", "--out", "out", "--dry-run", *CPU),
            ("degrade", "../data/0.png", "--preset", "p.toml", "--t", "3", "--out", "out.png", *QUIET),
        ),
    )
    noise = b'[process.noise]\nkind = "power"\nexponent = 2.0\n'
    settings = b'extends = "celeba64"\n[process]\nT = 100\n' + noise + b"[data]\nsize = 32\n"
    yield Input("preset", "p.toml", settings, (("presets", "show", "p.toml", "--set", "process.T=50"),))


def _of_a_run(workplace: Workplace) -> Iterator[Input]:
    run = workplace.root / "trained" / "run"

    def copy(folder: Path) -> None:
        shutil.copytree(run, folder / "run", dirs_exist_ok=True)

    commands = (
        ("info", "run"),
        ("info", "run", "--json"),
        ("train", "--resume", "run", "--data", "../data", "--steps", "5", *CPU),
        ("sample", "--ckpt", "run", "-n", "1", "--steps", "1", "--out", "out.png", *CPU),
        ("export", "run", "--out", "out.safetensors", *QUIET),
        ("eval", "report", "run", "--samples", "0", "--out", "out.html", *CPU),
    )
    newest = list_steps(run / "checkpoints")[-1]
    for path in (run / "preset.toml", run / "status.json", run / "metrics.jsonl", *sorted(newest.iterdir())):
        yield Input("run", f"run/{path.relative_to(run)}", path.read_bytes(), commands, copy)
    owner = json.dumps(
        {"pid": 1, "host": "elsewhere", "time": "2020-01-01T00:00:00+00:00", "lock": "0"}
    ).encode()
    yield Input("run", "run/owner.json", owner, commands, copy)


def _of_the_cache(workplace: Workplace) -> Iterator[Input]:
    prepared = next(
        (workplace.root / "trained" / "home" / "cache" / "prepared").glob("*/manifest.json")
    ).parent

    def copy(folder: Path) -> None:
        shutil.copytree(workplace.root / "trained" / "home", folder / "home", dirs_exist_ok=True)

    for path in sorted(prepared.iterdir()):
        name = f"home/cache/prepared/{prepared.name}/{path.name}"
        prepare = ("data", "prepare", "../data", "--size", "8", *QUIET)
        yield Input("cache", name, path.read_bytes(), (prepare,), copy)


def special(choice: random.Random, place: Path) -> str | None:
    """Put something that is no file in the place of an input, once in a while; what it is."""
    import os
    import socket

    kind = choice.choice(
        (*[None] * 40, "folder", "pipe", "link to itself", "dangling link", "socket", "endless", "unreadable")
    )
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "link to itself":
        place.symlink_to(place.name)
    elif kind == "dangling link":
        place.symlink_to("nowhere")
    elif kind == "endless":
        place.symlink_to("/dev/zero")
    elif kind == "socket":
        before = os.getcwd()
        os.chdir(place.parent)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name[:90])
        os.chdir(before)
    elif kind == "unreadable":
        place.write_bytes(b"x")
        place.chmod(0)
    return kind
