"""Small convolutional networks by name, for RGB images from 8x8 to 32x32."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.errors import EvalError

FACTORY = "stingy_attacker_eval.students:cnn"


class Cnn(nn.Module):
    """Three conv-bn-relu blocks, the last two at half and quarter size, then a linear layer."""

    def __init__(self, *, num_classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, width),
            nn.MaxPool2d(2),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
        )
        self.classifier = nn.Linear(16 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[batch, 3, H, W]`, H and W at least 8, to logits `[batch, classes]`."""
        features = self.features(images)
        if features.shape[-2:] != (2, 2):  # what 8x8 images come out as: nothing to pool
            features = functional.adaptive_avg_pool2d(features, 2)
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def cnn(*, num_classes: int = 10, width: int = 16) -> Cnn:
    """The factory a bundle names: `stingy_attacker_eval.students:cnn`."""
    return Cnn(num_classes=num_classes, width=width)


@dataclass(frozen=True)
class StudentSpec:
    """A network by name: the width of its first block decides its size."""

    name: str
    width: int

    def build(self, num_classes: int) -> Cnn:
        return cnn(num_classes=num_classes, width=self.width)


# About 9 k, 26 k and 100 k parameters at 10 classes.
STUDENTS: Mapping[str, StudentSpec] = {
    spec.name: spec
    for spec in (
        StudentSpec("cnn_tiny", 8),
        StudentSpec("cnn_small", 16),
        StudentSpec("cnn_large", 32),
    )
}


def student_spec(name: str) -> StudentSpec:
    """Raises EvalError naming the known students."""
    try:
        return STUDENTS[name]
    except KeyError:
        known = ", ".join(sorted(STUDENTS))
        raise EvalError(f'expected a student out of {known}, got "{name}"') from None
