"""The ADM U-Net [Dhariwal & Nichol 2021], with the variations of diffusers, for weights of others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdiff.errors import ProcessError
from ssdiff.models.blocks import (
    Attention,
    Block,
    ResBlock,
    ShrinkByConvolution,
    Upsample,
    change_size,
    norm,
    to_resolution,
    zeroed,
)
from ssdiff.models.registry import ADM_UNET, register_model

_EMBEDDING = 4  # width of the embedding relative to that of the timesteps
_PERIOD = 10_000.0


class AdmLevel(nn.Module):
    """What the network does at one resolution.

    Attributes:
        encoder: blocks on the way down.
        down: to the next level; nothing at the last.
        decoder: blocks on the way up, each after a skip connection.
        up: to the level before; nothing at the first.
    """

    encoder: nn.ModuleList
    down: nn.Module
    decoder: nn.ModuleList
    up: nn.Module


@register_model(ADM_UNET)
class AdmUNet(nn.Module):
    """U-Net of residual blocks with multi-head attention at some resolutions, run as a whole.

    It is guided-diffusion's with the first options, and diffusers' ``UNet2DModel`` with those from
    ``timestep_width`` on. :class:`ssdiff.models.flexi_unet.FlexiUNet` with ``full_decoder`` computes the
    former, too; it has entrances at smaller sizes besides, which no other weights have.

    References:
        Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021, arXiv 2105.05233
        [Dhariwal & Nichol 2021].

    Args:
        size: pixels a side, which say where there is attention; h and w of images may be others.
        channels: of the images, in and out.
        width: what the channels of levels are multiples of.
        multipliers: channels of each level divided by ``width``; each level has half the size of the one
            before.
        blocks: residual blocks of an encoder level; its decoder has one more.
        attention: resolutions with attention after each block.
        heads: attention heads, where ``head_channels`` is 0.
        head_channels: channels of an attention head, 0 for ``heads`` heads whatever the channels.
        attention_order: how the queries, keys and values of imported weights are stored,
            :class:`ssdiff.models.blocks.Attention`.
        dropout: in the residual blocks.
        classes: 0 for an unconditional model; otherwise label ``classes`` stands for 'no class'.
        resblock_updown: residual blocks halve and double the size, not convolutions.
        scale_shift_norm: the embedding is scale and shift of a norm; otherwise it is added before the norm.
        learn_sigma: the head has as many channels again, for a variance that guided-diffusion learns; they
            are dropped.
        first_index: what the embedding counts timesteps from.
        activation_checkpointing: recompute activations in the backward pass.
        timestep_width: numbers that a timestep becomes before it is embedded; 0 is ``width``.
        sines_first: the sines of timesteps come before their cosines, not after.
        freq_shift: the frequencies are 10000^(-k / (n - freq_shift)) for k = 0..n - 1; below n.
        groups: of the norms; 0 is 32.
        eps: of the norms, added to variances.
        middle_attention: between encoder and decoder: ``normed`` like everywhere, ``plain`` without its norm,
            or ``none``.
        decoder_attention: resolutions with attention in the decoder; None are those of the encoder.
        resblock_down: resolutions that a residual block halves; None says ``resblock_updown``.
        resblock_up: resolutions that a residual block doubles; likewise.
        pad_after: convolutions that halve have zeros below and on the right only, not around.

    Example:
        >>> import torch
        >>> from ssdiff.models.adm_unet import AdmUNet
        >>> network = AdmUNet(size=32, width=32, multipliers=(1, 2), blocks=1)
        >>> network(torch.zeros(1, 3, 32, 32), torch.tensor([9]), 32).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        *,
        size: int,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 2,
        attention: Sequence[int] = (16, 8),
        heads: int = 4,
        head_channels: int = 0,
        attention_order: Literal["heads-first", "qkv-first"] = "heads-first",
        dropout: float = 0.0,
        classes: int = 0,
        resblock_updown: bool = False,
        scale_shift_norm: bool = True,
        learn_sigma: bool = False,
        first_index: Literal[0, 1] = 0,
        activation_checkpointing: bool = False,
        timestep_width: int = 0,
        sines_first: bool = False,
        freq_shift: float = 0.0,
        groups: int = 0,
        eps: float = 1e-5,
        middle_attention: Literal["normed", "plain", "none"] = "normed",
        decoder_attention: Sequence[int] | None = None,
        resblock_down: Sequence[int] | None = None,
        resblock_up: Sequence[int] | None = None,
        pad_after: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.classes, self.first_index = channels, classes, first_index
        self.sines_first, self.freq_shift = sines_first, freq_shift
        self.timestep_width = timestep_width or width
        embedding = _EMBEDDING * self.timestep_width
        self.time = nn.Sequential(
            nn.Linear(self.timestep_width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = nn.Embedding(classes + 1, embedding) if classes else None
        widths = [width * multiplier for multiplier in multipliers]
        sizes = [size >> level for level in range(len(widths))]
        whole = sizes if resblock_updown else []
        halved, doubled = (whole if given is None else given for given in (resblock_down, resblock_up))
        upwards = attention if decoder_attention is None else decoder_attention

        def normalise(at: int) -> nn.GroupNorm:
            return norm(at, eps, groups)

        def res_block(before: int, after: int, scale: float = 1.0) -> ResBlock:
            return ResBlock(before, after, embedding, dropout, scale_shift_norm, scale, normalise)

        def attend(at: int, plain: bool = False) -> Attention:
            number = at // head_channels if head_channels else heads
            qkv_first, normed = attention_order == "qkv-first", nn.Identity if plain else normalise
            return Attention(at, number, qkv_first, normed)

        def block(before: int, after: int, attends: bool) -> Block:
            parts: list[nn.Module] = [res_block(before, after)]
            return Block([*parts, attend(after)] if attends else parts, activation_checkpointing)

        def halve(at: int, side: int) -> nn.Module:
            if side in halved:
                return res_block(at, at, 0.5)
            return ShrinkByConvolution(at) if pad_after else nn.Conv2d(at, at, 3, stride=2, padding=1)

        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(AdmLevel() for _ in widths)
        current, skips = widths[0], [widths[0]]
        for level, side, out in zip(self._levels(), sizes, widths, strict=True):
            ins = [current, *[out] * (blocks - 1)]
            level.encoder = nn.ModuleList(block(before, out, side in attention) for before in ins)
            current, last = out, side == sizes[-1]
            level.down = nn.Identity() if last else halve(out, side)
            skips += [out] * (blocks if last else blocks + 1)
        between: list[nn.Module] = [res_block(current, current), res_block(current, current)]
        if middle_attention != "none":
            between.insert(1, attend(current, plain=middle_attention == "plain"))
        self.middle = Block(between, activation_checkpointing)
        for level, side, out in reversed(list(zip(self._levels(), sizes, widths, strict=True))):
            ins = [before + skips.pop() for before in (current, *[out] * blocks)]
            level.decoder = nn.ModuleList(block(before, out, side in upwards) for before in ins)
            current = out
            growing = res_block(out, out, 2.0) if side in doubled else Upsample(out)
            level.up = nn.Identity() if side == size else growing
        self.head_norm = normalise(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], (1 + learn_sigma) * channels, 3, padding=1))

    def _levels(self) -> Iterator[AdmLevel]:
        return (level for level in self.levels if isinstance(level, AdmLevel))

    def forward(self, x: Tensor, index: Tensor, resolution: int, labels: Tensor | None = None) -> Tensor:
        """Predict at the resolution that is wanted.

        Args:
            x: (B, channels, r, r); r a multiple of 2^(levels - 1).
            index: (B,) timesteps counted from 0, i.e. t - 1.
            resolution: pixels a side of the result; a smaller x is enlarged before.
            labels: (B,) classes, needed if and only if the model has classes.

        Returns:
            (B, channels, resolution, resolution).

        Raises:
            ProcessError: if the result would be smaller, the size cannot be halved so often, or labels are
                missing or too many.
        """
        emb = self._embed(index, labels)
        h = self.stem(to_resolution(x, resolution, len(self.levels) - 1, None))
        skips = [h]
        for level in self._levels():
            for block in level.encoder:
                h = block(h, emb)
                skips.append(h)
            if not isinstance(level.down, nn.Identity):
                h = change_size(level.down, h, emb)
                skips.append(h)
        h = self.middle(h, emb)
        for level in reversed(list(self._levels())):
            for block in level.decoder:
                h = block(torch.cat([h, skips.pop()], dim=1), emb)
            h = change_size(level.up, h, emb)
        output: Tensor = self.head(F.silu(self.head_norm(h)))
        return output[:, : self.channels]

    def _embed(self, index: Tensor, labels: Tensor | None) -> Tensor:
        """(B, embedding), activated once for all blocks."""
        half = self.timestep_width // 2
        # In the order of the code that trained the weights: another one turns the angle of t = 1000 by 2e-5.
        exponent = -math.log(_PERIOD) * torch.arange(half, dtype=torch.float32, device=index.device)
        frequency = torch.exp(exponent / (half - self.freq_shift))
        angle = (index + self.first_index).float()[:, None] * frequency
        waves = [angle.sin(), angle.cos()] if self.sines_first else [angle.cos(), angle.sin()]
        emb: Tensor = self.time(F.pad(torch.cat(waves, dim=1), (0, self.timestep_width % 2)))
        if (self.label is None) != (labels is None):
            needed = "needs labels" if self.label is not None else "has no classes and takes no labels"
            raise ProcessError(f"the model {needed}")
        if self.label is not None:
            emb = emb + self.label(labels)
        return F.silu(emb)
