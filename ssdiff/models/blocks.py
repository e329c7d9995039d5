"""The blocks of the ADM UNet [Dhariwal & Nichol 2021, appendix]: residual block, attention, time
embedding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssdiff.errors import ProcessError
from ssdiff.models.convolution import Conv2d

_PERIOD = 10_000.0
_GROUPS = 32
_Module = TypeVar("_Module", nn.Conv2d, nn.Linear)


class _GroupNorm(nn.GroupNorm):
    """Group normalisation that keeps channels last in a compiled network, too.

    PyTorch 2.14 takes the result for contiguous while it traces, which on a CPU it is not, and every view of
    what follows would be computed from the wrong strides.
    """

    def forward(self, x: Tensor) -> Tensor:
        result = super().forward(x)
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if channels_last and torch.compiler.is_compiling():
            return result.contiguous(memory_format=torch.channels_last)
        return result


def norm(channels: int, eps: float = 1e-5, groups: int = 0) -> nn.GroupNorm:
    """Return a GroupNorm of ``groups``; where that is 0 of 32, or of fewer where that would leave under four
    channels each and 32 do not divide."""
    if groups:
        return _GroupNorm(groups, channels, eps)
    groups = min(_GROUPS, channels)
    if channels % _GROUPS:
        groups = max(g for g in range(1, max(channels // 4, 1) + 1) if channels % g == 0 and g <= _GROUPS)
    return _GroupNorm(groups, channels, eps)


def zeroed(module: _Module) -> _Module:
    """Return the module with weight and bias zero, so that a residual branch begins as the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def resize_images(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return (B, C, H, W) images at another (height, width), or side, bilinear and antialiased."""
    wanted = (size, size) if isinstance(size, int) else size
    return F.interpolate(x, wanted, mode="bilinear", align_corners=False, antialias=True)


def sinusoids(index: Tensor, width: int) -> Tensor:
    """Embed (B,) timesteps as (B, width) cosines, then sines, of geometric frequencies [Vaswani et al.
    2017]."""
    half = width // 2
    frequency = torch.exp(-math.log(_PERIOD) / half * torch.arange(half, device=index.device))
    angle = index.float()[:, None] * frequency
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, width % 2))


def plain_sinusoids(index: Tensor, width: int) -> Tensor:
    """Embed (B,) timesteps as (B, width) sines, then cosines, of frequencies from 1 down to 1 / 10000, both
    included [Ho et al. 2020]; ``width`` is 4 or more."""
    half = width // 2
    frequency = torch.exp(-math.log(_PERIOD) / (half - 1) * torch.arange(half, device=index.device))
    angle = index.float()[:, None] * frequency
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, width % 2))


def to_resolution(x: Tensor, wanted: int, halvings: int, labels: Tensor | None) -> Tensor:
    """Return the input of a network without classes that works at one resolution, enlarged to the wanted one.

    Args:
        x: (B, C, r, r).
        wanted: pixels a side, r or more.
        halvings: how often the network halves the size.
        labels: None.

    Raises:
        ProcessError: if the image is not square or larger, the size cannot be halved, or labels are given.
    """
    if labels is not None:
        raise ProcessError("the model has no classes and takes no labels")
    side = x.shape[-1]
    if x.shape[-2] != side or wanted < side:
        raise ProcessError(
            "the network takes square images and gives the same or a larger size, "
            f"not {tuple(x.shape[-2:])} -> {wanted}"
        )
    if wanted % (unit := 2**halvings):
        raise ProcessError(
            f"images of {wanted} pixels cannot be halved down to the last level; use a multiple of {unit}"
        )
    return x if side == wanted else resize_images(x, wanted)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with the embedding between them, and a change of size before the first of them.

    Args:
        channels: in.
        out_channels: out.
        embedding: width of the embedding.
        dropout: before the last convolution.
        scale_shift: the embedding is scale and shift of the second norm; otherwise it is added before it.
        scale: 0.5 halves the size by averages of 2x2 pixels, 2.0 doubles it by repeating them; both branches.
        normalise: makes the norm of so many channels.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        dropout: float = 0.0,
        scale_shift: bool = True,
        scale: float = 1.0,
        normalise: Callable[[int], nn.Module] = norm,
    ) -> None:
        super().__init__()
        self.scale_shift, self.scale = scale_shift, scale
        self.norm_in = normalise(channels)
        self.conv_in = Conv2d(channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, (1 + scale_shift) * out_channels)
        self.norm_out = normalise(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(Conv2d(out_channels, out_channels, 3, padding=1))
        same = channels == out_channels
        self.shortcut = nn.Identity() if same else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (B, channels, h, w) and the activated embedding (B, embedding) to (B, out_channels, h', w')."""
        h = self.conv_in(self._rescale(F.silu(self.norm_in(x))))
        modulation = self.modulation(emb).to(h.dtype)[:, :, None, None]
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        else:
            h = self.norm_out(h + modulation)
        result: Tensor = self.shortcut(self._rescale(x)) + self.conv_out(self.dropout(F.silu(h)))
        return result

    def _rescale(self, x: Tensor) -> Tensor:
        if self.scale < 1:
            return F.avg_pool2d(x, 2)
        return x if self.scale == 1 else F.interpolate(x, scale_factor=self.scale, mode="nearest")


class Attention(nn.Module):
    """Self-attention over pixels.

    Args:
        channels: in and out.
        heads: a divisor of channels.
        qkv_first: the 3 C channels of ``qkv`` are those of all queries, all keys, all values, each split into
            heads; otherwise they are heads, each split into its queries, keys and values. The same network
            with weights in another order, so it matters for weights that exist.
        normalise: makes the norm of so many channels.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        qkv_first: bool = False,
        normalise: Callable[[int], nn.Module] = norm,
    ) -> None:
        super().__init__()
        self.heads, self.qkv_first = heads, qkv_first
        self.norm = normalise(channels)
        self.qkv = Conv2d(channels, 3 * channels, 1)
        self.project = zeroed(Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape; the embedding is not used."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x))
        if self.qkv_first:
            q, k, v = qkv.reshape(b, 3, self.heads, c // self.heads, h * w).mT.unbind(1)
        else:
            q, k, v = qkv.reshape(b, self.heads, 3 * c // self.heads, h * w).mT.chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v)  # each (B, heads, pixels, C / heads)
        result: Tensor = x + self.project(mixed.mT.reshape(b, c, h, w))
        return result


class Block(nn.Module):
    """A residual block and, at some resolutions, attention after it.

    Args:
        parts: modules of (x, embedding), run in turn.
        activation_checkpointing: recompute activations in the backward pass instead of keeping them.
    """

    def __init__(self, parts: Sequence[nn.Module], activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.activation_checkpointing = activation_checkpointing

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h, w)."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(self._run, x, emb, use_reentrant=False)
            return recomputed
        return self._run(x, emb)

    def _run(self, x: Tensor, emb: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x, emb)
        return x


class Upsample(nn.Module):
    """Nearest neighbour by 2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, 2h, 2w)."""
        result: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class ShrinkByConvolution(nn.Conv2d):
    """A 3x3 convolution at every other pixel, with a row and a column of zeros below and on the right."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, 2h, 2w) to (B, C, h, w)."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def change_size(module: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    """Take images to another level; of the modules that do, only residual blocks look at the embedding."""
    result: Tensor = module(h, emb) if isinstance(module, ResBlock) else module(h)
    return result
