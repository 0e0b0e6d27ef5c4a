"""torchvision's registry of classifiers. What its weights say of their images is the default."""

from typing import Any

import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn
from torchvision import models

from stingy_protection import Preprocessing
from stingy_server.importers.architecture import Architecture
from stingy_server.importers.found import ImportOptions, NotImportable

# These normalise their input once more if they were built from pretrained weights. No file of
# weights says whether they were.
NORMALISING = ("googlenet", "inception_v3")


class TorchvisionModel(Architecture):
    """A classifier of torchvision's registry.

    Args:
        name: its name in the registry.

    Raises:
        NotImportable: if the registry lacks the name, or weights alone do not define the network.
    """

    def __init__(self, name: str) -> None:
        known = models.list_models(module=models)
        if name not in known:
            near = [each for each in known if each.startswith(name[:5])]
            raise NotImportable(
                f"torchvision:{name}: expected a classifier of torchvision, got another name; "
                f"such as {', '.join(near[:4] or known[:4])}"
            )
        if name in NORMALISING:
            raise NotImportable(
                f"torchvision:{name}: expected a network that its weights define, got one that "
                "depends on transform_input; build it in a FILE.py and give FILE.py:FUNCTION"
            )
        self.name = f"torchvision:{name}"
        self.short_name = name
        self._builder = models.get_model_builder(name)
        self.factory = f"{self._builder.__module__}:{self._builder.__name__}"
        self._weights = models.get_model_weights(name).DEFAULT

    def arguments(self, num_classes: int, options: ImportOptions) -> dict[str, Any]:
        """Return the arguments of the builder. A vision transformer is built for one size."""
        if options.channels == 1:
            raise NotImportable(
                f"{self.name}: expected images of 3 channels, as of every network of torchvision, "
                "got --channels 1; build a network for grey images in a FILE.py, and give "
                "FILE.py:FUNCTION"
            )
        arguments: dict[str, Any] = {"num_classes": num_classes}
        if self.short_name.startswith("vit_"):
            arguments["image_size"] = (options.size or self._preset().size)[0]
        return arguments

    def build(self, arguments: dict[str, Any]) -> nn.Module:
        """Build the network with random weights."""
        network: nn.Module = self._builder(weights=None, **arguments)
        return network

    def preprocessing(self, network: nn.Module) -> Preprocessing:
        """Return the form of the images of torchvision's own weights."""
        return self._preset()

    def labels(self, num_classes: int) -> tuple[str, ...] | None:
        """Return the labels of ImageNet-1k for 1000 classes."""
        categories = tuple(self._weights.meta["categories"])
        return categories if len(categories) == num_classes else None

    def versions(self) -> str:
        """Return the versions of torchvision and torch."""
        return f"torchvision {torchvision.__version__}, torch {torch.__version__}"

    def _preset(self) -> Preprocessing:
        preset = self._weights.transforms()
        (side,), (shorter,) = preset.crop_size, preset.resize_size
        return Preprocessing(
            size=(side, side),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            resize_shorter=shorter,
            interpolation=preset.interpolation.value,
        )
