"""Flexi-UNets that have branched by size: the largest sizes have weights of their own, the others share.

One network for all sizes is trained by all of them, and what the smaller ones teach the layers of the largest
costs it quality in a long training. Others who diffuse at several sizes have a network for each, too
[Subspace Diffusion]. Here networks of one shape run exactly the layers that the shared one would run, so a
step costs the same, and a training can begin shared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ssdiff.models.flexi_unet import FlexiUNet

_PREFIX = "networks."


class BranchedUNet(nn.Module):
    """One Flexi-UNet for each of the K largest sizes, and one for all smaller ones.

    The size of an image at x_t decides: a step to the next larger size is one of the smaller image's network.
    All begin with the weights of the network that is given.

    Args:
        network: for all sizes; it is not used afterwards.
        own: K, from 1 to its levels less one.
    """

    def __init__(self, network: FlexiUNet, own: int) -> None:
        super().__init__()
        depth = len(network.sizes)
        parts = [copy.deepcopy(network) for _ in range(own + 1)]
        for level, part in enumerate(parts):
            part.keep_entrances(range(level, level + 1 if level < own else depth))
        self.networks = nn.ModuleList(parts)

    def forward(
        self,
        x: Tensor,
        index: Tensor,
        resolution: int,
        labels: Tensor | None = None,
        *,
        native: tuple[int, int] | None = None,
    ) -> Tensor:
        """Predict by the network of x's size, as :meth:`ssdiff.models.flexi_unet.FlexiUNet.forward`."""
        level = self.parts()[0].level_of((native or x.shape[-1:])[0])
        output: Tensor = self.networks[min(level, len(self.networks) - 1)](
            x, index, resolution, labels, native=native
        )
        return output

    def parts(self) -> list[FlexiUNet]:
        """Return the networks, that of the largest size first."""
        return [part for part in self.networks if isinstance(part, FlexiUNet)]

    def share_weights(self) -> None:
        """Let the networks have one set of weights, as before they branched: that of the smallest sizes, and
        what only others have."""
        known: dict[str, nn.Parameter] = {}
        for part in reversed(self.parts()):
            for name, weight in list(part.named_parameters()):
                _put(part, name, known.setdefault(name, weight))

    @torch.no_grad()
    def branch(self) -> None:
        """Give each network its own copy of the weights that it shares with others."""
        taken: set[int] = set()
        for part in self.parts():
            for name, weight in list(part.named_parameters()):
                if id(weight) in taken:
                    _put(part, name, nn.Parameter(weight.clone(), weight.requires_grad))
                taken.add(id(weight))


def separate_networks(model: nn.Module) -> list[nn.Module]:
    """Return the networks of a model that have weights of their own; the model itself where that is all."""
    return list(model.parts()) if isinstance(model, BranchedUNet) else [model]


def branched_weights(weights: Mapping[str, Tensor], names: Iterator[str]) -> dict[str, Tensor]:
    """Return the weights of a Flexi-UNet for all sizes under the names that a branched one has for them.

    Args:
        weights: by the names of the network for all sizes; a branched network's are returned as they are.
        names: of the branched network's weights.
    """
    if any(name.startswith(_PREFIX) for name in weights):
        return dict(weights)
    sources = ((name, name.removeprefix(_PREFIX).partition(".")[2]) for name in names)
    return {name: weights[source] for name, source in sources if source in weights}


def _put(network: nn.Module, name: str, weight: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(network.get_submodule(owner), last, weight)
