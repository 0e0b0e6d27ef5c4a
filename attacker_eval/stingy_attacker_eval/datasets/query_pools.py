"""Images that are not of the task, for attackers who own none; the same call, the same images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from stingy_attacker_eval.datasets.datasets import Dataset, Images, load_dataset

SYNTHETIC = "synthetic"


def load_pool(name: str, *, count: int, size: tuple[int, int]) -> Images:
    """Up to `count` images of (H, W) = size, uint8 `[m, H, W, 3]`.

    name: "synthetic" for drawn shapes, or a data set by name, of which the training images are
    taken in a fixed random order and scaled. Raises DatasetError.
    """
    if name == SYNTHETIC:
        return _dead_leaves(count, size)
    images = load_dataset(name).train_x
    order = np.random.default_rng(0).permutation(len(images))[:count]
    return _scaled(images[order], size)


def is_pool_of(name: str, data: Dataset) -> bool:
    """Whether the pool's images are the data set's own, under this name or another.

    Raises DatasetError.
    """
    if name == SYNTHETIC:
        return False
    images = load_dataset(name).train_x
    return any(np.array_equal(images, own) for own in (data.train_x, data.test_x))


def _scaled(images: Images, size: tuple[int, int]) -> Images:
    if images.shape[1:3] == size:
        return images
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    scaled = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    result: Images = scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return result


def _dead_leaves(count: int, size: tuple[int, int]) -> Images:
    """Discs and bars of random place, size and colour, one over the other.

    "Learning to See by Looking at Noise" (Baradad et al., NeurIPS 2021), section 3.1: such images
    share the edges and occlusions of photographs, and are free.
    """
    random = np.random.default_rng(0)
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    images = _colours(random, count)[:, None, None, :] * np.ones((1, height, width, 1))
    for _ in range(6):
        y, x = random.uniform(0, height, (count, 1, 1)), random.uniform(0, width, (count, 1, 1))
        radius = random.uniform(0.08, 0.35, (count, 1, 1)) * min(size)
        angle = random.uniform(0, np.pi, (count, 1, 1))
        across = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
        along = (columns - x) * np.cos(angle) - (rows - y) * np.sin(angle)
        is_bar = random.random((count, 1, 1)) < 0.5
        inside = np.where(
            is_bar,
            (np.abs(across) < 0.4 * radius) & (np.abs(along) < 2 * radius),
            across**2 + along**2 < radius**2,
        )
        images = np.where(inside[..., None], _colours(random, count)[:, None, None, :], images)
    return images.astype(np.uint8)


def _colours(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Half of the images get greys alone, as many tasks are of grey images."""
    colours = random.uniform(0, 256, (count, 3))
    grey = np.arange(count) % 2 == 0
    colours[grey] = colours[grey, :1]
    return colours
