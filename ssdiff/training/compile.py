"""The network as kernels that the compiler fuses, one graph for each pair of resolutions."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from ssdiff.errors import ResourceError, one_line
from ssdiff.training.losses import Network

_WITHOUT = "set training.compile=false to train without it"


@cache
def require_compiler(device: torch.device) -> None:
    """Compile next to nothing, which shows whether all that it takes is there: seconds, once for a device.

    Args:
        device: to compile for.

    Raises:
        ResourceError: something is missing: Triton or a GPU that it knows, a C++ compiler, Python's headers.
    """
    try:
        trial = torch.compile(_trial, dynamic=False, fullgraph=True)
        trial(torch.zeros(8, device=device, requires_grad=True)).sum().backward()
    except Exception as error:  # what a compiler can lack has no common type
        raise ResourceError(
            f"the compiler of PyTorch {torch.__version__} does not work for {device}: {_reason(error)}",
            hint=f"install what is missing (Triton for CUDA, a C++ compiler for a CPU), or {_WITHOUT}",
        ) from error


def compiled(model: nn.Module) -> Network:
    """Return the model as a function that compiles itself for each pair of resolutions, when that first
    occurs.

    The model stays as it is: weights are read when the function is called, and gradients arrive there.

    Args:
        model: a Flexi-UNet on its device.

    Returns:
        A function of (B, channels, r, r), (B,) timesteps from 0, the resolution wanted and (B,) labels,
        like the model's own. It raises ResourceError where the compiler fails, instead of going on without.
    """
    from torch._dynamo import config
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._functorch import config as tracing

    network = torch.compile(model, dynamic=False, fullgraph=True)

    def run(x_t: Tensor, index: Tensor, resolution: int, labels: Tensor | None) -> Tensor:
        try:
            # Graphs are counted by the code, whichever model runs it, and only 8 allowed: 5 levels have 9.
            # The graph of the gradients is compiled here too, not by the first backward pass.
            with (
                config.patch(recompile_limit=config.accumulated_recompile_limit),
                tracing.patch(force_non_lazy_backward_lowering=True),
            ):
                output: Tensor = network(x_t, index, resolution, labels)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            raise ResourceError(
                f"the network cannot be compiled for {x_t.shape[-1]} -> {resolution} px: {_reason(error)}",
                hint=_WITHOUT,
            ) from error
        return output

    return run


def _trial(x: Tensor) -> Tensor:
    return x.sin() + 1


def _reason(error: Exception) -> str:
    """Return what went wrong, of an error that the compiler may have wrapped in another."""
    said = str(error.__cause__ or error)
    return one_line(said.partition(" raised:")[2] or said)
