"""The classifier that an importer finds in a source, and the options that a person may give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from stingy_protection import Preprocessing
from stingy_protection.bundles.manifest import Outputs
from stingy_protection.bundles.preprocessing import Channels, Interpolation


class NotImportable(Exception):
    """A source that cannot become a bundle. Each fault is one sentence that names it."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """The words of a person on a source. None stands for what the source says of itself.

    Args:
        arch: the architecture of a file of weights: torchvision:NAME, timm:NAME or
            FILE.py:FUNCTION.
        weights: the file of weights of a source that has none.
        labels: the K labels by index.
        size: (height, width) in pixels.
        resize_shorter: as in `Preprocessing`.
        mean: one number, or one for each channel.
        std: one number, or one for each channel.
        channels: 1 or 3.
        interpolation: as in `Preprocessing`.
        outputs: the meaning of a row that the network returns.
        exif_rotation: whether images are turned as their EXIF says. No source says it of itself.
    """

    arch: str | None = None
    weights: Path | None = None
    labels: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    resize_shorter: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Channels | None = None
    interpolation: Interpolation | None = None
    outputs: Outputs | None = None
    exif_rotation: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A classifier as it was found in a source: a network of a factory, or an ONNX program.

    Args:
        name: the name of the model, if the person gives none.
        title: what was found, for people.
        classes: the K labels by index.
        preprocessing: the way from an image to the input.
        outputs: the meaning of a row that the network returns.
        model: the network with its weights; or an ONNX program from float32
            `[batch, channels, height, width]` to rows `[batch, classes]`.
        source: the kind of the source, and the versions of the packages that made it.
        factory: "package.module:callable", which builds the network; empty for a program.
        arguments: keyword arguments of the factory.
        notes: sentences for the person who packs.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    model: nn.Module | bytes
    source: str
    outputs: Outputs = "logits"
    factory: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
