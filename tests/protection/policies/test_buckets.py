"""Policies of a ranked list and a bucket: nothing else of the row affects the answer."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policy_strategies import finite_logits, normal_logits
from stingy_protection import (
    ClassPrototype,
    PolicyConfigError,
    RankedBuckets,
    ScoreForm,
    class_prototypes,
    sanitize,
    write_prototypes,
)
from stingy_protection.policies.buckets import read_prototypes

LISTS = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
PROB = ScoreForm.PROB


def shares(*values: float) -> Tensor:
    return torch.tensor([values]).log()


def test_ranked_buckets_give_the_order_and_the_buckets_middle() -> None:
    policy = RankedBuckets(num_classes=4, n=3, buckets=4, scores=PROB)
    answer = sanitize(policy, shares(0.04, 0.8, 0.01, 0.15))
    assert answer.indices.tolist() == [[1, 3, 0]]
    assert answer.scores is not None
    # 0.8 lies in 0.75..1; the rest of 0.875 goes to ranks 2 and 3 as 1/4 to 1/5.
    expected = [0.875, 0.125 * 5 / 9, 0.125 * 4 / 9]
    assert answer.scores[0].tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("n", [2, 10, 100])
@pytest.mark.parametrize("confidence", [0.1, 0.4, 0.6, 0.9999])
def test_the_order_is_visible_in_every_bucket_on_the_grid(n: int, confidence: float) -> None:
    logits = normal_logits(1, 200, scale=0.5).log_softmax(dim=1)
    first = logits.argmax()
    logits[0, first] = logits[0, first].exp().neg().log1p() + torch.tensor(confidence).logit()
    answer = sanitize(RankedBuckets(num_classes=200, n=n), logits)
    assert answer.indices[0].tolist() == logits[0].argsort(descending=True)[:n].tolist()
    assert answer.scores is not None
    assert (answer.scores[0, 1:].diff() < 0).all()
    if n > 2:
        bucket = int(confidence * 4)
        assert answer.scores[0, 0].exp().item() == pytest.approx((bucket + 0.5) / 4, abs=5e-3)


@settings(max_examples=60)
@given(logits=finite_logits(), data=st.data(), buckets=st.integers(1, 8))
def test_ranked_buckets_have_at_most_one_answer_per_bucket(
    logits: Tensor, data: st.DataObject, buckets: int
) -> None:
    classes = logits.shape[1]
    n = data.draw(st.integers(1, classes))
    policy = RankedBuckets(num_classes=classes, n=n, buckets=buckets)
    answer = sanitize(policy, logits)
    assert answer.scores is not None
    assert len({tuple(row) for row in answer.scores.tolist()}) <= buckets
    assert torch.equal(answer.scores[:, 0], answer.scores.amax(dim=1))


@settings(max_examples=40)
@given(logits=finite_logits(max_classes=6), buckets=st.integers(1, 8))
def test_class_prototypes_have_one_answer_per_class_and_bucket(
    logits: Tensor, buckets: int
) -> None:
    classes = logits.shape[1]
    lists = class_prototypes(normal_logits(30, classes), n=classes)
    policy = ClassPrototype(num_classes=classes, lists=lists, n=classes, buckets=buckets)
    answer = sanitize(policy, logits)
    assert answer.scores is not None
    for row in range(len(logits)):
        assert sorted(answer.indices[row].tolist()) == list(range(classes))
    by_class: dict[int, set[tuple[float, ...]]] = {}
    for indices, scores in zip(answer.indices.tolist(), answer.scores.tolist(), strict=True):
        dense = [score for _, score in sorted(zip(indices, scores, strict=True))]
        by_class.setdefault(indices[0], set()).add(tuple(dense))
    assert all(len(answers) <= buckets for answers in by_class.values())


def test_class_prototype_answers_with_the_predicted_class_list() -> None:
    policy = ClassPrototype(num_classes=3, lists=LISTS, n=3, scores=ScoreForm.RANK)
    logits = torch.cat([shares(0.1, 0.5, 0.4), shares(0.45, 0.5, 0.05), shares(0.3, 0.2, 0.5)])
    assert sanitize(policy, logits).indices.tolist() == [[1, 2, 0], [1, 2, 0], [2, 0, 1]]


def test_a_confidence_of_one_half_always_gets_one_bucket() -> None:
    policy = RankedBuckets(num_classes=200, n=1, buckets=2, scores=ScoreForm.LOGIT)
    halves = torch.full((1, 200), -80.0)
    halves[0, :2] = 3.3
    answer = sanitize(policy, halves)
    assert answer.scores is not None
    assert answer.scores.exp().item() == pytest.approx(0.75, abs=1e-3)


def test_canonical_lists_rank_by_the_mean_of_the_classs_rows() -> None:
    rows = torch.cat(
        [
            shares(0.6, 0.3, 0.1),
            shares(0.6, 0.1, 0.3),
            shares(0.5, 0.05, 0.45),
            shares(0.1, 0.8, 0.1),
        ]
    )
    # No row is predicted as class 2: over all rows, 0 is likelier than 1.
    assert class_prototypes(rows, n=3) == ((0, 2, 1), (1, 0, 2), (2, 0, 1))
    assert class_prototypes(rows, n=2) == ((0, 2), (1, 0), (2, 0))


def test_written_lists_can_be_read(tmp_path: Path) -> None:
    write_prototypes(tmp_path / "lists.json", LISTS)
    assert read_prototypes(str(tmp_path / "lists.json")) == LISTS


def test_the_fingerprint_depends_on_the_lists_repr_hides_them() -> None:
    policy = ClassPrototype(num_classes=3, lists=LISTS, n=3)
    other = ClassPrototype(num_classes=3, lists=((0, 2, 1), *LISTS[1:]), n=3)
    assert policy.fingerprint != other.fingerprint
    assert "(0, 1, 2)" not in repr(policy)


@pytest.mark.parametrize(
    "lists",
    [
        (),
        LISTS[:2],
        (*LISTS[:2], (0, 2, 1)),
        (*LISTS[:2], (2, 2, 1)),
        (*LISTS[:2], (2, 0)),
        (*LISTS[:2], (2, 0, 3)),
        (*LISTS[:2], (2, 0, "1")),
        [[0, 1, 2], [1, 2, 0], [2, 0, 1]],
        "lists",
    ],
    ids=str,
)
def test_lists_that_are_not_one_ranking_per_class_are_a_fault(lists: object) -> None:
    with pytest.raises(PolicyConfigError, match="expected lists of 3 classes"):
        ClassPrototype(num_classes=3, lists=lists, n=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("buckets", [0, 101, 1.0, True])
def test_buckets_outside_one_to_a_hundred_are_a_fault(buckets: int) -> None:
    with pytest.raises(PolicyConfigError, match="buckets"):
        RankedBuckets(num_classes=3, n=2, buckets=buckets)
    with pytest.raises(PolicyConfigError, match="buckets"):
        ClassPrototype(num_classes=3, lists=LISTS, n=2, buckets=buckets)


@pytest.mark.parametrize(
    ("logits", "n"),
    [
        (torch.zeros(0, 3), 2),
        (torch.zeros(3), 2),
        (torch.zeros(2, 3, dtype=torch.int64), 2),
        (torch.full((2, 3), torch.nan), 2),
        (torch.zeros(2, 3), 4),
        (torch.zeros(2, 3), 0),
    ],
    ids=str,
)
def test_calibration_rows_of_a_wrong_kind_are_refused(logits: Tensor, n: int) -> None:
    with pytest.raises(PolicyConfigError):
        class_prototypes(logits, n=n)
