"""The cache of answers: an image is sent once, and endpoints are never mixed."""

import json
from pathlib import Path

import numpy as np
import pytest

from audit_fakes import FakeOracle, Interrupted, NewKey, striped
from stingy_attacker_eval.errors import TransferError
from stingy_attacker_eval.oracle.cached_oracle import CachedOracle
from stingy_clients import BudgetExhausted, TransportError

PIXELS, _ = striped(150)


def test_image_is_sent_once_in_all_processes(tmp_path: Path) -> None:
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


def test_ctrl_c_waits_for_the_request_and_keeps_its_answers(tmp_path: Path) -> None:
    oracle = Interrupted()
    cached = CachedOracle(oracle, folder=tmp_path, budget=150)
    with pytest.raises(KeyboardInterrupt):
        cached.query(PIXELS[:40])
    assert (cached.queries, cached.reconcile_charges()) == (40, 40)
    CachedOracle(oracle, folder=tmp_path, budget=150).query(PIXELS[:40])
    assert oracle.requests == [40]


def test_torn_record_is_bought_once_more(tmp_path: Path) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path, budget=150).query(PIXELS[:3])
    path = tmp_path / "answers.bin"
    path.write_bytes(path.read_bytes()[:-5])
    oracle = FakeOracle()
    cached = CachedOracle(oracle, folder=tmp_path, budget=150)
    cached.query(PIXELS[:3])
    assert oracle.requests == [1]
    assert cached.queries == 3


def test_charges_of_a_killed_process_are_reconciled_by_the_next(tmp_path: Path) -> None:
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


def test_charges_of_a_used_key_are_not_those_of_the_audit(tmp_path: Path) -> None:
    spent = BudgetExhausted(429, "budget_exhausted", "spent", "-")
    first = CachedOracle(FakeOracle(fails_after=1, failure=spent), folder=tmp_path, budget=150)
    first.query(PIXELS[:30])
    with pytest.raises(BudgetExhausted):
        first.query(PIXELS[:40])
    used = FakeOracle(requests=[11_258])
    second = CachedOracle(used, folder=tmp_path, budget=150)
    second.query(PIXELS[:40])
    assert second.queries == second.reconcile_charges() == 40


def test_lost_request_counts_for_its_images_at_most(tmp_path: Path) -> None:
    oracle = FakeOracle(fails_after=0)
    with pytest.raises(TransportError):
        CachedOracle(oracle, folder=tmp_path, budget=150).query(PIXELS[:10])
    oracle.requests.append(500)  # the same key, used elsewhere meanwhile
    assert CachedOracle(oracle, folder=tmp_path, budget=150).reconcile_charges() == 10


@pytest.mark.parametrize("field", ["charged", "charged_before", "in_flight"])
@pytest.mark.parametrize("value", ["x", [1], 1.5, -5, True, 10**400])
def test_ledger_with_another_count_is_refused(tmp_path: Path, field: str, value: object) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path, budget=150).query(PIXELS[:3])
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(TransferError, match="ledger at"):
        CachedOracle(FakeOracle(), folder=tmp_path, budget=150)


def test_ledger_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path, budget=150).query(PIXELS[:3])
    (tmp_path / "ledger.json").write_text("[" * 100_000)
    with pytest.raises(TransferError, match="ledger at"):
        CachedOracle(FakeOracle(), folder=tmp_path, budget=150)


def test_answers_that_are_there_twice_are_damaged(tmp_path: Path) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path, budget=150).query(PIXELS[:3])
    path = tmp_path / "answers.bin"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(TransferError, match=r"answers\.bin, got a damaged file"):
        CachedOracle(FakeOracle(), folder=tmp_path, budget=150)


@pytest.mark.parametrize(
    ("other", "field"),
    [(FakeOracle(fingerprint="b" * 12), "fingerprint"), (FakeOracle(form="prob"), "scores")],
)
def test_answers_of_another_endpoint_are_never_mixed_in(
    tmp_path: Path, other: FakeOracle, field: str
) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path, budget=150).query(PIXELS[:3])
    with pytest.raises(TransferError, match=f"another {field}: answers are never mixed"):
        CachedOracle(other, folder=tmp_path, budget=150)


@pytest.mark.parametrize("place", [0, 20, 40, -1])
def test_one_damaged_byte_is_named_and_no_answer_used(tmp_path: Path, place: int) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path, budget=150).query(PIXELS[:3])
    path = tmp_path / "answers.bin"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(TransferError, match=r"answers\.bin, got a damaged file"):
        CachedOracle(FakeOracle(), folder=tmp_path, budget=150)


def test_answers_without_scores_are_cached(tmp_path: Path) -> None:
    oracle = FakeOracle(form="none", support=1)
    CachedOracle(oracle, folder=tmp_path, budget=150).query(PIXELS[:3])
    found = CachedOracle(oracle, folder=tmp_path, budget=150).query(PIXELS[:3])
    assert found.scores is None
    assert oracle.requests == [3]


def test_answers_without_their_ledger_are_refused(tmp_path: Path) -> None:
    CachedOracle(FakeOracle(), folder=tmp_path).query(PIXELS[:3])
    (tmp_path / "ledger.json").unlink()
    with pytest.raises(TransferError, match=r"a ledger beside .*answers\.bin, got none"):
        CachedOracle(FakeOracle(), folder=tmp_path)


def test_cache_without_budget_has_no_limit(tmp_path: Path) -> None:
    assert len(CachedOracle(FakeOracle(), folder=tmp_path).query(PIXELS)) == len(PIXELS)


def test_missing_and_answered_images_are_counted(tmp_path: Path) -> None:
    cached = CachedOracle(FakeOracle(), folder=tmp_path)
    cached.query(PIXELS[:3])
    images = np.concatenate([PIXELS[:3], PIXELS[1:5], PIXELS[3:5]])
    assert (cached.count_answered(images), cached.count_missing(images)) == (5, 2)
