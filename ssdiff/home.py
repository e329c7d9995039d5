"""Where ssdiff keeps what is its own: the folder that ``SSDIFF_HOME`` names, or those of the platform."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from ssdiff.arguments import as_path
from ssdiff.errors import ResourceError


def default_home() -> Path:
    """Return the folder of runs and logs: ``SSDIFF_HOME``, or the platform's for a user's data.

    Raises:
        UsageError: ``SSDIFF_HOME`` is no path.
        ResourceError: there is no home folder.
    """
    return _chosen() or _of_platform("user_data_dir")


def cache_root() -> Path:
    """Return the folder of prepared and downloaded data: ``SSDIFF_HOME/cache``, or the platform's cache.

    Raises:
        UsageError: ``SSDIFF_HOME`` is no path.
        ResourceError: there is no home folder.
    """
    chosen = _chosen()
    return chosen / "cache" if chosen else _of_platform("user_cache_dir")


def _chosen() -> Path | None:
    named = os.environ.get("SSDIFF_HOME")
    return as_path("SSDIFF_HOME", named) if named else None


def _of_platform(function: str) -> Path:
    """A folder of the platform's; a container may run for a user who has none."""
    try:
        return Path(getattr(platformdirs, function)("ssdiff", appauthor=False)).expanduser()
    except (RuntimeError, KeyError):
        hint = "set SSDIFF_HOME to a folder that is writable"
        raise ResourceError("this user has no home folder", hint=hint) from None
