"""The training stage: images a second of our loop beside the public one, by `compare.py`.

The first row is of small networks and two loader processes, as the public scripts ask for. The
second is of the paper's network, and its loader has every core but one.
"""

import os
import sys

import stage

CASES = {
    "resnet8": ("--student", "resnet8", "--teacher", "resnet20", "--workers", "2"),
    "resnet18": ("--student", "resnet18", "--teacher", "resnet18"),
}


def main() -> int:
    sizes = ("--images", "12800", "--rounds", "2")
    workers = str(max(2, (os.cpu_count() or 3) - 1))
    cases = CASES | {"resnet18": (*CASES["resnet18"], "--workers", workers)}
    if stage.REHEARSED:
        sizes = ("--images", "192", "--batch", "32", "--rounds", "1")
        del cases["resnet18"]
    found: dict[str, object] = {}
    for name, options in cases.items():
        try:
            found[name] = stage.printed("training/compare.py", *options, *sizes, timeout_s=100)
        except RuntimeError as error:
            found[name] = {"failed": str(error)}
        stage.write("training", **found)
        print(found[name], flush=True)  # noqa: T201
    return int(any(isinstance(part, dict) for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
