"""Data sets as plain uint8 arrays; whatever leaves `load_dataset` has been checked once, here."""

from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.errors import DatasetError

_DIGITS_TRAIN = 1297
_ARRAYS = ("train_x", "train_y", "test_x", "test_y")


@dataclass(frozen=True)
class Dataset:
    """
    Labelled images, split once and for all.

    train_x, test_x: uint8 RGB `[n, H, W, 3]`; train_y, test_y: int64 `[n]` into class_names.
    """

    name: str
    train_x: NDArray[np.uint8] = field(repr=False)
    train_y: NDArray[np.int64] = field(repr=False)
    test_x: NDArray[np.uint8] = field(repr=False)
    test_y: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.train_x.shape[1]), int(self.train_x.shape[2])


def load_dataset(name: str) -> Dataset:
    """
    Load "digits" or "npz:PATH".

    An npz file holds train_x, train_y, test_x, test_y and may hold class_names.
    Raises DatasetError listing every fault.
    """
    if name == "digits":
        return _digits()
    kind, _, path = name.partition(":")
    if kind == "npz" and path:
        return _npz(name, Path(path))
    raise DatasetError(f'expected the data set "digits" or "npz:PATH", got "{name}"')


def _digits() -> Dataset:
    """scikit-learn's 1,797 images of 8x8 (UCI optical digits): 1,297 train, 500 test."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:_DIGITS_TRAIN], order[_DIGITS_TRAIN:]
    names = tuple(str(digit) for digit in range(10))
    return Dataset("digits", images[train], labels[train], images[test], labels[test], names)


def _npz(name: str, path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise DatasetError(f"expected an npz file, got no file at {path}") from None
    except (OSError, ValueError, BadZipFile):
        raise DatasetError(f"expected an npz file without pickles, got another at {path}") from None
    missing = [key for key in _ARRAYS if key not in arrays]
    if missing:
        raise DatasetError(*(f"expected the array {key} in {path}, got none" for key in missing))
    train_y, test_y = arrays["train_y"], arrays["test_y"]
    names = arrays.get("class_names")
    if names is not None:
        class_names = tuple(str(text) for text in names.ravel())
    else:
        known = [y for y in (train_y, test_y) if y.size and np.issubdtype(y.dtype, np.integer)]
        count = max((int(labels.max()) for labels in known), default=0) + 1
        class_names = tuple(str(number) for number in range(count))
    faults = [
        *_split_faults("train", arrays["train_x"], train_y, len(class_names)),
        *_split_faults("test", arrays["test_x"], test_y, len(class_names)),
    ]
    shapes = arrays["train_x"].shape[1:], arrays["test_x"].shape[1:]
    if not faults and shapes[0] != shapes[1]:
        faults.append(f"expected test_x images of {shapes[0]}, got {shapes[1]}")
    if len(class_names) < 2:
        faults.append(f"expected at least 2 classes, got {len(class_names)}")
    if faults:
        raise DatasetError(*faults)
    return Dataset(
        name,
        arrays["train_x"],
        train_y.astype(np.int64),
        arrays["test_x"],
        test_y.astype(np.int64),
        class_names,
    )


def _split_faults(
    split: str, images: NDArray[np.generic], labels: NDArray[np.generic], classes: int
) -> list[str]:
    faults = []
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        faults.append(
            f"expected {split}_x as uint8 [n, H, W, 3], got {images.dtype} {list(images.shape)}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        faults.append(
            f"expected {split}_y as integers [n], got {labels.dtype} {list(labels.shape)}"
        )
    elif len(labels) != len(images):
        faults.append(f"expected {len(images)} labels in {split}_y, got {len(labels)}")
    elif labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        faults.append(
            f"expected {split}_y in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}"
        )
    return faults
