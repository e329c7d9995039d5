"""Parts by name: those of ssdiff and those that a plugin adds by a decorator; no torch.

Each kind of part (degradations, networks, noise schedules, ...) has one :class:`Registry`. It knows which
plugin a part came from, so that a run can remember it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from ssdiff.errors import UsageError, did_you_mean

Part = TypeVar("Part", bound=Callable[..., Any])
_Given = TypeVar("_Given", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z0-9]([a-z0-9_+.-]*[a-z0-9+])?")
_registries: list[Registry[Any]] = []
_importing: list[str] = []


class Registry(Generic[Part]):
    """Parts of one kind by name.

    Args:
        noun: what a part is called in messages, e.g. ``degradation``.
        builtin: names that ssdiff itself has, where they must be known before ``load`` is called.
        load: imports the modules that register the parts of ssdiff.
        check: refuses a part with the wrong signature; gets its name and the part.
    """

    def __init__(
        self,
        noun: str,
        *,
        builtin: Sequence[str] = (),
        load: Callable[[], object] = lambda: None,
        check: Callable[[str, Any], object] = lambda name, part: None,
    ) -> None:
        self.noun = noun
        self._builtin, self._load, self._check = tuple(builtin), load, check
        self._parts: dict[str, Part] = {}
        self._sources: dict[str, str] = {}
        _registries.append(self)

    def register(self, name: object) -> Callable[[_Given], _Given]:
        """Return a decorator that gives a part its name.

        Raises:
            UsageError: the name is taken or cannot be one, or the part has the wrong signature.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(
                f"{getattr(name, '__name__', repr(name))} cannot be the name of a {self.noun}",
                hint="give one in small letters, digits and hyphens to the decorator",
            )

        def add(part: _Given) -> _Given:
            # The modules of ssdiff register themselves while they load each other.
            if not callable(part):
                raise UsageError(f"{self.noun} {name!r} is no function or class but {part!r}")
            if not str(getattr(part, "__module__", "")).startswith("ssdiff."):
                self._load()
                if name in self._parts or name in self._builtin:
                    owner = self._sources.get(name)
                    raise UsageError(
                        f"there is a {self.noun} {name!r} already" + (f", of {owner}" if owner else ""),
                        hint="choose another name",
                    )
            self._check(name, part)
            self._parts[name] = cast(Part, part)
            if _importing:
                self._sources[name] = _importing[-1]
            return part

        return add

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        if not self._builtin:
            self._load()
        return tuple(sorted({*self._builtin, *self._parts}))

    def get(self, name: str) -> Part:
        """Return the part of a name.

        Raises:
            UsageError: there is none; names the nearest ones.
        """
        if name not in self._parts:
            self._load()
        if name not in self._parts:
            raise UsageError(f"unknown {self.noun} {name!r}", hint=self.suggest(name))
        return self._parts[name]

    def suggest(self, name: str) -> str:
        """Return in words what to write instead of a name that does not exist."""
        return f"{did_you_mean(name, self.names())} (or give its plugin with --plugin FILE.py)"


def source_of(noun: str, name: str) -> str | None:
    """Return the plugin that a part came from; None for a part of ssdiff or of the running program."""
    return next((owner for r in _registries if r.noun == noun and (owner := r._sources.get(name))), None)


@contextmanager
def credited_to(plugin: str) -> Iterator[None]:
    """Credit the parts that a block registers to a plugin; where it fails, nothing of it stays registered."""
    before = [(registry, dict(registry._parts), dict(registry._sources)) for registry in _registries]
    _importing.append(plugin)
    try:
        yield
    except BaseException:
        for registry, parts, sources in before:
            registry._parts, registry._sources = parts, sources
        raise
    finally:
        _importing.pop()


def options_of(name: str, part: Callable[..., Any], leading: Sequence[str]) -> list[inspect.Parameter]:
    """Return the options of a part: its parameters after the leading ones.

    Args:
        name: of the part, for the error.
        part: a function or class.
        leading: names of the parameters that it is given by position.

    Raises:
        UsageError: it takes others by position, or options that it does not name.
    """
    signature, called = inspect.signature(part), getattr(part, "__name__", type(part).__name__)
    parameters = list(signature.parameters.values())
    first, options = parameters[: len(leading)], parameters[len(leading) :]
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if [parameter.name for parameter in first if parameter.kind in by_position] != list(leading) or any(
        option.kind not in by_name for option in options
    ):
        wanted = ", ".join([*leading, "*", "option=1.0"])
        raise UsageError(
            f"{name!r} has the signature {called}{signature}",
            hint=f"write {called}({wanted}), each option by its name",
        )
    return options
