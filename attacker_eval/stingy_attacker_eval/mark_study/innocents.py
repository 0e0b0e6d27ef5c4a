"""Innocents: students that never read a mark, each tried against many other secrets."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.mark_study.marking import draw_marks
from stingy_attacker_eval.mark_study.orders import Int64
from stingy_attacker_eval.mark_study.rows import LEVELS, Accusations
from stingy_attacker_eval.ownership.statistics import MatchTest, count_matches


def accuse(
    classes: Sequence[Int64],
    preferred: Sequence[Int64],
    images: Images,
    runners_up: Int64,
    *,
    shares: Sequence[float],
    secrets: int,
    num_classes: int,
) -> list[tuple[Accusations, ...]]:
    """Try students against secrets that none of them met, for each student and share.

    classes: each student's classes of the images, int64 `[n]`.
    preferred: the place of the runner-up that the student scores highest, int64 `[n]`.
    images: uint8 `[n, H, W, 3]`.
    runners_up: the teacher's, int64 `[n, m]`.
    """
    most = runners_up.shape[1]
    tests: dict[tuple[int, float], list[tuple[MatchTest, MatchTest]]] = {}
    for number in range(secrets):
        secret = hashlib.sha256(f"another secret {number}".encode()).digest()
        drawn = draw_marks(secret, images, shares=shares, runners_up=most, num_classes=num_classes)
        for share, rows, places in drawn:
            marks = runners_up[rows, places]
            sizes = np.full(len(rows), most, np.int64)
            for student, (own, best) in enumerate(zip(classes, preferred, strict=True)):
                among = (runners_up[rows] == own[rows, None]).any(axis=1)
                pair = (
                    count_matches(own[rows] == marks, among, sizes),
                    count_matches(best[rows] == places, np.ones(len(rows), bool), sizes),
                )
                tests.setdefault((student, share), []).append(pair)
    return [
        tuple(_summarise(share, tests[student, share]) for share in shares)
        for student in range(len(classes))
    ]


def _summarise(share: float, tests: Sequence[tuple[MatchTest, MatchTest]]) -> Accusations:
    own, preferred = (
        np.array([np.nan if test.p_value is None else test.p_value for test in column])
        for column in zip(*tests, strict=True)
    )
    return Accusations(
        share=share,
        tried=len(tests),
        judged=int(np.isfinite(own).sum()),
        at_most=_count_levels(own),
        preferred=_count_levels(preferred),
    )


def _count_levels(values: NDArray[np.float64]) -> dict[str, int]:
    return {f"{level:g}": int((values <= level).sum()) for level in LEVELS}
