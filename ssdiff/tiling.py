"""A network on pictures of any size: overlapping square tiles, whose results are blended smoothly.

The weights of the tiles at a pixel add up to 1, so that a network which gives the same in all tiles gives
that; they fall to 0 towards the borders of a tile, where a network sees least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from ssdiff.errors import UsageError
from ssdiff.models.blocks import Attention
from ssdiff.models.convnext_unet import LinearAttention

Size = tuple[int, int]
_LARGEST = 512  # pixels a side that a tile of convolutions has at most, unless it is asked for
_BUDGET = 2**29  # bytes that activations may take, about
_TILES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Tiling:
    """Where the tiles of a picture lie.

    Attributes:
        size: (H, W) of the picture at full resolution.
        tile: pixels a side of a tile there.
        overlap: pixels that neighbours share at least.
        unit: tiles begin at multiples of it, so that they begin at whole pixels of every resolution.
    """

    size: Size
    tile: int
    overlap: int
    unit: int = 1

    def starts(self, dim: int) -> list[int]:
        """Return where tiles begin along a dimension (0: down, 1: across), evenly spread."""
        length = self.size[dim]
        if length <= self.tile:
            return [0]
        count = math.ceil((length - self.overlap) / (self.tile - self.overlap))
        last = length - self.tile
        return [last * i // (count - 1) // self.unit * self.unit for i in range(count - 1)] + [last]

    @property
    def count(self) -> int:
        """Tiles in all."""
        return len(self.starts(0)) * len(self.starts(1))


class TiledNetwork:
    """A network run tile by tile on whole pictures.

    Args:
        tiling: of the picture.
        native: pixels a side of the images that the network was trained for, of each timestep.
        at_once: tiles in one call.
    """

    def __init__(self, tiling: Tiling, native: Sequence[int], at_once: int) -> None:
        self.tiling, self.native, self.at_once = tiling, tuple(native), at_once
        self._windows: dict[tuple[int, int], list[Tensor]] = {}

    def run(
        self,
        call: Callable[[Tensor, int], Tensor],
        x: Tensor,
        t: int,
        then: Size,
        told: Callable[[float], None] | None = None,
        below: int | None = None,
    ) -> Tensor:
        """Return the network's output for whole pictures.

        Args:
            call: the network, of (N, C, k, k) tiles and the pixels a side of what it shall give.
            x: (B, C, h_t, w_t) what it sees.
            t: timestep.
            then: (h, w) of the result, that of timestep ``below``.
            told: called with the share of the work that each call was.
            below: timestep whose size the result has, t or t - 1, which it is where omitted.

        Returns:
            (B, C, h, w).
        """
        below = t - 1 if below is None else below
        now_side, then_side = (self._side(self.native[s]) for s in (t, below))
        x = mirrored(x, max(x.shape[-2], now_side), max(x.shape[-1], now_side))
        wide = (max(then[0], then_side), max(then[1], then_side))
        rows, columns = (self._places(dim, t, below) for dim in (0, 1))
        out = x.new_zeros(*x.shape[:2], *wide)
        places = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
        step = max(1, self.at_once // len(x))
        windows = [self._window(dim, wide[dim], then_side, below) for dim in (0, 1)]
        for first in range(0, len(places), step):
            part = places[first : first + step]
            tiles = torch.cat(
                [
                    x[..., rows[i][0] : rows[i][0] + now_side, columns[j][0] : columns[j][0] + now_side]
                    for i, j in part
                ]
            )
            results = call(tiles, then_side).to(x.dtype).split(len(x))
            for (i, j), result in zip(part, results, strict=True):
                top, left = rows[i][1], columns[j][1]
                weight = windows[0][i].to(result)[:, None] * windows[1][j].to(result)
                out[..., top : top + then_side, left : left + then_side].addcmul_(result, weight)
            if told is not None:
                told(len(part) / len(places))
        return out[..., : then[0], : then[1]]

    def _side(self, native: int) -> int:
        return self.tiling.tile * native // self.native[0]

    def _places(self, dim: int, t: int, below: int) -> list[tuple[int, int]]:
        """Where the tiles begin at two timesteps."""
        full = self.native[0]
        return [
            (start * self.native[t] // full, start * self.native[below] // full)
            for start in self.tiling.starts(dim)
        ]

    def _window(self, dim: int, length: int, side: int, below: int) -> list[Tensor]:
        """(side,) weights of each tile, which add up to 1 at every pixel."""
        key = (dim, side)
        if key not in self._windows:
            self._windows[key] = windows([b for _, b in self._places(dim, below, below)], side, length)
        return self._windows[key]


def windows(starts: Sequence[int], side: int, length: int) -> list[Tensor]:
    """Return (side,) float64 weights of tiles along a line of pixels: raised cosines over what two share.

    Args:
        starts: where each tile begins, rising; the first at 0, the last ends at the end.
        side: of a tile.
        length: of the line.
    """
    total, result = torch.zeros(length, dtype=torch.float64), []
    for k, start in enumerate(starts):
        window = torch.ones(side, dtype=torch.float64)
        before = starts[k - 1] + side - start if k else 0
        after = start + side - starts[k + 1] if k + 1 < len(starts) else 0
        window[:before] *= _ramp(before)
        window[side - after :] *= _ramp(after).flip(0)
        total[start : start + side] += window
        result.append(window)
    return [w / total[start : start + side] for w, start in zip(result, starts, strict=True)]


def _ramp(count: int) -> Tensor:
    """Rises from nearly 0 to nearly 1 as a raised cosine."""
    return (torch.arange(count, dtype=torch.float64).add(0.5) * (math.pi / 2 / max(count, 1))).sin().square()


def mirrored(x: Tensor, height: int, width: int) -> Tensor:
    """Continue (..., h, w) images below and on the right by their mirror image, the edge pixel repeated.

    Args:
        x: the images.
        height: wanted, h or more.
        width: wanted, w or more.
    """
    for dim, wanted in ((-2, height), (-1, width)):
        n = x.shape[dim]
        if wanted > n:
            index = torch.arange(wanted, device=x.device) % (2 * n)
            x = x.index_select(dim, torch.minimum(index, 2 * n - 1 - index))
    return x


def unit_of(sides: Sequence[int]) -> int:
    """Return what a length must be a multiple of to be a whole number of pixels at every resolution.

    Args:
        sides: pixels a side of each resolution, the full one first.
    """
    return math.lcm(*(Fraction(side, sides[0]).denominator for side in sides))


def attends(network: nn.Module) -> bool:
    """Return whether a network looks at all of an image at once, by attention somewhere."""
    kinds = (Attention, LinearAttention, nn.MultiheadAttention, nn.TransformerEncoderLayer)
    return any(
        isinstance(module, kinds) or "attention" in type(module).__name__.lower()
        for module in network.modules()
    )


def choose_tile(
    size: Size, native: int, network: nn.Module, cost: Callable[[], int], tile: int | None
) -> tuple[int, int]:
    """Return pixels a side of a tile, and how many are run at once.

    A network with attention gets tiles of the size that it was trained for; convolutions get as large ones
    as the memory allows, up to 512 pixels, or the picture.

    Args:
        size: (H, W) of the picture.
        native: pixels a side that the network was trained for.
        network: it.
        cost: how many bytes the activations of one such image take, about; asked once.
        tile: as asked for; None to choose.

    Raises:
        UsageError: a tile of another size than a multiple of the native one.
    """
    bytes_of_one = max(1, cost())
    if tile is None:
        fits = max(1, math.isqrt(_BUDGET // bytes_of_one))
        most = 1 if attends(network) else min(fits, max(1, _LARGEST // native), max(1, min(size) // native))
        tile = native * most
    elif tile < native or tile % native:
        raise UsageError(
            f"a tile of {tile} pixels does not suit the model, which was trained for {native}",
            hint=f"give a multiple of {native} (--tile), or leave it out",
        )
    at_once = _BUDGET // (bytes_of_one * (tile // native) ** 2)
    return tile, min(_TILES_AT_ONCE, max(1, at_once))


def activation_bytes(network: nn.Module, run: Callable[[], object]) -> int:
    """Return the bytes of the results of all layers in one call, an upper bound of what it needs at once.

    Args:
        network: it.
        run: calls it.
    """
    total = 0

    def add(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(add) for module in leaves]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return total
