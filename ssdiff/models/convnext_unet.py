"""The ConvNeXt U-Net that cold diffusion restores images with [CD, appendix].

ConvNeXt blocks with linear attention, which has no weight for each pair of pixels, so that every level
attends. The first level hands on no skip connection; on the way up each level ends by doubling the size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdiff.models.blocks import Block, plain_sinusoids, to_resolution
from ssdiff.models.convolution import Conv2d
from ssdiff.models.registry import CONVNEXT_UNET, register_model

_EMBEDDING = 4  # hidden width of the time embedding relative to the model's
_EXPANSION = 2  # hidden channels of a block relative to its output
_HEADS, _HEAD_CHANNELS = 4, 32
_EPS = 1e-5


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        pixels = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, _EPS)
        return pixels.permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """A 7x7 convolution of each channel, the embedding added, and two 3x3 convolutions, beside a shortcut.

    Args:
        channels: in.
        out_channels: out.
        embedding: width of the time embedding; 0 for a block that knows no time.
        normalised: whether a norm stands before the 3x3 convolutions.
    """

    def __init__(
        self, channels: int, out_channels: int, embedding: int = 0, *, normalised: bool = True
    ) -> None:
        super().__init__()
        hidden, same = _EXPANSION * out_channels, channels == out_channels
        self.time = nn.Linear(embedding, channels) if embedding else None
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels) if normalised else nn.Identity()
        self.expand = Conv2d(channels, hidden, 3, padding=1)
        self.contract = Conv2d(hidden, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if same else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        """Map (B, channels, h, w) and the activated embedding (B, embedding) to (B, out_channels, h, w)."""
        h = self.depthwise(x)
        if self.time is not None:
            h = h + self.time(emb).to(h.dtype)[:, :, None, None]
        result: Tensor = self.shortcut(x) + self.contract(F.gelu(self.expand(self.norm(h))))
        return result


class LinearAttention(nn.Module):
    """Attention whose cost grows with the pixels, not with their square.

    Keys are softmax weights over the pixels: a head sums its values into a (d, d) matrix by them, which every
    query then reads, V K^T q / sqrt(d) [Shen et al. 2021].

    Args:
        channels: in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _HEADS * _HEAD_CHANNELS
        self.norm = ChannelNorm(channels)
        self.qkv = Conv2d(channels, 3 * inner, 1, bias=False)  # all queries, all keys, all values
        self.project = Conv2d(inner, channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        """Map (B, C, h, w) to the same shape; the embedding is not used."""
        b, _, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3 * _HEADS, _HEAD_CHANNELS, h * w)
        q, k, v = qkv.chunk(3, dim=1)  # (B, heads, d, pixels)
        summary = v @ k.softmax(dim=-1).to(v.dtype).mT
        mixed = (summary * _HEAD_CHANNELS**-0.5) @ q
        result: Tensor = x + self.project(mixed.reshape(b, -1, h, w))
        return result


@register_model(CONVNEXT_UNET)
class ConvNextUNet(nn.Module):
    """U-Net of ConvNeXt blocks and linear attention, for images of one size.

    References:
        Bansal et al., "Cold Diffusion: Inverting Arbitrary Image Transforms Without Noise", 2022, arXiv
        2208.09392 [CD].

    Args:
        channels: of the images, in and out.
        width: channels at full resolution.
        multipliers: channels of each level divided by ``width``; each level has half the size of the one
            before.
        residual: add the input to the output.
        activation_checkpointing: recompute activations in the backward pass.
        time_embedding: whether the network knows the timestep.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        residual: bool = False,
        activation_checkpointing: bool = False,
        time_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.residual, self._width = residual, width
        embedding, hidden = (width if time_embedding else 0), _EMBEDDING * width
        self.time = (
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
            if time_embedding
            else None
        )
        widths = [width * multiplier for multiplier in multipliers]

        def level(before: int, after: int, *, normalised: bool = True) -> Block:
            parts = [
                ConvNextBlock(before, after, embedding, normalised=normalised),
                ConvNextBlock(after, after, embedding),
                LinearAttention(after),
            ]
            return Block(parts, activation_checkpointing)

        self.encoder, self.shrink = nn.ModuleList(), nn.ModuleList()
        for k, (before, after) in enumerate(zip((channels, *widths), widths, strict=False)):
            self.encoder.append(level(before, after, normalised=k > 0))
            last = k == len(widths) - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(after, after, 4, stride=2, padding=1))
        deepest = widths[-1]
        ends = [ConvNextBlock(deepest, deepest, embedding) for _ in range(2)]
        self.middle = Block([ends[0], LinearAttention(deepest), ends[1]], activation_checkpointing)
        self.decoder, self.grow = nn.ModuleList(), nn.ModuleList()
        for k in reversed(range(1, len(widths))):
            self.decoder.append(level(2 * widths[k], widths[k - 1]))
            self.grow.append(nn.ConvTranspose2d(widths[k - 1], widths[k - 1], 4, stride=2, padding=1))
        self.tail = Block([ConvNextBlock(widths[0], widths[0])], activation_checkpointing)
        self.head = nn.Conv2d(widths[0], channels, 1)

    def forward(self, x: Tensor, index: Tensor, resolution: int, labels: Tensor | None = None) -> Tensor:
        """Predict at the resolution that is wanted.

        Args:
            x: (B, channels, r, r); r a multiple of 2^(levels - 1).
            index: (B,) timesteps counted from 0, i.e. t - 1.
            resolution: pixels a side of the result; a smaller x is enlarged before.
            labels: None, the network knows no classes.

        Returns:
            (B, channels, resolution, resolution).

        Raises:
            ProcessError: if the result would be smaller, the size cannot be halved so often, or labels are
                given.
        """
        x = to_resolution(x, resolution, len(self.encoder) - 1, labels)
        emb = None if self.time is None else F.gelu(self.time(plain_sinusoids(index, self._width)))
        h, skips = x, []
        for k, (block, shrink) in enumerate(zip(self.encoder, self.shrink, strict=True)):
            h = block(h, emb)
            if k:
                skips.append(h)
            h = shrink(h)
        h = self.middle(h, emb)
        for block, grow in zip(self.decoder, self.grow, strict=True):
            h = grow(block(torch.cat([h, skips.pop()], dim=1), emb))
        output: Tensor = self.head(self.tail(h, None))
        return output + x if self.residual else output
