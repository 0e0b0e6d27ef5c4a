"""Small networks for tests, and for served processes through PYTHONPATH."""

import sys
import time

import torch
from torch import Tensor, nn

SIZE = 8
POISON = 255  # the value of a first pixel for which `Fragile` raises
NOT_A_NUMBER = 254  # the value for which it answers NaN
BRIGHTEST = 240  # of the images that a server sends at its start
THINKING = "thinking"


def linear(num_classes: int) -> nn.Module:
    """Make one linear layer over RGB images of 8 x 8 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, num_classes))


def pooled(num_classes: int) -> nn.Module:
    """Make one linear layer over images of any size, averaged to 4 x 4 cells."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes))


def convolutional(num_classes: int) -> nn.Module:
    """Make a network with enough arithmetic for the batch size to move an answer's last bits."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * SIZE * SIZE, num_classes),
    )


class Twin(nn.Module):
    """A linear layer whose `shared` largest logits are kept. All others depend on `variant`."""

    def __init__(self, num_classes: int, shared: int, variant: int) -> None:
        super().__init__()
        self.network = linear(num_classes)
        self.shared = shared
        self.variant = variant

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        kept = logits.topk(self.shared, dim=1)
        generator = torch.Generator().manual_seed(self.variant)
        below = torch.rand(logits.shape[1], generator=generator) * 5 + 0.1
        others = kept.values[:, -1:] - below
        return others.scatter(1, kept.indices, kept.values)


class Fragile(nn.Module):
    """A linear layer that fails on marked images, as networks may on any input."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.network = linear(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        first = (images[:, 0, 0, 0] * 255).round()
        if (first == POISON).any():
            raise RuntimeError(f"cannot answer {images.flatten()[:3].tolist()}")
        logits: Tensor = self.network(images)
        return torch.where((first == NOT_A_NUMBER)[:, None], torch.nan, logits)


class Canary(nn.Module):
    """A network with the same logits for every image, each a number that is easy to find."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return canaries(len(self.bias)).expand(images.shape[0], -1) + 0 * self.bias


class Slow(Canary):
    """A `Canary` that writes to stderr when it has its logits, and returns them later.

    It answers images without bright pixels at once, because a server sends such at its start.
    """

    def __init__(self, num_classes: int, seconds: float) -> None:
        super().__init__(num_classes)
        self.seconds = seconds

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images).clone()
        if images.max() > (BRIGHTEST + 0.5) / 255:
            sys.stderr.write(f"{THINKING}\n")
            sys.stderr.flush()
            time.sleep(self.seconds)
        return logits


def canaries(num_classes: int) -> Tensor:
    """Make the logits [num_classes], from 5 down, which share no three digits."""
    return 5.0 - torch.arange(num_classes) * 0.737 - torch.arange(num_classes) ** 2 * 0.00119
