"""Another mark, as an experiment: a secret order of the runners-up of a list, for each class.

The first class and the set of the N classes stay. A student that learns the order of lists takes
the secret order over, and one that learns a list as a set does not.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.oracle.oracle import Answers

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
_CLIP = 2.0  # nats; a single pair may not outweigh many others


@dataclass(frozen=True)
class OrderTest:
    """The agreement of a suspect's margins with a secret order.

    z: its distance from the mean over other secrets, in their standard deviations.
    p_value: the share of secrets, with this one, under which the agreement is as large.
    """

    z: float
    p_value: float


@dataclass(frozen=True, eq=False)
class PairWeights:
    """The sums of margins of a suspect, for each class and each pair of its runners-up.

    groups, left, right: the class, and the pair of classes after it, int64 `[pairs]`.
    weights: how much the suspect prefers the left one, float64 `[pairs]`.
    """

    groups: Int64
    left: Int64
    right: Int64
    weights: Float64


def secret_orders(secret: bytes, num_classes: int) -> Int64:
    """Return the rank of each class after each other class, int64 `[K, K]`."""
    stream = hashlib.shake_256(b"stingy order marks" + secret)
    draws = np.frombuffer(stream.digest(8 * num_classes**2), np.uint64)
    return draws.reshape(num_classes, num_classes).argsort(axis=1, kind="stable")


def order_answers(answers: Answers, ranks: Int64) -> Answers:
    """Put the classes after the first in the secret order; the scores of the places stay.

    ranks: as `secret_orders` returns them.
    """
    first, others = answers.indices[:, :1], answers.indices[:, 1:]
    places = ranks[first, others].argsort(axis=1, kind="stable")
    indices = np.concatenate([first, np.take_along_axis(others, places, axis=1)], axis=1)
    return Answers(indices, answers.scores, answers.num_classes, answers.form)


def weigh_pairs(lists: Int64, suspect: Float64, reference: Float64) -> PairWeights:
    """Sum a suspect's margins over a reference's, for each class and pair of runners-up.

    lists: the teacher's N classes of some images, int64 `[n, N]`.
    suspect, reference: log-probabilities of all classes, float64 `[n, K]`.
    """
    count = reference.shape[1]
    beyond = np.take_along_axis(suspect - reference, lists, axis=1)
    sums: Float64 = np.zeros((count, count, count))
    places = range(1, lists.shape[1])
    for one in places:
        for other in range(one + 1, lists.shape[1]):
            margin = np.clip(beyond[:, one] - beyond[:, other], -_CLIP, _CLIP)
            np.add.at(sums, (lists[:, 0], lists[:, one], lists[:, other]), margin)
    groups, left, right = np.nonzero(sums)
    return PairWeights(groups, left, right, sums[groups, left, right])


def match_orders(pairs: PairWeights, secret: bytes, *, num_classes: int, others: int) -> OrderTest:
    """Compare a suspect's agreement with a secret order to that with other secret orders.

    The orders of all secrets are drawn alike, so a suspect that is independent of them has any
    rank among them with the same probability. The p-value is exact for every suspect.
    """
    agreement = _agree(pairs, secret_orders(secret, num_classes))
    drawn = np.array(
        [
            _agree(pairs, secret_orders(f"another order {number}".encode(), num_classes))
            for number in range(others)
        ]
    )
    spread = float(drawn.std())
    return OrderTest(
        z=(agreement - float(drawn.mean())) / spread if spread else 0.0,
        p_value=(1 + int((drawn >= agreement).sum())) / (1 + others),
    )


def _agree(pairs: PairWeights, ranks: Int64) -> float:
    ahead = ranks[pairs.groups, pairs.right] - ranks[pairs.groups, pairs.left]
    return float((pairs.weights * np.sign(ahead)).sum())
