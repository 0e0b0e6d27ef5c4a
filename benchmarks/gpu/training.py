"""The training stage: images a second of our loop beside the public one, by `compare.py`.

The first row is of small networks and two loader processes, as the public scripts ask for. The
second is of the paper's network, and its loader has every core but one. Last, images a second of
each student of Table 1 when it is trained alone.
"""

import os
import sys

import numpy as np
import stage
import torch

from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import to_device

sys.path.append(str(stage.ROOT / "benchmarks" / "training"))

from compare import our_way

CASES = {
    "resnet8": ("--student", "resnet8", "--teacher", "resnet20", "--workers", "2"),
    "resnet18": ("--student", "resnet18", "--teacher", "resnet18"),
}


def alone(name: str) -> float:
    """Images a second of an epoch of a student, after one that is not counted."""
    device = torch.device(stage.device())
    random = np.random.default_rng(0)
    count = 16 if stage.REHEARSED else 6400
    images = to_device(random.integers(0, 256, (count, 32, 32, 3), np.uint8), device)
    labels = torch.from_numpy(random.integers(0, 10, count)).to(device)
    student = student_spec(name).build(10).to(device)
    batch = min(128, count // 2)
    our_way(student, None, images, labels, batch)
    return our_way(student, None, images, labels, batch)


def main() -> int:
    sizes = ("--images", "6400", "--rounds", "2")
    workers = str(max(2, (os.cpu_count() or 3) - 1))
    cases = CASES | {"resnet18": (*CASES["resnet18"], "--workers", workers)}
    if stage.REHEARSED:
        sizes = ("--images", "128", "--batch", "32", "--rounds", "1")
        del cases["resnet18"]
    found: dict[str, object] = {}
    for name, options in cases.items():
        try:
            found[name] = stage.printed("training/compare.py", *options, *sizes, timeout_s=100)
        except RuntimeError as error:
            found[name] = {"failed": str(error)}
        stage.write("training", **found)
        print(found[name], flush=True)  # noqa: T201
    for name in ("shufflenetv2", "mobilenetv2", "resnet18"):
        found[f"{name} alone, images/s"] = alone(name)
        stage.write("training", **found)
        print(name, found[f"{name} alone, images/s"], flush=True)  # noqa: T201
    return int(any(isinstance(part, dict) for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
