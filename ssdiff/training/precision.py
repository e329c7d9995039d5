"""In which precision a run computes: as asked for, as it began, or as a probe of its own step finds.

On a processor bf16 pays for large networks only, and how much depends on the machine, so that ``auto`` asks a
probe, once, at the start. What was found goes into every checkpoint: a resumed run computes as it began and
probes nothing, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ssdiff.config import Preset
from ssdiff.devices import (
    PRECISIONS,
    emulation_note,
    multiplies_bf16,
    pick_precision,
    precision_name,
)
from ssdiff.errors import CheckpointError, Interrupted, one_line

LEAST_GAIN = 1.2
"""How many times faster bf16 must be for ``auto`` to take it on a processor."""

LEAST_STEPS = 500
"""Steps of a training that is worth a probe, which takes as long as about six of them."""

_PASSES = 2  # of which the quicker counts, after one that allocates and chooses kernels
_HOPELESS = 2.0  # times slower in the first pass already: no second one


@dataclass(frozen=True, slots=True)
class Decision:
    """What is settled before a run computes anything.

    Attributes:
        dtype: of the network's mixed precision; None where a probe shall decide.
        note: what people should know of it, empty where nothing is unusual.
    """

    dtype: torch.dtype | None
    note: str = ""


def settle_precision(
    preset: Preset, stored: Preset | None, meta: Mapping[str, Any], device: torch.device
) -> Decision:
    """Decide the precision of a run, as far as that is possible without a probe.

    Args:
        preset: the settings that count.
        stored: those of the checkpoint that is resumed; None for a new run.
        meta: what that checkpoint says of itself; one of before ``precision`` was recorded computed in fp32
            on a processor, and in what its GPU multiplies natively, if its settings left the choice.
        device: where the run computes.

    Raises:
        CheckpointError: ``auto`` took bf16 when the run began, and this machine does not multiply it.
    """
    wanted, native = preset.training.precision, multiplies_bf16(device)
    began = meta.get("precision")
    began = began if isinstance(began, str) and began in PRECISIONS else None
    if wanted != "auto":
        return Decision(PRECISIONS[wanted], _remark(wanted, began, native, device))
    if stored is None:
        steps = preset.training.steps
        if device.type != "cpu" or not native or steps < LEAST_STEPS:
            return Decision(pick_precision("auto", device))
        return Decision(None)
    if began is None:
        return Decision(pick_precision("auto", device))
    if began == "bf16" and not native and stored.training.precision == "auto":
        raise CheckpointError(
            f"the run computes in bf16, as it began, which {_machine(device)} does not multiply natively",
            hint="resume it where that is fast, or go on slowly with --precision bf16, "
            "or in another precision with --precision fp32",
        )
    return Decision(PRECISIONS[began], _remark(began, began, native, device))


def _remark(name: str, began: str | None, native: bool, device: torch.device) -> str:
    """What is unusual in computing so, in words."""
    remarks = []
    if began not in (None, name):
        remarks.append(f"computes in {name} from here on, began in {began}")
    if name == "bf16" and not native and device.type == "cpu":
        remarks.append(emulation_note())
    if name == began == "fp32" and native and device.type == "cuda":
        remarks.append("computes in fp32, as it began; --precision bf16 is faster on this GPU")
    return "; ".join(remarks)


def _machine(device: torch.device) -> str:
    return "this processor" if device.type == "cpu" else f"{device} of this machine"


def probe(
    compute: Callable[[torch.dtype], object],
    stop: Callable[[], bool],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return how many times faster bf16 is than fp32.

    Args:
        compute: does forward and backward pass of a step in a precision, and keeps nothing.
        stop: asked before every pass.
        clock: seconds.

    Raises:
        Interrupted: asked to stop.
    """
    best = dict.fromkeys(PRECISIONS.values(), math.inf)
    for turn in range(1 + _PASSES):
        seconds = {}
        for dtype in best:
            if stop():
                raise Interrupted("stopped while choosing the precision", hint="run the same command again")
            began = clock()
            compute(dtype)
            seconds[dtype] = clock() - began
        if turn:
            best = {dtype: min(best[dtype], taken) for dtype, taken in seconds.items()}
        elif seconds[torch.bfloat16] > _HOPELESS * seconds[torch.float32]:
            best = seconds
            break
    return best[torch.float32] / max(best[torch.bfloat16], 1e-9)


def choose_by_probe(compute: Callable[[torch.dtype], object], stop: Callable[[], bool]) -> tuple[str, str]:
    """Choose ``bf16`` where a probe shows that it pays, ``fp32`` where it does not or the probe fails.

    Args:
        compute: as :func:`probe` takes it.
        stop: asked before every pass.

    Returns:
        The name, and a note that says why.

    Raises:
        Interrupted: asked to stop.
    """
    try:
        gain = probe(compute, stop)
    except Interrupted:
        raise
    except Exception as error:
        return "fp32", f"computes in fp32: the probe of bf16 failed ({one_line(error)})"
    name = precision_name(torch.bfloat16 if gain >= LEAST_GAIN else torch.float32)
    return name, f"computes in {name}: bf16 takes {1 / gain:.2f} of the time of fp32 for a step here"
