"""Outputs of networks as diffusers and deepinv compute them, for weights that the names of weights give.

``python tests/foreign_vectors.py`` makes the archive that the tests compare with; it needs diffusers and
deepinv, the tests do not. Weights and inputs are those of ``golden.py``.
"""

import io
import json
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from golden import named_weights, normal

ARCHIVE = Path(__file__).parent / "assets" / "foreign.zip"
_STAMP = (2026, 1, 1, 0, 0, 0)  # so that the same arrays make the same archive
INDICES = (0, 500, 999)
# What the networks of DDPM have; what those of the examples of diffusers have, with everything that changes
# the blocks; a grey one without attention in the middle.
CONFIGS = {
    "ddpm": {
        "sample_size": 16,
        "block_out_channels": [32, 64, 64],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
    },
    "everything": {
        "sample_size": 16,
        "out_channels": 6,
        "block_out_channels": [32, 48, 80],
        "layers_per_block": 1,
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": 16,
        "norm_num_groups": 8,
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": 5,
    },
    "grey": {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "attention_head_dim": 4,
        "norm_num_groups": 16,
        "add_attention": False,
    },
}


def inputs(config):
    """Return x (2, C, H, W), the indices of each call, and labels or None, of a configuration."""
    size, channels = config["sample_size"], config.get("in_channels", 3)
    classes = config.get("num_class_embeds")
    return normal(7, (2, channels, size, size)), INDICES, torch.tensor([1, 4]) if classes else None


@cache
def vectors():
    """Return what the archive holds: by configuration its keys and outputs, and the keys of deepinv's."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        arrays = dict(np.load(io.BytesIO(archive.read("outputs.npz"))))
        return json.loads(archive.read("keys.json")), arrays


def _make():
    from deepinv.models.diffunet import DiffUNet
    from diffusers import UNet2DModel

    keys, arrays = {}, {}
    for name, config in CONFIGS.items():
        network = UNet2DModel(**config).eval()
        keys[name] = {key: list(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict(named_weights(keys[name]))
        x, indices, labels = inputs(config)
        for index in indices:
            with torch.no_grad():
                arrays[f"{name}_{index}"] = network(x, index, class_labels=labels).sample.numpy()
    with torch.device("meta"):
        ffhq = DiffUNet(pretrained=None)
    keys["deepinv"] = {key: list(value.shape) for key, value in ffhq.state_dict().items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with zipfile.ZipFile(ARCHIVE, "w") as archive:
        for file, data in (("keys.json", json.dumps(keys)), ("outputs.npz", buffer.getvalue())):
            archive.writestr(zipfile.ZipInfo(file, _STAMP), data, zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    _make()
