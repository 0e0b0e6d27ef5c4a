"""Hugging Face folders of image classifiers: config.json, preprocessor_config.json and weights."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stingy_protection import Preprocessing
from stingy_protection.files import read_regular_file
from stingy_server.importers.found import Found, ImportOptions, NotImportable
from stingy_server.importers.hugging_face_processor import read_processor
from stingy_server.importers.labels import check_labels, labels_by_index, require_labels
from stingy_server.importers.preprocessing import choose_preprocessing, plain_preprocessing
from stingy_server.importers.state_file import WeightsFound, load_weights, read_weights
from stingy_server.models.hugging_face import FETCHING, build_classifier

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # of several files
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
    labels = read_config(config, given=options.labels)
    preprocessing = _read_preprocessing(folder, options)
    weights = _find_weights(folder)
    found = _read_all(weights)
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
    load_weights(network, _rename(network, found), arch=f"transformers' {kind}")
    import transformers

    return Found(
        name=folder.resolve().name,
        title=f"transformers' {kind} with the weights of {weights.name}",
        classes=require_labels(options.labels or labels, num_classes=len(labels)),
        preprocessing=preprocessing,
        outputs=options.outputs or "logits",
        model=network,
        factory=FACTORY,
        arguments={"config": arguments},
        source=f"transformers:{kind}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}",
        notes=(*found.notes, *_notes(config)),
    )


def read_config(
    config: Mapping[str, Any], *, given: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Check a config, and return its labels.

    Args:
        given: the labels of the person, which are returned if the config has no valid ones.

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
    if "pretrained_cfg" in config:
        name = str(config.get("architecture"))[:128]
        raise NotImportable(
            f"{CONFIG}: expected a network of transformers, got one of timm; "
            f"pack timm:{name} --weights {WEIGHTS[0]} with the labels"
        )
    architectures = config.get("architectures") or []
    if not isinstance(config.get("model_type"), str) or not any(
        str(name).endswith("ForImageClassification") for name in architectures
    ):
        got = ", ".join(map(str, architectures))[:200] or "none"
        raise NotImportable(f"{CONFIG}: expected an image classifier, got the architecture {got}")
    labels = config.get("id2label")
    try:
        if not isinstance(labels, dict):
            raise NotImportable(
                f"{CONFIG}: expected id2label, an object of labels, got none; give --labels"
            )
        return check_labels(f"{CONFIG}, id2label", labels_by_index(f"{CONFIG}, id2label", labels))
    except NotImportable:
        if given is None:
            raise
        return given


def _read_preprocessing(folder: Path, options: ImportOptions) -> Preprocessing:
    """Read the image processor of a folder. Without its file, the person says what it would."""
    if (folder / PROCESSOR).exists():
        return choose_preprocessing(read_processor(_read_json(folder / PROCESSOR)), options)
    if options.size is None or options.mean is None:
        raise NotImportable(
            f"{folder}: expected the file {PROCESSOR}, got none; "
            "save the image processor there, or give --size and --mean"
        )
    return plain_preprocessing(options, size=None, channels=None)[0]


def _notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    if config.get("problem_type") != "multi_label_classification":
        return ()
    return ("trained for several labels an image; scores are those of one label an image",)


def _find_weights(folder: Path) -> Path:
    for name in (*WEIGHTS, *INDICES):
        if (folder / name).is_file():
            return folder / name
    raise NotImportable(f"{folder}: expected {WEIGHTS[0]} or {WEIGHTS[1]}, got none")


def _read_all(weights: Path) -> WeightsFound:
    """Read a file of weights, or all that an index names."""
    if weights.name not in INDICES:
        return read_weights(weights)
    files = _read_json(weights).get("weight_map")
    # Names alone, which lead to no other folder.
    names = set(files.values()) if isinstance(files, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise NotImportable(f"{weights.name}: expected the names of files beside it, got others")
    parts = [read_weights(weights.parent / name) for name in sorted(names)]
    state = {key: value for part in parts for key, value in part.state.items()}
    return WeightsFound(weights.name, state, (f"took the weights of {len(parts)} files",))


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
