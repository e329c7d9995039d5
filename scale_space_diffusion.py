"""The command ``ssdiff``, begun outside the package of that name.

The package index has an unrelated distribution ``ssdiff`` whose package has the same name as ours. Installed
after ours it replaces ``ssdiff/__init__.py``, so whether it did is found out before anything of the package
is imported.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

OURS = "scale-space-diffusion"
_RESOURCES = 6
_FIRST_WORDS = '"""Scale Space Diffusion:'  # of ssdiff/__init__.py


def main() -> None:
    """Run the command line, or say in one line that the package ``ssdiff`` is not ours."""
    if (problem := foreign()) is not None:
        message, hint = problem
        if "--json" in sys.argv:
            print(json.dumps({"error": f"{message}; {hint}", "code": _RESOURCES, "path": None, "hint": hint}))
        print(f"ssdiff: error: {message}; {hint}", file=sys.stderr)
        raise SystemExit(_RESOURCES)
    from ssdiff.cli import program

    program()


def foreign() -> tuple[str, str] | None:
    """Return what is wrong with the package ``ssdiff`` and how to mend it, or None if it is ours."""
    spec = find_spec("ssdiff")
    if spec is None or spec.origin is None:
        return f"the package ssdiff of {OURS} is missing", f"run `pip install --force-reinstall {OURS}`"
    start = Path(spec.origin)
    if start.read_text(encoding="utf-8").startswith(_FIRST_WORDS):
        return None
    shared = [str(path) for path in shared_files()] or [str(start)]
    return (
        f"an unrelated package named ssdiff {_version()} lies in place of ours: "
        f"{', '.join(shared)} {'is' if len(shared) == 1 else 'are'} not of {OURS}",
        f"run `pip uninstall -y ssdiff` and `pip install --force-reinstall --no-deps {OURS}`",
    )


def namesake() -> metadata.Distribution | None:
    """Return the unrelated distribution named ``ssdiff``, if it is installed; our own bore that name once."""
    try:
        other = metadata.distribution("ssdiff")
    except metadata.PackageNotFoundError:
        return None
    scripts = other.entry_points.select(group="console_scripts", name="ssdiff")
    return None if len(scripts) else other


def shared_files() -> list[metadata.PackagePath]:
    """Return the files that both distributions, ours and the unrelated one, list as theirs."""
    other = namesake()
    try:
        ours = metadata.distribution(OURS)
    except metadata.PackageNotFoundError:
        return []
    mine = {str(path) for path in ours.files or ()}
    theirs = other.files or () if other else ()
    return [path for path in theirs if str(path) in mine and path.suffix != ".pyc"]


def _version() -> str:
    other = namesake()
    return other.version if other else "(not listed by pip)"
