"""timm's registry of classifiers. What timm says of their images is the default."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stingy_protection import Preprocessing
from stingy_server.importers.architecture import Architecture
from stingy_server.importers.found import ImportOptions, NotImportable


class TimmModel(Architecture):
    """A classifier of timm's registry, with or without the tag of its weights.

    Args:
        name: its name in the registry, such as "mobilenetv3_small_050.lamb_in1k".

    Raises:
        NotImportable: if timm is not installed, or lacks the name.
    """

    factory = "timm:create_model"

    def __init__(self, name: str) -> None:
        try:
            import timm
        except ImportError:
            raise NotImportable(
                f"timm:{name}: expected the package timm: pip install 'stingy[timm]', here and on "
                "the server"
            ) from None
        self._timm = timm
        # A name with a colon is one that timm fetches.
        if ":" in name or "/" in name or not timm.is_model(name):
            raise NotImportable(
                f"timm:{name}: expected the name of a model in timm, got another; see "
                "timm.list_models()"
            )
        short, _, tag = name.partition(".")
        tags = {each.partition(".")[2] for each in timm.list_pretrained(f"{short}.*")}
        if tag and tag not in tags:
            known = ", ".join(sorted(tags)[:5]) or "none"
            raise NotImportable(
                f"timm:{name}: expected a tag of timm's weights of {short}, got {tag}; "
                f"it has {known}, and the name needs none"
            )
        self.name = f"timm:{name}"
        self.short_name = short

    def arguments(self, num_classes: int, options: ImportOptions) -> dict[str, Any]:
        """Return the arguments of timm's `create_model`."""
        name = self.name.removeprefix("timm:")
        arguments: dict[str, Any] = {"model_name": name, "num_classes": num_classes}
        if options.channels is not None:
            arguments["in_chans"] = options.channels
        config = self._timm.get_pretrained_cfg(name)
        fixed = config is not None and config.fixed_input_size  # such as a vision transformer
        if options.size is not None and fixed:
            arguments["img_size"] = list(options.size)
        return arguments

    def build(self, arguments: dict[str, Any]) -> nn.Module:
        """Build the network with random weights."""
        network: nn.Module = self._timm.create_model(**arguments)
        return network

    def preprocessing(self, network: nn.Module) -> Preprocessing:
        """Return timm's data config of the network."""
        return read_data_config(self.name, self._timm.data.resolve_model_data_config(network))

    def labels(self, num_classes: int) -> tuple[str, ...] | None:
        """Return None, because timm's registry names no labels."""
        return None

    def versions(self) -> str:
        """Return the versions of timm and torch."""
        return f"timm {self._timm.__version__}, torch {torch.__version__}"


def read_data_config(name: str, config: Mapping[str, Any]) -> Preprocessing:
    """Translate timm's data config into a preprocessing with the pixels of timm's own transform.

    Args:
        name: the architecture, for the sentence of a fault.
        config: `input_size`, `interpolation`, `mean`, `std`, `crop_pct` and `crop_mode`.

    Raises:
        NotImportable: if the config has a transform that a bundle does not have.
    """
    channels, height, width = config["input_size"]
    mode = config.get("crop_mode") or "center"
    scaled = tuple(math.floor(side / config["crop_pct"]) for side in (height, width))
    if mode not in ("center", "squash") or (mode == "center" and scaled[0] != scaled[1]):
        raise NotImportable(
            f"{name}: expected timm's crop of a square from the centre, or squash, got {mode} of "
            f"{height} x {width}; give --size and --resize-shorter"
        )
    if channels not in (1, 3):
        raise NotImportable(f"{name}: expected 1 or 3 channels, got {channels}")
    return Preprocessing(
        size=(height, width),
        channels=channels,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize_shorter=scaled[0] if mode == "center" else None,
        resize_to=(scaled[0], scaled[1]) if mode == "squash" else None,
        interpolation=config["interpolation"],
    )
