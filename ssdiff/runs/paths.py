"""Where runs are kept, and which is the newest."""

from __future__ import annotations

import os
import re
import tomllib
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import platformdirs

from ssdiff.runs.folder import RunFolder, is_run


def default_home() -> Path:
    """Return where runs are kept: ``SSDIFF_HOME``, or else the platform's folder for a user's data."""
    chosen = os.environ.get("SSDIFF_HOME")
    return Path(chosen or platformdirs.user_data_dir("ssdiff", appauthor=False)).expanduser()


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


def newest_run(name: str | None = None) -> Path | None:
    """Return the run in :func:`runs_root` that saved a checkpoint last; None if none has.

    Args:
        name: only runs of the preset of this name.
    """
    root = runs_root()
    found: list[tuple[float, Path]] = []
    for path in root.iterdir() if root.is_dir() else ():
        manifests = [*RunFolder(path).checkpoints.glob("step-*/manifest.json")] if is_run(path) else []
        if manifests and (name is None or _preset_name(path) == name):
            with suppress(OSError):
                found.append((max(manifest.stat().st_mtime for manifest in manifests), path))
    return max(found)[1] if found else None


def _preset_name(path: Path) -> object:
    try:
        return tomllib.loads(RunFolder(path).preset.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError):
        return None
