"""Any network as ssdiff calls one: model(x, index, resolution, labels)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal

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
