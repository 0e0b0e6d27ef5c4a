"""Pools of images from other sources, for attackers without images of the task.

The same call returns the same images.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from stingy_attacker_eval.datasets.datasets import Dataset, Images, load_dataset

SYNTHETIC = "synthetic"


def load_pool(name: str, *, count: int, size: tuple[int, int]) -> Images:
    """Return up to `count` images, uint8 `[m, H, W, 3]`.

    name: "synthetic" for drawn shapes, or the name of a data set. The pool takes the data set's
        training images in a fixed random order and resizes them.
    size: (H, W) in pixels.

    Raises DatasetError if the data set cannot be used.
    """
    if name == SYNTHETIC:
        return _draw_dead_leaves(count, size)
    images = load_dataset(name).train_x
    order = np.random.default_rng(0).permutation(len(images))[:count]
    return resize(images[order], size)


def load_labelled_pool(
    name: str, *, count: int, size: tuple[int, int]
) -> tuple[Images, NDArray[np.int64]]:
    """Return up to `count` images of a data set, as `load_pool` does, and their own classes.

    Raises DatasetError if the data set cannot be used.
    """
    labels = load_dataset(name).train_y
    order = np.random.default_rng(0).permutation(len(labels))[:count]
    return load_pool(name, count=count, size=size), labels[order]


def is_pool_of(name: str, data: Dataset) -> bool:
    """Return True if the pool's images are the data set's own, under this name or another.

    Raises DatasetError if the pool's data set cannot be used.
    """
    if name == SYNTHETIC:
        return False
    images = load_dataset(name).train_x
    return any(np.array_equal(images, own) for own in (data.train_x, data.test_x))


def resize(images: Images, size: tuple[int, int]) -> Images:
    """Resize images uint8 `[n, H, W, 3]` to (H, W) in pixels, bilinearly and without aliasing."""
    if images.shape[1:3] == size:
        return images
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    resized = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    result: Images = resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return result


def _draw_dead_leaves(count: int, size: tuple[int, int]) -> Images:
    """Draw discs and bars of random place, size and colour, one over the other.

    Such images cost nothing and have the edges and occlusions of photographs: "Learning to See by
    Looking at Noise" (Baradad et al., NeurIPS 2021), section 3.1.
    """
    random = np.random.default_rng(0)
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    images = _draw_colours(random, count)[:, None, None, :] * np.ones((1, height, width, 1))
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
        images = np.where(inside[..., None], _draw_colours(random, count)[:, None, None, :], images)
    return images.astype(np.uint8)


def _draw_colours(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw RGB colours `[count, 3]` in 0..256; half are grey, as many tasks have grey images."""
    colours = random.uniform(0, 256, (count, 3))
    grey = np.arange(count) % 2 == 0
    colours[grey] = colours[grey, :1]
    return colours
