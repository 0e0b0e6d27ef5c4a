"""A Vision Transformer for images of 64 x 64 pixels, saved from a compiled network.

`torch.compile` puts `_orig_mod.` into the names of its weights.

    stingy bundle pack vit.pth --arch torchvision:vit_b_32 --size 64 --labels yes,no --policy label
"""

import torch
from torchvision.models import vit_b_32

network = torch.compile(vit_b_32(num_classes=2, image_size=64))
torch.save(network.state_dict(), "vit.pth")
