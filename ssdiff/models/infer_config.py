"""What settings a network had, read off the names and shapes of its weights in the authors' layout."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping

from torch import Tensor

_STEM, _HEAD, _LABELS = "input_blocks.0.0.weight", "out.2.weight", "label_emb.weight"
_TIME = "time_embed.0.weight"
_ADAPTER, _FIRST = "adapters_out.", "input_blocks.1.0"
_BLOCK = re.compile(r"(input|output)_blocks\.(\d{1,6})\.")
_DOUBLING = re.compile(r"output_blocks\.(\d{1,6})\.[12]\.in_layers\.0\.weight")


def outline(state: Mapping[str, Tensor], size: int | None = None) -> dict[str, bool | int | tuple[int, ...]]:
    """Return settings by their names in a preset, as far as weights show them (heads, for one, they do not).

    Args:
        state: the authors' state dict, with or without prefixes of wrappers; only names and shapes are read.
        size: pixels a side of the images, where known; a plain UNet's weights do not show it.

    Returns:
        ``data.channels``, ``model.width``, ``model.multipliers``, ``model.blocks``, ``model.classes``,
        ``model.resblock_updown``, ``model.scale_shift_norm``, ``model.learn_sigma``; of a Flexi-UNet [SSD],
        whose adapters are named by sizes in pixels, ``data.size``; ``model.attention`` where a size is known.
        Empty for another layout. ``model.options.timestep_width`` where the channels of levels are no
        multiples of the width of timesteps, as with the multiplier 0.5 of guided-diffusion.
    """
    stem = next((name for name in state if name.endswith(_STEM)), None)
    if stem is None:
        return {}
    prefix = stem.removesuffix(_STEM)
    shapes = {n.removeprefix(prefix): tuple(value.shape) for n, value in state.items()}
    if len(shapes[_STEM]) != 4 or 0 in shapes[_STEM]:
        return {}
    stem_width, channels = shapes[_STEM][:2]
    updown = _blocks_beside_updown(shapes)
    widths, attended = _levels(shapes, updown)
    width = math.gcd(stem_width, *(level[0] for level in widths if level))
    found: dict[str, bool | int | tuple[int, ...]] = {
        "data.channels": channels,
        "model.width": width,
        "model.multipliers": tuple(level[0] // width for level in widths if level),
        "model.blocks": max(map(len, widths)),
        "model.classes": shapes.get(_LABELS, (0,))[0],
        "model.resblock_updown": updown > 0,
        "model.scale_shift_norm": shapes.get(f"{_FIRST}.emb_layers.1.weight", ())[:1] != tuple(widths[0][:1]),
        "model.learn_sigma": shapes.get(_HEAD, (0,))[0] == 2 * channels,
    }
    if len(times := shapes.get(_TIME, ())) == 2 and times[1] != width:
        found["model.options.timestep_width"] = times[1]
    sizes = [name.removeprefix(_ADAPTER).partition(".")[0] for name in shapes if name.startswith(_ADAPTER)]
    coarsest = min((int(text) for text in sizes if text.isdecimal()), default=0)
    if coarsest and widths[-1][:1] != [width]:  # the coarsest level has an adapter
        size = found["data.size"] = coarsest << (len(widths) - 1)
    if size is not None:
        found["model.attention"] = tuple(size >> level for level in attended)
    return found


def _blocks_beside_updown(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Blocks of a level beside the residual block that changes the size; 0 where a convolution does.

    A halving block has the names of any other; a doubling one is the second of an output block.
    """
    matches = [match for name in shapes if (match := _BLOCK.match(name))]
    inputs, outputs = (
        1 + max((int(match[2]) for match in matches if match[1] == side), default=0)
        for side in ("input", "output")
    )
    levels = 1 + len({match[1] for name in shapes if (match := _DOUBLING.fullmatch(name))})
    return inputs // levels - 1 if levels > 1 and inputs == outputs and inputs % levels == 0 else 0


def _levels(shapes: Mapping[str, tuple[int, ...]], updown: int) -> tuple[list[list[int]], list[int]]:
    """Channels of each encoder block by level, finest first; and the levels that have attention.

    Args:
        shapes: of weights by name.
        updown: residual blocks of a level, where another residual block follows them to halve the size.
    """
    widths: list[list[int]] = [[]]
    attended: list[int] = []
    for number in itertools.count(1):
        block = f"input_blocks.{number}"
        shape = shapes.get(f"{block}.0.out_layers.3.weight")
        if f"{block}.0.op.weight" in shapes or (shape and updown and number % (updown + 1) == 0):
            widths.append([])
        elif shape:
            widths[-1].append(shape[0])
            level = len(widths) - 1
            if f"{block}.1.qkv.weight" in shapes and level not in attended:
                attended.append(level)
        else:
            return widths, attended
    raise AssertionError("the loop ends at the first block that is not there")
