"""Where to compute and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ssdiff.errors import ResourceError, UsageError


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device of a name: ``auto`` (CUDA, then MPS, then CPU), ``cpu``, ``cuda``, ``cuda:1`` or
    ``mps``.

    Raises:
        ResourceError: if PyTorch cannot use that device here.
    """
    name = str(name)
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not present.get(kind) or (index and not (index.isdigit() and int(index) < count)):
        usable = ", ".join(kind for kind, usable in present.items() if usable)
        raise ResourceError(
            f"device {name!r} is not available to PyTorch {torch.__version__}", hint=f"usable here: {usable}"
        )
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type of ``auto`` (bf16 where the GPU computes it natively), ``fp32`` or ``bf16``.

    Raises:
        UsageError: another name.
    """
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    known = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name not in known:
        raise UsageError(f"unknown precision {name!r}", hint="choose auto, fp32 or bf16")
    return known[name]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; where that is CUDA, the host goes on without waiting for the
    copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return mixed precision for the network; nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)
