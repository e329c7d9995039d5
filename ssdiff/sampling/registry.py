"""Samplers by name: which processes each fits, whether it takes eta, how its timesteps are spaced; no torch.

Settings, the command line's help and every error take the names from here. To add a sampler, write a
generator function of a :class:`ssdiff.sampling.walk.Walk` and give it a name with :func:`register_sampler`,
in sampling/gaussian.py, sampling/cold.py or a plugin.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeVar

from ssdiff.errors import UsageError
from ssdiff.registry import Registry

Spacing = Literal["timesteps", "log-noise", "once"]
_Function = TypeVar("_Function", bound=Callable[[Any], Iterator[tuple[int, Any]]])
_BUILTIN = ("gaussian", "cold")  # modules of this folder that register samplers


@dataclass(frozen=True)
class Sampler:
    """A way from a degraded image to a clean one, and what is to be known of it before it is called.

    Attributes:
        name: its own, never an alias.
        function: of a Walk, yields (s, x_s) for each timestep after the first.
        help: one line.
        noisy: whether it is for processes with Gaussian noise.
        cold: whether it is for processes without.
        eta: share of fresh noise that it draws, where none is asked for.
        takes_eta: whether another share can be asked for.
        spacing: ``timesteps``: even in t; ``log-noise``: even in log(sigma / a); ``once``: from the first
            timestep to the clean image at one go.
        evaluations: of the network, in a step.
        needs: what else a process must have, a function of the process.
        kinds: of process in a preset that it is for; all of them where empty.
        corrects: whether it gives back what its steps lose, if ``sampling.correction`` asks for it.
    """

    name: str
    function: Callable[[Any], Iterator[tuple[int, Any]]]
    help: str = ""
    noisy: bool = True
    cold: bool = False
    eta: float = 0.0
    takes_eta: bool = False
    spacing: Spacing = "timesteps"
    evaluations: int = 1
    needs: Callable[[Any], bool] = lambda process: True
    kinds: tuple[str, ...] = ()
    corrects: bool = False

    def __post_init__(self) -> None:
        # The registry tells parts of ssdiff from those of plugins by their module.
        object.__setattr__(self, "__module__", self.function.__module__)

    def __call__(self, walk: Any) -> Iterator[tuple[int, Any]]:
        """Walk: the states after the first, as (s, x_s)."""
        return self.function(walk)

    def fits(self, process: Any) -> bool:
        """Return whether a process can be sampled by it."""
        return (self.noisy if process.noisy else self.cold) and self.needs(process)


def _load() -> None:
    for module in _BUILTIN:
        import_module(f"ssdiff.sampling.{module}")


SAMPLERS: Registry[Sampler] = Registry("sampler", load=_load)
"""Name or alias to :class:`Sampler`."""


def register_sampler(
    name: str,
    *,
    help: str = "",
    noisy: bool = True,
    cold: bool = False,
    eta: float = 0.0,
    takes_eta: bool = False,
    spacing: Spacing = "timesteps",
    evaluations: int = 1,
    needs: Callable[[Any], bool] = lambda process: True,
    kinds: tuple[str, ...] = (),
    corrects: bool = False,
    aliases: tuple[str, ...] = (),
) -> Callable[[_Function], _Function]:
    """Return a decorator that makes a generator function known as the sampler ``name``.

    The function takes one :class:`ssdiff.sampling.walk.Walk` and yields (s, x_s) for each of its timesteps
    after the first, down to (0, x_0). The name is then what ``--sampler``, ``sampling.sampler`` in a preset
    and ``Pipeline.sample(sampler=...)`` take.

    Args:
        name: in small letters, digits, hyphens and +.
        help: one line on what it does.
        noisy: it is for processes with Gaussian noise.
        cold: it is for processes without.
        eta: share of fresh noise, 0..1, where none is asked for.
        takes_eta: another share can be asked for.
        spacing: ``timesteps`` for steps even in t, ``log-noise`` for even in log(sigma / a), ``once`` for one
            step from the first timestep to the clean image.
        evaluations: of the network, in a step.
        needs: what else a process must have, a function of the process.
        kinds: ``process.kind`` of the presets that may choose it; all where empty.
        corrects: each of its steps at one size is :meth:`Walk.step <ssdiff.sampling.walk.Walk.step>` by its
            prediction, and it passes x_s with s > 0 through ``walk.correct`` where that is not None.
        aliases: more names of the same.

    Raises:
        UsageError: a name is taken, the function is no generator of one argument, or eta is out of range.

    Example:
        >>> import ssdiff
        >>> @ssdiff.register_sampler("euler", help="Steps along the probability flow")
        ... def euler(walk):
        ...     x = walk.x
        ...     for t, s in walk.steps:
        ...         x = walk.step(x, walk.predict(x, t), t, s)
        ...         yield s, x
    """
    if spacing not in ("timesteps", "log-noise", "once"):
        raise UsageError(
            f"sampler {name!r}: unknown spacing {spacing!r}", hint="choose timesteps, log-noise or once"
        )
    if not 0 <= eta <= 1:
        raise UsageError(
            f"sampler {name!r}: eta must be in [0, 1], not {eta}", hint="1 is ancestral, 0 is deterministic"
        )

    decorators = [SAMPLERS.register(each) for each in (name, *aliases)]

    def add(function: _Function) -> _Function:
        _check_signature(name, function)
        sampler = Sampler(
            name, function, help, noisy, cold, eta, takes_eta, spacing, evaluations, needs, kinds, corrects
        )
        for decorate in decorators:
            decorate(sampler)
        return function

    return add


def samplers(of: Any = None) -> tuple[str, ...]:
    """Return the names of samplers: all, or those that a process or a pipeline can be sampled by.

    Args:
        of: a :class:`ssdiff.process.base.Process` or a :class:`ssdiff.Pipeline`; all samplers where omitted.

    Raises:
        UsageError: it is neither.
    """
    process = getattr(of, "process", of)
    if process is not None and not hasattr(process, "noisy"):
        raise UsageError(
            f"samplers are those of a process or a pipeline, not of a {type(of).__name__}",
            hint="build one: ssdiff.build_process(ssdiff.load_preset(NAME))",
        )
    return _listed(lambda sampler: process is None or sampler.fits(process))


def samplers_of_kind(kind: str, levels: int = 1) -> tuple[str, ...]:
    """Return the names that a preset may choose from, before its process is built.

    Args:
        kind: of the process; only ``cold`` has no noise of its own.
        levels: resolutions of the process; one step cannot cross a resolution transition.
    """
    return _listed(
        lambda sampler: (
            (sampler.cold if kind == "cold" else sampler.noisy)
            and (not sampler.kinds or kind in sampler.kinds)
            and (levels == 1 or sampler.spacing != "once")
        )
    )


def sampler_help() -> str:
    """Return in one sentence each what the samplers do, for the help of an option."""
    found = map(SAMPLERS.get, samplers())
    return " ".join(f"{sampler.name}: {sampler.help}." for sampler in found)


def _listed(wanted: Callable[[Sampler], bool]) -> tuple[str, ...]:
    """Names without aliases, those of one step last."""
    found = {sampler.name: sampler for sampler in map(SAMPLERS.get, SAMPLERS.names())}
    order = sorted(found, key=lambda name: (found[name].spacing == "once", name))
    return tuple(name for name in order if wanted(found[name]))


def _check_signature(name: str, function: Any) -> None:
    """Refuse what is no generator function of one argument."""
    parameters = list(inspect.signature(function).parameters.values()) if callable(function) else []
    needed = [one for one in parameters if one.default is one.empty and one.kind != one.VAR_KEYWORD]
    positional = parameters and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    if not inspect.isgeneratorfunction(function) or not positional or len(needed) != 1:
        raise UsageError(
            f"sampler {name!r} is no generator function of one argument",
            hint="write `def NAME(walk):`, and `yield s, x` for each `t, s in walk.steps`",
        )
