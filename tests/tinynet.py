"""A small network as a user would bring one: `--extractor tinynet:Tiny`."""

import os
import sys

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


class Lost(nn.Module):
    """Features that are no numbers."""

    def forward(self, images):
        """Not a number."""
        return images.float().mean((2, 3)) / 0 * 0


class Half(nn.Module):
    """Weights of a type that numpy has not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.bfloat16))


class Needy(nn.Module):
    """Cannot be made without arguments."""

    def __init__(self, weights):
        super().__init__()


class Broken(nn.Module):
    """Fails when it is made."""

    def __init__(self):
        super().__init__()
        raise OSError("no weights here")


class Watched(Tiny):
    """Says which process saw how many images."""

    def forward(self, images):
        """As its parent."""
        print(f"rank {os.environ.get('RANK')} saw {len(images)}", file=sys.stderr)
        return super().forward(images)
