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
from operator import index

import torch
from torch import Tensor

from ssdiff.errors import UsageError

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_BLOCKS = 2**20  # of four words, of all streams, that are drawn at once


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


def _philox(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, key: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on broadcastable int64 counters that hold 32-bit words."""
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    for _ in range(_ROUNDS):
        # A product of two 32-bit words wraps in int64; shift and mask recover both halves all the same.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _words(key: int, streams: Tensor, step: int, count: int) -> Tensor:
    """(len(streams), 4, ceil(count / 4)) random 32-bit words as int64."""
    return _block_words(key, streams, step, 0, -(-count // 4))


def _block_words(key: int, streams: Tensor, step: int, first: int, end: int) -> Tensor:
    """(len(streams), 4, end - first) random 32-bit words as int64, of blocks first..end - 1."""
    block = torch.arange(first, end, device=streams.device)  # (K,)
    stream = streams.to(torch.int64).unsqueeze(1)  # (B, 1)
    words = _philox(
        block.unsqueeze(0), stream & _MASK, (stream >> 32) & _MASK, torch.full_like(stream, step & _MASK), key
    )
    return torch.stack([word.expand(len(stream), len(block)) for word in words], dim=1)  # (B, 4, K)


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
