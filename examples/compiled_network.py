"""A MobileNetV2 for images of 64 x 64 pixels, saved from a compiled network.

`torch.compile` puts `_orig_mod.` into the names of its weights.

    stingy bundle pack small.pth --arch torchvision:mobilenet_v2 --size 64 --labels yes,no \
        --policy label
"""

import torch
from torchvision.models import mobilenet_v2

network = torch.compile(mobilenet_v2(num_classes=2))
torch.save(network.state_dict(), "small.pth")
