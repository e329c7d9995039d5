"""Run folders: layout, lock, status, metrics log, and where they are kept."""

from ssdiff.runs.folder import RunFolder, State, is_run
from ssdiff.runs.paths import new_run_path, newest_run, remember, runs_root

__all__ = [
    "RunFolder",
    "State",
    "is_run",
    "new_run_path",
    "newest_run",
    "remember",
    "runs_root",
]
