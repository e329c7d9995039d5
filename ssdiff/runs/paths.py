"""Where runs are kept, and which is the newest."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from ssdiff.files import MOST, read_input, replace_file
from ssdiff.home import default_home
from ssdiff.runs.folder import RunFolder, is_run


def runs_root() -> Path:
    """Return the folder of the runs for which no place was named."""
    return default_home() / "runs"


def new_run_path(name: str) -> Path:
    """Return A place for a new run, ``NAME-YYYYmmdd-HHMMSS`` in :func:`runs_root`; not made yet.

    Args:
        name: of the preset; characters that file names do not take everywhere are replaced.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "run"
    base = runs_root() / f"{safe}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def newest_run(name: str | None = None, *, init: str | None = None) -> Path | None:
    """Return the run that saved a checkpoint last, in :func:`runs_root` or noted by :func:`remember`.

    None if none has.

    Args:
        name: only runs of the preset of this name.
        init: only runs that began with this model's weights.
    """
    root = runs_root()
    found: list[tuple[float, Path]] = []
    elsewhere = [path for note in _notes().glob("*.txt") if (path := _noted(note)) is not None]
    for path in (*(root.iterdir() if root.is_dir() else ()), *elsewhere):
        manifests = [*RunFolder(path).checkpoints.glob("step-*/manifest.json")] if is_run(path) else []
        if manifests and _is_wanted(path, name, init):
            with suppress(OSError):
                found.append((max(manifest.stat().st_mtime for manifest in manifests), path))
    return max(found)[1] if found else None


def remember(path: Path) -> None:
    """Note a run outside :func:`runs_root`, so that :func:`newest_run` finds it; failing to is no error.

    Each has a file of its own, so runs that begin at the same time need no lock. Notes of runs that have
    vanished are removed.
    """
    path = path.absolute()
    if runs_root().absolute() in path.parents:
        return
    with suppress(OSError):
        _notes().mkdir(parents=True, exist_ok=True)
        for note in _notes().glob("*.txt"):
            if _noted(note) is None:
                note.unlink(missing_ok=True)
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        replace_file(_notes() / f"{digest}.txt", os.fsencode(path))


def _noted(note: Path) -> Path | None:
    """The run folder that a note names; None if there is none any more."""
    with suppress(OSError, ValueError):
        path = Path(os.fsdecode(read_input(note, MOST)))
        return path if is_run(path) else None
    return None


def _notes() -> Path:
    return default_home() / "runs-elsewhere"


def _is_wanted(path: Path, name: str | None, init: str | None) -> bool:
    began = init is None or (RunFolder(path).read_init() or {}).get("model") == init
    return began and (name is None or _preset_name(path) == name)


def _preset_name(path: Path) -> object:
    try:
        return tomllib.loads(RunFolder(path).preset.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError, RecursionError):
        return None
