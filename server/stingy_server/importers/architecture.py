"""Architectures of a registry, and the way from a file of weights to a network of one."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from stingy_protection import Preprocessing
from stingy_server.importers.found import Found, ImportOptions, NotImportable
from stingy_server.importers.labels import require_labels
from stingy_server.importers.preprocessing import choose_preprocessing
from stingy_server.importers.state_file import (
    WeightsFound,
    fit_prefix,
    load_weights,
    number_of_classes,
)


class Architecture(ABC):
    """A named architecture of a package, which its registry builds for any number of classes.

    Attributes:
        name: "torchvision:resnet18".
        short_name: "resnet18".
        factory: "package.module:callable", which the server calls.
        default_classes: the number of classes of a network built without one.
    """

    name: str
    short_name: str
    factory: str
    default_classes: int = 1000

    @abstractmethod
    def arguments(self, num_classes: int, options: ImportOptions) -> dict[str, Any]:
        """Return the keyword arguments of the factory, which a manifest can represent."""

    @abstractmethod
    def build(self, arguments: dict[str, Any]) -> nn.Module:
        """Build the network with random weights."""

    @abstractmethod
    def preprocessing(self, network: nn.Module) -> Preprocessing:
        """Return what the package says of the images of this architecture."""

    @abstractmethod
    def labels(self, num_classes: int) -> tuple[str, ...] | None:
        """Return the labels that the package names for weights of this architecture, if any."""

    @abstractmethod
    def versions(self) -> str:
        """Return the versions of the packages, such as "torchvision 0.26, torch 2.11"."""


def import_weights(
    architecture: Architecture, weights: WeightsFound, options: ImportOptions, *, name: str
) -> Found:
    """Build a network of an architecture, and load a file's tensors into it.

    The file says the number of classes. The labels must be as many.

    Args:
        name: the name of the model, if the person gives none.

    Raises:
        NotImportable: if the weights do not fit, or the labels are of another number.
    """
    default = architecture.default_classes
    expected = _shapes(architecture, architecture.arguments(default, options))
    weights = fit_prefix(weights, expected)
    num_classes = number_of_classes(weights, expected, default=default)
    if num_classes is None:  # the faults of the weights say more than those of the labels
        num_classes = default if options.labels is None else len(options.labels)
    arguments = architecture.arguments(num_classes, options)
    network = _build(architecture, arguments)
    load_weights(network, weights, arch=architecture.name)
    notes = list(weights.notes)
    labels = options.labels
    if labels is None:
        labels = architecture.labels(num_classes)
        if labels is not None:
            package = architecture.name.partition(":")[0]
            notes.append(f"labels are those of ImageNet-1k, as {package} names them")
    return Found(
        name=name,
        title=f"{architecture.name} with the weights of {weights.file}",
        classes=require_labels(labels, num_classes=num_classes),
        preprocessing=choose_preprocessing(architecture.preprocessing(network), options),
        outputs=options.outputs or "logits",
        model=network,
        factory=architecture.factory,
        arguments=arguments,
        source=f"{architecture.name}, {architecture.versions()}",
        notes=tuple(notes),
    )


def _build(architecture: Architecture, arguments: dict[str, Any]) -> nn.Module:
    try:
        return architecture.build(arguments)
    except NotImplementedError:
        raise
    except Exception as error:  # noqa: BLE001  packages check arguments with errors of many types
        raise NotImportable(
            f"{architecture.name}: expected a network that can be built with these options, got "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}; see --size and "
            "--channels"
        ) from None


def _shapes(architecture: Architecture, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Return the state of an untrained network, without its memory if the network permits it."""
    try:
        with torch.device("meta"):
            return _build(architecture, arguments).state_dict()
    except NotImplementedError:  # a network may compute with values while it is built
        return _build(architecture, arguments).state_dict()
