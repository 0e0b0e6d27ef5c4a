"""A session never asks beyond its budget, and what an audit keeps it never buys twice."""

from pathlib import Path

import numpy as np
import pytest
import torch

from audit_fakes import FakeOracle, Interrupted, NewKey, striped
from stingy_attacker_eval.errors import AnswersError, BudgetExhausted, TransferError
from stingy_attacker_eval.oracle.cached_oracle import KeptOracle
from stingy_attacker_eval.oracle.query_session import Session
from stingy_attacker_eval.training import to_device
from stingy_clients import ModelInfo, TransportError

PIXELS, LABELS = striped(150)
IMAGES = to_device(PIXELS, torch.device("cpu"))


def test_every_question_counts_and_requests_are_as_large_as_allowed() -> None:
    oracle = FakeOracle(max_batch=64)
    session = Session(oracle, budget=200)
    answers = session.ask(IMAGES)
    assert oracle.asked == [64, 64, 22]
    assert (session.spent, session.left) == (150, 50)
    np.testing.assert_array_equal(answers.top1, LABELS)


def test_E3_a_question_beyond_the_budget_is_refused_before_anything_is_asked() -> None:
    oracle = FakeOracle()
    session = Session(oracle, budget=149)
    with pytest.raises(BudgetExhausted, match="at most 149 images more, got 150: 0 of 149"):
        session.ask(IMAGES)
    assert oracle.asked == []
    session.ask(IMAGES[:149])
    with pytest.raises(BudgetExhausted, match="at most 0 images more, got 1"):
        session.ask(IMAGES[:1])


def test_a_failing_endpoint_is_told_with_what_was_asked() -> None:
    session = Session(FakeOracle(max_batch=64, fails_after=1), budget=200)
    with pytest.raises(TransferError, match="64 of 200 images were asked; the endpoint failed"):
        session.ask(IMAGES)
    assert session.spent == 64


def test_an_endpoint_that_answers_otherwise_than_described_is_an_error() -> None:
    class Liar(FakeOracle):
        def describe(self) -> ModelInfo:
            return FakeOracle(support=1).describe()

    with pytest.raises(AnswersError, match="as described"):
        Session(Liar(), budget=200).ask(IMAGES)


@pytest.mark.parametrize("images", [IMAGES[:0], IMAGES.float(), IMAGES[0]])
def test_only_images_are_asked(images: torch.Tensor) -> None:
    with pytest.raises(AnswersError, match=r"uint8 \[n, 3, H, W\]"):
        Session(FakeOracle(), budget=10).ask(images)


def test_an_image_is_sent_once_whoever_asks_and_whenever(tmp_path: Path) -> None:
    oracle = FakeOracle()
    kept = KeptOracle(oracle, folder=tmp_path, budget=150)
    first = kept.ask(PIXELS[:40])
    kept.ask(np.concatenate([PIXELS[20:60], PIXELS[:40]]))
    assert oracle.asked == [40, 20]
    assert (kept.asked, kept.settle()) == (60, 60)
    later = KeptOracle(oracle, folder=tmp_path, budget=150)
    again = later.ask(PIXELS[:40])
    assert oracle.asked == [40, 20]
    assert (later.asked, later.settle()) == (60, 60)
    np.testing.assert_array_equal(again.indices, first.indices)
    np.testing.assert_array_equal(again.scores, first.scores)


def test_a_session_counts_what_the_audit_had_already(tmp_path: Path) -> None:
    oracle = FakeOracle()
    kept = KeptOracle(oracle, folder=tmp_path, budget=0)
    kept.add(PIXELS, FakeOracle().ask(PIXELS))
    session = Session(kept, budget=150)
    session.ask(IMAGES)
    assert (session.spent, oracle.asked, kept.asked) == (150, [], 0)


def test_the_audits_own_budget_holds_over_all_sessions(tmp_path: Path) -> None:
    kept = KeptOracle(FakeOracle(), folder=tmp_path, budget=100)
    Session(kept, budget=80).ask(IMAGES[:80])
    with pytest.raises(BudgetExhausted, match="at most 20 images more for this endpoint"):
        Session(kept, budget=80).ask(IMAGES[70:])


def test_ctrl_c_waits_for_the_request_in_flight_and_its_answers_are_kept(tmp_path: Path) -> None:
    oracle = Interrupted()
    kept = KeptOracle(oracle, folder=tmp_path, budget=150)
    with pytest.raises(KeyboardInterrupt):
        kept.ask(PIXELS[:40])
    assert (kept.asked, kept.settle()) == (40, 40)
    KeptOracle(oracle, folder=tmp_path, budget=150).ask(PIXELS[:40])
    assert oracle.asked == [40]


def test_a_record_half_written_at_a_kill_is_bought_again(tmp_path: Path) -> None:
    KeptOracle(FakeOracle(), folder=tmp_path, budget=150).ask(PIXELS[:3])
    path = tmp_path / "answers.bin"
    path.write_bytes(path.read_bytes()[:-5])
    oracle = FakeOracle()
    kept = KeptOracle(oracle, folder=tmp_path, budget=150)
    kept.ask(PIXELS[:3])
    assert oracle.asked == [1]
    assert kept.asked == 3


def test_what_a_killed_process_was_charged_is_settled_by_the_next(tmp_path: Path) -> None:
    oracle = FakeOracle(fails_after=1)
    kept = KeptOracle(oracle, folder=tmp_path, budget=150)
    kept.ask(PIXELS[:30])
    with pytest.raises(TransportError):
        kept.ask(PIXELS[:35])
    oracle.asked.append(5)  # charged, the answer lost
    assert KeptOracle(oracle, folder=tmp_path, budget=150).settle() == 35


def test_another_key_goes_on_and_the_charges_of_both_add_up(tmp_path: Path) -> None:
    first = KeptOracle(FakeOracle(fails_after=1), folder=tmp_path, budget=150)
    first.ask(PIXELS[:30])
    with pytest.raises(TransportError):
        first.ask(PIXELS[:40])
    second = KeptOracle(NewKey(), folder=tmp_path, budget=150)
    second.ask(PIXELS[:40])
    assert second.asked == second.settle() == 40


@pytest.mark.parametrize("other", [FakeOracle(fingerprint="b" * 12), FakeOracle(form="prob")])
def test_answers_of_another_endpoint_are_never_mixed_in(tmp_path: Path, other: FakeOracle) -> None:
    KeptOracle(FakeOracle(), folder=tmp_path, budget=150).ask(PIXELS[:3])
    with pytest.raises(TransferError, match="those of another: answers are never mixed"):
        KeptOracle(other, folder=tmp_path, budget=150)


def test_damaged_answers_are_named_and_not_used(tmp_path: Path) -> None:
    KeptOracle(FakeOracle(), folder=tmp_path, budget=150).ask(PIXELS[:3])
    path = tmp_path / "answers.bin"
    path.write_bytes(b"\xff" * len(path.read_bytes()))
    with pytest.raises(TransferError, match=r"answers\.bin, got a damaged file"):
        KeptOracle(FakeOracle(), folder=tmp_path, budget=150)


def test_labels_without_scores_are_kept_too(tmp_path: Path) -> None:
    oracle = FakeOracle(form="none", support=1)
    KeptOracle(oracle, folder=tmp_path, budget=150).ask(PIXELS[:3])
    found = KeptOracle(oracle, folder=tmp_path, budget=150).ask(PIXELS[:3])
    assert found.scores is None
    assert oracle.asked == [3]
