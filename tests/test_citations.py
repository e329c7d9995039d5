"""Everything that code cites exists: documents, sections, equations, keys of papers, rows of the faults."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("ssdiff", "benchmarks", "examples", "presets", "tests")
PAGES = ("README.md", "RESULTS.md", "CONTRIBUTING.md", "docs")
MATH, REFERENCES, FAULTS = "docs/math.md", "docs/references.md", "docs/faults.md"

WHERE = r"(?:sections?|figures?|equations?|algorithms?|tables?|appendix|appendices)\b"
DOCUMENT = re.compile(r"[\w./-]*\w\.md\b")
EQUATION = re.compile(r"\b[Ee]quations? ((?:\(\d+\)(?:, | and | to )?)+)")
SECTION = re.compile(r"docs/math\.md, sections? (\d+)")
ROW = re.compile(r"\brows? (\d+(?:(?:, | and | to )\d+)*)(?= of the fault table)")
FAULT = re.compile(r"docs/faults\.md, rows? (\d+(?:(?:, | and | to )\d+)*)")
BRACKET = re.compile(r"(?<![\w\])!])\[([A-Z][^\[\]]*)\](?!\()")
AUTHORS = re.compile(r"\b([A-Z][\w'-]+ (?:et al\.|& [A-Z][\w'-]+)),? \(?((?:19|20)\d\d)\b")


def problems(root: Path) -> list[str]:
    """What the code and the pages of a tree cite in vain, one line each."""
    math, keys = (root / MATH).read_text(), known_keys(root)
    equations = {int(number) for number in re.findall(r"\\tag\{(\d+)\}", math)}
    sections = {int(number) for number in re.findall(r"^## (\d+)\.", math, re.M)}
    rows = {int(number) for number in re.findall(r"^\| (\d+) \|", fault_table(root), re.M)}
    found = []
    for place, text in cited_texts(root):
        for name in DOCUMENT.findall(text):
            if not any((base / name).is_file() for base in (root, (root / place).parent)):
                found.append(f"{place}: no document {name}")
        for kind, known, numbers in (
            ("equation", equations, of(EQUATION, text)),
            ("section", sections, of(SECTION, text)),
            ("row", rows, of(ROW, text) + of(FAULT, text)),
        ):
            found += [f"{place}: no {kind} {number}" for number in numbers if number not in known]
        found += [f"{place}: no reference [{key}]" for key in keys_cited(text) if key not in keys]
    return found


def known_keys(root: Path) -> set[str]:
    """Keys of the page of references."""
    return set(re.findall(r"^- \*\*\[([^\]]+)\]\*\*", (root / REFERENCES).read_text(), re.M))


def fault_table(root: Path) -> str:
    """The rows, without the table of exit codes before them."""
    return (root / FAULTS).read_text().partition("## Faults")[2]


def of(pattern: re.Pattern[str], text: str) -> list[int]:
    """All numbers that a pattern finds; '3 to 5' is 3, 4, 5."""
    result: list[int] = []
    for found in pattern.findall(text):
        for first, last in re.findall(r"(\d+)\)?(?: to \(?(\d+))?", found):
            result += range(int(first), int(last or first) + 1)
    return result


def keys_cited(text: str) -> list[str]:
    """Keys in brackets, several separated by semicolons, each with a place in the paper or without."""
    result = []
    for inside in BRACKET.findall(text):
        for part in inside.split("; "):
            key = re.split(rf",? {WHERE}", part)[0].rstrip(",")
            if not DOCUMENT.match(part) and not part.startswith("docs/"):
                result.append(key)
    result += [f"{authors} {year}" for authors, year in AUTHORS.findall(text)]
    return list(dict.fromkeys(result))


def cited_texts(root: Path) -> list[tuple[str, str]]:
    """(path, text) of each docstring and comment of the code, and of each page, on one line, without code."""
    result = []
    for folder in CODE:
        for path in sorted((root / folder).rglob("*.py")):
            if path.name != Path(__file__).name:
                result += [(path, text) for text in prose(path.read_text())]
        for path in sorted((root / folder).glob("*.toml")):
            lines = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
            result.append((path, " ".join(lines)))
    for name in PAGES:
        result += [(path, without_code(path.read_text())) for path in markdown(root / name)]
    return [(str(path.relative_to(root)), re.sub(r"\s+", " ", text)) for path, text in result]


def markdown(path: Path) -> list[Path]:
    """The page itself, or those of a folder."""
    return sorted(path.glob("*.md")) if path.is_dir() else [path] if path.is_file() else []


def prose(source: str) -> list[str]:
    """Docstrings (and strings that stand alone, which describe a name) and runs of comment lines."""
    texts = [
        re.sub(r"^ *(>>>|\.\.\.).*$", "", node.value.value, flags=re.M)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("#: ")
            if comments and comments[-1][0] == token.start[0] - 1:
                text = f"{comments.pop()[1]} {text}"
            comments.append((token.start[0], text))
    return texts + [text for _, text in comments]


def without_code(page: str) -> str:
    """A page without fenced blocks, formulas, indented commands and quoted code."""
    page = re.sub(r"^(```|\$\$).*?^\1", "", page, flags=re.S | re.M)
    return re.sub(r"`[^`]*`|\$[^$\n]*\$|^    .*$", "", page, flags=re.M)


def test_everything_cited_exists():
    assert problems(ROOT) == []


def test_every_reference_is_cited():
    texts = [text for place, text in cited_texts(ROOT) if place != REFERENCES]
    assert known_keys(ROOT) - {key for text in texts for key in keys_cited(text)} == set()


def test_equations_and_rows_are_numbered_through():
    equations = [int(number) for number in re.findall(r"\\tag\{(\d+)\}", (ROOT / MATH).read_text())]
    rows = [int(number) for number in re.findall(r"^\| (\d+) \|", fault_table(ROOT), re.M)]
    assert equations == list(range(1, len(equations) + 1))
    assert rows == list(range(1, len(rows) + 1))


def test_exit_codes_are_those_of_the_exceptions():
    from ssdiff import errors

    page = (ROOT / FAULTS).read_text()
    told = {
        name: int(code)
        for code, names in re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", page, re.M)
        for name in re.findall(r"`(\w+)`", names)
    }
    classes = {
        name: value.code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.SsdiffError)
    }
    del classes["SsdiffError"]
    assert told == classes


def test_links_between_pages_lead_somewhere():
    pages = [path for name in PAGES for path in markdown(ROOT / name)]
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if not target.startswith("http") and not (page.parent / target).exists()
    ]
    assert dead == []


@pytest.fixture
def tree(tmp_path):
    """A made-up project in which everything cited exists."""
    (tmp_path / "docs").mkdir()
    (tmp_path / MATH).write_text("## 1. Notation\n\n$$\nx = y\n\\tag{1}\n$$\n")
    (tmp_path / REFERENCES).write_text("- **[SSD]** A paper.\n- **[Ho et al. 2020]** Another.\n")
    (tmp_path / FAULTS).write_text("## Faults\n\n| 1 | a fault | 2 | |\n| 2 | another | 2 | |\n")
    (tmp_path / "ssdiff").mkdir()
    return tmp_path


GOOD = (
    '"""What is known [SSD, section 4; Ho et al. 2020], by [docs/math.md, equation (1)] and section 9."""',
    "x = 1  # as in docs/math.md, section 1, a dict[str, Any] in [0, 1] by Ho et al. (2020)\n",
    "# Rows 1 and 2 of the fault table; docs/faults.md, rows 1 to 2\n",
)
BAD = {
    '"""By MATH.md, section 1."""': "no document MATH.md",
    "# see docs/maths.md\n": "no document docs/maths.md",
    '"""The step [docs/math.md, equations (1) and (2)]."""': "no equation 2",
    '"""The step by equation\n    (12)."""': "no equation 12",
    "x = 1  # docs/math.md, section 2": "no section 2",
    '"""As [SSD; CD, section\n    3]."""': "no reference [CD]",
    "# As in\n# [Song et al. 2021].\n": "no reference [Song et al. 2021]",
    '"""Betas of Nichol & Dhariwal (2021)."""': "no reference [Nichol & Dhariwal 2021]",
    "# row 3 of the fault table\n": "no row 3",
    '"""Faults [docs/faults.md, rows 2 to 3]."""': "no row 3",
    "NAMES = {}\n'''Names [BD].'''\n": "no reference [BD]",
}


@pytest.mark.parametrize("source", GOOD)
def test_a_tree_in_which_all_exists(tree, source):
    (tree / "ssdiff" / "module.py").write_text(source)
    assert problems(tree) == []


@pytest.mark.parametrize("source", BAD)
def test_what_does_not_exist_is_found(tree, source):
    (tree / "ssdiff" / "module.py").write_text(source)
    assert problems(tree) == [f"ssdiff/module.py: {BAD[source]}"]
