"""Networks of the kinds that people bring and that a server must not serve as they are."""

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 8
HIDDEN = 16


class Base(nn.Module):
    """A small convolutional network, whose parts the others change."""

    def __init__(self, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, HIDDEN, 3, padding=1)
        self.norm: nn.Module = nn.Identity()
        self.head = nn.Linear(HIDDEN * SIZE * SIZE, num_classes)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(images)).relu().flatten(1)
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class Grey(Base):
    """A network for grey images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, channels=1)


class BatchStatistics(Base):
    """A network that normalises by the batch."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.norm = nn.BatchNorm2d(HIDDEN, track_running_stats=False)


class BatchScale(Base):
    """A network that scales by the largest value of the batch, as dynamic quantisation does."""

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        return found / found.abs().max()


class BatchSort(Base):
    """A network that subtracts the mean of the batch."""

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        return found - found.mean(dim=0, keepdim=True) / 2


class Previous(Base):
    """A network whose answer depends on the image before it in the batch."""

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        return torch.cat([found[:1], found[1:] + found[:-1] / 2])


class ActiveDropout(Base):
    """A network whose dropout stays active after `eval`."""

    def features(self, images: Tensor) -> Tensor:
        return functional.dropout(super().features(images), 0.1)


class Noisy(Base):
    """A network that adds noise."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits + 0.05 * torch.randn_like(logits)


class Counting(Base):
    """A network that keeps a running mean of its inputs."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("mean", torch.zeros(HIDDEN * SIZE * SIZE))
        self.mean: Tensor

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        self.mean = 0.9 * self.mean + 0.1 * found.mean(dim=0)
        return found - self.mean


class Static(Base):
    """A network that fixes the batch to one image."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(images).relu().reshape(1, HIDDEN * SIZE * SIZE))
        return logits


class Softmax(Base):
    """A network whose last step is a softmax."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(dim=1)


class LogSoftmax(Base):
    """A network whose last step is a log_softmax, which has the same softmax as its logits."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).log_softmax(dim=1)


class Viewing(nn.Module):
    """A network that calls `view` on its inputs and features."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, HIDDEN, 3, padding=1)
        self.head = nn.Linear(HIDDEN * SIZE * SIZE, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(images).relu().view(-1, HIDDEN * SIZE * SIZE))
        return logits


class InDict(Base):
    """A network that returns a dict."""

    def __init__(self, num_classes: int, name: str = "logits") -> None:
        super().__init__(num_classes)
        self.name = name

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"hidden": self.features(images), self.name: super().forward(images)}


class Output:
    """An object with logits, as transformers returns it."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class InObject(Base):
    """A network that returns an object with logits."""

    def forward(self, images: Tensor) -> Output:  # type: ignore[override]
        return Output(super().forward(images))


class InTuple(Base):
    """A network that returns a pair."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(images), images


class NotANumber(Base):
    """A network that divides by zero for black images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / images.amax(dim=(1, 2, 3))[:, None]


class Constant(Base):
    """A network that does not look at its images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.zeros_like(images))


class Maps(Base):
    """A network that returns a map of logits."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :, None, None]


class Failing(Base):
    """A network that raises."""

    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("no way")
