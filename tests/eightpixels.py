"""Images of eight pixels a side and presets for them, small enough for dense covariances."""

import torch

from ssdiff.config.load import load_preset
from ssdiff.operators import matrices

SIDES = (8, 4)


def images(count=400, side=8, seed=0):
    """Stationary smooth grey images, (N, 1, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, 1, side, side, dtype=torch.float64, generator=generator)
    frequency = torch.arange(side, dtype=torch.float64)
    fade = 0.5 / (1 + frequency[:, None].square() + frequency.square())
    basis = matrices.dct(side)
    return basis.mT @ (fade.sqrt() * white) @ basis + 0.2


def preset(**process):
    small = {"data.size": 8, "process.T": 20, "process.levels": 2, "process.snr_preserving": 1.0}
    small |= {"model.multipliers": [1, 2], "model.width": 8, "model.heads": 1, "model.attention": []}
    small |= {"process.resolution": {"kind": "log_snr", "at": [-1.0]}, "sampling.steps": 10}
    return load_preset("celeba64", {**small, **{f"process.{key}": value for key, value in process.items()}})


def ddpm():
    return preset(kind="ddpm", levels=1, snr_preserving=0.0, resolution={"kind": "convex_decay"})


def by_area():
    return preset(resize="area")
