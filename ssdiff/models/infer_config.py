"""What settings a network had, read off the names and shapes of its weights in the authors' layout."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import Tensor

_STEM, _LABELS, _ADAPTER = "input_blocks.0.0.weight", "label_emb.weight", "adapters_out."


def outline(state: Mapping[str, Tensor]) -> dict[str, int | tuple[int, ...]]:
    """Return settings by their names in a preset, as far as weights show them (heads, for one, they do not).

    Args:
        state: the authors' state dict, with or without prefixes of wrappers; only names and shapes are read.

    Returns:
        ``data.channels``, ``model.width``, ``model.multipliers``, ``model.blocks``, ``model.classes``; and of
        a Flexi-UNet [SSD], whose adapters are named by sizes in pixels, ``data.size`` and
        ``model.attention``. Empty for another layout.
    """
    stem = next((name for name in state if name.endswith(_STEM)), None)
    if stem is None:
        return {}
    prefix = stem.removesuffix(_STEM)
    shapes = {n.removeprefix(prefix): tuple(value.shape) for n, value in state.items()}
    if len(shapes[_STEM]) != 4 or 0 in shapes[_STEM]:
        return {}
    width, channels = shapes[_STEM][:2]
    widths, attended = _levels(shapes)
    found: dict[str, int | tuple[int, ...]] = {
        "data.channels": channels,
        "model.width": width,
        "model.multipliers": tuple(level[0] // width for level in widths if level),
        "model.blocks": max(map(len, widths)),
        "model.classes": shapes.get(_LABELS, (0,))[0],
    }
    sizes = [name.removeprefix(_ADAPTER).partition(".")[0] for name in shapes if name.startswith(_ADAPTER)]
    coarsest = min((int(text) for text in sizes if text.isdecimal()), default=0)
    if coarsest and widths[-1][:1] != [width]:  # the coarsest level has an adapter
        size = found["data.size"] = coarsest << (len(widths) - 1)
        found["model.attention"] = tuple(size >> level for level in attended)
    return found


def _levels(shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[list[int]], list[int]]:
    """Channels of each encoder block by level, finest first; and the levels that have attention."""
    widths: list[list[int]] = [[]]
    attended: list[int] = []
    for number in itertools.count(1):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in shapes:
            widths.append([])
        elif shape := shapes.get(f"{block}.0.out_layers.3.weight"):
            widths[-1].append(shape[0])
            level = len(widths) - 1
            if f"{block}.1.qkv.weight" in shapes and level not in attended:
                attended.append(level)
        else:
            return widths, attended
    raise AssertionError("the loop ends at the first block that is not there")
