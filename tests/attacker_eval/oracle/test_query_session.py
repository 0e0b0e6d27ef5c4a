"""A session never asks beyond its budget, and what an audit keeps it never buys twice."""

from pathlib import Path

import numpy as np
import pytest
import torch

from audit_fakes import FakeOracle, Interrupted, NewKey, striped
from stingy_attacker_eval.errors import AnswersError, BudgetExhausted, TransferError
from stingy_attacker_eval.oracle.cached_oracle import CachedOracle
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.training import to_device
from stingy_clients import ModelInfo, TransportError

PIXELS, LABELS = striped(150)
IMAGES = to_device(PIXELS, torch.device("cpu"))


def test_every_question_counts_and_requests_are_as_large_as_allowed() -> None:
    oracle = FakeOracle(max_batch=64)
    session = QuerySession(oracle, budget=200)
    answers = session.query(IMAGES)
    assert oracle.requests == [64, 64, 22]
    assert (session.spent, session.remaining) == (150, 50)
    np.testing.assert_array_equal(answers.top1, LABELS)


def test_E3_a_question_beyond_the_budget_is_refused_before_anything_is_asked() -> None:
    oracle = FakeOracle()
    session = QuerySession(oracle, budget=149)
    with pytest.raises(BudgetExhausted, match="at most 149 images more, got 150: 0 of 149"):
        session.query(IMAGES)
    assert oracle.requests == []
    session.query(IMAGES[:149])
    with pytest.raises(BudgetExhausted, match="at most 0 images more, got 1"):
        session.query(IMAGES[:1])


def test_a_failing_endpoint_is_told_with_what_was_asked() -> None:
    session = QuerySession(FakeOracle(max_batch=64, fails_after=1), budget=200)
    with pytest.raises(TransferError, match="64 of 200 images were asked; the endpoint failed"):
        session.query(IMAGES)
    assert session.spent == 64


def test_an_endpoint_that_answers_otherwise_than_described_is_an_error() -> None:
    class Liar(FakeOracle):
        def describe(self) -> ModelInfo:
            return FakeOracle(support=1).describe()

    with pytest.raises(AnswersError, match="as described"):
        QuerySession(Liar(), budget=200).query(IMAGES)


@pytest.mark.parametrize("images", [IMAGES[:0], IMAGES.float(), IMAGES[0]])
def test_only_images_are_asked(images: torch.Tensor) -> None:
    with pytest.raises(AnswersError, match=r"uint8 \[n, 3, H, W\]"):
        QuerySession(FakeOracle(), budget=10).query(images)


def test_an_image_is_sent_once_whoever_asks_and_whenever(tmp_path: Path) -> None:
    oracle = FakeOracle()
    cached = CachedOracle(oracle, folder=tmp_path, budget=150)
    first = cached.query(PIXELS[:40])
    cached.query(np.concatenate([PIXELS[20:60], PIXELS[:40]]))
    assert oracle.requests == [40, 20]
    assert (cached.queries, cached.reconcile_charges()) == (60, 60)
    later = CachedOracle(oracle, folder=tmp_path, budget=150)
    repeated = later.query(PIXELS[:40])
    assert oracle.requests == [40, 20]
    assert (later.queries, later.reconcile_charges()) == (60, 60)
    np.testing.assert_array_equal(repeated.indices, first.indices)
    np.testing.assert_array_equal(repeated.scores, first.scores)


def test_a_session_counts_what_the_audit_had_already(tmp_path: Path) -> None:
    oracle = FakeOracle()
    cached = CachedOracle(oracle, folder=tmp_path, budget=0)
    cached.add(PIXELS, FakeOracle().query(PIXELS))
    session = QuerySession(cached, budget=150)
    session.query(IMAGES)
    assert (session.spent, oracle.requests, cached.queries) == (150, [], 0)


def test_the_audits_own_budget_holds_over_all_sessions(tmp_path: Path) -> None:
    cached = CachedOracle(FakeOracle(), folder=tmp_path, budget=100)
    QuerySession(cached, budget=80).query(IMAGES[:80])
    with pytest.raises(BudgetExhausted, match="at most 20 images more for this endpoint"):
        QuerySession(cached, budget=80).query(IMAGES[70:])


def test_ctrl_c_waits_for_the_request_in_flight_and_its_answers_are_kept(tmp_path: Path) -> None:
    oracle = Interrupted()
    cached = CachedOracle(oracle, folder=tmp_path, budget=150)
    with pytest.raises(KeyboardInterrupt):
        cached.query(PIXELS[:40])
    assert (cached.queries, cached.reconcile_charges()) == (40, 40)
    CachedOracle(oracle, folder=tmp_path, budget=150).query(PIXELS[:40])
    assert oracle.requests == [40]


def test_a_record_half_written_at_a_kill_is_bought_again(tmp_path: Path) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path, budget=150).query(PIXELS[:3])
    path = tmp_path / "answers.bin"
    path.write_bytes(path.read_bytes()[:-5])
    oracle = FakeOracle()
    cached = CachedOracle(oracle, folder=tmp_path, budget=150)
    cached.query(PIXELS[:3])
    assert oracle.requests == [1]
    assert cached.queries == 3


def test_what_a_killed_process_was_charged_is_settled_by_the_next(tmp_path: Path) -> None:
    oracle = FakeOracle(fails_after=1)
    cached = CachedOracle(oracle, folder=tmp_path, budget=150)
    cached.query(PIXELS[:30])
    with pytest.raises(TransportError):
        cached.query(PIXELS[:35])
    oracle.requests.append(5)  # charged, the answer lost
    assert CachedOracle(oracle, folder=tmp_path, budget=150).reconcile_charges() == 35


def test_another_key_goes_on_and_the_charges_of_both_add_up(tmp_path: Path) -> None:
    first = CachedOracle(FakeOracle(fails_after=1), folder=tmp_path, budget=150)
    first.query(PIXELS[:30])
    with pytest.raises(TransportError):
        first.query(PIXELS[:40])
    second = CachedOracle(NewKey(), folder=tmp_path, budget=150)
    second.query(PIXELS[:40])
    assert second.queries == second.reconcile_charges() == 40


@pytest.mark.parametrize("other", [FakeOracle(fingerprint="b" * 12), FakeOracle(form="prob")])
def test_answers_of_another_endpoint_are_never_mixed_in(tmp_path: Path, other: FakeOracle) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path, budget=150).query(PIXELS[:3])
    with pytest.raises(TransferError, match="those of another: answers are never mixed"):
        CachedOracle(other, folder=tmp_path, budget=150)


def test_damaged_answers_are_named_and_not_used(tmp_path: Path) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path, budget=150).query(PIXELS[:3])
    path = tmp_path / "answers.bin"
    path.write_bytes(b"\xff" * len(path.read_bytes()))
    with pytest.raises(TransferError, match=r"answers\.bin, got a damaged file"):
        CachedOracle(FakeOracle(), folder=tmp_path, budget=150)


def test_labels_without_scores_are_kept_too(tmp_path: Path) -> None:
    oracle = FakeOracle(form="none", support=1)
    CachedOracle(oracle, folder=tmp_path, budget=150).query(PIXELS[:3])
    found = CachedOracle(oracle, folder=tmp_path, budget=150).query(PIXELS[:3])
    assert found.scores is None
    assert oracle.requests == [3]
