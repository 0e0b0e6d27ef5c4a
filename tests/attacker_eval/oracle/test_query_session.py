"""A session never queries beyond its budget, and counts every image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from audit_fakes import FakeOracle, striped
from stingy_attacker_eval.errors import AnswersError, BudgetExhausted, TransferError
from stingy_attacker_eval.oracle.cached_oracle import CachedOracle
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.training import to_device
from stingy_clients import ModelInfo

PIXELS, LABELS = striped(150)
IMAGES = to_device(PIXELS, torch.device("cpu"))


def test_every_query_counts_and_requests_have_maximal_size() -> None:
    oracle = FakeOracle(max_batch=64)
    session = QuerySession(oracle, budget=200)
    answers = session.query(IMAGES)
    assert oracle.requests == [64, 64, 22]
    assert (session.spent, session.remaining) == (150, 50)
    np.testing.assert_array_equal(answers.top1, LABELS)


def test_requests_have_no_more_bytes_than_the_server_takes() -> None:
    oracle = FakeOracle(max_bytes=1024 + 40 * PIXELS[0].nbytes)
    QuerySession(oracle, budget=200).query(IMAGES)
    assert oracle.requests == [40, 40, 40, 30]


def test_E3_query_beyond_the_budget_is_refused_before_sending() -> None:
    oracle = FakeOracle()
    session = QuerySession(oracle, budget=149)
    with pytest.raises(BudgetExhausted, match="at most 149 images more, got 150: 0 of 149"):
        session.query(IMAGES)
    assert oracle.requests == []
    session.query(IMAGES[:149])
    with pytest.raises(BudgetExhausted, match="at most 0 images more, got 1"):
        session.query(IMAGES[:1])


def test_failing_endpoint_is_reported_with_the_images_sent() -> None:
    session = QuerySession(FakeOracle(max_batch=64, fails_after=1), budget=200)
    with pytest.raises(TransferError, match="64 of 200 images were answered; the endpoint failed"):
        session.query(IMAGES)
    assert session.spent == 64


def test_answers_other_than_described_are_an_error() -> None:
    class Liar(FakeOracle):
        def describe(self) -> ModelInfo:
            return FakeOracle(support=1).describe()

    with pytest.raises(AnswersError, match="as described"):
        QuerySession(Liar(), budget=200).query(IMAGES)


@pytest.mark.parametrize("images", [IMAGES[:0], IMAGES.float(), IMAGES[0]])
def test_query_of_anything_but_images_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(AnswersError, match=r"uint8 \[n, 3, H, W\]"):
        QuerySession(FakeOracle(), budget=10).query(images)


def test_session_counts_images_that_are_cached(tmp_path: Path) -> None:
    oracle = FakeOracle()
    cached = CachedOracle(oracle, folder=tmp_path, budget=150)
    cached.query(PIXELS)
    session = QuerySession(cached, budget=150)
    session.query(IMAGES)
    assert (session.spent, oracle.requests, cached.queries) == (150, [150], 150)


def test_audit_budget_limits_all_sessions(tmp_path: Path) -> None:
    cached = CachedOracle(FakeOracle(), folder=tmp_path, budget=100)
    QuerySession(cached, budget=80).query(IMAGES[:80])
    with pytest.raises(BudgetExhausted, match="at most 20 images more for this endpoint"):
        QuerySession(cached, budget=80).query(IMAGES[70:])
