"""A U-Net of convolutions alone, for photographs of any size.

No attention and no norm: what a pixel becomes depends on the pixels around it only, so that a network trained
on patches does the same on a whole photograph, as denoisers for restoration are built [FFDNet; DRUNet].
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ssdiff.errors import ProcessError
from ssdiff.models.blocks import Block, resize_images, sinusoids, zeroed
from ssdiff.models.convolution import Conv2d
from ssdiff.models.registry import CONV_UNET, register_model

_FOLD = 2  # pixels a side that the stem makes one, their colours being channels
_EMBEDDING, _FREQUENCIES = 64, 64


class ModulatedResBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, scaled and shifted between them by the timestep; no norm.

    Args:
        channels: in and out.
        embedding: width of the embedding.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.conv_in = Conv2d(channels, channels, 3, padding=1)
        self.modulation = zeroed(nn.Linear(embedding, 2 * channels))
        self.conv_out = zeroed(Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (B, channels, h, w) and the activated embedding (B, embedding) to (B, channels, h, w)."""
        scale, shift = self.modulation(emb).to(x.dtype)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_in(x)
        result: Tensor = x + self.conv_out(F.relu(h + h * scale + shift))
        return result


@register_model(CONV_UNET)
class ConvUNet(nn.Module):
    """U-Net of residual blocks without norms, at half the resolution of the images and below.

    The stem folds squares of 2 x 2 pixels into channels and the head unfolds them, which halves the cost of
    the widest part [FFDNet, section 3.2]; levels are halved by 2x2 convolutions, and skips are added [DRUNet,
    section 4.1]. Images of any size: what a level cannot halve is repeated at the lower and the right border
    and cut off in the end.

    References:
        Zhang, Zuo, Zhang, "FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image Denoising", 2017,
        arXiv 1710.04026 [FFDNet]; Zhang et al., "Plug-and-Play Image Restoration with Deep Denoiser Prior",
        2020, arXiv 2008.13751 [DRUNet].

    Args:
        channels: of the images, in and out.
        width: channels at the first level, which has half the resolution.
        multipliers: channels of each level divided by ``width``; each level has half the size of the one
            before.
        blocks: residual blocks of an encoder level and of a decoder level; the last level has twice as many.
        residual: add the input to the output.
        activation_checkpointing: recompute activations in the backward pass.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 3),
        blocks: int = 2,
        residual: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.residual, folded = residual, channels * _FOLD**2
        widths = [width * multiplier for multiplier in multipliers]

        def level(at: int, count: int) -> nn.ModuleList:
            parts = (ModulatedResBlock(at, _EMBEDDING) for _ in range(count))
            return nn.ModuleList(Block([part], activation_checkpointing) for part in parts)

        self.time = nn.Sequential(
            nn.Linear(_FREQUENCIES, _EMBEDDING), nn.SiLU(), nn.Linear(_EMBEDDING, _EMBEDDING)
        )
        self.stem = nn.Conv2d(folded, width * multipliers[0], 3, padding=1)
        self.encoder = nn.ModuleList(level(at, blocks) for at in widths[:-1])
        self.middle = level(widths[-1], 2 * blocks)
        self.decoder = nn.ModuleList(level(at, blocks) for at in widths[:-1])
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(above, below, 2, stride=2) for above, below in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, above, 2, stride=2) for above, below in pairs)
        self.head = zeroed(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        index: Tensor,
        resolution: int | tuple[int, int],
        labels: Tensor | None = None,
    ) -> Tensor:
        """Predict at the resolution that is wanted.

        Args:
            x: (B, channels, h, w) of any size.
            index: (B,) timesteps counted from 0, i.e. t - 1.
            resolution: pixels of the longer side of the result, or (H, W); a smaller x is enlarged before.
            labels: None, the network knows no classes.

        Returns:
            (B, channels, H, W).

        Raises:
            ProcessError: if the result would be smaller, or labels are given.
        """
        x = self._at(x, resolution, labels)
        height, width = x.shape[-2:]
        unit = _FOLD << len(self.down)
        h = F.pad(x, (0, -width % unit, 0, -height % unit), mode="replicate")
        emb = F.silu(self.time(sinusoids(index, _FREQUENCIES)))
        h, skips = self.stem(F.pixel_unshuffle(h, _FOLD)), []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            h = _run(blocks, h, emb)
            skips.append(h)
            h = down(h)
        h = _run(self.middle, h, emb)
        for blocks, up in reversed(list(zip(self.decoder, self.up, strict=True))):
            h = _run(blocks, up(h) + skips.pop(), emb)
        output: Tensor = F.pixel_shuffle(self.head(h), _FOLD)[..., :height, :width]
        return output + x if self.residual else output

    def _at(self, x: Tensor, wanted: int | tuple[int, int], labels: Tensor | None) -> Tensor:
        """x, enlarged to the size that is wanted."""
        if labels is not None:
            raise ProcessError("the model has no classes and takes no labels")
        now = (x.shape[-2], x.shape[-1])
        if isinstance(wanted, int):
            wanted = (round(now[0] * wanted / max(now)), round(now[1] * wanted / max(now)))
        if wanted[0] < now[0] or wanted[1] < now[1]:
            raise ProcessError(f"the network gives the same or a larger size, not {now} -> {wanted}")
        return x if wanted == now else resize_images(x, wanted)


def _run(blocks: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList), "the blocks of a level"
    for block in blocks:
        h = block(h, emb)
    return h
