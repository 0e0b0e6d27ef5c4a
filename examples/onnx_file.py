"""A classifier that somebody else exported to ONNX, with a softmax at its end.

The graph says the size and the number of classes, and nothing of the normalisation.

    stingy bundle pack flowers.onnx --labels rose,tulip,daisy --mean imagenet
"""

import torch
from torch import nn
from torch.export import Dim

network = nn.Sequential(
    *(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
    *(nn.Flatten(), nn.Linear(256, 3), nn.Softmax(dim=1)),
).eval()
torch.onnx.export(
    network,
    (torch.zeros(2, 3, 96, 96),),
    "flowers.onnx",
    dynamo=True,
    dynamic_shapes=({0: Dim("batch")},),
    verbose=False,
)
