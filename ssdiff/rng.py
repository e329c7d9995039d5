"""Random numbers that are a pure function of where they are used.

Philox4x32-10 [Salmon et al. 2011] in vectorised integer
arithmetic: the number for (seed, stream, step, element) is the same in any batch, in any order, on any device
and in any number of processes. A stream is an image when sampling and a position in the global batch when
training; a purpose keeps the uses apart that share a seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from operator import index
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssdiff.errors import UsageError

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_BLOCKS = 2**20  # of four words, of all streams, that are drawn at once
_FEW = 2**10  # blocks up to which NumPy is quicker, whose calls cost less

_Integers = npt.NDArray[np.int64]
_Words = TypeVar("_Words", _Integers, Tensor)


def derive(seed: int, purpose: str) -> int:
    """Return a 64-bit key for one use of a seed, so that uses never share numbers.

    Args:
        seed: the user's seed, any integer.
        purpose: a name, e.g. ``"sample"`` or ``"train/noise"``.

    Raises:
        UsageError: the seed is no whole number.
    """
    try:
        number = index(seed)
    except TypeError:
        raise UsageError(f"seed must be a whole number, not {seed!r}") from None
    digest = hashlib.blake2b(f"{number}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _philox(even: _Words, odd: _Words, factors: _Words, keys: Sequence[_Words]) -> tuple[_Words, _Words]:
    """Ten rounds of Philox4x32 on int64 arrays that hold 32-bit words.

    Args:
        even: (B, 2, K), words 0 and 2 of the counters.
        odd: (B, 2, 1), words 1 and 3.
        factors: (2, 1).
        keys: (2, 1) of each round.

    Returns:
        (B, 2, K) words 0 and 2, and words 1 and 3.
    """
    for key in keys:
        # A product of two 32-bit words wraps in int64; shift and mask recover both halves all the same.
        products = even * factors
        products = _swapped(products)
        even = products >> 32
        even &= _MASK
        even ^= odd
        even ^= key
        odd = products & _MASK
    return even, odd


def _swapped(words: Any) -> Any:
    """The two in the other order."""
    return words.flip(1) if isinstance(words, Tensor) else words[:, ::-1]


@lru_cache(maxsize=64)
def _round_constants(key: int) -> _Integers:
    """(11, 2, 1) int64: the factors of all rounds, then the keys of each."""
    keys = (((key >> 32 * half) + k * _WEYL[half]) & _MASK for k in range(_ROUNDS) for half in (0, 1))
    return np.array([*_MULTIPLIERS, *keys], dtype=np.int64).reshape(-1, 2, 1)


@lru_cache(maxsize=64)  # a GPU would wait for the copy of each use
def _on_device(key: int, device: torch.device) -> tuple[Tensor, ...]:
    """The rows of :func:`_round_constants`."""
    with torch.inference_mode(False):
        return torch.from_numpy(_round_constants(key)).to(device).unbind(0)


def _words(key: int, streams: Tensor, step: int, count: int) -> Tensor:
    """(len(streams), 4, ceil(count / 4)) random 32-bit words as int64."""
    return _block_words(key, streams, step, 0, -(-count // 4))


def _block_words(key: int, streams: Tensor, step: int, first: int, end: int) -> Tensor:
    """(len(streams), 4, end - first) random 32-bit words as int64, of blocks first..end - 1."""
    count, blocks = len(streams), end - first
    if streams.device.type == "cpu" and count * blocks <= _FEW:
        return torch.from_numpy(_few_words(key, streams.to(torch.int64).numpy(), step, first, end))
    stream = streams.to(torch.int64).view(-1, 1, 1)
    numbers = torch.arange(first, end, device=streams.device).expand(count, 1, blocks)
    even = torch.cat((numbers, (stream >> 32 & _MASK).expand(count, 1, blocks)), dim=1)
    odd = torch.cat((stream & _MASK, torch.full_like(stream, step & _MASK)), dim=1)
    factors, *keys = _on_device(key, streams.device)
    return torch.stack(_philox(even, odd, factors, keys), dim=2).view(count, 4, blocks)


def _few_words(key: int, streams: _Integers, step: int, first: int, end: int) -> _Integers:
    """The same as arrays."""
    stream = streams.reshape(-1, 1, 1)
    even = np.empty((len(stream), 2, end - first), dtype=np.int64)
    even[:, :1], even[:, 1:] = np.arange(first, end), stream >> 32 & _MASK
    odd = np.concatenate((stream & _MASK, np.full_like(stream, step & _MASK)), axis=1)
    factors, *keys = _round_constants(key)
    return np.stack(_philox(even, odd, factors, keys), axis=2).reshape(len(stream), 4, end - first)


def uniform(
    key: int, streams: Tensor, step: int, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw uniform numbers in (0, 1].

    Args:
        key: from :func:`derive`.
        streams: (B,) integers, e.g. image numbers; sets the device.
        step: integer in [0, 2**32).
        shape: shape of one stream's numbers.
        dtype: floating-point type of the result.

    Returns:
        (B, *shape).
    """
    count = math.prod(shape)
    words = _words(key, streams, step, count).flatten(1)[:, :count]
    return ((words.to(dtype) + 0.5) * 2.0**-32).reshape(-1, *shape)


def normal(
    key: int, streams: Tensor, step: int, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw standard normal numbers by the Box-Muller transform; arguments as in :func:`uniform`.

    Returns:
        (B, *shape).
    """
    count = math.prod(shape)
    blocks = -(-count // 4)
    if blocks * len(streams) <= _BLOCKS:
        return _pairs(_words(key, streams, step, count), dtype).flatten(1)[:, :count].reshape(-1, *shape)
    # The integers of a photograph would take ten times the memory of its noise.
    pairs = torch.empty(len(streams), 4, blocks, dtype=dtype, device=streams.device)
    for first in range(0, blocks, _BLOCKS):
        end = min(first + _BLOCKS, blocks)
        pairs[:, :, first:end] = _pairs(_block_words(key, streams, step, first, end), dtype)
    return pairs.flatten(1)[:, :count].reshape(-1, *shape)


def _pairs(words: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 4, K) standard normal numbers of as many words."""
    unit = (words.to(dtype) + 0.5).mul_(2.0**-32)
    radius = unit[:, :2].log().mul_(-2.0).sqrt_()  # (B, 2, K)
    angle = unit[:, 2:].mul(2.0 * math.pi)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)


def integers(key: int, streams: Tensor, step: int, low: int, high: int) -> Tensor:
    """Draw (B,) integers, uniform in [low, high); the bias is below (high - low) / 2**32."""
    words = _words(key, streams, step, 1)[:, 0, 0]
    return low + ((words * (high - low)) >> 32)
