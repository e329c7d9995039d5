"""Products of operators in their simplest form, and quotients: the algebra of a chain M_t = M_{s:t} M_s.

Every chain of the operators of this package is a mixture of channels times a map of pixels; neighbours of one
kind become one operator. What is one factor in the end has its singular values in closed form
(:mod:`ssdiff.operators.decomposition`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.operators.base import Composed, Operator, Scale
from ssdiff.operators.fft import Blocks, Mirrored
from ssdiff.operators.filters import Filter
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable

_EXACT = 1e-8  # relative error of a quotient, beyond which there is none
_NULL = 1e-12  # relative, below which a factor counts as zero


class Kronecker(Operator):
    """A mixture of channels and a map of pixels that is the same for every channel; they commute.

    Args:
        channels: of the mixture.
        pixels: of the planes.
    """

    def __init__(self, channels: ChannelMix, pixels: Operator) -> None:
        self.channels, self.pixels = channels, pixels
        self.in_size, self.out_size = pixels.in_size, pixels.out_size
        self.in_channels = channels.in_channels

    def apply(self, x: Tensor) -> Tensor:
        """Mix the channels of (B, C, H, W), and map the planes."""
        return self.pixels.apply(self.channels.apply(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transposes of both."""
        return self.channels.adjoint(self.pixels.adjoint(y))

    def norm(self) -> float:
        """Return the product of the two norms."""
        return self.channels.norm() * self.pixels.norm()


def simplify(operator: Operator) -> Operator:
    """Return the same map with as few factors as its kinds allow.

    A mixture of channels is brought out of a chain of maps of pixels, as a :class:`Kronecker` product;
    neighbours of one kind are multiplied up. Operators of other kinds than this package's stay where they
    are.
    """
    parts = _factors(operator)
    if all(isinstance(part, ChannelMix) or _of_planes(part) for part in parts):
        mixes = [part for part in parts if isinstance(part, ChannelMix)]
        planes = _product([part for part in parts if not isinstance(part, ChannelMix)])
        return _with_channels(_product(mixes), planes)
    return _product(parts)


def quotient(whole: Operator, part: Operator) -> Operator:
    """Return M with whole = M part, zero on what ``part`` never gives: M_{s:t} of M_t and M_s.

    Args:
        whole: M_t.
        part: M_s.

    Raises:
        ProcessError: ``whole`` shows what ``part`` has lost, so that there is none; or the kinds of the two
            have no quotient in closed form.
    """
    whole, part = simplify(whole), simplify(part)
    if isinstance(whole, Kronecker | ChannelMix) or isinstance(part, Kronecker | ChannelMix):
        (mix, planes), (mix_part, planes_part) = _sides(whole), _sides(part)
        return _with_channels(_quotient(mix, mix_part), _quotient(planes, planes_part))
    return _quotient(whole, part)


def aligned(operators: Sequence[Operator]) -> list[Operator] | None:
    """Return the same maps as operators of one kind, so that they can be stacked; None where they differ."""
    sides = [_sides(simplify(operator)) for operator in operators]
    planes = [_lifted(pixels) for _, pixels in sides]
    if any(type(pixels) is Separable for pixels in planes):
        planes = [_as_separable(pixels) or pixels for pixels in planes]
    kinds = [pixels for pixels in planes if not isinstance(pixels, Scale)]
    if kinds:
        planes = [_like(pixels, kinds[0]) for pixels in planes]
    if any(type(pixels) is not type(planes[0]) for pixels in planes):
        return None
    mixes = [mix for mix, _ in sides if isinstance(mix, ChannelMix)]
    if not mixes:
        return planes
    matrices = [_like(mix, mixes[0]) for mix, _ in sides]
    assert all(isinstance(matrix, ChannelMix) for matrix in matrices), "a scale becomes a mixture"
    return [Kronecker(mix, pixels) for mix, pixels in zip(matrices, planes, strict=True)]  # type: ignore[arg-type]


def _factors(operator: Operator) -> list[Operator]:
    """The factors of a product, outermost first; identities are left out."""
    match operator:
        case Composed(outer=outer, inner=inner):
            return [*_factors(outer), *_factors(inner)]
        case Kronecker(channels=channels, pixels=pixels):
            return [channels, *_factors(pixels)]
        case Scale(factor=1.0):
            return []
    return [_lifted(operator)]


def _lifted(operator: Operator) -> Operator:
    """A mask with as few dimensions as it needs: (H, W) if it is the same for all images and channels."""
    if isinstance(operator, Mask):
        mask = operator.constants["mask"]
        while mask.ndim > 2 and mask.shape[0] == 1:
            mask = mask[0]
        return Mask(mask)
    return operator


def _of_planes(operator: Operator) -> bool:
    """Whether an operator does the same to every channel, by its kind."""
    if isinstance(operator, Mask):
        return operator.constants["mask"].ndim == 2
    return type(operator) in (Scale, Separable, Filter, Mirrored, Blocks)


def _product(parts: Sequence[Operator]) -> Operator:
    """The product of factors, outermost first, neighbours of one kind as one."""
    result: list[Operator] = []
    for outer in reversed(parts):
        joined = _join(outer, result[-1]) if result else None
        if joined is None:
            result.append(outer)
        else:
            result[-1] = joined
    if not result:
        return Scale()
    return reduce(lambda inner, outer: Composed(outer, inner), result)


def _join(outer: Operator, inner: Operator) -> Operator | None:
    """One operator for two neighbours; None where there is none."""
    if isinstance(outer, Scale):
        return _scaled(inner, outer.factor)
    if isinstance(inner, Scale):
        return _scaled(outer, inner.factor)
    if isinstance(outer, Separable) and isinstance(inner, Filter):
        separable = inner.separable
        return None if separable is None else outer @ separable
    joined = outer @ inner
    return None if isinstance(joined, Composed) else joined


def _scaled(operator: Operator, factor: float) -> Operator | None:
    match operator:
        case Scale(factor=own):
            return Scale(own * factor)
        case Separable(constants=c):
            return Separable(c["rows"] * factor, c["columns"])
        case Mask(constants=c):
            return Mask(c["mask"] * factor)
        case ChannelMix(constants=c):
            return ChannelMix(c["matrix"] * factor)
        case Filter(basis=basis, pair=(rows, columns)):
            return Filter(basis, (rows * factor, columns))
        case Filter(basis=basis, constants=c):
            return Filter(basis, c["gain"] * factor)
    return None


def _sides(operator: Operator) -> tuple[Operator, Operator]:
    """The mixture of channels and the map of pixels of a simplified operator."""
    match operator:
        case Kronecker(channels=channels, pixels=pixels):
            return channels, pixels
        case ChannelMix():
            return operator, Scale()
    return Scale(), operator


def _with_channels(mix: Operator, planes: Operator) -> Operator:
    if isinstance(mix, Scale):
        return _product([mix, planes]) if mix.factor != 1 else planes
    assert isinstance(mix, ChannelMix), "mixtures multiply up"
    if isinstance(planes, Scale):
        return _join(planes, mix) or mix
    return Kronecker(mix, planes)


def _quotient(whole: Operator, part: Operator) -> Operator:
    """The quotient of two maps of pixels, or of two mixtures."""
    above, below = _factors(whole), _factors(part)
    while above and below and _equal(above[-1], below[-1]):  # what both do first
        above, below = above[:-1], below[:-1]
    if not below:
        return _product(above)
    if len(below) > 1:
        raise _unknown(whole, part)
    first = above[-1] if above else Scale()
    return _product([*above[:-1], _divided(first, below[0])])


def _divided(whole: Operator, part: Operator) -> Operator:
    if isinstance(whole, Separable) or isinstance(part, Separable):
        whole, part = _as_separable(whole) or whole, _as_separable(part) or part
    if isinstance(part, Scale):
        if part.factor == 0:
            raise ProcessError("nothing is left to divide by")
        return _product([Scale(1 / part.factor), whole])
    match _like(whole, part), part:
        case Separable(constants=above), Separable(constants=below):
            return Separable(*(_over(above[side], below[side]) for side in ("rows", "columns")))
        case ChannelMix(constants=above), ChannelMix(constants=below):
            return ChannelMix(_over(above["matrix"], below["matrix"]))
        case Mask(constants=above), Mask(constants=below):
            return Mask(_ratio(above["mask"], below["mask"]))
        case Filter(basis=basis, constants=above), Filter(basis=other, constants=below) if basis.same(other):
            return Filter(basis, _ratio(above["gain"], below["gain"]))
    raise _unknown(whole, part)


def _over(whole: Tensor, part: Tensor) -> Tensor:
    """whole part^+, if that times ``part`` is ``whole`` again."""
    result: Tensor = whole @ torch.linalg.pinv(part, rtol=_NULL)
    if whole.shape[1] != part.shape[1] or float((result @ part - whole).norm()) > _EXACT * float(
        whole.norm()
    ):
        raise _gained()
    return result


def _ratio(whole: Tensor, part: Tensor) -> Tensor:
    """whole / part, 0 where both are."""
    zero = part.abs() <= _NULL * part.abs().max()
    if bool((whole.abs() > _EXACT * whole.abs().max())[zero.expand_as(whole)].any()):
        raise _gained()
    result: Tensor = torch.where(zero, 0.0, whole / torch.where(zero, 1.0, part))
    return result


def _like(operator: Operator, kind: Operator) -> Operator:
    """A multiple of the identity as an operator of another kind; others as they are."""
    if not isinstance(operator, Scale):
        return operator
    match kind:
        case Separable(in_size=(height, width)):
            eyes = (torch.eye(n, dtype=torch.float64) for n in (height, width))
            return _scaled(Separable(*eyes), operator.factor) or operator
        case Mask(constants=c):
            return Mask(torch.full_like(c["mask"], operator.factor))
        case ChannelMix(constants=c):
            return ChannelMix(torch.eye(c["matrix"].shape[1], dtype=torch.float64) * operator.factor)
        case Filter(basis=basis):
            return Filter(basis, torch.full(basis.size, operator.factor, dtype=torch.float64))
    return operator


def _as_separable(operator: Operator) -> Separable | None:
    if isinstance(operator, Filter):
        return operator.separable
    return operator if isinstance(operator, Separable) else None


def _equal(a: Operator, b: Operator) -> bool:
    """Whether two operators are known to be the same map."""
    if a is b:
        return True
    match a, b:
        case Separable(constants=c), Separable(constants=d):
            return _all_equal(c["rows"], d["rows"]) and _all_equal(c["columns"], d["columns"])
        case Mask(constants=c), Mask(constants=d):
            return _all_equal(c["mask"], d["mask"])
        case Filter(basis=basis, constants=c), Filter(basis=other, constants=d):
            return basis.same(other) and _all_equal(c["gain"], d["gain"])
        case ChannelMix(constants=c), ChannelMix(constants=d):
            return _all_equal(c["matrix"], d["matrix"])
    return False


def _all_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _gained() -> ProcessError:
    return ProcessError("the later shows what the earlier has lost")


def _unknown(whole: Operator, part: Operator) -> ProcessError:
    kinds = " and ".join(dict.fromkeys(_named(operator) for operator in (whole, part)))
    return ProcessError(f"operators of kind {kinds} have no quotient in closed form")


def _named(operator: Operator) -> str:
    return " after ".join(type(factor).__name__ for factor in _factors(operator)) or "Scale"
