"""The U-Net of DDPM [Ho et al. 2020], with which cold diffusion restores CIFAR-10 [CD, appendix]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdiff.models.blocks import (
    Attention,
    Block,
    ResBlock,
    ShrinkByConvolution,
    Upsample,
    norm,
    plain_sinusoids,
    to_resolution,
)
from ssdiff.models.registry import DDPM_UNET, register_model

_EMBEDDING = 4  # width of the embedding relative to the model's
_EPS = 1e-6


class AddedResBlock(ResBlock):
    """A residual block that adds the embedding, and does not begin as the identity.

    Args:
        channels: in.
        out_channels: out.
        embedding: width of the embedding.
        dropout: before the last convolution.
    """

    def __init__(self, channels: int, out_channels: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__(channels, out_channels, embedding, dropout, scale_shift=False)
        self.norm_in, self.norm_out = norm(channels, _EPS), norm(out_channels, _EPS)
        self.conv_out.reset_parameters()


class OneHead(Attention):
    """Self-attention over pixels with one head, which does not begin as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1)
        self.norm = norm(channels, _EPS)
        self.project.reset_parameters()


@register_model(DDPM_UNET)
class DdpmUNet(nn.Module):
    """U-Net of residual blocks with softmax attention at some resolutions, for images of one size.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv 2006.11239 [Ho et al. 2020].

    Args:
        size: pixels a side, which say where there is attention.
        channels: of the images, in and out.
        width: channels at full resolution.
        multipliers: channels of each level divided by ``width``; each level has half the size of the one
            before.
        blocks: residual blocks of an encoder level; its decoder has one more.
        attention: resolutions with attention after each block.
        dropout: in the residual blocks.
        residual: add the input to the output.
        activation_checkpointing: recompute activations in the backward pass.
    """

    def __init__(
        self,
        *,
        size: int,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        residual: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.residual, self._width, embedding = residual, width, _EMBEDDING * width
        self.time = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        widths = [width * multiplier for multiplier in multipliers]

        def block(before: int, after: int, level: int) -> Block:
            parts: list[nn.Module] = [AddedResBlock(before, after, embedding, dropout)]
            attends = size >> level in attention
            return Block([*parts, OneHead(after)] if attends else parts, activation_checkpointing)

        self.encoder, self.shrink = nn.ModuleList(), nn.ModuleList()
        current, skips = width, [width]
        for k, out in enumerate(widths):
            self.encoder.append(nn.ModuleList(block(n, out, k) for n in (current, *[out] * (blocks - 1))))
            current, last = out, k == len(widths) - 1
            self.shrink.append(nn.Identity() if last else ShrinkByConvolution(out))
            skips += [out] * (blocks if last else blocks + 1)
        ends = [AddedResBlock(current, current, embedding, dropout) for _ in range(2)]
        self.middle = Block([ends[0], OneHead(current), ends[1]], activation_checkpointing)
        self.decoder, self.grow = nn.ModuleList(), nn.ModuleList()
        for k, out in reversed(list(enumerate(widths))):
            ins = [n + skips.pop() for n in (current, *[out] * blocks)]
            self.decoder.append(nn.ModuleList(block(n, out, k) for n in ins))
            current = out
            self.grow.append(Upsample(out) if k else nn.Identity())
        self.head_norm = norm(current, _EPS)
        self.head = nn.Conv2d(current, channels, 3, padding=1)

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
        emb = F.silu(self.time(plain_sinusoids(index, self._width)))
        h = self.stem(x)
        skips = [h]
        for blocks, shrink in zip(self.encoder, self.shrink, strict=True):
            assert isinstance(blocks, nn.ModuleList), "the blocks of a level"
            for block in blocks:
                h = block(h, emb)
                skips.append(h)
            if not isinstance(shrink, nn.Identity):
                h = shrink(h)
                skips.append(h)
        h = self.middle(h, emb)
        for blocks, grow in zip(self.decoder, self.grow, strict=True):
            assert isinstance(blocks, nn.ModuleList), "the blocks of a level"
            for block in blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), emb)
            h = grow(h)
        output: Tensor = self.head(F.silu(self.head_norm(h)))
        return output + x if self.residual else output
