"""What attacks without any image share: a generator, and a store of what was bought."""

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.base import Means

NOISE = 64


class Generator(nn.Module):
    """Noise `[batch, NOISE]` to images in -1..1 `[batch, 3, H, W]`, in two doublings."""

    def __init__(self, size: tuple[int, int], *, width: int = 32) -> None:
        super().__init__()
        self._size = size
        self._start = (-(-size[0] // 4), -(-size[1] // 4))
        self._width = width
        self.first = nn.Linear(NOISE, width * self._start[0] * self._start[1])
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            *_block(width, width),
            nn.Upsample(scale_factor=2),
            *_block(width, width),
            nn.Conv2d(width, 3, 3, padding=1),
            nn.BatchNorm2d(3, affine=False),
            nn.Tanh(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        images: Tensor = self.body(self.first(noise).view(-1, self._width, *self._start))
        return images[:, :, : self._size[0], : self._size[1]]


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)


def noise(count: int, generator: torch.Generator) -> Tensor:
    """`[count, NOISE]`, standard normal."""
    return torch.randn(count, NOISE, generator=generator, device=generator.device)


def as_pixels(images: Tensor) -> Tensor:
    """Images in -1..1 on the grid of what can be sent: uint8."""
    return ((images.detach() + 1) * 127.5).round().clamp(0, 255).byte()


class Replay:
    """Images bought so far with their targets; a step learns from old and new ones."""

    def __init__(self, means: Means) -> None:
        self._generator = means.generator()
        self._images: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, images: Tensor, targets: Tensor) -> None:
        self._images.append(images)
        self._targets.append(targets)

    def everything(self) -> tuple[Tensor, Tensor]:
        """All of it: images uint8 `[n, 3, H, W]` and targets `[n, ...]`."""
        return torch.cat(self._images), torch.cat(self._targets)

    def sample(self) -> tuple[Tensor, Tensor]:
        """One batch bought at a random time."""
        device = self._generator.device
        at = int(torch.randint(len(self._images), (), generator=self._generator, device=device))
        return self._images[at], self._targets[at]
