"""A real TorchServe with its own image classifier, and the same network as a bundle of ours."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import torch

from model_servers import TorchServe, free_ports
from sample_networks import pooled
from stingy_protection import Preprocessing, write_bundle

NAME, VERSION, K = "digits", "1.0", 10
LABELS = tuple(f"class {index}" for index in range(K))
# What `ts.torch_handler.image_classifier` does to an image.
PREPROCESSING = Preprocessing(
    size=(224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize_shorter=256,
)
MODEL = """from torch import nn


class Network(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
"""
# TorchServe's handler explains with captum, which it does not declare. Predictions do without.
HANDLER = """import sys
from types import ModuleType

captum = ModuleType("captum")
captum.attr = sys.modules["captum.attr"] = ModuleType("captum.attr")
captum.attr.IntegratedGradients = lambda model: None
sys.modules["captum"] = captum

from ts.torch_handler.image_classifier import ImageClassifier


class Classifier(ImageClassifier):
    pass
"""
CONFIG = """inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc_inference}
grpc_management_port={grpc_management}
initial_worker_port={workers}
model_store=store
load_models=all
default_workers_per_model=1
"""


def make_network(folder: Path) -> Path:
    """Write the network as a bundle of ours, and return its folder."""
    torch.manual_seed(0)
    network = pooled(K)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(8.0)
    write_bundle(
        folder,
        model=network,
        name=NAME,
        version=VERSION,
        factory="sample_networks:pooled",
        arguments={"num_classes": K},
        classes=LABELS,
        preprocessing=PREPROCESSING,
        policy="stingy",
    )
    torch.save(network.state_dict(), folder.with_suffix(".pt"))
    return folder


@contextmanager
def image_classifier(bundle: Path) -> Iterator[TorchServe]:
    """Run TorchServe with its image classifier around the network of `make_network`."""
    folder = Path(tempfile.mkdtemp(prefix="ts"))  # short: a socket's path has 108 bytes
    (folder / "store").mkdir()
    described = {
        "createdOn": "",
        "runtime": "python",
        "model": {
            "modelName": NAME,
            "serializedFile": "network.pt",
            "handler": "classifier.py",
            "modelFile": "model.py",
            "modelVersion": VERSION,
        },
        "archiverVersion": "0.12.0",
    }
    with ZipFile(folder / "store" / f"{NAME}.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(described))
        archive.writestr("classifier.py", HANDLER)
        archive.writestr("model.py", MODEL)
        archive.writestr("index_to_name.json", json.dumps(dict(enumerate(LABELS))))
        archive.write(bundle.with_suffix(".pt"), "network.pt")
    port = free_ports(6)
    names = ("port", "management", "metrics", "grpc_inference", "grpc_management", "workers")
    ports = {name: port + place for place, name in enumerate(names)}
    (folder / "config.properties").write_text(CONFIG.format(**ports), "utf-8")
    server = TorchServe(folder, port, process=None)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
