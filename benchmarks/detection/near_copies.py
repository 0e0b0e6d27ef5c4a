"""Measure which near-copies of images the watch finds, and how far they average noise out.

    python benchmarks/detection/near_copies.py

The images are digits at 32x32 pixels and pieces of scikit-learn's two photographs. Each kind of
change gets a key of its own.
"""

import timeit
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits, load_sample_images  # type: ignore[import-untyped]
from watching import Images, suspended_after

from stingy_protection import keyed_noise
from stingy_server.detection.image_hashes import HashIndex, ImageHasher

SIDE = 32
COPIES = 1000
Change = Callable[[Images, np.random.Generator], npt.NDArray[np.generic]]


def digits() -> Images:
    grey = np.kron(load_digits().images * 15.9, np.ones((1, 4, 4))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def photographs() -> Images:
    """Cut two photographs into pieces that do not overlap."""
    return np.stack(
        [
            photo[top : top + SIDE, left : left + SIDE]
            for photo in load_sample_images().images
            for top in range(0, photo.shape[0] - SIDE + 1, SIDE)
            for left in range(0, photo.shape[1] - SIDE + 1, SIDE)
        ]
    )


def noise(levels: int, channels: tuple[int, ...] = (0, 1, 2)) -> Change:
    """Make a change that adds uniform noise of up to `levels` grey levels to some channels."""

    def change(images: Images, random: np.random.Generator) -> npt.NDArray[np.generic]:
        moved = images.astype(np.int64)
        shape = (*images.shape[:3], len(channels))
        moved[..., list(channels)] += random.integers(-levels, levels + 1, shape)
        return moved

    return change


def one_pixel(images: Images, random: np.random.Generator) -> Images:
    moved, count = images.copy(), len(images)
    where = (np.arange(count), *(random.integers(0, SIDE, count) for _ in range(2)))
    moved[where] = 255 - moved[where]
    return moved


def between_samples(images: Images, random: np.random.Generator) -> npt.NDArray[np.generic]:
    """Change the pixels of odd rows and columns alone, by up to 16 grey levels."""
    moved = images.astype(np.int64)
    shape = moved[:, 1::2, 1::2].shape
    moved[:, 1::2, 1::2] += random.integers(-16, 17, shape)
    return moved


def border(images: Images, random: np.random.Generator) -> Images:
    moved = images.copy()
    colour = random.integers(0, 256, (len(images), 1, 1, 3))
    for edge in (np.s_[:, :3], np.s_[:, -3:], np.s_[:, :, :3], np.s_[:, :, -3:]):
        moved[edge] = colour
    return moved


def _by_cell(images: Images, random: np.random.Generator, levels: int) -> npt.NDArray[np.generic]:
    steps = random.integers(-levels, levels + 1, (len(images), 8, 8, 3))
    return images + np.kron(steps, np.ones((1, SIDE // 8, SIDE // 8, 1), np.int64))


CHANGES: dict[str, Change] = {
    "red and blue, up to 4 levels": noise(4, (0, 2)),
    "red and blue, up to 16 levels": noise(16, (0, 2)),
    "low bit of blue": noise(1, (2,)),
    "all channels, up to 4 levels": noise(4),
    "all channels, up to 16 levels": noise(16),
    "one pixel inverted": one_pixel,
    "odd rows and columns alone": between_samples,
    "border of 3 pixels, any colour": border,
    "brightness of each channel, up to 20": lambda x, r: x + r.integers(-20, 21, (len(x), 1, 1, 3)),
    "gain of each channel, 0.8 to 1.2": lambda x, r: x * r.uniform(0.8, 1.2, (len(x), 1, 1, 3)),
    "contrast halved": lambda x, r: x / 2 + r.integers(0, 100, (len(x), 1, 1, 1)),
    "each cell of 4x4, up to 16 levels": lambda x, r: _by_cell(x, r, 16),
    "a tenth of another image": lambda x, r: 0.9 * x + 0.1 * x[r.permutation(len(x))],
    "mirrored": lambda x, r: noise(1)(np.ascontiguousarray(x[:, :, ::-1]), r),
    "moved by 4 pixels (a cell)": lambda x, r: noise(1)(np.roll(x, 4, 2), r),
    "moved by 1 pixel": lambda x, r: noise(1)(np.roll(x, 1, 2), r),
    "moved by 2 pixels": lambda x, r: noise(1)(np.roll(x, 2, 2), r),
    "upside down": lambda x, r: noise(1)(np.ascontiguousarray(x[:, ::-1]), r),
    "quarter turn": lambda x, r: noise(1)(np.ascontiguousarray(np.rot90(x, 1, (1, 2))), r),
    "inverted": lambda x, r: 255 - noise(1)(x, r),  # type: ignore[operator]
    "a fifth covered by a square": lambda x, r: _cover(x, r, 14),
    "a third of another image": lambda x, r: 0.67 * x + 0.33 * x[r.permutation(len(x))],
}


def _cover(images: Images, random: np.random.Generator, side: int) -> Images:
    moved = images.copy()
    for image in moved:
        top, left = random.integers(0, SIDE - side + 1, 2)
        image[top : top + side, left : left + side] = random.integers(0, 256, 3)
    return moved


def _pixels(values: npt.NDArray[np.generic]) -> Images:
    return np.clip(np.rint(values.astype(np.float64)), 0, 255).astype(np.uint8)


def share_found(images: Images, change: Change) -> float:
    """Return the share of changed images that the index finds near their own originals.

    Each original has an index of its own, so no other image is near by chance.
    """
    random, hasher = np.random.default_rng(0), ImageHasher(b"secret" * 4)
    found = 0
    for image, changed in zip(images, _pixels(change(images, random)), strict=True):
        digests, reduced = hasher.reduce(np.stack([image, changed]))
        codes = hasher.codes(reduced)
        index = HashIndex()
        found += index.compare(np.array(digests, np.uint64), codes, np.zeros(2, np.int32)).near
    return found / len(images)


def averaged_error(change: Change, images: Images) -> tuple[float, float, float]:
    """Average the noise of 1,000 near-copies of each image.

    Returns:
        the mean error of one answer, the mean error of the average, and the median number of
        different noises among the copies.
    """
    one, average, kinds = [], [], []
    for number, image in enumerate(images):
        random = np.random.default_rng(number)
        copies = _pixels(change(np.repeat(image[None], COPIES, axis=0), random))
        copies[0] = image
        found = keyed_noise(b"secret" * 4, torch.from_numpy(copies), 10).unique(dim=0)
        one.append(keyed_noise(b"secret" * 4, torch.from_numpy(image[None]), 10).abs().mean())
        average.append(found.mean(dim=0).abs().mean())  # an attacker counts each noise once
        kinds.append(float(len(found)))
    return float(np.mean(one)), float(np.mean(average)), float(np.median(kinds))


NOISE_CHANGES: dict[str, Change] = {
    "low bit of blue in one pixel": lambda x, r: _one_low_bit(x),
    "low bits of all channels": noise(1),
    "up to 8 levels in each pixel": noise(8),
    "brightness, up to 16 levels": lambda x, r: x + r.integers(-16, 17, (len(x), 1, 1, 1)),
    "gain of all channels, 0.9 to 1.1": lambda x, r: x * r.uniform(0.9, 1.1, (len(x), 1, 1, 1)),
    "each cell of 4x4, up to 4 levels": lambda x, r: _by_cell(x, r, 4),
    "each cell of 4x4, up to 16 levels": lambda x, r: _by_cell(x, r, 16),
    "each cell of 4x4, up to 32 levels": lambda x, r: _by_cell(x, r, 32),
    "moved by up to 2 pixels": lambda x, r: np.stack(
        [np.roll(image, tuple(r.integers(-2, 3, 2)), (0, 1)) for image in x]
    ),
}


def _one_low_bit(images: Images) -> Images:
    moved = images.copy()
    place = np.arange(len(images))
    moved[place, place // SIDE % SIDE, place % SIDE, 2] ^= 1
    return moved


def commonest_noise(images: Images) -> float:
    """Return the share of different images that have the commonest noise."""
    found = keyed_noise(b"secret" * 4, torch.from_numpy(images), 2)
    return float(found.unique(dim=0, return_counts=True)[1].max()) / len(images)


def noise_us(side: int) -> float:
    """Return the fewest microseconds of the noise of one image, for 10 classes."""
    image = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)
    timer = timeit.Timer(lambda: keyed_noise(b"secret" * 4, image, 10))
    return min(timer.repeat(number=1, repeat=2000)) * 1e6


def _stream(base: Images, change: Change, count: int) -> Images:
    random = np.random.default_rng(0)
    return _pixels(change(base[random.integers(0, len(base), count)], random))


def main() -> None:
    torch.set_num_threads(1)
    console = Console(width=150)
    sets = {"digits": digits()[:400], "photographs": photographs()}
    table = Table("change", *(f"{name}: found" for name in sets))
    for label, change in CHANGES.items():
        table.add_row(label, *(f"{share_found(images, change):.2f}" for images in sets.values()))
    console.print(table)

    table = Table("stream of one key", "suspended after", "score")
    base = sets["digits"]
    random = np.random.default_rng(1)
    flood = random.integers(0, 256, (256, SIDE, SIDE, 3)).astype(np.uint8)
    for label in ("red and blue, up to 4 levels", "all channels, up to 4 levels"):
        count, profile = suspended_after(_stream(base, CHANGES[label], 7683))
        table.add_row(f"7,683 copies of 400 digits: {label}", str(count), f"{profile.score:.2f}")
    stream = _stream(base, CHANGES["all channels, up to 4 levels"], 4000)
    count, profile = suspended_after(stream, flood=flood)
    table.add_row("the same beside 1,024 images a look", str(count), f"{profile.score:.2f}")
    count, profile = suspended_after(digits())
    table.add_row("1,797 different digits", str(count), f"{profile.score:.2f}")
    console.print(table)

    table = Table("1,000 copies of one image", "error of one", "after averaging", "noises (median)")
    for name, images in sets.items():
        chosen = images[np.random.default_rng(0).choice(len(images), 50, replace=False)]
        for label, change in NOISE_CHANGES.items():
            one, average, kinds = averaged_error(change, chosen)
            table.add_row(f"{name}: {label}", f"{one:.2f}", f"{average:.2f}", f"{kinds:.0f}")
    console.print(table)
    shares = ", ".join(f"{name} {commonest_noise(each):.3f}" for name, each in sets.items())
    console.print(f"share of different images with the commonest noise: {shares}")
    times = ", ".join(f"{side}x{side} {noise_us(side):.0f}" for side in (32, 224))
    console.print(f"microseconds of the noise of one image: {times}")


if __name__ == "__main__":
    main()
