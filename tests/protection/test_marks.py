"""The choice of marked inputs, by the secret, the model and the coarse pixels alone."""

import numpy as np
import pytest

from marking import OTHER_SECRET, SECRET, assert_rate_is_exact, differing
from serving import random_images
from stingy_protection.marks import Chooser
from watched_images import PICTURES, noisy

CHOOSER = Chooser(SECRET.value, share=0.005, runners_up=3)
OFTEN = Chooser(SECRET.value, share=0.1, runners_up=3)


def test_Y4_rate_of_marks_is_exact() -> None:
    assert_rate_is_exact(
        lambda digest: CHOOSER.choose("digits", digest, num_classes=10), share=0.005
    )


def test_Y4_choice_follows_from_secret_model_and_input() -> None:
    codes = OFTEN.codes(random_images(300))
    chosen = [OFTEN.choose("digits", code, num_classes=10) for code in codes]
    same = Chooser(SECRET.value, share=0.1, runners_up=3)
    assert [same.choose("digits", code, num_classes=10) for code in codes] == chosen
    for model, secret in (("cats", SECRET), ("digits", OTHER_SECRET)):
        other = Chooser(secret.value, share=0.1, runners_up=3)
        assert differing([other.choose(model, code, num_classes=10) for code in codes], chosen)


def test_larger_share_marks_the_same_inputs_and_more() -> None:
    digests = [number.to_bytes(8) for number in range(4_000)]
    few, many = (
        {digest for digest in digests if each.choose("m", digest, num_classes=10).marked}
        for each in (CHOOSER, OFTEN)
    )
    assert few
    assert few < many


@pytest.mark.parametrize("classes", [2, 3, 4, 1000])
def test_marks_have_no_more_places_than_classes(classes: int) -> None:
    found = {
        OFTEN.choose("m", number.to_bytes(8), num_classes=classes).place for number in range(200)
    }
    assert found == set(range(1, min(3, classes - 1) + 1))


def test_Y4_near_copies_mostly_share_their_choice() -> None:
    codes = CHOOSER.codes(PICTURES)
    low_bit = PICTURES.copy()
    low_bit[:, 3, 5, 2] ^= 1
    brighter = np.clip(PICTURES, 0, 245) + np.uint8(4)
    assert len(set(codes)) == len(codes)
    assert len(differing(CHOOSER.codes(low_bit), codes)) < len(codes) / 50
    assert len(differing(CHOOSER.codes(brighter), CHOOSER.codes(np.clip(PICTURES, 0, 245)))) == 0
    assert len(differing(CHOOSER.codes(noisy(PICTURES)), codes)) < len(codes) / 2


def test_size_of_an_image_is_part_of_its_code() -> None:
    small, large = (np.full((1, side, side, 3), 7, np.uint8) for side in (8, 16))
    assert CHOOSER.codes(small) != CHOOSER.codes(large)
