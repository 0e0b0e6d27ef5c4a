"""Images that look alike are near-duplicates, and the index of a key is bounded."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import random_images
from stingy_server.codec.images import Pixels
from stingy_server.detection.image_hashes import (
    REMEMBERED,
    BatchStats,
    HashIndex,
    ImageHasher,
    sampled,
)
from watched_images import PICTURES, noisy

HASHER = ImageHasher(b"secret")


def compare(index: HashIndex, images: Pixels, label: int = 0) -> BatchStats:
    grids = sampled(images)
    return index.compare(grids, HASHER.codes(grids), np.full(len(images), label, np.int32))


def shifted(images: Pixels, pixels: int) -> Pixels:
    return np.roll(images, pixels, axis=2)


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (noisy, 0.95),
        (lambda images: images[:, :, ::-1], 0.95),
        (lambda images: shifted(images, 4), 0.95),
        (lambda images: images // 2 + 40, 0.95),
    ],
    ids=["noise", "mirrored", "shifted", "paler"],
)
def test_changed_image_is_a_near_duplicate(change: Any, share: float) -> None:
    index = HashIndex()
    assert compare(index, PICTURES[:100]).near == 0
    second = compare(index, np.ascontiguousarray(change(PICTURES[:100])))
    assert second.novel == 100
    assert second.near >= share * 100


def test_near_duplicates_within_one_batch_are_found() -> None:
    both = np.concatenate([PICTURES[:10], noisy(PICTURES[:10])])
    assert compare(HashIndex(), both).near == 10


def test_other_images_and_repeats_are_no_near_duplicates() -> None:
    index = HashIndex()
    assert compare(index, PICTURES) == BatchStats(
        400, 0, 0, compare(HashIndex(), PICTURES).distances
    )
    second = compare(index, PICTURES)
    assert (second.novel, second.near, second.repeats) == (0, 0, 400)
    twice = np.concatenate([PICTURES[:1], PICTURES[:1]])
    assert compare(HashIndex(), twice).repeats == 1


def test_index_is_bounded_and_forgets_the_oldest_images() -> None:
    index = HashIndex()
    compare(index, PICTURES[:1])
    many = random_images(REMEMBERED + 100, seed=5)
    for start in range(0, len(many), 512):
        compare(index, many[start : start + 512])
    assert compare(index, noisy(PICTURES[:1])).near == 0
    arrays = [part for part in vars(index).values() if isinstance(part, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 240 * 2**10


def test_hash_codes_depend_on_the_secret() -> None:
    grids = sampled(PICTURES[:1])
    assert np.array_equal(ImageHasher(b"secret").codes(grids), HASHER.codes(grids))
    assert not np.array_equal(ImageHasher(b"other").codes(grids), HASHER.codes(grids))


@given(st.integers(1, 70), st.integers(1, 300))
@settings(deadline=None, max_examples=20)
def test_images_of_any_size_have_hash_codes(height: int, width: int) -> None:
    grids = sampled(np.full((2, height, width, 3), 7, np.uint8))
    assert max(grids.shape) <= 63
    assert HASHER.codes(grids).shape == (2, 18, 2)


def test_distances_are_measured_within_one_class() -> None:
    index = HashIndex()
    compare(index, PICTURES[:1], label=1)
    assert compare(index, PICTURES[1:2], label=2).distances == b""
    assert len(compare(index, PICTURES[2:3], label=1).distances) == 1
