"""A family of operators, one for each severity, applied to a batch whose images differ in severity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssdiff.devices import to_device
from ssdiff.errors import ProcessError
from ssdiff.operators.algebra import Kronecker
from ssdiff.operators.base import Constants, Operator, Scale
from ssdiff.operators.filters import Filter
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable


class Stacked:
    """Operators of one kind and size, kept as stacked matrices: a batch costs a few matrix products.

    Args:
        operators: of one class, :class:`Separable`, :class:`Mask` (one mask for all images),
            :class:`Filter` (one basis), :class:`ChannelMix` or :class:`Scale`, or all a :class:`Kronecker`
            product of a mixture and one of these; all with the same sizes.

    Raises:
        ProcessError: for another kind, a mixture of kinds, or different sizes.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        mixed = all(isinstance(operator, Kronecker) for operator in operators)
        inner = [op.pixels if isinstance(op, Kronecker) and mixed else op for op in operators]
        kinds = {type(operator) for operator in inner}
        shapes = {(operator.in_size, operator.out_size, operator.in_channels) for operator in operators}
        if len(kinds) != 1 or len(shapes) != 1:
            raise ProcessError(
                f"operators of {len(kinds)} kinds and {len(shapes)} sizes cannot be applied in one batch",
                hint="use severities of one size",
            )
        self._kind, self._first = kinds.pop(), inner[0]
        self._tables = Constants(
            **{name: torch.stack([_parts(op)[name] for op in operators]) for name in _parts(operators[0])}
        )

    def apply(self, x: Tensor, index: Tensor) -> Tensor:
        """Apply operator ``index[b]`` to image b: (B, C, H, W) to (B, C', h, w).

        Args:
            x: images.
            index: (B,) positions in the sequence of operators.
        """
        tables = self._tables.like(x)
        chosen = {name: table[to_device(index, table.device)] for name, table in tables.items()}
        if "matrix" in chosen:
            x = torch.einsum("bdc,bchw->bdhw", chosen["matrix"], x)
        if self._kind is ChannelMix:
            return x
        if isinstance(self._first, Filter):
            basis = self._first.basis
            return basis.synthesis(chosen["gain"][:, None] * basis.analysis(x))
        if self._kind is Mask:
            return chosen["mask"][:, None] * x
        if self._kind is Scale:
            return chosen["factor"][:, None, None, None] * x
        return chosen["rows"][:, None] @ x @ chosen["columns"][:, None].mT


def _parts(operator: Operator) -> dict[str, Tensor]:
    match operator:
        case Separable(constants=c):
            return {"rows": c["rows"], "columns": c["columns"]}
        case Mask(constants=c) if c["mask"].ndim == 2:
            return {"mask": c["mask"]}
        case ChannelMix(constants=c):
            return {"matrix": c["matrix"]}
        case Filter(constants=c):
            return {"gain": c["gain"]}
        case Kronecker(channels=channels, pixels=pixels):
            return {**_parts(channels), **_parts(pixels)}
        case Scale(factor=factor):
            return {"factor": torch.tensor(factor, dtype=torch.float64)}
    raise ProcessError(f"{type(operator).__name__} operators cannot be applied in one batch")
