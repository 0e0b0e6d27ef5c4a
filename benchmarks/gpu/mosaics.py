"""Data sets as lossless WebP mosaics, which travel at 60 % of their size, and back to one .npz.

    python benchmarks/gpu/mosaics.py reduce DATA.npz OUT.npz --pixels 16
    python benchmarks/gpu/mosaics.py pack DATA.npz OUT --train 25000 --test 5000
    python benchmarks/gpu/mosaics.py unpack FOLDER OUT.npz

`reduce` makes the images smaller as a protocol with `pixels` does. With `--pretraining` it does so
as an audit does with the images that a student is trained on before. `pack` takes the same number
of images of each class and writes OUT/NAME-000.webp and so on, with OUT/NAME.json beside them: the
labels, the classes and the SHA-256 of all pixels. `unpack` refuses pixels with another digest.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stingy_attacker_eval.datasets.datasets import load_dataset
from stingy_attacker_eval.datasets.query_pools import resize

COLUMNS, TILES = 50, 2500  # in one mosaic
Pixels = NDArray[np.uint8]


def choose_rows(labels: NDArray[np.integer[Any]], count: int) -> NDArray[np.int64]:
    """Choose the first `count / classes` images of each class, in their order."""
    classes = int(labels.max()) + 1
    each = count // classes
    rows = [np.flatnonzero(labels == number)[:each] for number in range(classes)]
    if any(len(found) < each for found in rows):
        raise ValueError(f"expected {each} images of each class, got fewer")
    return np.sort(np.concatenate(rows))


def write_mosaics(images: Pixels, folder: Path, name: str) -> list[str]:
    """Write images [n, H, W, 3] as mosaics of at most `TILES`, and return the names of the files.

    The last mosaic is filled up with black tiles.
    """
    names = []
    height, width = images.shape[1:3]
    for start in range(0, len(images), TILES):
        tiles = images[start : start + TILES]
        blank = -len(tiles) % COLUMNS
        tiles = np.concatenate([tiles, np.zeros((blank, height, width, 3), np.uint8)])
        rows = tiles.reshape(-1, COLUMNS, height, width, 3).transpose(0, 2, 1, 3, 4)
        mosaic = rows.reshape(-1, COLUMNS * width, 3)
        names.append(f"{name}-{len(names):03d}.webp")
        Image.fromarray(mosaic).save(folder / names[-1], lossless=True, method=4)
    return names


def read_mosaic(path: Path, size: tuple[int, int]) -> Pixels:
    """Read the tiles of a mosaic, [n, H, W, 3], with the blank ones at its end."""
    height, width = size
    mosaic = np.asarray(Image.open(path).convert("RGB"))
    rows = mosaic.reshape(-1, height, COLUMNS, width, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(-1, height, width, 3)


def digest(images: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def pack(source: Path, out: Path, *, train: int, test: int) -> None:
    """Write the mosaics of a part of a data set, and its labels."""
    out.mkdir(parents=True, exist_ok=True)
    with np.load(source, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    parts = {
        "train": choose_rows(data["train_y"], train),
        "test": choose_rows(data["test_y"], test),
    }
    images = np.concatenate([data[f"{part}_x"][rows] for part, rows in parts.items()])
    about = {
        "size": images.shape[1:3],
        "sha256": digest(images),
        "mosaics": write_mosaics(images, out, source.stem),
        "class_names": data["class_names"].tolist(),
        **{f"{part}_y": data[f"{part}_y"][rows].tolist() for part, rows in parts.items()},
    }
    (out / f"{source.stem}.json").write_text(json.dumps(about))


def unpack(folder: Path, out: Path) -> None:
    """Write the .npz of the mosaics in a folder, for the data set that the file is named for.

    Raises FileNotFoundError if a mosaic is absent, ValueError if the pixels have another digest.
    """
    about = json.loads((folder / f"{out.stem}.json").read_text())
    tiles = [read_mosaic(folder / name, tuple(about["size"])) for name in about["mosaics"]]
    train = len(about["train_y"])
    images = np.concatenate(tiles)[: train + len(about["test_y"])]
    if digest(images) != about["sha256"]:
        raise ValueError(f"expected the pixels of {out.stem}, got others")
    np.savez(
        out,
        train_x=images[:train],
        train_y=np.array(about["train_y"]),
        test_x=images[train:],
        test_y=np.array(about["test_y"]),
        class_names=np.array(about["class_names"]),
    )


def reduce(source: Path, out: Path, *, pixels: int, pretraining: bool) -> None:
    """Write a data set with images of `pixels` by `pixels`."""
    data = load_dataset(f"npz:{source}")
    if pretraining:
        images = {p: resize(getattr(data, f"{p}_x"), (pixels, pixels)) for p in ("train", "test")}
    else:
        smaller = data.reduce(pixels)
        images = {"train": smaller.train_x, "test": smaller.test_x}
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        out,
        train_x=images["train"],
        train_y=data.train_y,
        test_x=images["test"],
        test_y=data.test_y,
        class_names=np.array(data.class_names),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Data sets as lossless mosaics.")
    commands = parser.add_subparsers(dest="command", required=True)
    reducing = commands.add_parser("reduce")
    reducing.add_argument("source", type=Path)
    reducing.add_argument("out", type=Path)
    reducing.add_argument("--pixels", type=int, required=True)
    reducing.add_argument("--pretraining", action="store_true")
    packing = commands.add_parser("pack")
    packing.add_argument("source", type=Path)
    packing.add_argument("out", type=Path)
    packing.add_argument("--train", type=int, default=25_000)
    packing.add_argument("--test", type=int, default=5_000)
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "reduce":
        reduce(
            arguments.source,
            arguments.out,
            pixels=arguments.pixels,
            pretraining=arguments.pretraining,
        )
    elif arguments.command == "pack":
        pack(arguments.source, arguments.out, train=arguments.train, test=arguments.test)
    else:
        unpack(arguments.folder, arguments.out)


if __name__ == "__main__":
    main()
