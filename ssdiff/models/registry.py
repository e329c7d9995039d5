"""Networks by name, ``model.kind`` in a preset; no torch until one is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ssdiff.errors import PresetError, did_you_mean
from ssdiff.registry import Registry, options_of

if TYPE_CHECKING:
    from torch import nn

FLEXI_UNET = "flexi-unet"
"""The network of Scale Space Diffusion, which a preset has unless it says otherwise."""
CONVNEXT_UNET = "convnext-unet"
DDPM_UNET = "ddpm-unet"
CONV_UNET = "conv-unet"
"""The network of photographs of any size."""
ADM_UNET = "adm-unet"
"""The network of guided-diffusion and of diffusers, into which their weights go."""
OTHER_UNETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        CONVNEXT_UNET: (
            *("channels", "width", "multipliers", "residual", "activation_checkpointing"),
            "time_embedding",
        ),
        DDPM_UNET: (
            *("size", "channels", "width", "multipliers", "blocks", "attention", "dropout"),
            *("residual", "activation_checkpointing"),
        ),
        CONV_UNET: ("channels", "width", "multipliers", "blocks", "residual", "activation_checkpointing"),
        ADM_UNET: (
            *("size", "channels", "width", "multipliers", "blocks", "attention", "heads", "head_channels"),
            *("attention_order", "dropout", "classes", "resblock_updown", "scale_shift_norm", "learn_sigma"),
            *("first_index", "activation_checkpointing"),
            *("timestep_width", "sines_first", "freq_shift", "groups", "eps", "middle_attention"),
            *("decoder_attention", "resblock_down", "resblock_up", "pad_after"),
        ),
    }
)
"""The U-Nets that run as a whole at every resolution, with the arguments of their classes: presets are
checked without torch."""
BUILTIN = (FLEXI_UNET, *OTHER_UNETS)
"""Networks of ssdiff: U-Nets of ``model.width`` and ``model.multipliers``, each level half the size of the
one before."""

Builder: TypeAlias = "Callable[..., nn.Module]"
_Builder = TypeVar("_Builder", bound="Builder")


def _load() -> None:
    for kind in BUILTIN:  # each registers itself
        import_module(f"ssdiff.models.{kind.replace('-', '_')}")


NETWORKS: Registry[Builder] = Registry(
    "network", builtin=BUILTIN, load=_load, check=lambda name, builder: options_of(name, builder, ())
)
"""Name to builder(**options)."""


def register_model(name: str) -> Callable[[_Builder], _Builder]:
    """Return a decorator that makes a builder of networks known as ``name``, for ``model.kind`` in a preset.

    The builder is a function, or a class, of keyword arguments. It is called with those that its signature
    names of ``size`` and ``channels`` (of the images), the fields of ``[model]`` (``classes``, ``width``,
    ``dropout``, ...) and the entries of ``model.options``. A parameter that is none of these is an option;
    without a default it must be given. What the network may be called with says
    :func:`ssdiff.models.adapter.adapt`.

    Args:
        name: in small letters, digits and hyphens.

    Raises:
        UsageError: the name is taken, or the builder takes arguments that it does not name.

    Example:
        >>> import ssdiff, torch
        >>> @ssdiff.register_model("one-convolution")
        ... class OneConvolution(torch.nn.Module):
        ...     def __init__(self, channels, *, taps=3):
        ...         super().__init__()
        ...         self.conv = torch.nn.Conv2d(channels, channels, taps, padding="same")
        ...
        ...     def forward(self, x, t):
        ...         return self.conv(x)
    """
    return NETWORKS.register(name)


def arguments(
    kind: str, given: Mapping[str, Any], options: Mapping[str, Any], unused: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the builder of a network is called with.

    Args:
        kind: its name.
        given: what every network may name: size, channels, the fields of ``[model]``.
        options: ``model.options``.
        unused: those of ``given`` that a network must name, because somebody set them, with their defaults.

    Raises:
        PresetError: an option is unknown or missing, or a setting is one that the network does not name.
    """
    required = _parameters(kind)
    own = [name for name in required if name not in given]
    problems = []
    for name in options:
        if name in given:
            problems.append(f"model.options.{name}: is no option; write it as model.{name}")
        elif name not in own:
            hint = did_you_mean(name, own, prefix="model.options.") if own else "it has none"
            problems.append(f"model.options.{name}: network {kind!r} has no such option; {hint}")
    problems += [
        f"model.options.{name}: must be given, network {kind!r} has no default for it"
        for name in own
        if required[name] and name not in options
    ]
    problems += [
        f"model.{name}: network {kind!r} takes no {name}; leave it at {_toml(default)}"
        for name, default in unused.items()
        if name not in required and given[name] != default
    ]
    if problems:
        raise PresetError("; ".join(problems))
    return {name: given[name] for name in required if name in given} | dict(options)


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _parameters(kind: str) -> dict[str, bool]:
    """Name of each argument of a network's builder, and whether it has no default."""
    if kind in OTHER_UNETS:
        return dict.fromkeys(OTHER_UNETS[kind], False)
    parameters = options_of(kind, NETWORKS.get(kind), ())
    return {option.name: option.default is inspect.Parameter.empty for option in parameters}
