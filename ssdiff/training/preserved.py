"""Passes of a network that leave no trace: what a probe or a capture needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def preserved(network: nn.Module) -> Iterator[None]:
    """Restore the buffers of a network and the state of PyTorch's random numbers at the end.

    Gradients are the caller's.

    Args:
        network: on its device.
    """
    device = next(network.parameters()).device
    kept = [buffer.clone() for buffer in network.buffers()]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), kept, strict=True):
                buffer.copy_(value)
