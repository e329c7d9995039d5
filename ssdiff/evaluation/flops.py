"""What a model costs before it is trained: FLOPs, memory and time of each path through the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ssdiff.config import TrainingSettings
from ssdiff.process.base import Process
from ssdiff.training.timesteps import training_shares

Path = tuple[int, int]
"""Pixels a side of the network's input and of its output."""

_BACKWARD = 2  # FLOPs of the backward pass relative to the forward pass
_STATE_BYTES = 20  # float32 weight, gradient, two Adam moments and average, for each parameter


@dataclass(frozen=True, slots=True)
class PathCost:
    """One image along one path: in at ``resolution``, out at ``wanted``.

    Attributes:
        share: part of the training batches that take this path.
        flops: of the forward pass, 2 for a multiplication and addition.
        activation_bytes: kept for the backward pass.
        parameters: numbers in the weights that take part.
    """

    resolution: int
    wanted: int
    share: float
    flops: int
    activation_bytes: int
    parameters: int

    @property
    def path(self) -> Path:
        """In and out, pixels a side."""
        return self.resolution, self.wanted

    @property
    def training_flops(self) -> int:
        """Of the forward and the backward pass."""
        return (1 + _BACKWARD) * self.flops


def path_costs(
    model: nn.Module,
    process: Process,
    channels: int,
    classes: int = 0,
    *,
    training: TrainingSettings | None = None,
) -> list[PathCost]:
    """Count the costs of all paths, largest resolution first; on the meta device nothing is computed.

    Args:
        model: a Flexi-UNet, its weights requiring gradients.
        process: says which paths occur.
        channels: of the images.
        classes: of the model.
        training: says how often each path is taken; every timestep alike where omitted.

    Raises:
        ProcessError: as :func:`ssdiff.training.timesteps.training_shares`.
    """
    settings = training or TrainingSettings()
    shares = dict.fromkeys(paths_of(process, settings.transitions), 0.0)
    for (now, then), share in training_shares(process, settings).items():
        shares[max(now), max(then)] += share
    return [
        PathCost(*path, share, *_forward(model, *path, channels, classes)) for path, share in shares.items()
    ]


def paths_of(process: Process, transitions: bool = True) -> Counter[Path]:
    """Count the timesteps that take each path, largest resolution first.

    Args:
        process: gives the resolutions.
        transitions: whether changes of resolution are paths, as without ``training.transitions`` they are
            not.
    """
    sides = [state.resolution for state in process.states]
    return Counter(
        (sides[t], sides[t - 1]) for t in range(1, len(sides)) if transitions or sides[t] == sides[t - 1]
    )


def paths_along(process: Process, timesteps: Sequence[int], *, linear: bool = False) -> Counter[Path]:
    """Count how often a trajectory takes each path.

    Args:
        process: gives the resolutions.
        timesteps: at which the network is evaluated, 1..T each.
        linear: a resolution transition is ``sampling.lift = "linear"``: the network stays at the small size.
    """
    sides = [state.resolution for state in process.states]
    return Counter((sides[t], sides[t if linear else t - 1]) for t in timesteps)


def mean_flops(costs: Sequence[PathCost]) -> float:
    """Return the forward FLOPs of one image, mean over the training batches: the papers' cost of a step."""
    return sum(cost.share * cost.flops for cost in costs)


def trajectory_flops(costs: Sequence[PathCost], visits: Mapping[Path, int]) -> int:
    """Return the FLOPs of one image along a trajectory.

    Args:
        costs: of every path.
        visits: evaluations of each, from :func:`paths_along`.
    """
    return sum(visits.get(cost.path, 0) * cost.flops for cost in costs)


def training_bytes(model: nn.Module, costs: Sequence[PathCost], batch: int) -> int:
    """Estimate the memory that training needs: weights and their companions, and the largest path's
    activations."""
    parameters = sum(weight.numel() for weight in model.parameters())
    return parameters * _STATE_BYTES + batch * max(cost.activation_bytes for cost in costs)


def training_flops(costs: Sequence[PathCost]) -> float:
    """Return the FLOPs of one image in training, averaged over the batches."""
    return sum(cost.share * cost.training_flops for cost in costs)


def _forward(model: nn.Module, now: int, then: int, channels: int, classes: int) -> tuple[int, int, int]:
    x, index, labels = _inputs(model, now, channels, classes)
    kept: dict[int, Tensor] = {}
    weights = {id(weight) for weight in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            kept[id(tensor)] = tensor
        return tensor

    used: dict[int, int] = {}

    def note(module: nn.Module, _: object) -> None:
        used.update((id(weight), weight.numel()) for weight in module.parameters(recurse=False))

    handles = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        with (
            FlopCounterMode(display=False) as counter,
            saved_tensors_hooks(keep, lambda tensor: tensor),
            _PlainAttention(keep),
        ):
            output = model(x, index, then, labels)
    finally:
        for handle in handles:
            handle.remove()
    assert output.shape[-1] == then, "the network gives the wanted resolution"
    return counter.get_total_flops(), sum(tensor.nbytes for tensor in kept.values()), sum(used.values())


class _PlainAttention(TorchFunctionMode):
    """Counts attention alike on every device and in every version of PyTorch.

    Which kernel runs depends on both, and the counter knows some kernels only. Here the two matrix products
    are counted, Q K^T and the one with V: 4 B h n m (C / h) FLOPs. Kept are what a fused kernel keeps for the
    backward pass: queries, keys, values, the result, and a float32 for each query; not the n x m weights.

    Args:
        keep: told of every tensor that is kept.
    """

    def __init__(self, keep: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._keep = keep

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        with sdpa_kernel(SDPBackend.MATH), saved_tensors_hooks(lambda tensor: None, _never_used):
            result: Tensor = func(*args, **kwargs)
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        normalisers = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        for tensor in (query, key, value, result, normalisers):
            self._keep(tensor)
        return result


def _never_used(packed: None) -> Tensor:
    raise AssertionError("no backward pass follows a count")


def _inputs(model: nn.Module, side: int, channels: int, classes: int) -> tuple[Tensor, Tensor, Tensor | None]:
    device = next(model.parameters()).device
    x = torch.zeros(1, channels, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(1, dtype=torch.int64, device=device) if classes else None
    return x, torch.zeros(1, dtype=torch.int64, device=device), labels
