"""A small trainer for tests."""

from pathlib import Path

import numpy as np
import torch

from ssdiff.build import build_model, build_process
from ssdiff.config.load import load_preset
from ssdiff.distributed import World
from ssdiff.training.batches import Batches
from ssdiff.training.trainer import Trainer

TINY = Path(__file__).parent / "assets" / "tiny.toml"
IMAGES = np.random.RandomState(0).randint(0, 256, (10, 3, 16, 16), dtype=np.uint8)
LABELS = np.arange(10) % 8


ONE, CPU = World(), torch.device("cpu")


def trainer(world=ONE, device=CPU, micro_batch=4, **overrides):
    preset = load_preset(TINY, {f"training.{key}": value for key, value in overrides.items()})
    torch.manual_seed(0)
    batches = Batches(
        IMAGES,
        LABELS,
        device,
        world,
        micro_batch,
        preset.training.seed,
        flip=True,
        classes=8,
        label_dropout=0.1,
    )
    model = build_model(preset)
    # The last convolutions start at zero, which would hide everything behind them.
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return Trainer(preset.training, build_process(preset), model.to(device), batches)
