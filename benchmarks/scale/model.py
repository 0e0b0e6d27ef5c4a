"""Measure the model alone: CPU milliseconds an image, on one thread, in batches of 16.

python benchmarks/scale/model.py
"""

import json
import sys
import time
from pathlib import Path

import torch
import torchvision

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving" / "servers"))

from results import circumstances
from tiny_net import tiny_net

BATCH = 16
LEAST_S = 3.0
MODELS = {
    "tiny network of the serving benchmark, 32 x 32": (tiny_net, 32),
    "ResNet-18, 224 x 224": (torchvision.models.resnet18, 224),
}


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for name, (make, size) in MODELS.items():
        network, images = make().eval(), torch.rand(BATCH, 3, size, size)
        with torch.inference_mode():
            network(images)
            passes, began = 0, time.process_time()
            while time.process_time() < began + LEAST_S:
                network(images)
                passes += 1
        found[name] = 1000 * (time.process_time() - began) / passes / BATCH
    print(json.dumps({**circumstances(), "cpu_ms_an_image": found}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
