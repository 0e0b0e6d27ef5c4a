"""Hugging Face folders of image classifiers: config.json, preprocessor_config.json and weights."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stingy_protection.files import read_regular_file
from stingy_server.importers.found import Found, ImportOptions, NotImportable
from stingy_server.importers.hugging_face_processor import read_processor
from stingy_server.importers.labels import check_labels, labels_by_index, require_labels
from stingy_server.importers.preprocessing import choose_preprocessing
from stingy_server.importers.state_file import WeightsFound, load_weights, read_weights
from stingy_server.models.hugging_face import FETCHING, build_classifier

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FACTORY = "stingy_server.models.hugging_face:build_classifier"
MAX_JSON_BYTES = 16 * 2**20
# Fields that say nothing of the network. The labels are those of the bundle.
DROPPED = ("id2label", "label2id", "architectures", "transformers_version", "torch_dtype", "dtype")


def is_hugging_face(path: Path) -> bool:
    """Return true for a folder with a config.json."""
    return (path / CONFIG).is_file()


def import_hugging_face(folder: Path, options: ImportOptions) -> Found:
    """Read a folder as `save_pretrained` writes it. No code of the folder runs.

    Raises:
        NotImportable: if it is no image classifier, needs code of its own, or transformers is not
            installed.
    """
    config = _read_json(folder / CONFIG)
    labels = read_config(config)
    preprocessing = read_processor(_read_json(folder / PROCESSOR))
    weights = _find_weights(folder)
    if importlib.util.find_spec("transformers") is None:
        raise NotImportable(
            f"{folder}: expected the package transformers: pip install 'stingy[hugging-face]', "
            "here and on the server"
        )
    arguments = {name: value for name, value in config.items() if name not in DROPPED}
    arguments = {name: value for name, value in arguments.items() if not name.startswith("_")}
    arguments["num_labels"] = len(labels)
    try:
        network = build_classifier(arguments)
    except Exception as error:  # noqa: BLE001  transformers raises errors of many types
        raise NotImportable(
            f"{CONFIG}: expected an image classifier of transformers, got "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        ) from None
    kind = str(config["model_type"])
    found = read_weights(weights)
    load_weights(network, _rename(network, found), arch=f"transformers' {kind}")
    import transformers

    return Found(
        name=folder.resolve().name,
        title=f"transformers' {kind} with the weights of {weights.name}",
        classes=require_labels(options.labels or labels, num_classes=len(labels)),
        preprocessing=choose_preprocessing(preprocessing, options),
        outputs=options.outputs or "logits",
        model=network,
        factory=FACTORY,
        arguments={"config": arguments},
        source=f"transformers:{kind}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}",
        notes=found.notes,
    )


def read_config(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Check a config, and return its labels.

    Raises:
        NotImportable: if it is not that of an image classifier, or needs code of its own.
    """
    if "auto_map" in config:
        raise NotImportable(
            f"{CONFIG}: expected a network of transformers, got one with code of its own "
            "(auto_map); export it to ONNX and pack that"
        )
    fetching = sorted(FETCHING & set(config))
    if fetching:
        raise NotImportable(
            f"{CONFIG}: expected a network that is built from its config alone, got the field "
            f"{fetching[0]}; export it to ONNX and pack that"
        )
    architectures = config.get("architectures") or []
    if not isinstance(config.get("model_type"), str) or not any(
        str(name).endswith("ForImageClassification") for name in architectures
    ):
        got = ", ".join(map(str, architectures))[:200] or "none"
        raise NotImportable(f"{CONFIG}: expected an image classifier, got the architecture {got}")
    labels = config.get("id2label")
    if not isinstance(labels, dict):
        raise NotImportable(f"{CONFIG}: expected id2label, an object of labels, got none")
    return check_labels(f"{CONFIG}, id2label", labels_by_index(f"{CONFIG}, id2label", labels))


def _find_weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    if any(folder.glob("*.index.json")):
        raise NotImportable(
            f"{folder}: expected the weights in one file, got several; save them with "
            "save_pretrained(DIR, max_shard_size='100GB')"
        )
    raise NotImportable(f"{folder}: expected {WEIGHTS[0]}, got none")


def _rename(network: nn.Module, found: WeightsFound) -> WeightsFound:
    """Name the tensors of a file as the network does: transformers renames them when it loads.

    Tensors that the network does not have keep their names, so that `load_weights` reports them.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # else it prints a table of its own
    logging.disable_progress_bar()
    try:
        loaded, info = type(network).from_pretrained(  # type: ignore[attr-defined]
            None,
            config=network.config,
            state_dict=dict(found.state),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001  transformers raises errors of many types
        raise NotImportable(
            f"{found.file}: expected weights that transformers loads, got {type(error).__name__}"
        ) from None
    state = {
        key: value for key, value in loaded.state_dict().items() if key not in info["missing_keys"]
    }
    state |= {key: torch.empty(shape) for key, shape, _ in info["mismatched_keys"]}
    state |= {key: torch.empty(0) for key in info["unexpected_keys"]}
    return WeightsFound(found.file, state, found.notes)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(read_regular_file(path, max_bytes=MAX_JSON_BYTES))
    except OSError:
        raise NotImportable(f"{path.parent}: expected the file {path.name}, got none") from None
    except (ValueError, RecursionError):
        raise NotImportable(f"{path.name}: expected JSON, got another text") from None
    if not isinstance(raw, dict):
        raise NotImportable(f"{path.name}: expected a JSON object, got another value")
    return raw
