"""Any network as ssdiff calls one: model(x, index, resolution, labels)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ssdiff.errors import UsageError
from ssdiff.models.blocks import resize_images

_LABELS = ("labels", "label", "y", "classes", "class_label")
_WANTED = (
    "write forward(x, t), forward(x, t, labels), forward(sample, timestep, class_labels=None) as diffusers "
    "has it, or forward(x, index, resolution, labels)"
)
Style = Literal["native", "plain", "labels", "diffusers"]


def adapt(network: nn.Module) -> nn.Module:
    """Return a network that is called as model(x, index, resolution, labels), whatever its own signature.

    The native call gets (B, C, r, r) images, their (B,) timesteps counted from 0, the resolution that is
    wanted (r, or that of one level more) and (B,) labels or None; it gives (B, C, resolution, resolution).
    A network that has this signature is returned as it is. Others know one resolution at a time:

    ========================================= ========================================================
    forward(x, t)                             t are the timesteps from 0, int64, as diffusers counts
    forward(x, t, labels)                     labels are None where the model has no classes
    forward(sample, timestep, class_labels=)  the result may be an object with ``.sample``
    ========================================= ========================================================

    A result with twice the channels has a learned variance behind the mean, as guided-diffusion's; it is
    dropped. Denoisers that are told the noise level, forward(x, sigma), are for :class:`NoiseLevelDenoiser`.

    They get x at the resolution that is wanted: at a resolution transition it is enlarged before (bilinear,
    antialiased). With classes, label ``classes`` stands for 'no class', so an embedding needs classes + 1
    rows. The names in ``state_dict()`` stay those of the network.

    Args:
        network: with weights to train; not changed.

    Raises:
        UsageError: it has another signature.
    """
    if isinstance(network, Adapted):
        return network
    style = _style(network)
    return network if style == "native" else Adapted(network, style)


class Adapted(nn.Module):
    """A network with a signature of its own behind the native call; made by :func:`adapt`.

    Args:
        network: the network.
        style: how it is called.
    """

    def __init__(self, network: nn.Module, style: Style) -> None:
        super().__init__()
        self.network, self.style = network, style
        self.train(network.training)

    def forward(self, x: Tensor, index: Tensor, resolution: int, labels: Tensor | None = None) -> Tensor:
        """Return the network's output for x at the wanted resolution.

        Raises:
            UsageError: it has another shape, or labels come to a network that takes none.
        """
        if labels is not None and self.style == "plain":
            raise UsageError(
                f"{type(self.network).__name__}.forward takes no labels, the preset has classes",
                hint="write forward(x, t, labels), or set model.classes = 0",
            )
        if x.shape[-1] != resolution:
            x = resize_images(x, resolution)
        x = x.contiguous()  # networks that were not written for channels_last may use view()
        if self.style == "plain":
            output = self.network(x, index)
        elif self.style == "labels":
            output = self.network(x, index, labels)
        else:
            output = self.network(x, index, class_labels=labels)
        output = getattr(output, "sample", output)
        if not isinstance(output, Tensor):
            raise UsageError(
                f"{type(self.network).__name__} gives {type(output).__name__}, not a tensor",
                hint="return a tensor, or an object with the attribute sample",
            )
        if output.ndim == 4 and output.shape[1] == 2 * x.shape[1]:
            output = output[:, : x.shape[1]]
        if output.shape != x.shape:
            raise UsageError(
                f"{type(self.network).__name__} gives {tuple(output.shape)}, not {tuple(x.shape)}",
                hint="the result must have the shape of x",
            )
        return output

    # Files, optimisers and averages know the network's own names.

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's state dict."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict of the network."""
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the network's parameters by its names."""
        return self.network.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """Return the network's buffers by its names."""
        return self.network.named_buffers(*args, **kwargs)


class StateLike(Protocol):
    """What is needed of a state of a process: x_t = signal x_0 + sigma noise."""

    @property
    def signal(self) -> float:
        """Factor a_t of the clean image."""

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""


class NoiseLevelDenoiser(nn.Module):
    """A denoiser that is told the noise level, forward(x, sigma), as a network that predicts the clean image.

    x_t / a_t is a clean image with noise of standard deviation nu_t = sigma_t / a_t, which the denoiser
    removes: x^ = D(x_t / a_t, nu_t). deepinv's denoisers, whose images lie in [0, 1], get
    (x_t / a_t + 1) / 2 and nu_t / 2. A pipeline needs ``predict="x0"`` with it, which is its default.

    Args:
        denoiser: called with (B, C, h, w) images and (B,) noise levels; gives (B, C, h, w).
        states: those of a process of one size with noise, ``process.states``.
        unit_range: its images lie in [0, 1]; False for [-1, 1].

    Raises:
        UsageError: a state has no signal, or there is no state with noise.

    Example:
        >>> import ssdiff, torch
        >>> from ssdiff.models.adapter import NoiseLevelDenoiser
        >>> class Grey(torch.nn.Module):
        ...     def forward(self, x, sigma):
        ...         return x.mean((1, 2, 3), keepdim=True).expand_as(x)
        >>> process = ssdiff.build_process(ssdiff.load_preset("ddpm-celeba64"))
        >>> network = NoiseLevelDenoiser(Grey(), process.states)
        >>> ssdiff.Pipeline(process, network).sample(2, steps=3).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(self, denoiser: nn.Module, states: Sequence[StateLike], *, unit_range: bool = True) -> None:
        super().__init__()
        self.denoiser, self.unit_range = denoiser, unit_range
        if len(states) < 2 or not all(state.signal > 0 for state in states[1:]):
            raise UsageError(
                "a denoiser by noise level needs states with a signal", hint="give process.states"
            )
        if not all(state.sigma > 0 for state in states[1:]):
            raise UsageError(
                "a denoiser by noise level needs a process with noise", hint="use one of kind 'ddpm'"
            )
        signal = torch.tensor([float(state.signal) for state in states[1:]])
        sigma = torch.tensor([float(state.sigma) for state in states[1:]])
        self.register_buffer("signal", signal, persistent=False)
        self.register_buffer("level", sigma / signal, persistent=False)

    def forward(self, x: Tensor, index: Tensor, resolution: int, labels: Tensor | None = None) -> Tensor:
        """Predict the clean image.

        Args:
            x: (B, C, r, r).
            index: (B,) timesteps counted from 0, i.e. t - 1.
            resolution: r.
            labels: None.

        Returns:
            (B, C, r, r) about [-1, 1].

        Raises:
            UsageError: labels are given, the size shall change, or the denoiser gives no image of that size.
        """
        if labels is not None or x.shape[-1] != resolution:
            raise UsageError(
                "a denoiser by noise level knows no classes and no change of size",
                hint="use a process of kind 'ddpm'",
            )
        signal, level = self.get_buffer("signal")[index], self.get_buffer("level")[index]
        clean = x / signal[:, None, None, None].to(x.dtype)
        if self.unit_range:
            output = self.denoiser(clean / 2 + 0.5, level / 2)
            output = output * 2 - 1 if isinstance(output, Tensor) else output
        else:
            output = self.denoiser(clean, level)
        if not isinstance(output, Tensor) or output.shape != x.shape:
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(f"the denoiser gives {given}, not {tuple(x.shape)}", hint="mend its forward")
        return output


def _style(network: nn.Module) -> Style:
    """How a network is called, by the signature of its forward."""
    parameters = list(inspect.signature(network.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [parameter.name for parameter in positional]
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if names[2:3] == ["resolution"] and len(names) >= 4 and set(needed) <= set(names[:4]):
        return "native"
    if len(names) >= 2 and "resolution" not in needed:
        beyond = [name for name in needed if name not in names[:2]]
        if "class_labels" in [parameter.name for parameter in parameters[2:]]:
            if set(beyond) <= {"class_labels"}:
                return "diffusers"
        elif not beyond:
            return "labels" if names[2:3] and names[2] in _LABELS else "plain"
        elif beyond == names[2:3] and names[2] in _LABELS:
            return "labels"
    raise UsageError(
        f"{type(network).__name__}.forward{inspect.signature(network.forward)} is no signature of a network",
        hint=_WANTED,
    )
