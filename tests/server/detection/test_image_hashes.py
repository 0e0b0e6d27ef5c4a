"""Images that look alike are near-duplicates, and the index of a key is bounded."""

import tracemalloc
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
)
from watched_images import PICTURES, noisy, noisy_in

HASHER = ImageHasher(b"secret")


def compare(index: HashIndex, images: Pixels, label: int = 0) -> BatchStats:
    digests, reduced = HASHER.reduce(np.ascontiguousarray(images))
    labels = np.full(len(images), label, np.int32)
    return index.compare(np.array(digests, np.uint64), HASHER.codes(reduced), labels)


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


def test_hashes_depend_on_the_secret() -> None:
    digests, reduced = HASHER.reduce(PICTURES[:1])
    same, other = ImageHasher(b"secret"), ImageHasher(b"other")
    assert same.reduce(PICTURES[:1])[0] == digests != other.reduce(PICTURES[:1])[0]
    assert np.array_equal(same.codes(reduced), HASHER.codes(reduced))
    assert not np.array_equal(other.codes(reduced), HASHER.codes(reduced))


def test_H11_codes_of_many_images_take_no_more_memory_at_once() -> None:
    reduced = np.random.default_rng(0).integers(0, 256 * 16, (1000, 8, 8, 3))
    tracemalloc.start()
    codes = HASHER.codes(list(reduced))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * 2**20
    assert np.array_equal(codes[-3:], HASHER.codes(reduced[-3:]))


@given(st.integers(1, 70), st.integers(1, 300))
@settings(max_examples=20)
def test_images_of_any_size_have_hash_codes(height: int, width: int) -> None:
    digests, reduced = HASHER.reduce(np.full((2, height, width, 3), 7, np.uint8))
    assert digests[0] == digests[1]
    assert np.array_equal(reduced, np.full((2, 8, 8, 3), 7 * 16))
    assert HASHER.codes(reduced).shape == (2, 18, 2)


@pytest.mark.parametrize("side", [8, 32, 224])
@pytest.mark.parametrize("channels", [(0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_W1_low_bits_of_any_channel_are_near_not_repeats(
    channels: tuple[int, ...], side: int
) -> None:
    scaled = PICTURES[:20, :: 32 // side] if side < 32 else np.repeat(PICTURES[:20], side // 32, 1)
    images = scaled[:, :, :: 32 // side] if side < 32 else np.repeat(scaled, side // 32, 2)
    index = HashIndex()
    assert compare(index, images).near == 0
    changed = images.copy()
    changed[..., list(channels)] ^= 1
    second = compare(index, changed)
    assert (second.novel, second.repeats) == (20, 0)
    assert second.near >= 19


@pytest.mark.parametrize("place", [(0, 0, 0), (13, 5, 2), (223, 223, 1), (222, 1, 0)], ids=str)
def test_W1_one_pixel_anywhere_makes_a_near_duplicate(place: tuple[int, int, int]) -> None:
    images = np.repeat(np.repeat(PICTURES[:5], 7, axis=1), 7, axis=2)
    changed = images.copy()
    changed[:, *place] ^= 255
    index = HashIndex()
    compare(index, images)
    second = compare(index, changed)
    assert (second.novel, second.near, second.repeats) == (5, 5, 0)


def test_W1_images_of_other_colours_are_no_near_duplicates() -> None:
    index = HashIndex()
    compare(index, PICTURES[:100])
    others = PICTURES[:100].copy()
    others[..., [0, 2]] = PICTURES[100:200][..., [0, 2]]  # the green channel stays
    second = compare(index, others)
    assert (second.novel, second.near) == (100, 0)


def test_W1_noise_in_red_and_blue_counts_as_in_all_channels() -> None:
    for channels in ((0, 2), (0, 1, 2)):
        index = HashIndex()
        compare(index, PICTURES[:100])
        assert compare(index, noisy_in(PICTURES[:100], channels)).near >= 95


def test_distances_are_measured_within_one_class() -> None:
    index = HashIndex()
    compare(index, PICTURES[:1], label=1)
    assert compare(index, PICTURES[1:2], label=2).distances == b""
    assert len(compare(index, PICTURES[2:3], label=1).distances) == 1
