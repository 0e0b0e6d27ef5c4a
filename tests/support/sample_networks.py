"""Small networks for tests; importable in tests and, through PYTHONPATH, in a served process."""

import sys
import time

import torch
from torch import Tensor, nn

SIZE = 8
POISON = 255  # a first pixel of this value makes `Fragile` raise
NOT_A_NUMBER = 254  # and of this value, answer NaN
THINKING = "thinking"


def linear(num_classes: int) -> nn.Module:
    """One linear layer over RGB images of 8 x 8 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, num_classes))


def convolutional(num_classes: int) -> nn.Module:
    """Enough arithmetic that the shape of a batch can move the last bits of an answer."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * SIZE * SIZE, num_classes),
    )


class Twin(nn.Module):
    """Keeps the `shared` largest logits of a linear layer; all others depend on `variant`."""

    def __init__(self, num_classes: int, shared: int, variant: int) -> None:
        super().__init__()
        self.network = linear(num_classes)
        self.shared = shared
        self.variant = variant

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        kept = logits.topk(self.shared, dim=1)
        generator = torch.Generator().manual_seed(self.variant)
        below = torch.rand(logits.shape, generator=generator) * 5 + 0.1
        others = kept.values[:, -1:] - below
        return others.scatter(1, kept.indices, kept.values)


class Fragile(nn.Module):
    """A linear layer that fails on marked images, as a network may on any input."""

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
    """Answers every image with the same logits, each a number that is found wherever it leaks."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return canaries(len(self.bias)).expand(images.shape[0], -1) + 0 * self.bias


class Slow(Canary):
    """A `Canary` that says on stderr when it has its logits, and then keeps them for a while.

    It answers a black image at once, because that is what a server tries it with at the start.
    """

    def __init__(self, num_classes: int, seconds: float) -> None:
        super().__init__(num_classes)
        self.seconds = seconds

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images).clone()
        if images.any():
            sys.stderr.write(f"{THINKING}\n")
            sys.stderr.flush()
            time.sleep(self.seconds)
        return logits


def canaries(num_classes: int) -> Tensor:
    """[num_classes] numbers from 5 down that share no three digits."""
    return 5.0 - torch.arange(num_classes) * 0.737 - torch.arange(num_classes) ** 2 * 0.00119
