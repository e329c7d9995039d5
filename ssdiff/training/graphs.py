"""The network as CUDA graphs, where a micro-batch is so small that the host cannot keep a GPU busy.

Launching the kernels of a pass takes longer than running them then: celeba64 with 16 images of 8 px takes a
third of the time as a graph, with 256 images of 16 px all of it. A graph runs the same kernels in the same
order on the same weights: results are those without it up to rounding, and those of another graph to the bit.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ssdiff.errors import one_line
from ssdiff.training.preserved import preserved

SMALL = 1 << 16
"""Pixels of a micro-batch, of all images together, up to which a network runs as a graph."""

_WARM_UP = 2  # passes before a capture: libraries choose kernels and allocate in the first


class Graphs:
    """A network that is replayed as CUDA graphs, one for each pair of sizes, captured when it first occurs.

    Gradients are added up in memory that stays; it is ``weight.grad`` after a backward pass, which may be set
    to None between two steps of an optimiser. A network that cannot be captured runs as it is, and a warning
    says so.

    Args:
        network: on a CUDA device; its weights stay where they are in memory.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._passes: dict[tuple[Any, ...], _Passes] = {}
        self._sums: dict[nn.Parameter, Tensor] = {}
        self._memory: Any = None
        self._works = True
        self._device = next(network.parameters()).device
        self._anchor = torch.zeros((), device=self._device, requires_grad=True)  # autograd asks for its sake

    def __call__(self, x_t: Tensor, index: Tensor, resolution: int, labels: Tensor | None) -> Tensor:
        """Predict, as the network does, in the mixed precision that is on; no gradient by x_t is computed.

        Args:
            x_t: (B, C, r, r).
            index: (B,) timesteps from 0.
            resolution: pixels a side that are wanted.
            labels: (B,) classes, or None.
        """
        if self._works and x_t.numel() <= SMALL * x_t.shape[1] and torch.is_grad_enabled():
            inputs = (x_t, index) if labels is None else (x_t, index, labels)
            kind = self._device.type
            mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
            key = (x_t.shape, x_t.stride(), resolution, labels is None, mixed)
            try:
                if key not in self._passes:
                    self._passes[key] = self._captured(inputs, resolution, mixed)
                replayed: Tensor = _Replay.apply(self._anchor, self._passes[key], *inputs)
                return replayed
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._works = False
                reason = one_line(str(error))
                warnings.warn(
                    f"the network is trained without CUDA graphs, which cannot hold it: {reason}",
                    stacklevel=2,
                )
        output: Tensor = self._network(x_t, index, resolution, labels)
        return output

    def _captured(self, given: tuple[Tensor, ...], resolution: int, mixed: torch.dtype | None) -> _Passes:
        """Record the passes for inputs of one shape."""
        inputs = tuple(one.detach().clone() for one in given)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        learners = [weight for weight in self._network.parameters() if weight.requires_grad]
        with preserved(self._network):
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    output = self._predict(inputs, resolution, mixed)
                    gradient = torch.zeros_like(output)
                    found = torch.autograd.grad(output, learners, gradient, allow_unused=True)
                    used = [one is not None for one in found]
                    learners = list(itertools.compress(learners, used))
                    del output, found
            torch.cuda.current_stream(self._device).wait_stream(stream)
            for weight in learners:
                self._sums.setdefault(weight, torch.zeros_like(weight))
            sums = [self._sums[weight] for weight in learners]
            self._memory = self._memory or torch.cuda.graph_pool_handle()
            forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # Another thread may be reading the next batch, which this capture must not mind.
            how = {"pool": self._memory, "stream": stream, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(forward, **how):
                output = self._predict(inputs, resolution, mixed)
            with torch.cuda.graph(backward, **how):
                torch._foreach_add_(sums, list(torch.autograd.grad(output, learners, gradient)))
        return _Passes(inputs, output.detach(), gradient, learners, sums, forward, backward)

    def _predict(self, inputs: tuple[Tensor, ...], resolution: int, mixed: torch.dtype | None) -> Tensor:
        """One pass; casts of the weights belong to the graph, not to a cache beside it."""
        x_t, index, *labels = inputs
        with torch.autocast(self._device.type, mixed, enabled=mixed is not None, cache_enabled=False):
            output: Tensor = self._network(x_t, index, resolution, labels[0] if labels else None)
            return output


class _Passes:
    """A pass forward and one backward, with the memory that they read and write.

    Args:
        inputs: images, timesteps from 0 and, where there are classes, labels.
        output: what the network predicts.
        gradient: of the loss by the output.
        weights: those that learn from it.
        sums: their gradients, to which a pass backward adds.
        forward: replays the pass forward.
        backward: replays the other.
    """

    def __init__(
        self,
        inputs: tuple[Tensor, ...],
        output: Tensor,
        gradient: Tensor,
        weights: list[nn.Parameter],
        sums: list[Tensor],
        forward: Any,
        backward: Any,
    ) -> None:
        self._inputs, self._output, self._gradient = inputs, output, gradient
        self._weights, self._sums = weights, sums
        self._forward, self._backward = forward, backward

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the output, whose memory the next pass writes."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._forward.replay()
        return self._output.detach()

    def backward(self, gradient: Tensor) -> None:
        """Add to the gradients of the weights, wherever they come from."""
        self._gradient.copy_(gradient)
        fresh = []
        for weight, total in zip(self._weights, self._sums, strict=True):
            if weight.grad is total:
                continue
            if weight.grad is None:
                fresh.append(total)
            else:  # of a larger micro-batch, which is no graph
                total.copy_(weight.grad)
            weight.grad = total
        if fresh:
            torch._foreach_zero_(fresh)
        self._backward.replay()


class _Replay(torch.autograd.Function):
    """The passes as a function that autograd knows."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, passes: _Passes, *inputs: Tensor) -> Tensor:
        """Replay the pass forward."""
        ctx.passes, ctx.count = passes, len(inputs)
        return passes.forward(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        """Replay the pass backward."""
        ctx.passes.backward(gradient)
        count: int = ctx.count
        return (None,) * (2 + count)
