"""A checkpoint of a training script: a torchvision ResNet-18 with five classes.

The script's network was in `DataParallel`, and its checkpoint holds more than the weights.

    stingy bundle pack resnet18.pth --arch torchvision:resnet18 --labels labels.txt \
        --policy stingy:n=2
"""

from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

LABELS = ("cat", "dog", "rabbit", "hamster", "goldfish")

network = nn.DataParallel(resnet18(num_classes=len(LABELS)))
# ... training ...
torch.save({"state_dict": network.state_dict(), "epoch": 90}, "resnet18.pth")
Path("labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
