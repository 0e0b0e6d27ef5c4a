"""Networks by name, for teachers and students, and a small one for images of 8x8 to 32x32 pixels.

Protocols, bundles and run folders name a network, and the name is enough to build it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.errors import EvalError

FACTORY = "stingy_attacker_eval.students:cnn"


class Cnn(nn.Module):
    """A network of three conv-bn-relu blocks and a linear layer.

    The second block works at half size, the third at a quarter.
    """

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
        """Compute logits `[batch, classes]` of images `[batch, 3, H, W]`, H and W at least 8."""
        features = self.features(images)
        if features.shape[-2:] != (2, 2):  # 8x8 images give (2, 2): nothing to pool
            features = functional.adaptive_avg_pool2d(features, 2)
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def cnn(*, num_classes: int = 10, width: int = 16) -> Cnn:
    """Build a Cnn; bundles name this factory as `stingy_attacker_eval.students:cnn`."""
    return Cnn(num_classes=num_classes, width=width)


@dataclass(frozen=True)
class StudentSpec:
    """A network by name, as in a bundle: a factory `module:function` and its arguments."""

    name: str
    factory: str
    arguments: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def width(self) -> int | None:
        """The width of the first block, if it is an argument; it decides a small network's size."""
        width = self.arguments.get("width")
        return width if isinstance(width, int) else None

    def with_width(self, width: int | None) -> "StudentSpec":
        """Return the network with another width of its first block; None keeps it.

        Raises EvalError if the width is no argument of the network.
        """
        if width is None:
            return self
        if self.width is None:
            raise EvalError(f"expected a network with a width, got {self.name}")
        return replace(self, arguments={**self.arguments, "width": width})

    def settings(self, num_classes: int) -> dict[str, int | str]:
        """Return the factory's arguments for this number of classes."""
        return {"num_classes": num_classes, **self.arguments}

    def build(self, num_classes: int) -> nn.Module:
        """Build the network on the CPU, with weights from torch's global random generator.

        Raises EvalError if the package is not installed or has no such network.
        """
        package, _, function = self.factory.partition(":")
        try:
            make = getattr(import_module(package), function)
        except ModuleNotFoundError:
            raise EvalError(
                f'expected the package {package} for "{self.name}", got none: '
                f"pip install {package.partition('.')[0]}"
            ) from None
        except AttributeError:
            raise EvalError(f'expected a network out of {package}, got "{function}"') from None
        try:
            network = make(**self.settings(num_classes))
        except Exception as error:  # noqa: BLE001 - another package's factory may raise anything
            raise EvalError(f"{self.name}: {type(error).__name__}: {error}") from None
        if not isinstance(network, nn.Module):
            raise EvalError(f'expected a network from {package}, got another object: "{function}"')
        return network

    def check(self, num_classes: int, image_size: tuple[int, int]) -> None:
        """Raise EvalError unless images of (H, W) give logits `[batch, num_classes]`."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = self.build(num_classes)
            try:
                found = network(torch.zeros(2, 3, *image_size))
            except Exception as error:  # noqa: BLE001 - as above; its first line has the reason
                reason = str(error).partition("\n")[0]
                raise EvalError(f"{self.name} takes no images of {image_size}: {reason}") from None
        if not isinstance(found, Tensor) or found.shape != (2, num_classes):
            raise EvalError(
                f"expected logits [batch, {num_classes}] from {self.name}, got other outputs"
            )


_ZOO = "stingy_attacker_eval.zoo"

# The three cnn_* have about 9 k, 26 k and 100 k parameters at 10 classes.
STUDENTS: Mapping[str, StudentSpec] = {
    spec.name: spec
    for spec in (
        StudentSpec("cnn_tiny", FACTORY, {"width": 8}),
        StudentSpec("cnn_small", FACTORY, {"width": 16}),
        StudentSpec("cnn_large", FACTORY, {"width": 32}),
        StudentSpec("lenet5", f"{_ZOO}:lenet5"),
        StudentSpec("lenet5_half", f"{_ZOO}:lenet5_half"),
        StudentSpec("mobilenet_small", f"{_ZOO}:mobilenet_small"),
        StudentSpec("mobilenetv2", f"{_ZOO}:mobilenetv2"),
        StudentSpec("resnet8", f"{_ZOO}:resnet8"),
        StudentSpec("resnet11", f"{_ZOO}:resnet11"),
        StudentSpec("resnet18", f"{_ZOO}:resnet18"),
        StudentSpec("resnet20", f"{_ZOO}:resnet20"),
        StudentSpec("resnet34", f"{_ZOO}:resnet34"),
        StudentSpec("resnet50", f"{_ZOO}:resnet50"),
        StudentSpec("resnext11", f"{_ZOO}:resnext11"),
        StudentSpec("resnext29", f"{_ZOO}:resnext29"),
        StudentSpec("shufflenet_small", f"{_ZOO}:shufflenet_small"),
        StudentSpec("shufflenetv2", f"{_ZOO}:shufflenetv2"),
    )
}


def student_spec(name: str) -> StudentSpec:
    """Find a network by name: one of STUDENTS, "torchvision:NAME" or "timm:NAME".

    Raises EvalError, with the known names, if the name is unknown.
    """
    package, _, network = name.partition(":")
    if package == "torchvision" and network.isidentifier():
        return StudentSpec(name, f"torchvision.models:{network}")
    if package == "timm" and network:
        return StudentSpec(name, "timm:create_model", {"model_name": network})
    if name not in STUDENTS:
        known = ", ".join(sorted(STUDENTS))
        raise EvalError(
            f'expected a student out of {known}, torchvision:NAME, timm:NAME, got "{name}"'
        )
    return STUDENTS[name]
