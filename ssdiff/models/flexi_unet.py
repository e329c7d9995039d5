"""The Flexi-UNet [SSD, section 3.3]: an ADM UNet that runs only the layers a resolution needs.

An image of level k enters at the first encoder block of that level and leaves after the decoder blocks of
the level that is wanted. A step to a larger image decodes one level further, with zeros for the skip
connections that its encoder never computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdiff.errors import ProcessError
from ssdiff.models.blocks import (
    Attention,
    Block,
    ResBlock,
    Upsample,
    change_size,
    norm,
    resize_images,
    sinusoids,
    zeroed,
)
from ssdiff.models.convolution import Conv2d
from ssdiff.models.registry import FLEXI_UNET, register_model

_EMBEDDING = 4  # width of the embedding relative to the model's


class Level(nn.Module):
    """What the network does at one resolution.

    Attributes:
        encoder: blocks on the way down.
        down: to the next level; nothing at the last.
        decoder: blocks on the way up, each after a skip connection.
        up: to the level before; nothing at the first.
        channels_in: what the encoder takes, which decides the adapter of images that start here.
        channels_out: what the decoder gives, which decides the adapter of images that end here.
        skips: channels of the decoder's skip connections, in the order of its blocks.
    """

    encoder: nn.ModuleList
    down: nn.Module
    decoder: nn.ModuleList
    up: nn.Module
    channels_in: int
    channels_out: int
    skips: list[int]


@register_model(FLEXI_UNET)
class FlexiUNet(nn.Module):
    """ADM UNet with an entrance and an exit at each level.

    Args:
        size: pixels a side at full resolution.
        channels: of the images, in and out.
        width: channels at the first level.
        multipliers: channels of each level divided by ``width``; each level has half the size of the one
            before.
        blocks: residual blocks of an encoder level; its decoder has one more.
        attention: resolutions with attention.
        heads: attention heads, where ``head_channels`` is 0.
        dropout: in the residual blocks.
        classes: 0 for an unconditional model; otherwise label ``classes`` stands for 'no class'.
        activation_checkpointing: recompute activations in the backward pass.
        full_decoder: run the last decoder block too. The plain ADM UNet of guided-diffusion does; the
            official Flexi-UNet leaves every level, the first one too, before its last block.
        residual: add the input to the output, which must have its size.
        head_channels: channels of an attention head, 0 for ``heads`` heads whatever the channels.
        attention_order: how the queries, keys and values of imported weights are stored,
            :class:`ssdiff.models.blocks.Attention`.
        resblock_updown: residual blocks halve and double the size, not convolutions.
        scale_shift_norm: the embedding is scale and shift of a norm; otherwise it is added before the norm.
        learn_sigma: the head has as many channels again, for a variance that guided-diffusion learns; they
            are dropped.
        first_index: what the embedding counts timesteps from: 0 in guided-diffusion, 1 in blur diffusion.
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
        dropout: float = 0.0,
        classes: int = 0,
        activation_checkpointing: bool = False,
        full_decoder: bool = False,
        residual: bool = False,
        head_channels: int = 0,
        attention_order: Literal["heads-first", "qkv-first"] = "heads-first",
        resblock_updown: bool = False,
        scale_shift_norm: bool = True,
        learn_sigma: bool = False,
        first_index: Literal[0, 1] = 0,
    ) -> None:
        super().__init__()
        self.sizes = tuple(size >> k for k in range(len(multipliers)))
        self.full_decoder, self.residual, self.resblock_updown = full_decoder, residual, resblock_updown
        self.channels, self.first_index = channels, first_index
        self._width, embedding = width, _EMBEDDING * width
        self.time = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(classes + 1, embedding) if classes else None

        def res_block(before: int, after: int, scale: float = 1.0) -> ResBlock:
            return ResBlock(before, after, embedding, dropout, scale_shift_norm, scale)

        def attend(at: int) -> Attention:
            return Attention(
                at, at // head_channels if head_channels else heads, attention_order == "qkv-first"
            )

        def block(before: int, after: int, attends: bool) -> Block:
            parts: list[nn.Module] = [res_block(before, after)]
            return Block([*parts, attend(after)] if attends else parts, activation_checkpointing)

        def halve(at: int) -> nn.Module:
            return res_block(at, at, 0.5) if resblock_updown else nn.Conv2d(at, at, 3, stride=2, padding=1)

        def double(at: int) -> nn.Module:
            return res_block(at, at, 2.0) if resblock_updown else Upsample(at)

        widths = [width * multiplier for multiplier in multipliers]
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(Level() for _ in widths)
        current, skips = widths[0], [widths[0]]
        for level, resolution, out in zip(self._levels, self.sizes, widths, strict=True):
            level.channels_in, level.channels_out = current, out
            ins = [current, *[out] * (blocks - 1)]
            level.encoder = nn.ModuleList(block(before, out, resolution in attention) for before in ins)
            current = out
            skips += [out] * blocks
            last = resolution == self.sizes[-1]
            level.down = nn.Identity() if last else halve(out)
            skips += [] if last else [out]
        ends = [res_block(current, current) for _ in range(2)]
        self.middle = Block([ends[0], attend(current), ends[1]], activation_checkpointing)
        for level, resolution, out in reversed(list(zip(self._levels, self.sizes, widths, strict=True))):
            level.skips = [skips.pop() for _ in range(blocks + 1)]
            ins = [current, *[out] * blocks]
            joined = [before + skip for before, skip in zip(ins, level.skips, strict=True)]
            level.decoder = nn.ModuleList(block(before, out, resolution in attention) for before in joined)
            current = out
            level.up = nn.Identity() if resolution == size else double(out)
        # Levels with the same number of channels share an adapter [official code].
        self.enter = _adapters({n: (widths[0], n) for n in (level.channels_in for level in self._levels)})
        self.leave = _adapters({n: (n, widths[0]) for n in widths})
        self.head_norm = norm(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], (1 + learn_sigma) * channels, 3, padding=1))

    @property
    def _levels(self) -> list[Level]:
        return [level for level in self.levels if isinstance(level, Level)]

    def forward(
        self,
        x: Tensor,
        index: Tensor,
        resolution: int,
        labels: Tensor | None = None,
        *,
        native: tuple[int, int] | None = None,
    ) -> Tensor:
        """Predict at the resolution that is wanted.

        Args:
            x: (B, channels, r, r); an r above the model's size runs at the first level.
            index: (B,) timesteps counted from 0, i.e. t - 1.
            resolution: pixels a side of the result, r or more.
            labels: (B,) classes, needed if and only if the model has classes.
            native: the r and the resolution of images of the model's size at these timesteps, where x is a
                part of a picture, or a larger one: they choose the layers.

        Returns:
            (B, channels, resolution, resolution).

        Raises:
            ProcessError: if the result would be smaller, if either size is no multiple of
                2^(levels below its own), or if labels are missing or too many.
        """
        emb, inputs = self._embed(index, labels), x
        x, first, last = self._route(x, resolution, native or (x.shape[-1], resolution))
        h = _adapt(self.enter, self._levels[first].channels_in, self.stem(x))
        skips = [h]
        for level in self._levels[first:]:
            for block in level.encoder:
                h = block(h, emb)
                skips.append(h)
            if level is not self.levels[-1]:
                h = change_size(level.down, h, emb)
                skips.append(h)
        h = self._decode(self.middle(h, emb), skips, emb, first, last)
        h = _adapt(self.leave, self._levels[last].channels_out, h)
        h = self.head(F.silu(self.head_norm(h)))[:, : self.channels]
        h = h if h.shape[-1] == resolution else resize_images(h, resolution)
        return h + inputs if self.residual else h

    def _decode(self, h: Tensor, skips: list[Tensor], emb: Tensor, first: int, last: int) -> Tensor:
        """Up from the middle to the exit of level ``last``; ``first`` is where the image came in."""
        for k in range(len(self.levels) - 1, last - 1, -1):
            level = self._levels[k]
            count = len(level.decoder) - (k == last and not (k == 0 and self.full_decoder))
            for number, (block, width) in enumerate(zip(level.decoder, level.skips, strict=True)):
                if number == count:
                    break
                # The last skip of the entrance level would come from the stem of a larger image [official
                # code].
                absent = k < first or (last < first == k and number == len(level.decoder) - 1)
                joined = F.pad(h, (0, 0, 0, 0, 0, width)) if absent else torch.cat([h, skips.pop()], dim=1)
                h = block(joined, emb)
            if k > last:
                h = change_size(level.up, h, emb)
        return h

    def _embed(self, index: Tensor, labels: Tensor | None) -> Tensor:
        """(B, embedding), activated once for all blocks."""
        emb: Tensor = self.time(sinusoids(index + self.first_index, self._width))
        if (self.label is None) != (labels is None):
            needed = "needs labels" if self.label is not None else "has no classes and takes no labels"
            raise ProcessError(f"the model {needed}")
        if self.label is not None:
            emb = emb + self.label(labels)
        return F.silu(emb)

    def _route(self, x: Tensor, wanted: int, native: tuple[int, int]) -> tuple[Tensor, int, int]:
        """The input, resized up where its own level cannot do the step, and the levels of entrance and
        exit."""
        side = x.shape[-1]
        if x.shape[-2] != side or wanted < side:
            raise ProcessError(
                "the network takes square images and gives the same or a larger size, "
                f"not {tuple(x.shape[-2:])} -> {wanted}"
            )
        first, last = self.level_of(native[0]), self.level_of(native[1])
        for pixels, level in ((side, first), (wanted, last)):
            unit = 2 ** (len(self.sizes) - 1 - level)
            if pixels % unit:
                raise ProcessError(
                    f"images of {pixels} pixels cannot be halved down to the last level; "
                    f"use a multiple of {unit}"
                )
        # The step to full resolution is that of the larger image [official code].
        if wanted > side and (native[1] >= self.sizes[0] or first == last):
            return resize_images(x, wanted), last, last
        return x, first, last

    def level_of(self, side: int) -> int:
        """Return the level that handles images of a size: the smallest one that is not smaller, else the
        first."""
        return max(k for k, size in enumerate(self.sizes) if k == 0 or side <= size)

    def keep_entrances(self, levels: Sequence[int]) -> None:
        """Drop what no image that comes in at these levels runs, whether its size stays or doubles.

        Args:
            levels: neighbouring ones, the largest first.
        """
        largest = max(levels[0] - 1, 0)
        # The step to full resolution runs from the first level.
        begins = {*levels} | ({0} if 1 in levels else set())
        for k, level in enumerate(self._levels):
            if k < min(begins):
                level.encoder, level.down = nn.ModuleList(), nn.Identity()
            if k < largest:
                level.decoder = nn.ModuleList()
            if k <= largest:
                level.up = nn.Identity()
        for adapters, used in (
            (self.enter, {self._levels[k].channels_in for k in begins}),
            (self.leave, {self._levels[k].channels_out for k in range(largest, levels[-1] + 1)}),
        ):
            for key in [key for key in adapters if int(key) not in used]:
                del adapters[key]


def _adapters(shapes: Mapping[int, tuple[int, int]]) -> nn.ModuleDict:
    """1x1 convolutions by the level's number of channels, where the stem or the head has another."""
    return nn.ModuleDict({str(n): Conv2d(*shape, 1) for n, shape in shapes.items() if shape[0] != shape[1]})


def _adapt(adapters: nn.ModuleDict, channels: int, h: Tensor) -> Tensor:
    key = str(channels)
    return adapters[key](h) if key in adapters else h
