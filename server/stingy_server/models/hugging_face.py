"""The factory of transformers' image classifiers: from a config alone, with no code of a bundle."""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

# Fields of a config by which transformers would import or fetch something.
FETCHING = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "backbone",
        "custom_pipelines",
        "quantization_config",
        "use_pretrained_backbone",
        "use_timm_backbone",
    }
)


def build_classifier(config: Mapping[str, Any]) -> nn.Module:
    """Build an image classifier of transformers with random weights.

    Args:
        config: the fields of its config, such as those of `config.json`. `model_type` names it.

    Raises:
        ValueError: if a field would make transformers import or fetch something.
        ImportError: if transformers is not installed.
    """
    fetching = sorted(FETCHING & set(config))
    if fetching or any(name.startswith("_") for name in config):
        raise ValueError(
            f"expected a config of fields alone, got {', '.join(fetching) or 'others'}"
        )
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
    from transformers import AutoConfig, AutoModelForImageClassification

    fields = dict(config)
    built = AutoConfig.for_model(fields.pop("model_type"), **fields)
    network: nn.Module = AutoModelForImageClassification.from_config(built, trust_remote_code=False)
    return network
