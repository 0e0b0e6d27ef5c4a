"""Noise for a rehearsal: 300 random images in the form of a data set, OUT.npz.

    python benchmarks/gpu/noise.py OUT.npz

The file has as many classes as the data set of its name: 100 for tin100, 10 for others.
"""

import sys
from pathlib import Path

import numpy as np


def main() -> None:
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    classes = 100 if out.stem == "tin100" else 10
    random = np.random.default_rng(classes)
    arrays: dict[str, np.ndarray] = {"class_names": np.array([f"c{n}" for n in range(classes)])}
    for part, count in (("train", 200), ("test", 100)):
        arrays[f"{part}_x"] = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"{part}_y"] = np.arange(count) % classes
    np.savez(out, **arrays)


if __name__ == "__main__":
    main()
