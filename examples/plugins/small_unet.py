"""A small UNet as a plain nn.Module: forward(x, t), with no idea of resolutions that change."""

import torch
import torch.nn.functional as F
from torch import nn

import ssdiff


class Block(nn.Module):
    """Two convolutions; the timestep shifts what is between them."""

    def __init__(self, before, after, embedding):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.norm = nn.GroupNorm(8, after)
        self.time = nn.Linear(embedding, after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x, embedding):
        """Return (B, after, H, W)."""
        h = F.silu(self.norm(self.first(x)) + self.time(embedding)[:, :, None, None])
        return self.shortcut(x) + self.second(h)


@ssdiff.register_model("small-unet")
class SmallUNet(nn.Module):
    """Two halvings, one block on each side of each."""

    def __init__(self, channels, *, width=32):
        super().__init__()
        self.half, wide = width // 2, 2 * width
        self.embed = nn.Sequential(nn.Linear(width, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.enter = Block(channels, width, wide)
        self.down = Block(width, wide, wide)
        self.middle = Block(wide, wide, wide)
        self.up = Block(2 * wide, width, wide)
        self.leave = Block(2 * width, width, wide)
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, x, t):
        """Return the clean image, of the shape of x; t are timesteps counted from 0."""
        rates = torch.exp(torch.arange(self.half, device=t.device) * (-9.2 / self.half))
        angles = t[:, None] * rates
        e = F.silu(self.embed(torch.cat([angles.sin(), angles.cos()], dim=1)))
        a = self.enter(x, e)
        b = self.down(F.avg_pool2d(a, 2), e)
        h = self.middle(F.avg_pool2d(b, 2), e)
        h = self.up(torch.cat([F.interpolate(h, scale_factor=2), b], dim=1), e)
        h = self.leave(torch.cat([F.interpolate(h, scale_factor=2), a], dim=1), e)
        return self.out(F.silu(h))
