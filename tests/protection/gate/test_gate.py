"""The gate: the inputs it accepts, the answers it builds, and their order."""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from checks import assert_n_largest
from policy_strategies import build_shipped, finite_logits, make_noise, normal_logits
from stingy_protection import (
    LogitsRejected,
    Open,
    Policy,
    PolicyViolation,
    Proposal,
    ProtectionError,
    RankedLabels,
    Reversed,
    Rounded,
    ScoreForm,
    SparseLogits,
    Stingy,
    StingySmooth,
    best_first,
    policy_names,
    sanitize,
)

torch.set_num_threads(1)
SCORED = (ScoreForm.LOG_PROB, ScoreForm.PROB, ScoreForm.LOGIT)


@dataclass(frozen=True, kw_only=True)
class Scripted(Policy):
    """A policy that proposes what the test scripts."""

    name: ClassVar[str] = "scripted"
    n: int = 2
    script: Callable[[Tensor], Proposal]

    @property
    def support(self) -> int:
        return self.n

    def propose(self, logits: Tensor) -> Proposal:
        return self.script(logits)


def scores_of(answer: SparseLogits) -> Tensor:
    assert answer.scores is not None
    return answer.scores


def same(left: SparseLogits, right: SparseLogits) -> bool:
    return torch.equal(left.indices, right.indices) and torch.equal(
        scores_of(left), scores_of(right)
    )


def expected_order(row: Tensor) -> list[int]:
    values = row.tolist()
    return sorted(range(len(values)), key=lambda index: (-values[index], index))


@settings(max_examples=150)
@given(logits=finite_logits(), data=st.data())
def test_P1_the_n_largest_leave_in_order_ties_by_index(logits: Tensor, data: st.DataObject) -> None:
    classes = logits.shape[1]
    n = data.draw(st.integers(1, classes))
    answer = sanitize(RankedLabels(num_classes=classes, n=n), logits)
    assert_n_largest(logits, answer.indices, n)


@settings(max_examples=150)
@given(
    logits=finite_logits(),
    data=st.data(),
    form=st.sampled_from(SCORED),
    decimals=st.integers(0, 6),
)
def test_P1_scored_answers_have_the_n_largest_sorted_by_score(
    logits: Tensor, data: st.DataObject, form: ScoreForm, decimals: int
) -> None:
    classes = logits.shape[1]
    n = data.draw(st.integers(1, classes))
    answer = sanitize(Stingy(num_classes=classes, n=n, scores=form, decimals=decimals), logits)
    assert torch.isfinite(scores_of(answer)).all()
    for row, indices, scores in zip(
        logits, answer.indices.tolist(), scores_of(answer).tolist(), strict=True
    ):
        best = expected_order(row)[:n]
        assert indices[0] == best[0]
        assert set(indices) == set(best)
        tail = list(zip([-score for score in scores[1:]], indices[1:], strict=True))
        assert tail == sorted(tail)
        assert scores[0] == max(scores)
        assert not any(score == 0 and math.copysign(1, score) < 0 for score in scores)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_P2_logits_that_are_not_finite_are_rejected(bad: float) -> None:
    logits = normal_logits(3, 5)
    logits[1, 4] = bad
    with pytest.raises(LogitsRejected, match="finite"):
        sanitize(Stingy(num_classes=5, n=2), logits)


@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(0, 5),
        torch.zeros(5),
        torch.zeros(1, 1, 5),
        torch.zeros(2, 4),
        torch.zeros(2, 6),
        torch.zeros(2, 5, dtype=torch.int64),
        torch.zeros(2, 5, dtype=torch.bool),
        torch.zeros(2, 5, dtype=torch.complex64),
        torch.zeros(2, 5, requires_grad=True),
        torch.full((2, 5), 1e300, dtype=torch.float64),
        [[0.0] * 5],
    ],
    ids=str,
)
def test_P2_logits_of_a_wrong_type_or_shape_are_rejected(logits: Tensor) -> None:
    with pytest.raises(LogitsRejected):
        sanitize(Stingy(num_classes=5, n=2), logits)


def test_finite_logits_whose_sum_overflows_are_accepted() -> None:
    answer = sanitize(Stingy(num_classes=3, n=2), torch.tensor([[3e38, 3e38, -3e38]]))
    assert answer.indices.tolist() == [[0, 1]]


@pytest.mark.parametrize("form", SCORED)
def test_scores_stay_finite_at_the_ends_of_float32(form: ScoreForm) -> None:
    policy = Open(num_classes=3, scores=form, decimals=6)
    answer = sanitize(policy, torch.tensor([[3.4e38, 0.0, -3.4e38]]))
    assert answer.indices[0, 0].item() == 0
    assert torch.isfinite(scores_of(answer)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_type_is_converted_to_float32(dtype: torch.dtype) -> None:
    logits = normal_logits(4, 10).to(dtype)
    policy = Stingy(num_classes=10, n=3)
    assert same(sanitize(policy, logits), sanitize(policy, logits.float()))


@settings(max_examples=60)
@given(logits=finite_logits(max_rows=6), name=st.sampled_from(policy_names()), data=st.data())
def test_P3_a_row_has_the_same_answer_in_any_batch(
    logits: Tensor, name: str, data: st.DataObject
) -> None:
    policy = build_shipped(name, logits.shape[1])

    def answer(rows: Tensor) -> SparseLogits:
        return sanitize(policy, rows, noise=make_noise(policy, rows))

    rows = logits.shape[0]
    order = data.draw(st.permutations(range(rows)))
    batch = answer(logits)
    shuffled = answer(logits[order])
    crowded = answer(torch.cat([logits.flip(1), logits]))
    for place, row in enumerate(order):
        single = answer(logits[row : row + 1])
        for other in (
            batch.rows(row, row + 1),
            shuffled.rows(place, place + 1),
            crowded.rows(rows + row, rows + row + 1),
        ):
            assert torch.equal(single.indices, other.indices)
            if single.scores is not None:
                assert torch.equal(single.scores, scores_of(other))


LOGITS = torch.tensor([[1.0, 4.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("form", "decimals", "expected"),
    [
        # top-2 of LOGITS: 4 and 3; softmax over them is 1/(1+e^-1) = 0.73106 and 0.26894.
        (ScoreForm.LOGIT, 3, [4.0, 3.0]),
        (ScoreForm.PROB, 3, [0.731, 0.269]),
        (ScoreForm.PROB, 1, [0.7, 0.3]),
        (ScoreForm.PROB, 0, [1.0, 0.0]),
        (ScoreForm.LOG_PROB, 3, [-0.313, -1.313]),
        (ScoreForm.LOG_PROB, 0, [0.0, -1.0]),
        (ScoreForm.RANK, 3, [1.0, 2.0]),
    ],
)
def test_score_forms_match_hand_computed_values(
    form: ScoreForm, decimals: int, expected: list[float]
) -> None:
    answer = sanitize(Stingy(num_classes=4, n=2, scores=form, decimals=decimals), LOGITS)
    assert answer.indices.tolist() == [[1, 3]]
    assert torch.equal(scores_of(answer), torch.tensor([expected]))
    assert (answer.form, answer.decimals, answer.num_classes) == (form, decimals, 4)


def test_the_form_none_has_no_scores() -> None:
    answer = sanitize(Stingy(num_classes=4, n=2, scores=ScoreForm.NONE), LOGITS)
    assert (answer.scores, answer.indices.tolist()) == (None, [[1, 3]])


def test_equal_rounded_scores_after_the_top1_go_by_index() -> None:
    logits = torch.tensor([[0.1, 0.3, 0.4, 0.2, 9.0, 0.0, -9.0]])
    policy = Open(num_classes=7, scores=ScoreForm.LOGIT, decimals=0)
    assert sanitize(policy, logits).indices.tolist() == [[4, 0, 1, 2, 3, 5, 6]]


@settings(max_examples=60)
@given(steps=st.lists(st.integers(-4, 4), min_size=3, max_size=12), data=st.data())
def test_changes_below_the_grid_affect_only_the_first_entry(
    steps: list[int], data: st.DataObject
) -> None:
    below = st.lists(st.floats(-0.375, 0.375, width=32), min_size=len(steps), max_size=len(steps))
    base = torch.tensor(steps, dtype=torch.float32)
    policy = Rounded(num_classes=len(steps), scores=ScoreForm.LOGIT, decimals=0)
    answers = [
        sanitize(policy, (base + torch.tensor(data.draw(below))).unsqueeze(0)) for _ in range(2)
    ]
    lists = [
        [pair for pair in zip(scores_of(a)[0].tolist(), a.indices[0].tolist(), strict=True)]
        for a in answers
    ]
    # Sorted by score and index, both answers are equal: only the first entry has another place.
    canonical = [sorted(pairs, key=lambda pair: (-pair[0], pair[1])) for pairs in lists]
    assert canonical[0] == canonical[1]
    assert all(
        pairs[1:] == [p for p in c if p != pairs[0]]
        for pairs, c in zip(lists, canonical, strict=True)
    )


@pytest.mark.parametrize("scale", [1.0, 1e12, 1e30])
def test_entries_go_by_score_then_index_at_any_scale(scale: float) -> None:
    logits = normal_logits(20, 30).round() * scale
    answer = sanitize(Reversed(num_classes=30, scores=ScoreForm.LOGIT, decimals=6), logits)
    for indices, scores in zip(answer.indices.tolist(), scores_of(answer).tolist(), strict=True):
        tail = list(zip([-s for s in scores[1:]], indices[1:], strict=True))
        assert tail == sorted(tail)


def test_L4_an_answers_storage_and_pickle_do_not_grow_with_k() -> None:
    sizes = set()
    for classes in (10, 10_000):
        answer = sanitize(Stingy(num_classes=classes, n=5), normal_logits(2, classes))
        for tensor, width in ((answer.indices, 8), (scores_of(answer), 4)):
            assert tensor.untyped_storage().nbytes() == 2 * 5 * width
            assert tensor.is_contiguous()
            assert not tensor.is_inference()
        sizes.add(len(pickle.dumps((answer.indices, answer.scores))))
    assert len(sizes) == 1


def test_L4_a_proposal_that_views_the_logits_leaves_as_a_copy() -> None:
    logits = torch.arange(100.0).flip(0).unsqueeze(0)
    policy = Scripted(
        num_classes=100,
        script=lambda rows: Proposal(torch.arange(100).unsqueeze(0)[:, :2], rows[:, :2]),
    )
    answer = sanitize(policy, logits)
    assert scores_of(answer).untyped_storage().nbytes() == 8
    assert scores_of(answer).untyped_storage().data_ptr() != logits.untyped_storage().data_ptr()


def raises(error: Exception) -> Callable[[Tensor], Proposal]:
    def script(logits: Tensor) -> Proposal:
        raise error

    return script


def entries(indices: object, logits: object) -> Callable[[Tensor], Proposal]:
    return lambda _: Proposal(indices, logits)  # type: ignore[arg-type]


FINE = torch.tensor([[1, 3]])
SABOTAGES = {
    "another type": lambda _: (FINE, LOGITS[:, :2]),
    "indices no tensor": entries([[1, 3]], LOGITS[:, :2]),
    "a parameter": entries(FINE, torch.nn.Parameter(LOGITS[:, :2].clone())),
    "int32 indices": entries(FINE.int(), LOGITS[:, :2]),
    "whole-number logits": entries(FINE, LOGITS[:, :2].long()),
    "one dimension": entries(FINE[0], LOGITS[0, :2]),
    "another batch": entries(FINE.repeat(2, 1), LOGITS[:, :2].repeat(2, 1)),
    "shapes that differ": entries(FINE, LOGITS[:, :3]),
    "nothing": entries(FINE[:, :0], LOGITS[:, :0]),
    "too many": entries(torch.tensor([[1, 3, 2]]), LOGITS[:, :3]),
    "negative index": entries(torch.tensor([[1, -1]]), LOGITS[:, :2]),
    "index K": entries(torch.tensor([[1, 4]]), LOGITS[:, :2]),
    "one index twice": entries(torch.tensor([[1, 1]]), LOGITS[:, :2]),
    "NaN": entries(FINE, torch.tensor([[4.0, math.nan]])),
    "infinity": entries(FINE, torch.tensor([[4.0, -math.inf]])),
    "float64 beyond float32": entries(FINE, torch.tensor([[4.0, -1e300]], dtype=torch.float64)),
    "another top-1": entries(torch.tensor([[3, 1]]), torch.tensor([[4.0, 3.0]])),
    "another device": entries(FINE.to("meta"), LOGITS[:, :2].to("meta")),
}


@pytest.mark.parametrize("script", SABOTAGES.values(), ids=SABOTAGES.keys())
def test_L4_a_proposal_that_breaks_a_promise_is_refused(
    script: Callable[[Tensor], Proposal],
) -> None:
    with pytest.raises(PolicyViolation):
        sanitize(Scripted(num_classes=4, script=script), LOGITS)


def test_L4_a_repeated_index_is_found_in_any_row_and_place() -> None:
    indices = torch.arange(6).repeat(3, 1)
    indices[2, 5] = 3
    policy = Scripted(num_classes=8, n=6, script=entries(indices, torch.zeros(3, 6)))
    with pytest.raises(PolicyViolation, match="unique"):
        sanitize(policy, torch.zeros(3, 8))


def test_L4_a_tied_top1_must_be_the_lower_index() -> None:
    policy = Scripted(
        num_classes=3, script=entries(torch.tensor([[2, 1]]), torch.tensor([[5.0, 5.0]]))
    )
    with pytest.raises(PolicyViolation, match="top-1"):
        sanitize(policy, torch.tensor([[1.0, 5.0, 5.0]]))


def test_a_policy_that_changes_the_logits_cannot_change_the_top1() -> None:
    def vandal(logits: Tensor) -> Proposal:
        logits[:, 0] = 99.0
        values, indices = best_first(logits, 2)
        return Proposal(indices, values)

    with pytest.raises(PolicyViolation, match="top-1"):
        sanitize(Scripted(num_classes=4, script=vandal), LOGITS.clone())


def test_a_policy_without_keeps_top1_may_put_any_class_first() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Liar(Scripted):
        keeps_top1: ClassVar[bool] = False

    script = entries(torch.tensor([[0, 1]]), torch.tensor([[4.0, 3.0]]))
    assert sanitize(Liar(num_classes=4, script=script), LOGITS).indices.tolist() == [[0, 1]]


@pytest.mark.parametrize("error", [RuntimeError(f"{LOGITS}"), KeyError(3), RecursionError("4.0")])
def test_L4_the_error_of_a_failing_policy_has_no_logits(error: Exception) -> None:
    with pytest.raises(PolicyViolation) as caught:
        sanitize(Scripted(num_classes=4, script=raises(error)), LOGITS)
    assert str(caught.value) == "the policy failed"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_protection_error_passes_through_the_gate() -> None:
    with pytest.raises(ProtectionError, match="out of stock"):
        sanitize(Scripted(num_classes=4, script=raises(ProtectionError("out of stock"))), LOGITS)


def test_answers_are_ordinary_tensors_in_inference_mode() -> None:
    with torch.inference_mode():
        answer = sanitize(Stingy(num_classes=4, n=2), LOGITS * 1.0)
    assert not scores_of(answer).is_inference()


@settings(max_examples=60)
@given(logits=finite_logits(), data=st.data())
def test_stingy_smooth_orders_hidden_classes_by_index(logits: Tensor, data: st.DataObject) -> None:
    classes = logits.shape[1]
    n = data.draw(st.integers(1, classes))
    proposal = StingySmooth(num_classes=classes, n=n).propose(logits)
    hidden = proposal.indices[:, n:]
    assert (hidden.diff(dim=1) > 0).all()
    assert (proposal.logits[:, n:] == proposal.logits[:, n : n + 1]).all()
    assert (proposal.logits.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("n", [1, 2])
def test_a_proposal_below_the_support_is_allowed(n: int) -> None:
    policy = Scripted(num_classes=4, script=entries(FINE[:, :n], torch.tensor([[4.0, 3.0]])[:, :n]))
    assert sanitize(policy, LOGITS).indices.tolist() == FINE[:, :n].tolist()
