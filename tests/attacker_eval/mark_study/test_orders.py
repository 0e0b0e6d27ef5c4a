"""A secret order of the runners-up: the set stays, followers are found, innocents are not."""

import numpy as np
import pytest

from stingy_attacker_eval.mark_study.orders import (
    Float64,
    Int64,
    match_orders,
    order_answers,
    secret_orders,
    weigh_pairs,
)
from stingy_attacker_eval.oracle.oracle import Answers

CLASSES, SUPPORT, IMAGES = 8, 4, 600
GENERATOR = np.random.default_rng(0)
TEACHER: Float64 = GENERATOR.normal(size=(IMAGES, CLASSES))
LISTS: Int64 = (-TEACHER).argsort(axis=1)[:, :SUPPORT]
SECRET = b"secret"


def follower(strength: float, *, seed: int) -> Float64:
    """Return the teacher with noise of its own, moved towards the secret order."""
    noise = np.random.default_rng(seed).normal(size=TEACHER.shape)
    ranks = secret_orders(SECRET, CLASSES)[LISTS[:, 0]]
    found: Float64 = TEACHER + noise - strength * ranks
    return found


def test_first_class_set_and_scores_of_the_places_stay() -> None:
    scores = np.tile(np.array([-0.5, -1, -2, -3], np.float32), (IMAGES, 1))
    answers = Answers(LISTS, scores, CLASSES, "log_prob")
    ranks = secret_orders(SECRET, CLASSES)
    found = order_answers(answers, ranks)
    assert found.top1.tolist() == answers.top1.tolist()
    assert np.sort(found.indices).tolist() == np.sort(LISTS).tolist()
    assert found.scores is scores
    placed = ranks[found.indices[:, :1], found.indices[:, 1:]]
    assert (np.diff(placed, axis=1) > 0).all()


def test_secret_orders_differ_by_class_and_secret() -> None:
    ranks = secret_orders(SECRET, CLASSES)
    assert np.sort(ranks).tolist() == [list(range(CLASSES))] * CLASSES
    assert len(np.unique(ranks, axis=0)) > CLASSES / 2
    assert (ranks != secret_orders(b"other", CLASSES)).any()


@pytest.mark.parametrize("reference", ["teacher", "innocents"])
def test_student_that_follows_the_order_is_found(reference: str) -> None:
    beyond = TEACHER
    if reference == "innocents":
        beyond = np.mean([follower(0.0, seed=seed) for seed in range(5)], axis=0)
    pairs = weigh_pairs(LISTS, follower(0.2, seed=9), beyond)
    found = match_orders(pairs, SECRET, num_classes=CLASSES, others=300)
    assert found.z > 4
    assert found.p_value == pytest.approx(1 / 301)


def test_innocents_have_small_p_values_no_more_than_alpha() -> None:
    values = [
        match_orders(
            weigh_pairs(LISTS, follower(0.0, seed=seed), TEACHER),
            f"secret {seed}".encode(),
            num_classes=CLASSES,
            others=49,
        ).p_value
        for seed in range(100)
    ]
    assert np.mean(np.array(values) <= 0.1) <= 0.1 + 2 * (0.09 / 100) ** 0.5
