"""Data sets as plain uint8 arrays. `load_dataset` validates every data set it returns."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.errors import DatasetError
from stingy_attacker_eval.files import read_npz

ROOT = "AUDIT_DATA"  # not STINGY_...: the server refuses unknown variables of that form
"""The environment variable that names the folder of downloaded data sets."""

Images = NDArray[np.uint8]
"""uint8 RGB `[batch, H, W, 3]`."""

_DIGITS_TRAIN = 1297
_MOST_CLASSES = 100_000  # as many as a bundle may have
_ARRAYS = ("train_x", "train_y", "test_x", "test_y")
_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}


@dataclass(frozen=True)
class Dataset:
    """Labelled images with a fixed split into training and test images.

    train_x, test_x: uint8 RGB `[n, H, W, 3]`.
    train_y, test_y: int64 `[n]`, indices into class_names.
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

    def subset(self, images: int | None, *, skip: int = 0) -> "Dataset":
        """Return the data set with a part of its training images, evenly over the classes.

        The choice is fixed. A smaller subset lies within every larger one. The test images stay.

        images: training images to take; None for all.
        skip: images to leave out first: those of `subset(skip)`.

        Raises DatasetError if the data set has fewer training images.
        """
        if images is None and not skip:
            return self
        most = len(self.train_y) - skip
        images = most if images is None else images
        if not 0 < images <= most:
            raise DatasetError(f"expected 1..{most} training images, got {images}")
        order = np.random.default_rng(0).permutation(len(self.train_y))
        # The turn of an image is the number of images of its class before it.
        labels = self.train_y[order]
        turn = np.empty(len(order), np.int64)
        for number in range(self.num_classes):
            rows = np.flatnonzero(labels == number)
            turn[rows] = np.arange(len(rows))
        chosen = order[np.argsort(turn, kind="stable")[skip : skip + images]]
        return replace(self, train_x=self.train_x[chosen], train_y=self.train_y[chosen])

    def reduce(self, pixels: int | None) -> "Dataset":
        """Return the data set with images of `pixels` by `pixels`, each pixel the mean of a block.

        Means are rounded to the nearest grey level, halves to the even one.

        pixels: side length; None keeps the images.

        Raises DatasetError unless the images are square and the side divides theirs.
        """
        if pixels is None:
            return self
        height, width = self.image_size
        if height != width or height % pixels:
            raise DatasetError(
                f"expected pixels that divide square images, got {pixels} for images of "
                f"{height}x{width}"
            )
        train_x, test_x = (
            _block_means(part, height // pixels) for part in (self.train_x, self.test_x)
        )
        return replace(self, train_x=train_x, test_x=test_x)


def load_dataset(name: str) -> Dataset:
    """Load a data set by name.

    "digits": scikit-learn's images of 8x8 pixels.
    "cifar10", "cifar100", "fashion_mnist": torchvision downloads them, unless they are there,
        into the folder that AUDIT_DATA names (~/.cache/stingy by default).
    "npz:PATH": a file with train_x, train_y, test_x, test_y and, optionally, class_names.
    "folder:PATH": images of one size in train/CLASS/ and test/CLASS/.

    A PATH may begin with $AUDIT_DATA.

    Raises DatasetError, with every fault, if the data set cannot be used.
    """
    kind, _, path = name.partition(":")
    if name == "digits":
        return _load_digits()
    if name in _TORCHVISION:
        return _load_torchvision(name)
    if kind == "npz" and path:
        return _load_npz(name, _resolve(path))
    if kind == "folder" and path:
        return _load_folder(name, _resolve(path))
    names = ", ".join(f'"{known}"' for known in ("digits", *_TORCHVISION))
    raise DatasetError(f'expected the data set {names}, "npz:PATH" or "folder:PATH", got "{name}"')


def _block_means(images: Images, side: int) -> Images:
    """Return the means of blocks of `side` by `side` pixels."""
    sums = np.zeros(images[:, ::side, ::side].shape, np.uint32)
    for row in range(side):
        for column in range(side):
            sums += images[:, row::side, column::side]
    found: Images = np.rint(sums / side**2).astype(np.uint8)
    return found


def data_root() -> Path:
    """Return the folder of downloaded data sets."""
    return Path(os.environ.get(ROOT) or "~/.cache/stingy").expanduser()


def _resolve(text: str) -> Path:
    head, _, rest = text.partition("/")
    return data_root() / rest if head == f"${ROOT}" else Path(text)


def _load_digits() -> Dataset:
    """Load scikit-learn's 1,797 images of 8x8 (UCI optical digits): 1,297 train, 500 test."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:_DIGITS_TRAIN], order[_DIGITS_TRAIN:]
    names = tuple(str(digit) for digit in range(10))
    return Dataset("digits", images[train], labels[train], images[test], labels[test], names)


def _load_torchvision(name: str) -> Dataset:
    """Load a data set through torchvision; grey images get three equal channels."""
    from torchvision import datasets  # type: ignore[import-untyped]

    source, root = getattr(datasets, _TORCHVISION[name]), data_root()
    try:
        train, test = (source(str(root), train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError):
        raise DatasetError(
            f"expected {name} in {root}, or a network to download it, got neither: put "
            f"torchvision's files there, or name another folder in {ROOT}"
        ) from None
    arrays: list[NDArray[np.generic]] = []
    for part in (train, test):
        images = np.asarray(part.data)
        arrays.append(np.repeat(images[..., None], 3, axis=3) if images.ndim == 3 else images)
        arrays.append(np.asarray(part.targets, np.int64))
    return _build_dataset(name, *arrays, class_names=tuple(train.classes))


def _load_folder(name: str, path: Path) -> Dataset:
    """Load a folder of images; the classes are the folders of train/ in sorted order."""
    from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]

    from stingy_attacker_eval.datasets.image_folder import read_image

    faults: list[str] = []
    parts = {}
    for split in ("train", "test"):
        try:
            parts[split] = ImageFolder(str(path / split))
        except OSError as error:
            faults.append(f"expected {path / split}/CLASS/ with images, got: {error}")
    if faults:
        raise DatasetError(*faults)
    classes = parts["train"].classes
    if parts["test"].classes != classes:
        raise DatasetError(f"expected the same classes in {path}/train and {path}/test, got others")
    arrays: list[NDArray[np.generic]] = []
    for split, part in parts.items():
        images = []
        for file, _ in part.samples:
            try:
                images.append(read_image(file))
            except DatasetError as error:
                faults += error.faults
        sizes = sorted({image.shape[:2] for image in images})
        if len(sizes) > 1:
            faults.append(f"expected {split} images of one size, got {sizes[0]} to {sizes[-1]}")
        elif not faults:
            arrays += [np.stack(images), np.asarray(part.targets)]
    if faults:
        raise DatasetError(*faults)
    return _build_dataset(name, *arrays, class_names=tuple(classes))


def _load_npz(name: str, path: Path) -> Dataset:
    try:
        arrays = read_npz(path)
    except FileNotFoundError:
        raise DatasetError(f"expected an npz file, got no file at {path}") from None
    except ValueError as error:
        raise DatasetError(str(error)) from None
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
        if count > _MOST_CLASSES:
            raise DatasetError(f"expected labels below {_MOST_CLASSES}, got {count - 1} in {path}")
        class_names = tuple(str(number) for number in range(count))
    return _build_dataset(name, *(arrays[key] for key in _ARRAYS), class_names=class_names)


def _build_dataset(
    name: str,
    train_x: NDArray[np.generic],
    train_y: NDArray[np.generic],
    test_x: NDArray[np.generic],
    test_y: NDArray[np.generic],
    *,
    class_names: tuple[str, ...],
) -> Dataset:
    """Build a data set. Raises DatasetError, with every fault, if the arrays do not fit."""
    faults = [
        *_split_faults("train", train_x, train_y, len(class_names)),
        *_split_faults("test", test_x, test_y, len(class_names)),
    ]
    faults += _name_faults(class_names)
    shapes = train_x.shape[1:], test_x.shape[1:]
    if not faults and shapes[0] != shapes[1]:
        faults.append(f"expected test_x images of {shapes[0]}, got {shapes[1]}")
    if faults:
        raise DatasetError(*faults)
    return Dataset(
        name,
        train_x.astype(np.uint8, copy=False),
        train_y.astype(np.int64),
        test_x.astype(np.uint8, copy=False),
        test_y.astype(np.int64),
        class_names,
    )


def _name_faults(names: Sequence[str]) -> list[str]:
    """List why a bundle cannot have these class names."""
    faults = []
    if not 2 <= len(names) <= _MOST_CLASSES:
        faults.append(f"expected 2 to {_MOST_CLASSES} classes, got {len(names)}")
    if any(not name.strip() for name in names):
        faults.append("expected a name for each class, got an empty one in class_names")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        faults.append(f"expected each class name once, got {twice[0]!r} more than once")
    return faults


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
    elif not images.ndim or len(labels) != len(images):
        count = len(images) if images.ndim else 0
        faults.append(f"expected {count} labels in {split}_y, got {len(labels)}")
    elif labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        faults.append(
            f"expected {split}_y in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}"
        )
    return faults
