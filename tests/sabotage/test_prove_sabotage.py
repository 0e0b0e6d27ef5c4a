"""A broken null distribution accuses innocents, and the check of the promise finds it."""

import numpy as np
import numpy.typing as npt
import pytest

from exhibits import assert_innocents_pass
from stingy_attacker_eval.ownership.statistics import MatchTest, count_matches

Bools = npt.NDArray[np.bool_]


def test_Z_null_that_counts_every_class_is_caught() -> None:
    def count_of_all_classes(
        matched: Bools, among: Bools, places: npt.NDArray[np.int64]
    ) -> MatchTest:
        return count_matches(matched, among, np.full(len(places), 10, np.int64))

    with pytest.raises(AssertionError, match=r"at 0\.1"):
        assert_innocents_pass(count_of_all_classes, tries=300)
