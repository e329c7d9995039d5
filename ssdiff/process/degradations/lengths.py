"""Lengths in pixels that a degradation takes from the size of an image, where an option does not say them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from ssdiff.operators.base import Size

_Lengths: TypeAlias = Callable[[Size, Mapping[str, object]], dict[str, float]]


def blur_std(size: Size, options: Mapping[str, object]) -> dict[str, float]:
    """Return ``max_std`` of a blur by one Gaussian; kernels that follow one another have lengths of their
    own."""
    own = {"kernel", "last"} & options.keys() or options.get("std", "constant") != "constant"
    return {} if own else {"max_std": min(size) / 4}


def heat_std(size: Size, options: Mapping[str, object]) -> dict[str, float]:
    """Return ``max_std`` of heat dissipation."""
    return {"max_std": max(size) / 2}


def bump_std(size: Size, options: Mapping[str, object]) -> dict[str, float]:
    """Return ``kernel_std`` of a growing hole: the official 0.1 at 32 px."""
    return {} if options.get("std") == "constant" else {"kernel_std": min(size) / 320}


def block_side(size: Size, options: Mapping[str, object]) -> dict[str, float]:
    """Return the side of the ``largest`` block of one colour."""
    return {"largest": max(1.0, min(size) / 4)}


_LENGTHS: Mapping[str, _Lengths] = MappingProxyType(
    {"blur": blur_std, "dct-blur": heat_std, "mask": bump_std, "pixelate": block_side}
)


def lengths_of(name: str, size: Size, options: Mapping[str, object]) -> dict[str, float]:
    """Return the lengths that a degradation has at a size, as options for images of another one.

    Args:
        name: of the degradation.
        size: (H, W) that it is meant for.
        options: that are given.
    """
    return _LENGTHS[name](size, options) if name in _LENGTHS else {}
