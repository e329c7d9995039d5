"""Values that a shell completes, found without PyTorch, so that the Tab key answers at once."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Sequence

import typer

# Of :mod:`ssdiff.data` and :mod:`ssdiff.process.degradations`, which import torch; a test compares.
DATA = ("shapes", "cifar10", "mnist", "fashion-mnist", "celeba", "lsun-bedroom", "lsun-church")
DEGRADATIONS = (
    "animorph",
    "blur",
    "blur-noise",
    "dct-blur",
    "desaturate",
    "downsample",
    "mask",
    "noise",
    "pixelate",
    "snow",
)


def add_values(app: typer.Typer) -> None:
    """Give the options and arguments of all commands the values that their names stand for."""
    for command in _commands(app):
        for name, hint in typing.get_type_hints(command, include_extras=True).items():
            for info in getattr(hint, "__metadata__", ()):
                if name in _VALUES and info.autocompletion is None:
                    info.autocompletion = _starting(_VALUES[name])


def _commands(app: typer.Typer) -> Iterator[Callable[..., object]]:
    yield from (info.callback for info in app.registered_commands if info.callback is not None)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _commands(group.typer_instance)


def _starting(values: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [value for value in values() if value.startswith(incomplete)]

    return complete


def _presets() -> Sequence[str]:
    from ssdiff.config.load import presets

    return presets()


def _samplers() -> Sequence[str]:
    from ssdiff.sampling.registry import samplers

    return samplers()


_VALUES: dict[str, Callable[[], Sequence[str]]] = {
    "preset": _presets,
    "data": lambda: DATA,
    "with_": lambda: DATA,
    "op": lambda: DEGRADATIONS,
    "sampler": _samplers,
    "device": lambda: ("auto", "cpu", "cuda", "mps"),
    "precision": lambda: ("auto", "fp32", "bf16"),
    "weights": lambda: ("ema", "raw"),
}
