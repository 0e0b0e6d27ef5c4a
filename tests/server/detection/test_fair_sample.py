"""Each key gets its share of the compared images, whatever the others send."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checks import assert_share_beside_a_flood
from serving import random_images
from stingy_protection import SparseLogits, build_policy, sanitize
from stingy_server.codec.images import Pixels
from stingy_server.detection import fair_sample
from stingy_server.detection.fair_sample import (
    FairSample,
    KeySample,
    cut_to_shares,
    equal_shares,
    reduce_images,
)
from stingy_server.detection.image_hashes import ImageHasher

HASHER = ImageHasher(b"secret")


def answer(count: int) -> SparseLogits:
    return sanitize(build_policy("label", num_classes=10), torch.zeros(count, 10))


def compared(sample: FairSample, limit: int) -> dict[str, int]:
    taken = sample.take()
    cut_to_shares(taken, limit)
    return {key: len(each.chosen) for key, each in taken.items()}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 100), max_size=12), st.integers(1, 200))
def test_W2_shares_are_max_min_fair(wanted: dict[str, int], limit: int) -> None:
    shares = equal_shares(wanted, limit)
    assert sum(shares.values()) == min(limit, sum(wanted.values()))
    assert all(shares[key] <= wanted[key] for key in wanted)
    cut = [shares[key] for key in wanted if shares[key] < wanted[key]]
    if cut:  # no key gets more than one image above a key that is cut
        assert max(shares.values()) <= min(cut) + 1


@pytest.mark.parametrize("order", ["before", "after", "between"])
@pytest.mark.parametrize("batch", [1, 32, 256])
def test_W2_flood_leaves_another_key_its_share(order: str, batch: int) -> None:
    assert_share_beside_a_flood(lambda limit: FairSample(limit, HASHER), order=order, batch=batch)


def test_W2_one_key_alone_is_compared_up_to_the_limit() -> None:
    sample = FairSample(100, HASHER)
    sample.add("a", "m", random_images(256), answer(256), 1.0)
    assert compared(sample, 100) == {"a": 100}


def test_W2_many_floods_share_equally() -> None:
    sample = FairSample(100, HASHER)
    for key in "abcde":
        for _ in range(3):
            sample.add(key, "m", random_images(64), answer(64), 1.0)
    assert compared(sample, 100) == dict.fromkeys("abcde", 20)


def test_more_keys_than_the_limit_get_one_image_at_most() -> None:
    sample = FairSample(5, HASHER)
    for number in range(12):
        sample.add(f"k{number}", "m", random_images(2), answer(2), 1.0)
    shares = compared(sample, 5)
    assert sorted(shares.values()) == [0] * 7 + [1] * 5


def test_images_of_a_key_are_chosen_with_equal_chances() -> None:
    """Count how often each of 200 images is among the 20 compared: 50 times of 500 is expected."""
    counts = np.zeros(200)
    for _ in range(500):
        sample = FairSample(20, HASHER)
        for start in (0, 1, 8, 100):
            end = {0: 1, 1: 8, 8: 100, 100: 200}[start]
            images = np.arange(start, end, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
            sample.add("a", "m", images, answer(end - start), 1.0)
        for image in sample.take()["a"].chosen:
            assert image.batch is not None
            counts[image.batch[image.row, 0, 0, 0]] += 1
    assert counts.sum() == 10_000
    assert 15 < counts.min() < counts.max() < 100
    assert abs(counts[:100].mean() - 50) < 5


def test_pixels_are_dropped_once_they_are_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_sample, "WAKE_BYTES", 10 * random_images(1).nbytes)
    sample = FairSample(100, HASHER)
    woken = [sample.add("a", "m", random_images(1), answer(1), 1.0) for _ in range(10)]
    assert woken == [False] * 9 + [True]
    waiting = sample.waiting()
    assert len(waiting) == 10
    reduce_images(waiting, HASHER)
    assert sample.waiting() == []
    assert not sample.add("a", "m", random_images(1), answer(1), 1.0)


@pytest.mark.parametrize("count", [1, 100])
def test_request_beyond_the_waiting_bytes_is_sampled_at_once(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(fair_sample, "WAITING_BYTES", 0)
    sample = FairSample(500, HASHER)
    sample.add("a", "m", random_images(count), answer(count), 1.0)
    assert sample.waiting() == []
    (taken,) = sample.take().values()
    assert (taken.images, len(taken.chosen)) == (count, min(count, fair_sample.INLINE))
    assert all(image.thumbnail is not None for image in taken.chosen)


def test_reduced_images_keep_their_own_digests_and_classes() -> None:
    images: Callable[[int], Pixels] = lambda side: np.stack(  # noqa: E731
        [np.full((side, side, 3), number, np.uint8) for number in range(5)]
    )
    logits = torch.eye(5, 10)
    top = sanitize(build_policy("label", num_classes=10), logits)
    sample = FairSample(100, HASHER)
    for side in (8, 40):
        sample.add("a", "m", images(side), top, 1.0)
    taken: KeySample = sample.take()["a"]
    reduce_images(taken.chosen, HASHER)
    assert [image.top1 for image in taken.chosen] == [0, 1, 2, 3, 4] * 2
    expected = HASHER.reduce(images(8))[0] + HASHER.reduce(images(40))[0]
    assert [image.digest for image in taken.chosen] == expected
    assert len(set(expected)) == 10
