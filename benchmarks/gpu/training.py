"""The training stage: images/s of our loop beside the public loop, by `compare.py`.

The first case has small networks and two loader processes, the number in the public scripts. The
second case has the paper's network, and its loader uses all cores but one. The last numbers are
images/s of each student of Table 1, trained by itself.
"""

import os
import sys

import numpy as np
import stage
import torch

from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import to_device

sys.path.append(str(stage.ROOT / "benchmarks" / "training"))

from compare import run_our_loop

CASES = {
    "resnet8": ("--student", "resnet8", "--teacher", "resnet20", "--workers", "2"),
    "resnet18": ("--student", "resnet18", "--teacher", "resnet18"),
}


def measure_student(name: str) -> float:
    """Return images/s of one epoch of a student, after an epoch that is not counted."""
    device = torch.device(stage.device())
    random = np.random.default_rng(0)
    count = 16 if stage.REHEARSED else 6400
    images = to_device(random.integers(0, 256, (count, 32, 32, 3), np.uint8), device)
    labels = torch.from_numpy(random.integers(0, 10, count)).to(device)
    student = student_spec(name).build(10).to(device)
    batch = min(128, count // 2)
    run_our_loop(student, None, images, labels, batch)
    return run_our_loop(student, None, images, labels, batch)


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
            command = ("training/compare.py", *options, *sizes)
            found[name] = stage.run_benchmark(*command, timeout_s=100)
        except RuntimeError as error:
            found[name] = {"failed": str(error)}
        stage.write("training", **found)
        print(found[name], flush=True)  # noqa: T201
    for name in ("shufflenetv2", "mobilenetv2", "resnet18"):
        found[f"{name}, images/s"] = measure_student(name)
        stage.write("training", **found)
        print(name, found[f"{name}, images/s"], flush=True)  # noqa: T201
    return int(any(isinstance(part, dict) for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
