"""Where to compute and in which precision."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch
from torch import Tensor

from ssdiff.errors import EmulatedPrecision, ResourceError, UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Types of a network's mixed precision, by what presets and options call them."""


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


LARGE_NETWORK = 20_000_000
"""Parameters from which ``auto`` takes bf16 to draw, restore and evaluate on a processor that multiplies it.

A rule, not a measurement, so that the images of a seed do not depend on how busy a machine was. Between the
networks that ship with the package (up to 2 M, whose products are too small to win what conversions cost)
and celeba64 (92 M, about twice as fast).
"""

_NATIVE = ("avx512_bf16", "amx_bf16", "bf16")  # of x86, x86 and Arm, as PyTorch calls them
_SIDE = 128  # of the matrices whose product tells how slow emulated bf16 is


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 by itself: a GPU since Ampere, a processor with AVX512-BF16,
    AMX or Arm's BF16; False where that is not known."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if (capabilities := getattr(torch.cpu, "get_capabilities", None)) is not None:
        found = capabilities()
        return any(found.get(name, False) for name in _NATIVE)
    older = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in older)


def pick_precision(name: str, device: torch.device, parameters: int = 0) -> torch.dtype:
    """Return the type that a network computes in.

    ``auto`` is bf16 on a GPU that multiplies it natively, and on a processor that does for a network of at
    least :data:`LARGE_NETWORK` parameters; fp32 elsewhere.

    Args:
        name: ``auto``, ``fp32`` or ``bf16``.
        device: where it computes.
        parameters: of the network.

    Raises:
        UsageError: another name.

    Warns:
        EmulatedPrecision: ``bf16`` for a processor that has to emulate it; says what that costs.
    """
    if name == "auto":
        pays = multiplies_bf16(device) and (device.type == "cuda" or parameters >= LARGE_NETWORK)
        return torch.bfloat16 if pays else torch.float32
    if name not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}", hint="choose auto, fp32 or bf16")
    if name == "bf16" and device.type == "cpu" and not multiplies_bf16(device):
        warnings.warn(emulation_note(), EmulatedPrecision, stacklevel=1)  # one place: told once
    return PRECISIONS[name]


def precision_name(dtype: torch.dtype) -> str:
    """Return what presets and options call a type: ``fp32`` or ``bf16``."""
    return next(name for name, value in PRECISIONS.items() if value == dtype)


@cache
def emulation_note() -> str:
    """Return what bf16 costs on this processor, which emulates it: one product of matrices in both types,
    taken once."""
    seconds = {}
    for dtype in PRECISIONS.values():
        a = torch.ones(_SIDE, _SIDE, dtype=dtype)
        a @ a  # allocates, and chooses kernels
        start = time.perf_counter()
        a @ a
        seconds[dtype] = time.perf_counter() - start
    times = seconds[torch.bfloat16] / max(seconds[torch.float32], 1e-9)
    return (
        "this processor does not multiply bf16 natively and emulates it: "
        f"a product of matrices takes {max(times, 1.0):.0f} times as long as in fp32"
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; where that is CUDA, the host goes on without waiting for the
    copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the layout of images in which a device's layers are quickest: channels last on a processor.

    Not on CUDA, whose group normalisation of PyTorch copies them to the other layout and back: a step of
    celeba64 takes a fifth longer then.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


@contextmanager
def repeatable() -> Iterator[None]:
    """Let cuDNN choose only algorithms that add up in one order, so that what is done twice is the same bits.

    Left to itself it takes others for gradients in fp32; two runs of one seed then differ after a step.
    """
    cudnn = torch.backends.cudnn
    before, cudnn.deterministic = cudnn.deterministic, True
    try:
        yield
    finally:
        cudnn.deterministic = before


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
