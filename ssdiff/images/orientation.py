"""Which way up a picture is."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

_LEFT_RIGHT, _UP_DOWN, _SIDES = "left-right", "up-down", "sides"
# What is done to an image, one thing after the other.
_TURNS: dict[Image.Transpose, tuple[str, ...]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: (_LEFT_RIGHT,),
    Image.Transpose.FLIP_TOP_BOTTOM: (_UP_DOWN,),
    Image.Transpose.ROTATE_180: (_LEFT_RIGHT, _UP_DOWN),
    Image.Transpose.TRANSPOSE: (_SIDES,),
    Image.Transpose.ROTATE_270: (_SIDES, _LEFT_RIGHT),
    Image.Transpose.ROTATE_90: (_SIDES, _UP_DOWN),
    Image.Transpose.TRANSVERSE: (_SIDES, _LEFT_RIGHT, _UP_DOWN),
}


def turned(x: Tensor, turn: Image.Transpose | None) -> Tensor:
    """Return (..., H, W) values turned as Pillow turns an image.

    Args:
        x: the values.
        turn: None leaves them as they are.
    """
    return _done(x, () if turn is None else _TURNS[turn])


def turned_back(x: Tensor, turn: Image.Transpose | None) -> Tensor:
    """Return (..., H, W) values as they were before :func:`turned`."""
    return _done(x, () if turn is None else _TURNS[turn][::-1])


def _done(x: Tensor, parts: tuple[str, ...]) -> Tensor:
    for part in parts:
        x = x.transpose(-1, -2) if part == _SIDES else x.flip(-1 if part == _LEFT_RIGHT else -2)
    return x.contiguous()
