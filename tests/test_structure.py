"""Imports point one way, files and functions stay short, and only the command line prints.

Each check is a function from a source tree to a list of faults, so that the last tests can show on a made-up
tree that it finds what it looks for.
"""

import ast
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ssdiff"
LONGEST_FILE = 350
LONGEST_FUNCTION = 50

# What each module or package may import from ssdiff: only names further up. So models never learn what a
# process is, samplers never learn what a U-Net is, and nothing but the command line knows everything.
MAY_IMPORT: dict[str, str] = {
    "errors": "",
    "settings": "",
    "presets": "errors settings",
    "rng": "",
    "colour": "",
    "devices": "errors",
    "distributed": "errors",
    "images": "errors",
    "schedules": "errors",
    "models": "errors",
    "operators": "errors devices",
    "checkpoints": "errors",
    "rundir": "errors settings presets checkpoints",
    "importing": "errors",
    "storage": "errors settings presets images checkpoints rundir",
    "shapes": "errors rng colour",
    "data": "errors images shapes",
    "process": "errors devices rng colour operators schedules",
    "samplers": "errors rng operators schedules process",
    "cost": "errors schedules process",
    "training": "errors settings rng devices distributed operators schedules data process",
    "metrics": "errors images importing",
    "plots": "errors images",
    "analysis": "errors rng operators schedules process",
    "planner": "errors colour operators schedules process",
    "build": "errors settings presets data operators schedules process models samplers",
}
MAY_IMPORT["resuming"] = "errors settings presets checkpoints rundir"
MAY_IMPORT["planning"] = "errors settings schedules process"
MAY_IMPORT["pipeline"] = " ".join(MAY_IMPORT)
MAY_IMPORT["loading"] = " ".join(MAY_IMPORT)
MAY_IMPORT["preparing"] = "errors settings rng distributed data process"
MAY_IMPORT["restoration"] = "errors rng colour operators process samplers pipeline"
MAY_IMPORT["previews"] = "errors settings images process preparing pipeline"
MAY_IMPORT["running"] = " ".join(MAY_IMPORT)
MAY_IMPORT["benchmarking"] = "devices settings operators data process cost training build planning pipeline"
MAY_IMPORT["report"] = "errors images plots"
MAY_IMPORT["cli"] = " ".join(MAY_IMPORT)
MAY_IMPORT["__main__"] = "cli"


def sources(package: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package), ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Modules of the package that a file imports, inside functions too, as `process.gaussian`.

    ``__init__`` stands for the package itself; its version is everybody's.
    """
    parents = path.parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "ssdiff":
                    yield alias.name.removeprefix("ssdiff").removeprefix(".") or "__init__"
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                base = [*parents[: len(parents) - node.level + 1], *base]
            elif base[:1] == ["ssdiff"]:
                base = base[1:]
            else:
                continue
            for alias in node.names:
                if not base and alias.name == "__version__":
                    continue
                inner = ".".join((*base, alias.name))
                yield inner if inner in modules or inner in MAY_IMPORT else ".".join(base) or "__init__"


def wrong_imports(package: Path) -> list[str]:
    files = list(sources(package))
    modules = {module_name(path) for path, _ in files}
    faults = []
    for path, tree in files:
        unit = module_name(path).split(".")[0]
        if unit == "__init__":
            continue
        if unit not in MAY_IMPORT:
            faults.append(f"{path}: say in MAY_IMPORT what {unit} may import")
            continue
        allowed = {unit, *MAY_IMPORT[unit].split()}
        for target in imported(path, tree, modules):
            if target.split(".")[0] not in allowed:
                faults.append(f"{path}: {unit} may not import {target}")
    return faults


def import_cycles(package: Path) -> list[str]:
    files = list(sources(package))
    modules = {module_name(path) for path, _ in files}
    graph = {
        module_name(path): set(imported(path, tree, modules)) for path, tree in files if len(path.parts) > 1
    }
    try:
        TopologicalSorter({name: targets - {name} for name, targets in graph.items()}).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def long_files(package: Path) -> list[str]:
    counts = (
        (path, len((package / path).read_text(encoding="utf-8").splitlines())) for path, _ in sources(package)
    )
    return [f"{path}: {count} lines" for path, count in counts if count > LONGEST_FILE]


def long_functions(package: Path) -> list[str]:
    return [
        f"{path}: {node.name} has {length} lines"
        for path, tree in sources(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]


def prints(package: Path) -> list[str]:
    return [
        f"{path}:{node.lineno}: {ast.unparse(node.func)}"
        for path, tree in sources(package)
        if path.parts[0] not in ("cli", "cli.py", "__main__.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]


CHECKS: list[Callable[[Path], list[str]]] = [wrong_imports, import_cycles, long_files, long_functions, prints]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_source(check):
    assert check(PACKAGE) == []


def test_the_table_points_one_way():
    seen: set[str] = set()
    for name, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= seen, f"{name} may import what comes after it"
        seen.add(name)


BODY = "    x = 1\n" * LONGEST_FUNCTION
BAD = [
    (wrong_imports, {"models/unet.py": "from ssdiff.process.gaussian import State\n"}),
    (wrong_imports, {"models/unet.py": "import ssdiff.process.gaussian\n"}),
    (wrong_imports, {"models/unet.py": "from ..process import gaussian\n", "process/gaussian.py": ""}),
    (wrong_imports, {"models/unet.py": "from ssdiff import process\n", "process/__init__.py": ""}),
    (wrong_imports, {"errors.py": "def f():\n    from ssdiff.cli import main\n"}),
    (wrong_imports, {"models/unet.py": "from ssdiff import load\n"}),
    (wrong_imports, {"new_module.py": "\n"}),
    (
        import_cycles,
        {"process/a.py": "from ssdiff.process.b import x\n", "process/b.py": "from . import a\n"},
    ),
    (long_files, {"errors.py": "x = 1\n" * (LONGEST_FILE + 1)}),
    (long_functions, {"errors.py": f"def f():\n{BODY}"}),
    (long_functions, {"errors.py": f"class A:\n    async def f():\n{BODY.replace('    ', '        ')}"}),
    (prints, {"process/a.py": "def f():\n    print(1)\n"}),
    (prints, {"errors.py": "import sys\nsys.stderr.write('x')\n"}),
]
GOOD = {
    "__init__.py": "from ssdiff.pipeline import load\n",
    "__main__.py": "from ssdiff.cli import main\nprint(main)\n",
    "errors.py": f"def f():\n{BODY[: -len('    x = 1') - 1]}",
    "models/blocks.py": "import torch\nfrom ssdiff.errors import UsageError\n",
    "models/unet.py": "from ssdiff.models.blocks import a\nfrom .blocks import b\n",
    "pipeline.py": "from ssdiff import __version__, rng\nfrom ssdiff.models.unet import c\n"
    + "x = 1\n" * 348,
    "rng.py": "",
    "cli/main.py": "print('hello')\n",
}


def plant(package: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    return package


@pytest.mark.parametrize(("check", "files"), BAD, ids=lambda item: getattr(item, "__name__", None))
def test_a_check_can_fail(check, files, tmp_path):
    assert len(check(plant(tmp_path / "ssdiff", files))) == 1


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_check_can_pass(check, tmp_path):
    assert check(plant(tmp_path / "ssdiff", GOOD)) == []
