"""Plugins: files of a user that register networks, degradations, samplers or schedules when imported."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module, util
from pathlib import Path

from ssdiff.arguments import as_path
from ssdiff.errors import SsdiffError, UsageError, one_line
from ssdiff.files import read_input
from ssdiff.registry import credited_to

_LARGEST = 2**26  # bytes of a file of Python

_loaded: dict[str, str] = {}  # by content or module, so that a moved copy of a file is the same plugin


def load_plugin(plugin: str | Path) -> str:
    """Import a plugin, which runs its code; what it registers is then known everywhere.

    Importing it again, or a copy of it, does nothing.

    Args:
        plugin: a file that ends in ``.py``, or the name of a module that Python finds.

    Returns:
        The absolute path of the file, or the name of the module, by which a run remembers it.

    Raises:
        UsageError: it is absent, cannot be imported (says which line failed), or registers a name that is
            taken or a part with the wrong signature. Nothing of it stays registered.
    """
    if is_file(plugin):
        path = as_path("plugin", plugin).absolute()
        if not str(path).isprintable():  # a preset that names it has to be text
            raise UsageError(f"plugin {path} has a name that is no plain text", path=path, hint="rename it")
        try:
            source = read_input(path, _LARGEST)
        except OSError as error:
            raise UsageError(
                f"cannot read plugin {path}: {error.strerror}",
                path=path,
                hint="give a Python file with --plugin FILE.py",
            ) from None
        name, key = str(path), hashlib.sha256(source).hexdigest()
    else:
        path, name, key = None, str(plugin), f"module {plugin}"
    if key not in _loaded:
        with credited_to(name):
            _import(name, path, key)
        _loaded[key] = name
    return _loaded[key]


def load_all(plugins: Iterable[str]) -> tuple[list[str], list[str]]:
    """Import the plugins that a preset names; files that are gone may have been given at another place.

    Returns:
        Those that are there, and files that are not.

    Raises:
        UsageError: as :func:`load_plugin`.
    """
    there, gone = [], []
    for plugin in plugins:
        if is_file(plugin) and not Path(plugin).is_file():
            gone.append(plugin)
        else:
            there.append(load_plugin(plugin))
    return there, gone


def any_loaded() -> bool:
    """Return whether a plugin has been imported."""
    return bool(_loaded)


def is_file(plugin: str | Path) -> bool:
    """Return whether a plugin is named as a file, not as a module."""
    text = str(plugin)
    return isinstance(plugin, Path) or text.endswith(".py") or "/" in text or "\\" in text


def place_of(error: BaseException) -> str | None:
    """Return file and line of a plugin's code that an error came through, the innermost; None if none did."""
    files = set(_loaded.values())
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{places[-1].filename}, line {places[-1].lineno}" if places else None


def _import(name: str, path: Path | None, key: str) -> None:
    """Import a file under a name of its own, or a module under its name."""
    own = f"ssdiff_plugin_{key[:16]}"
    try:
        if path is None:
            import_module(name)
            return
        spec = util.spec_from_file_location(own, path)
        assert spec is not None and spec.loader is not None, "a file of any name has a loader"
        module = util.module_from_spec(spec)
        sys.modules[own] = module
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a plugin may fail in any way
        sys.modules.pop(own, None)
        raise UsageError(_explain(name, path, error), path=path, hint=getattr(error, "hint", None)) from error


def _explain(name: str, path: Path | None, error: BaseException) -> str:
    """What failed, and at which line of the plugin."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = frames[-1].lineno if frames else None
    said = str(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, said = error.lineno, error.msg
    where = f"plugin {name}" + (f", line {line}" if line else "")
    if isinstance(error, SsdiffError):
        return f"{where}: {error.args[0]}"
    return f"{where}: {type(error).__name__}{': ' if said else ''}{one_line(said) if said else ''}"
