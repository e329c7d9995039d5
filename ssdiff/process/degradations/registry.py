"""Degradations D(x, t) of images of any size, by name: t = 0 is the image itself, t = T the most degraded.

To add one: write a builder that takes (size, T) and its own keyword options and returns a
:class:`ssdiff.process.degradations.base.Degradation` (for a linear one a ``LinearDegradation`` around a
function from t to an operator), and give it a name with :func:`register_degradation`, in a module of this
folder or in a plugin. A builder with a ``seed`` option is random: it draws by image number, so that one image
keeps one draw at every severity. The name and the options are then what ``--op``, and ``process.degradation``
in a preset, take.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import Parameter
from pkgutil import iter_modules
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ssdiff.errors import UsageError
from ssdiff.process import degradations as families
from ssdiff.registry import Registry, options_of

if TYPE_CHECKING:
    from ssdiff.operators.base import Size
    from ssdiff.process.degradations.base import Degradation

Builder: TypeAlias = "Callable[..., Degradation]"
_Builder = TypeVar("_Builder", bound="Builder")

_GIVEN = ("size", "T")  # what a builder is given by position


def _load() -> None:
    for module in iter_modules(families.__path__, f"{families.__name__}."):
        import_module(module.name)


DEGRADATIONS: Registry[Builder] = Registry(
    "degradation", load=_load, check=lambda name, builder: options_of(name, builder, _GIVEN)
)
"""Name to builder(size, T, **options)."""


def register_degradation(name: str) -> Callable[[_Builder], _Builder]:
    """Return a decorator that makes a builder of degradations known as ``name``.

    The builder is a function, or a class, of (size, T) and keyword options. ``size`` is (H, W) in pixels, T
    the highest severity; the result has both as attributes and degrades by ``degrade(x0, t, images=None)``,
    as :class:`ssdiff.process.degradations.base.Degradation` says.

    Args:
        name: in small letters, digits and hyphens.

    Raises:
        UsageError: the name is taken, or the signature is another one.

    Example:
        >>> import ssdiff, torch
        >>> from ssdiff.operators.pixelwise import Mask
        >>> from ssdiff.process.degradations.base import LinearDegradation
        >>> @ssdiff.register_degradation("dim")
        ... def dim(size, T, *, least=0.1):
        ...     return LinearDegradation(size, T, lambda t: Mask(torch.full(size, least ** (t / T))))
    """
    return DEGRADATIONS.register(name)


def degradations() -> tuple[str, ...]:
    """Return the names of all degradations, sorted: those of ssdiff and those of plugins."""
    return DEGRADATIONS.names()


def degradation_options(name: str) -> dict[str, Parameter]:
    """Return the options of the degradation of a name, by their names.

    Raises:
        UsageError: there is none; names the nearest ones.
    """
    return {option.name: option for option in options_of(name, DEGRADATIONS.get(name), _GIVEN)}


def build_degradation(
    name: str, size: Size, T: int = 1000, *, seed: int = 0, **options: object
) -> Degradation:
    """Return the degradation of a name for images of one size.

    Args:
        name: one of :func:`degradations`.
        size: (H, W) of the clean images, pixels.
        T: the highest severity, at least 1.
        seed: for the random ones; the others ignore it.
        options: keyword options of the builder, e.g. ``max_std`` of blur.

    Raises:
        UsageError: for an unknown name (it gives the nearest ones), a size or T below 1, or an option that
            this degradation has not or that is out of range.
    """
    parameters, builder = degradation_options(name), DEGRADATIONS.get(name)
    if T < 1 or min(size) < 1:
        raise UsageError(f"a degradation needs T >= 1 and pixels, not T = {T} and size {tuple(size)}")
    known = list(parameters)
    own = f"its options are: {', '.join(key for key in known if key not in ('seed', 'other')) or 'none'}"
    for option in options:
        if option not in known:
            raise UsageError(f"{name} has no option {option!r}", hint=own)
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in ("seed", *options):
            raise UsageError(f"{name} needs {option}", hint=own)
    try:
        built = builder(size, T, **options, **({"seed": seed} if "seed" in known else {}))
    except TypeError:
        shown = ", ".join(f"{key} = {value!r}" for key, value in options.items())
        raise UsageError(f"{name}: an option has a value of the wrong kind: {shown}") from None
    if missing := [part for part in ("size", "T", "degrade") if not hasattr(built, part)]:
        raise UsageError(
            f"{name} gives {type(built).__name__}, which has no {' and no '.join(missing)}",
            hint="a degradation has size, T and degrade(x0, t, images=None)",
        )
    return built
