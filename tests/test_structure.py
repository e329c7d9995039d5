"""The rules of the house: what may import what, what the command line may hold, one definition a name.

Each check is a function from a source tree to a list of faults, so that the last tests can show on a made-up
tree that it finds what it looks for. A tree is a folder with the package ``ssdiff`` and perhaps with
``benchmarks`` and ``examples`` beside it.
"""

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each module or package may import from ssdiff: only names further up. So models never learn what a
# process is, samplers never learn what a U-Net is, and nothing but the command line knows everything. Of a
# package, a module may have a row of its own.
MAY_IMPORT: dict[str, str] = {
    "errors": "",
    "arguments": "errors",
    "display": "",
    "importing": "",
    "progress": "arguments",
    "rng": "errors",
    "registry": "errors",
    "sampling.registry": "errors registry",
    "models.registry": "errors registry",
    "schedules.noise": "errors registry",
    "schedules.respacing": "errors",
    "files": "errors arguments",
    "plugins": "errors arguments files registry",
    "image_folder": "errors files",
    "home": "errors arguments",
    "failures": "errors registry plugins",
    "devices": "errors",
    "distributed": "errors files",
    "schedules": "errors registry schedules.noise schedules.respacing",
    "images": "errors arguments files",
    "models": "errors registry models.registry",
    "evaluation.image_quality": "errors",
    "operators": "errors devices",
    "checkpoints": "errors files",
    "runs": "errors files home checkpoints",
    "data": "errors arguments progress rng files home images operators",
    "process": "errors rng registry devices operators schedules sampling.registry",
    "process.prediction": "errors registry process",
    "config": "errors arguments files registry plugins "
    "sampling.registry process.prediction models.registry schedules.noise schedules.respacing",
    "priors": "errors rng images operators data process",
    "sampling": "errors rng registry config operators schedules process",
}
# From here on a module stands for one thing that users do, and may use all that comes before it.
for _name in (
    "second_set",
    "build",
    "tiling",
    "pipeline",
    "weights",
    "training",
    "degradation",
    "restoration",
    "generation",
):
    MAY_IMPORT[_name] = " ".join(MAY_IMPORT)
for _name in ("evaluation", "reporting", "analysis", "installation", "cli"):
    MAY_IMPORT[_name] = " ".join(MAY_IMPORT)
MAY_IMPORT["__main__"] = "cli"

# What works on numbers and pixels. A command may name them in no way: it calls the library.
NUMERICAL = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "safetensors")
# What a definition of the command line takes, makes or prints.
TERMINAL = {
    *("Terminal", "StopRequest", "Console", "Table", "print", "typer", "click", "rich", "sys", "signal"),
    *("option", "options", "environ", "devnull"),
}

# With what the docstring of a public function begins: what it does. Add a verb, never an article or a noun.
_VERBS = """
Add Answer Apply Ask Average Blur Bring Build Carry Change Check Choose Clip Close Collect Compare Compile
Compute Continue Convert Copy Count Credit Crop Cut Decide Decode Degrade Delete Describe Dissipate Do Draw
Drop Embed Encode End Estimate Evaluate Examine Export Extrapolate Fade Fill Filter Find Fit Flip Fold Follow
Gather Give Grow Handle Import Invert Join Keep Lay Let Lift List Load Log Look Make Map Mark Mask Measure
Mirror Mix Move Name Normalise Note Open Order Parse Pass Pick Plan Plot Predict Prepare Print Project Publish
Put Raise Read Record Reduce Refuse Register Release Remove Rename Repeat Replace Report Reset Resize Resolve
Restore Return Rotate Run Sample Save Say Scale Score Search Select Set Show Shrink Solve Sort Split Start
Step Stop Store Sum Take Tell Time Trace Train Try Turn Undo Update Use Verify Wait Walk Warn Write Yield
"""
VERBS = frozenset(_VERBS.split())

# The same public name in two modules, and why.
SAME_NAME = {"load": "checkpoints has save and load, as a store has; ssdiff.load opens a model"}


def sources(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder), ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, tree: ast.AST, modules: set[str]) -> Iterator[str]:
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


def row(module: str) -> str:
    """The row of MAY_IMPORT that speaks of a module."""
    return module if module in MAY_IMPORT else module.split(".")[0]


def wrong_imports(root: Path) -> list[str]:
    files = list(sources(root / "ssdiff"))
    modules = {module_name(path) for path, _ in files}
    faults = []
    for path, tree in files:
        unit = row(module_name(path))
        if unit == "__init__":
            continue
        if unit not in MAY_IMPORT:
            faults.append(f"{path}: say in MAY_IMPORT what {unit} may import")
            continue
        allowed = {unit, *MAY_IMPORT[unit].split()}
        for target in imported(path, tree, modules):
            same = target.split(".")[0] == unit.split(".")[0] and "." not in unit
            if not same and row(target) not in allowed and target.split(".")[0] not in allowed:
                faults.append(f"{path}: {unit} may not import {target}")
    return faults


def import_cycles(root: Path) -> list[str]:
    files = list(sources(root / "ssdiff"))
    modules = {module_name(path) for path, _ in files}
    graph = {module_name(path): set(imported(path, tree, modules)) for path, tree in files}
    graph.pop("__init__", None)
    try:
        TopologicalSorter({name: targets - {name} for name, targets in graph.items()}).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def prints(root: Path) -> list[str]:
    return [
        f"{path}:{node.lineno}: {ast.unparse(node.func)}"
        for path, tree in sources(root / "ssdiff")
        if path.parts[0] not in ("cli", "cli.py", "__main__.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]


def uses_of_the_command_line(root: Path) -> list[str]:
    """Modules that import ssdiff.cli, which only ``__main__`` may: others call the library."""
    faults = []
    for folder in ("ssdiff", "benchmarks", "examples"):
        for path, tree in sources(root / folder):
            inside = folder == "ssdiff"
            if inside and (path.parts[0] == "cli" or path == Path("__main__.py")):
                continue
            base = path if inside else Path("outside.py")
            if any(name.split(".")[0] == "cli" for name in imported(base, tree, set())):
                faults.append(f"{folder}/{path} imports ssdiff.cli")
    return faults


def work_in_the_command_line(root: Path) -> list[str]:
    """Commands that work on numbers themselves, instead of calling one function of the library."""
    faults = []
    for path, tree in sources(root / "ssdiff" / "cli"):
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            faults += [
                f"cli/{path}:{node.lineno} imports {name}"
                for name in names
                if name.split(".")[0] in NUMERICAL
            ]
    return faults


def strange_definitions_in_the_command_line(root: Path) -> list[str]:
    """Functions and classes of cli/ that take, make and print nothing that a terminal knows.

    A definition is at home there when it names one of TERMINAL, or an option type or another such thing of
    ``ssdiff.cli``, or when it takes or returns lines of text.
    """
    files = [(path, tree) for path, tree in sources(root / "ssdiff" / "cli")]
    at_home = set(TERMINAL)
    waiting = [
        (path, node)
        for path, tree in files
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign)
    ]
    found = True
    while found:  # what takes a thing of the terminal makes its own name one
        found = False
        for item in list(waiting):
            _, node = item
            if _text(node) or at_home & set(_signature(node)):
                waiting.remove(item)
                at_home |= set(_names(node))
                found = True
    return [
        f"cli/{path}: {node.name}"
        for path, node in waiting
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not TERMINAL & set(_last_words(node))
    ]


def _text(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef):
        return False
    arguments = [ast.unparse(argument.annotation) for argument in _arguments(node) if argument.annotation]
    returned = ast.unparse(node.returns) if node.returns else ""
    made = returned in ("str", "list[str]", "Sequence[str]", "Callable[[str], list[str]]")
    return made or any(annotation.startswith("list[str]") for annotation in arguments)


def _arguments(node: ast.FunctionDef) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    return [node.name] if isinstance(node, ast.ClassDef) else []


def _signature(node: ast.AST) -> list[str]:
    """Words of what a definition takes and returns; of a class or an assignment: of all of it."""
    if isinstance(node, ast.FunctionDef):
        parts: list[ast.AST] = [node.args, *node.decorator_list, *([node.returns] if node.returns else [])]
        return [word for part in parts for word in _words(part)]
    return _words(node)


def _words(node: ast.AST) -> list[str]:
    return [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)] + [
        inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)
    ]


def questions_for_the_kind_of_process(root: Path) -> list[str]:
    """Where a process is asked for its class instead of for what it can do."""
    return [
        f"{path}:{node.lineno}"
        for path, tree in sources(root / "ssdiff")
        if path.parts[0] not in ("process", "build.py")
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("isinstance", "issubclass")
            and any(_kind(word) for part in node.args[1:] for word in _last_words(part))
        )
        or (isinstance(node, ast.MatchClass) and _kind(ast.unparse(node.cls)))
    ]


def _kind(name: str) -> bool:
    """Whether a name is one kind of process; ``Process`` itself tells processes from other things."""
    return name.endswith("Process") and name != "Process"


def _last_words(node: ast.AST) -> list[str]:
    return _words(node) + [inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)]


def names_defined_twice(root: Path) -> list[str]:
    """Public functions and classes of the library of which a reader cannot know which one is meant."""
    places = defaultdict(list)
    for path, tree in sources(root / "ssdiff"):
        if path.parts[0] == "cli":
            continue  # a command has the name of the verb that it calls
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.as_posix())
    return [
        f"{name}: {', '.join(paths)}"
        for name, paths in sorted(places.items())
        if len(paths) > 1 and name not in SAME_NAME
    ]


def docstrings_without_a_verb(root: Path) -> list[str]:
    """Public functions and methods that do not say what they do; a property is a thing, and named as one."""

    def walk(path: Path, body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from walk(path, node.body, f"{prefix}{node.name}.")
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            thing = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
            words = (ast.get_docstring(node) or "").split()
            public = not node.name.startswith("_") or node.name == "__call__"
            if words and public and not thing and words[0].rstrip(",.:;") not in VERBS:
                yield f"{path}: {prefix}{node.name} begins with {words[0]!r}"

    return [fault for path, tree in sources(root / "ssdiff") for fault in walk(path, tree.body)]


CHECKS: list[Callable[[Path], list[str]]] = [
    wrong_imports,
    import_cycles,
    prints,
    uses_of_the_command_line,
    work_in_the_command_line,
    strange_definitions_in_the_command_line,
    questions_for_the_kind_of_process,
    names_defined_twice,
    docstrings_without_a_verb,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_source(check):
    assert check(ROOT) == []


def test_the_table_points_one_way():
    seen: set[str] = set()
    for name, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= seen, f"{name} may import what comes after it"
        seen.add(name)


BAD = [
    (wrong_imports, {"ssdiff/models/unet.py": "from ssdiff.process.gaussian import State\n"}),
    (wrong_imports, {"ssdiff/models/unet.py": "import ssdiff.process.gaussian\n"}),
    (
        wrong_imports,
        {"ssdiff/models/unet.py": "from ..process import gaussian\n", "ssdiff/process/gaussian.py": ""},
    ),
    (
        wrong_imports,
        {"ssdiff/models/unet.py": "from ssdiff import process\n", "ssdiff/process/__init__.py": ""},
    ),
    (wrong_imports, {"ssdiff/errors.py": "def f():\n    from ssdiff.cli import main\n"}),
    (wrong_imports, {"ssdiff/models/unet.py": "from ssdiff import load\n"}),
    (wrong_imports, {"ssdiff/config/load.py": "from ssdiff.sampling.plan import Plan\n"}),
    (wrong_imports, {"ssdiff/sampling/registry.py": "from ssdiff.sampling.plan import Plan\n"}),
    (wrong_imports, {"ssdiff/new_module.py": "\n"}),
    (
        import_cycles,
        {
            "ssdiff/process/a.py": "from ssdiff.process.b import x\n",
            "ssdiff/process/b.py": "from . import a\n",
        },
    ),
    (prints, {"ssdiff/process/a.py": "def f():\n    print(1)\n"}),
    (prints, {"ssdiff/errors.py": "import sys\nsys.stderr.write('x')\n"}),
    (uses_of_the_command_line, {"benchmarks/a.py": "from ssdiff.cli import run\n"}),
    (uses_of_the_command_line, {"examples/a.py": "import ssdiff.cli\n"}),
    (uses_of_the_command_line, {"ssdiff/runs/a.py": "def f():\n    from ssdiff import cli\n"}),
    (work_in_the_command_line, {"ssdiff/cli/a.py": "def f():\n    import torch\n"}),
    (work_in_the_command_line, {"ssdiff/cli/a.py": "from PIL import Image\n"}),
    (
        strange_definitions_in_the_command_line,
        {"ssdiff/cli/a.py": "def mean(values: Values) -> float:\n    ...\n"},
    ),
    (strange_definitions_in_the_command_line, {"ssdiff/cli/a.py": "class Job:\n    n: int\n"}),
    (
        strange_definitions_in_the_command_line,
        {"ssdiff/cli/a.py": "def f(x: int) -> int:\n    return g(x)\ndef g(t: Terminal):\n    ...\n"},
    ),
    (questions_for_the_kind_of_process, {"ssdiff/pipeline.py": "isinstance(x, GaussianProcess)\n"}),
    (questions_for_the_kind_of_process, {"ssdiff/pipeline.py": "isinstance(x, (A, cold.ColdProcess))\n"}),
    (
        questions_for_the_kind_of_process,
        {"ssdiff/pipeline.py": "match x:\n    case ColdProcess():\n        pass\n"},
    ),
    (docstrings_without_a_verb, {"ssdiff/rng.py": 'def f():\n    """The numbers."""\n'}),
    (docstrings_without_a_verb, {"ssdiff/rng.py": 'class A:\n    def f(self):\n        """Whether so."""\n'}),
    (
        docstrings_without_a_verb,
        {"ssdiff/rng.py": 'class A:\n    def __call__(self):\n        """What."""\n'},
    ),
    (names_defined_twice, {"ssdiff/rng.py": "def f(): ...\n", "ssdiff/data/a.py": "class f: ...\n"}),
]
GOOD = {
    "benchmarks/a.py": "import ssdiff\nssdiff.load('x')\n",
    "examples/a.py": "from ssdiff import load\n",
    "ssdiff/__init__.py": "from ssdiff.pipeline import load\n",
    "ssdiff/__main__.py": "from ssdiff.cli import main\nprint(main)\n",
    "ssdiff/errors.py": "def f(): ...\n",
    "ssdiff/models/blocks.py": "import torch\nfrom ssdiff.errors import UsageError\n\ndef _f(): ...\n",
    "ssdiff/models/unet.py": "from ssdiff.models.blocks import a\nfrom .blocks import b\n\ndef _f(): ...\n",
    "ssdiff/config/load.py": "from ssdiff.sampling.registry import names\n",
    "ssdiff/sampling/registry.py": "",
    "ssdiff/sampling/plan.py": "from ssdiff.sampling.registry import names\n",
    "ssdiff/process/a.py": "isinstance(x, ColdProcess)\n",
    "ssdiff/pipeline.py": "from ssdiff import __version__, rng\nfrom ssdiff.models.unet import c\n"
    "isinstance(x, Tensor)\n",
    "ssdiff/rng.py": 'def g():\n    """Draw."""\ndef _h():\n    """The part."""\n'
    'class A:\n    @property\n    def p(self):\n        """The thing."""\n    def __len__(self):\n'
    '        """The number."""\nclass _B:\n    def f(self):\n        """The other."""\n',
    "ssdiff/cli/common.py": "class Terminal:\n    say = print\nSeed = Annotated[int, typer.Option()]\n",
    "ssdiff/cli/a.py": "from ssdiff.cli.common import Seed, Terminal\n\ndef f(seed: Seed): ...\n"
    "def _say(t: Terminal): ...\ndef _rows(x) -> list[str]: ...\ndef _show(x): print(x)\n"
    "class Shown:\n    t: Terminal\ndef _make(x) -> Shown: ...\n",
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(("check", "files"), BAD, ids=lambda item: getattr(item, "__name__", None))
def test_a_check_can_fail(check, files, tmp_path):
    assert len(check(plant(tmp_path, files))) == 1


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_check_can_pass(check, tmp_path):
    assert check(plant(tmp_path, GOOD)) == []
