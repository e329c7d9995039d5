"""A small network as a user would bring one: `--extractor tinynet:Tiny`."""

import torch
from torch import nn


class Tiny(nn.Module):
    """(B, 3, H, W) uint8 to (B, 12) features; the same weights whenever it is made."""

    def __init__(self):
        super().__init__()
        print("made", end=" ")  # as some do; results on stdout must not mind
        self.conv = nn.Conv2d(3, 12, 5, stride=2)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator) / 8)
            self.conv.bias.zero_()

    def forward(self, images):
        """Means of rectified responses."""
        return self.conv(images.float() / 127.5 - 1).relu().mean((2, 3))


class Other(Tiny):
    """Other weights."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.conv.weight.mul_(2)


class Images(nn.Module):
    """Gives images instead of features."""

    def forward(self, images):
        """Themselves."""
        return images.float()
