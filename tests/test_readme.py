"""Every command and block of code in the README runs; commands of the other pages have known options.

A command runs as it stands there, with small stand-ins for what a reader would have (a photograph, a trained
run) and options that make it quick. One that the table below does not know fails, and so does one that the
README has lost.
"""

import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import NamedTuple

import pytest
import torch
from conftest import TINY, train
from officialweights import official
from PIL import Image

from ssdiff import build_process, load_preset
from ssdiff.cli import app
from ssdiff.data.shapes import draw

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CPU = ("--device", "cpu")
QUICK = (
    *(
        "--set",
        "data.size=16",
        "--set",
        "model.width=16",
        "--set",
        "model.blocks=1",
        "--set",
        "model.attention=[8]",
    ),
    *("--set", "model.multipliers=[1,2]", "--set", "process.levels=2", "--set", "training.batch=2"),
    *("--set", "training.sample_count=2", "--set", "training.sample_steps=2"),
)
OFFICIAL = (
    *("--set", "data.size=32", "--set", "process.levels=3"),
    *("--set", "model.width=32", "--set", "model.multipliers=[1,2,4]"),
)
SMALL = {"shapes32": (*QUICK, "--set", "process.resolution={kind='equal'}"), "celeba64": QUICK}


class Run(NamedTuple):
    """How a command is run here.

    Attributes:
        swaps: arguments of the README and what stands in for them.
        more: arguments that follow.
    """

    swaps: Mapping[str, str] = MappingProxyType({})
    more: tuple[str, ...] = ()


FIRST = ("--set", "training.steps=1", "--out", "first", *SMALL["shapes32"], *CPU)
ON_SHAPES = ("--set", "data.source=shapes", *SMALL["celeba64"], *CPU)
TWO = (*CPU, "--steps", "2")
FEW = ("--count", "4", "--extractor", "tinynet:Tiny", *TWO)
COMMANDS = {
    "pip install -e .": Run(),
    "pip install -e '.[dev]'": Run(),
    "python -m pytest -n auto": Run(),
    "ssdiff train --preset shapes32": Run(more=FIRST),
    "ssdiff train --preset celeba64": Run(more=(*ON_SHAPES, "--set", "training.steps=1", "--out", "faces")),
    "ssdiff train --preset shapes32 --set training.lr=1e-3 --dry-run": Run(more=(*SMALL["shapes32"], *CPU)),
    "ssdiff train --resume auto": Run(more=("--set", "training.steps=2", *CPU)),
    "ssdiff train --preset celeba128 --data photos/ --data-list split.txt --data-part 0": Run(
        more=(*QUICK, *CPU, "--set", "training.steps=1", "--out", "split")
    ),
    "torchrun --nproc-per-node 4 -m ssdiff train --preset celeba64 --data photos/": Run(
        {"4": "2"}, (*QUICK, *CPU, "--set", "training.steps=1", "--out", "faces")
    ),
    "ssdiff train --init photos64 --data photos/ --steps 2000 --lr 1e-4": Run(
        {"photos64": "{free}", "2000": "1"}, CPU
    ),
    "ssdiff sample -n 64 --out grid.png": Run({"64": "2"}, TWO),
    "ssdiff sample -n 8 --trajectory --out film.png": Run({"8": "2"}, TWO),
    "ssdiff degrade img.png --op downsample --t 500": Run(),
    "ssdiff degrade img.png --op blur --strip 8 --out strip.png": Run(),
    "ssdiff restore blurred/ --ckpt RUN --out sharp/": Run({"RUN": "{cold}"}, CPU),
    "ssdiff restore small.png --op super-resolve --factor 4": Run(more=("--ckpt", "{free}", *TWO)),
    "ssdiff eval fid": Run(more=("--ckpt", "{run}", *FEW)),
    "ssdiff eval restore held-out/ --ckpt RUN": Run({"RUN": "{cold}"}, (*CPU, "--extractor", "tinynet:Tiny")),
    "ssdiff eval schedule --data photos/ --steps 50,250": Run(
        {"50,250": "2,4"}, ("--preset", "{tiny}", "--images", "8", "--budget", "0.9")
    ),
    "ssdiff eval scale-space --data photos/": Run(
        more=("--size", "16", "--points", "3", "--images", "8", "--out", "s")
    ),
    "ssdiff eval scale-space --ckpt RUN": Run(
        {"RUN": "{run}"}, (*CPU, "--points", "2", "--images", "16", "--count", "8", "--out", "r")
    ),
    "ssdiff eval cost RUN": Run({"RUN": "{run}"}, CPU),
    "ssdiff eval report RUN": Run({"RUN": "{run}"}, (*CPU, "--out", "report.html")),
    "ssdiff presets list": Run(),
    "ssdiff info RUN": Run({"RUN": "{run}"}),
    "ssdiff import authors.pt --preset celeba64 --out model.safetensors": Run(more=OFFICIAL),
    "ssdiff doctor": Run(),
    "ssdiff degrade img.png --plugin my_parts.py --op tint --t 800": Run(),
    "ssdiff train --preset mine.toml --plugin my_parts.py": Run(
        more=("--set", "training.steps=1", "--out", "tinted", *CPU)
    ),
}
STUDIES = {"python benchmarks/matched_noise.py"}  # hours; run by tests/test_benchmarks.py at toy size


def commands(page):
    """Commands of the indented blocks of a page, without comments, each on one line."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.S | re.M)
    block = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    parts = [part.strip() for line in lines for part in re.sub(r"\s{2,}#.*|\s+#\s.*", "", line).split("&&")]
    return [part for part in parts if part and not part.startswith("#")]


def fenced(page, language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.S | re.M)


def test_every_command_is_known():
    found = [one for one in commands(README) if not any(one.startswith(study) for study in STUDIES)]
    assert sorted(found) == sorted(COMMANDS)


def test_the_card_of_the_project_is_in_it():
    for line in (
        "pip install -e . && ssdiff train --preset shapes32",
        "pip install -e '.[dev]' && python -m pytest -n auto",
        "ssdiff train --preset celeba64",
        "ssdiff sample -n 64 --out grid.png",
        "ssdiff degrade img.png --op downsample --t 500",
        "ssdiff eval fid",
    ):
        assert re.search(rf"^    {re.escape(line)}(  |$)", README, re.M), line


@pytest.fixture(scope="session")
def free_folder(tmp_path_factory, home):
    """A finished unconditional run of images of 16 pixels."""
    return train(
        TINY,
        tmp_path_factory.mktemp("runs") / "free",
        "--set",
        "model.classes=0",
        "--set",
        "training.steps=2",
    )


@pytest.fixture
def place(tmp_path, monkeypatch, run_folder, cold_folder, free_folder):
    """A folder with what the README's reader would have; names to fill in."""
    monkeypatch.chdir(tmp_path)
    images = ((draw(12, 16)[0] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for folder in ("photos", "blurred", "held-out"):
        (tmp_path / folder).mkdir()
        for number, pixels in enumerate(images if folder == "photos" else images[:4]):
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    Path("split.txt").write_text("".join(f"{number}.png {number % 2}\n" for number in range(12)))
    Image.fromarray(images[0]).resize((48, 32)).save("img.png")
    Image.fromarray(images[0]).resize((4, 4)).save("small.png")
    Path("my_parts.py").write_text(fenced(README, "python")[1])
    Path("mine.toml").write_text(
        f'extends = "{TINY.as_posix()}"\n[process]\nkind = "cold"\nT = 4\nlevels = 1\nsnr_preserving = 0.0\n'
        'degradation = { kind = "tint", strength = 0.9 }\n[model]\nclasses = 0\n'
        '[sampling]\nsampler = "alg2"\n'
    )
    return {"run": run_folder, "cold": cold_folder, "free": free_folder, "tiny": TINY}


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith(("ssdiff", "torchrun"))])
def test_a_command_runs(command, place, ssdiff, shell):
    if command.startswith("ssdiff import"):
        torch.save(official(), "authors.pt")
    if command == "ssdiff train --resume auto":
        assert ssdiff("train", "--preset", place["tiny"], "--set", "training.steps=1", *CPU)[0] == 0
    swaps, more = COMMANDS[command]
    arguments = [swaps.get(part, part) for part in shlex.split(command)] + list(more)
    arguments = [part.format(**place) if re.fullmatch(r"\{\w+\}", part) else part for part in arguments]
    if arguments[0] == "torchrun":
        assert arguments[1:5:2] == ["--nproc-per-node", "-m"]
        done = shell(*arguments[5:], processes=int(arguments[2]), cwd=Path.cwd())
        assert done.returncode == 0, done.stderr
    elif "--plugin" in arguments:  # in a process of its own: what it registers stays
        done = shell(*arguments[1:], cwd=Path.cwd())
        assert done.returncode == 0, done.stderr
    else:
        code, _, err = ssdiff(*arguments[1:])
        assert code == 0, err


def test_pip_finds_what_the_readme_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "scale-space-diffusion"
    assert f"`{project['name']}`" in README
    for extras in re.findall(r"'\.\[([\w,]+)\]'", README):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert any(one.startswith("pytest") for one in project["optional-dependencies"]["test"])


def test_links_are_absolute_on_the_page_of_the_package_index(monkeypatch):
    interface = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    hook = module_from_spec(spec)
    spec.loader.exec_module(hook)
    readme, metadata = hook.Readme(), {"urls": {"Repository": "https://host/us"}}
    readme.root = ROOT
    readme.update(metadata)
    links = re.findall(r"\]\(([^)]+)\)", metadata["readme"]["text"])
    assert links and all(link.startswith("https://") for link in links)
    assert "https://host/us/raw/main/docs/film.png" in links
    assert "https://host/us/blob/main/docs/math.md" in links


def test_the_python_of_the_first_screen_runs(place):
    quick = {
        **{"data.size": 16, "model.width": 16, "model.blocks": 1, "model.attention": [8]},
        **{"model.multipliers": [1, 2], "process.levels": 2, "process.resolution": {"kind": "equal"}},
        **{"training.steps": 1, "training.batch": 2, "training.sample_count": 2, "training.sample_steps": 2},
    }
    preset = load_preset("shapes32", quick)
    first = fenced(README, "python")[0]
    assert first.count('"shapes32"') == 1 and first.count("steps=20") == 1
    names = {"quick": preset}
    source = first.replace('"shapes32"', "quick").replace("steps=20", "steps=2")
    exec(compile(source, "README.md", "exec"), names)
    assert names["images"].shape == (16, 3, 16, 16)
    assert names["x_s"].shape == (16, 3, *build_process(preset).states[599].size)


def test_the_preset_of_ones_own_loads(tmp_path):
    (block,) = fenced(README, "toml")
    (tmp_path / "own.toml").write_text(block)
    preset = load_preset(tmp_path / "own.toml")
    assert preset.summary == "my photographs" and preset.training.batch == 32


def test_the_structure_of_contributing_names_every_part():
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Structure")[2].partition("## Style")[0]
    told = {
        name for row in re.findall(r"^\| (`[^|]+) \|", table, re.M) for name in re.findall(r"`([^`]+)`", row)
    }
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "ssdiff").iterdir()
        if path.name not in ("__pycache__", "py.typed", "_presets")
    }
    assert told == there


def test_the_parts_of_contributing_are_known_afterwards(tmp_path):
    parts = "\n".join(fenced((ROOT / "CONTRIBUTING.md").read_text(), "python"))
    names = {
        "DEGRADATIONS": ("process.degradations.registry", "tint"),
        "NETWORKS": ("models.registry", "one-convolution"),
        "SAMPLERS": ("sampling.registry", "half-and-half"),
        "NOISE_SCHEDULES": ("schedules.noise", "power"),
        "PREDICTIONS": ("process.prediction", "score"),
    }
    for registry, (module, name) in names.items():
        parts += f"\nfrom ssdiff.{module} import {registry}\nassert {name!r} in {registry}.names()"
    done = subprocess.run([sys.executable, "-c", parts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def options_of(words):
    """Options of a command of ssdiff, and how many of the words name the command."""
    import typer

    here, depth = typer.main.get_command(app), 0
    while hasattr(here, "commands") and depth < len(words) and words[depth] in here.commands:
        here, depth = here.commands[words[depth]], depth + 1
    return {name for parameter in here.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }


PAGES = ("RESULTS.md", "docs/laboratory.md", "CONTRIBUTING.md")
TOLD = [(page, one) for page in PAGES for one in commands((ROOT / page).read_text())]


@pytest.mark.parametrize(("page", "command"), TOLD, ids=lambda value: value[:60])
def test_commands_of_other_pages_have_known_options(page, command):
    words = shlex.split(command.replace("$SMALL", ""))
    if "=" in words[0]:  # a shell's variable with settings
        words = ["ssdiff", "train", *shlex.split(words[0].partition("=")[2])]
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    if words[0] == "ssdiff":
        assert given <= options_of(words[1:])
        settings = [after for word, after in itertools.pairwise(words) if word == "--set"]
        known = load_preset("celeba64")
        for setting in settings:
            section, field = setting.partition("=")[0].split(".")[:2]
            assert field in type(getattr(known, section)).model_fields, setting
    elif words[1:2] and words[1].startswith("benchmarks/"):
        source = (ROOT / words[1]).read_text()
        assert all(f'"{option}"' in source for option in given)
    else:
        assert words[0] in ("pip", "python", ".", "ruff", "mypy"), command
