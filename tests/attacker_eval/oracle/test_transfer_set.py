"""Bought answers are kept, bought once, and never mixed with those of another endpoint."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audit_fakes import FakeOracle, Interrupted, NewKey, striped
from stingy_attacker_eval.errors import AuditError, TransferError
from stingy_attacker_eval.files import lock_folder
from stingy_attacker_eval.oracle.transfer_set import buy
from stingy_clients import ModelInfo

IMAGES, _ = striped(150)


def test_every_image_is_sent_once_in_requests_of_64(tmp_path: Path) -> None:
    oracle, steps = FakeOracle(), list[int]()
    found = buy(oracle, IMAGES, budget=150, folder=tmp_path, progress=steps.append)
    assert oracle.requests == [64, 64, 22]
    assert (found.queries, found.charged, len(found.answers)) == (150, 150, 150)
    assert sum(steps) == 150
    direct = FakeOracle().query(IMAGES)
    np.testing.assert_array_equal(found.answers.indices, direct.indices)
    assert found.answers.scores is not None
    np.testing.assert_array_equal(found.answers.scores, direct.scores)


def test_requests_are_no_larger_than_the_server_takes(tmp_path: Path) -> None:
    oracle = FakeOracle(max_batch=50)
    buy(oracle, IMAGES, budget=150, folder=tmp_path)
    assert oracle.requests == [50, 50, 50]
    oracle = FakeOracle(max_bytes=1024 + 40 * IMAGES[0].nbytes)
    buy(oracle, IMAGES, budget=150, folder=tmp_path / "bytes")
    assert oracle.requests == [40, 40, 40, 30]


def test_a_second_run_buys_nothing(tmp_path: Path) -> None:
    first = buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)
    oracle = FakeOracle()
    second = buy(oracle, IMAGES, budget=0, folder=tmp_path)
    assert oracle.requests == []
    assert (second.queries, second.charged) == (first.queries, first.charged)
    np.testing.assert_array_equal(second.answers.indices, first.answers.indices)


def test_failed_purchase_resumes_with_the_missing_images(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="128 of 150 images were bought"):
        buy(FakeOracle(fails_after=2), IMAGES, budget=150, folder=tmp_path)
    oracle = FakeOracle()
    found = buy(oracle, IMAGES, budget=22, folder=tmp_path)
    assert oracle.requests == [22]
    assert len(found.answers) == 150


def test_another_key_goes_on_and_the_charges_of_both_add_up(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="128 of 150 images were bought"):
        buy(FakeOracle(fails_after=2), IMAGES, budget=150, folder=tmp_path)
    found = buy(NewKey(), IMAGES, budget=22, folder=tmp_path)
    assert (found.queries, found.charged) == (150, 150)


def test_ctrl_c_keeps_bought_answers_and_counts_them(tmp_path: Path) -> None:
    oracle = FakeOracle(fails_after=1, failure=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="64 of 150"):
        buy(oracle, IMAGES, budget=150, folder=tmp_path)
    oracle = FakeOracle()
    buy(oracle, IMAGES, budget=86, folder=tmp_path)
    assert oracle.requests == [64, 22]


def test_torn_record_is_bought_once_more(tmp_path: Path) -> None:
    buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)
    path = tmp_path / "answers.bin"
    path.write_bytes(path.read_bytes()[:-5])
    oracle = FakeOracle()
    assert buy(oracle, IMAGES, budget=1, folder=tmp_path).queries == 150
    assert oracle.requests == [1]


def test_a_small_budget_is_refused_before_a_query_is_spent(tmp_path: Path) -> None:
    oracle = FakeOracle()
    with pytest.raises(TransferError, match="at least 150 images, got 149"):
        buy(oracle, IMAGES, budget=149, folder=tmp_path)
    assert oracle.requests == []


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (FakeOracle(fingerprint="b" * 12), "fingerprint"),
        (FakeOracle(model="cars"), "model"),
        (FakeOracle(support=1), "support"),
        (FakeOracle(form="prob"), "scores"),
    ],
)
def test_answers_of_another_endpoint_are_never_mixed_in(
    tmp_path: Path, other: FakeOracle, named: str
) -> None:
    with pytest.raises(TransferError):
        buy(FakeOracle(fails_after=1), IMAGES, budget=150, folder=tmp_path)
    with pytest.raises(TransferError, match=f"another {named}"):
        buy(other, IMAGES, budget=150, folder=tmp_path)
    assert other.requests == []


def test_changed_image_gets_an_answer_of_its_own(tmp_path: Path) -> None:
    buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)
    changed = IMAGES.copy()
    changed[7] = changed[7][:, :, [1, 2, 0]]
    oracle = FakeOracle()
    with pytest.raises(TransferError, match="at least 1 images, got 0"):
        buy(oracle, changed, budget=0, folder=tmp_path)
    found = buy(oracle, changed, budget=1, folder=tmp_path)
    assert oracle.requests == [1]
    assert found.queries == 151
    np.testing.assert_array_equal(found.answers.indices, FakeOracle().query(changed).indices)


def test_an_image_that_comes_twice_is_sent_once(tmp_path: Path) -> None:
    oracle = FakeOracle()
    found = buy(oracle, IMAGES[[0, 1, 0, 1, 0]], budget=2, folder=tmp_path)
    assert (oracle.requests, found.queries, found.charged, len(found.answers)) == ([2], 2, 2, 5)


def test_a_damaged_file_is_named_and_not_used(tmp_path: Path) -> None:
    buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)
    (tmp_path / "answers.bin").write_bytes(b"PK half" * 100)
    with pytest.raises(TransferError, match=r"answers\.bin, got a damaged file"):
        buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)


@pytest.mark.parametrize("content", [{"something": "else"}, {"schema": "other/1"}, []])
def test_a_foreign_ledger_is_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "ledger.json").write_text(json.dumps(content))
    with pytest.raises(TransferError, match=r"expected a stingy\.answers/1 ledger"):
        buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)


def test_answers_with_another_n_than_described_are_an_error(tmp_path: Path) -> None:
    class Liar(FakeOracle):
        def describe(self) -> ModelInfo:
            return FakeOracle(support=1).describe()

    with pytest.raises(TransferError, match="0 of 150"):
        buy(Liar(), IMAGES, budget=150, folder=tmp_path)


def test_answers_without_scores_are_bought(tmp_path: Path) -> None:
    found = buy(FakeOracle(form="none", support=1), IMAGES, budget=150, folder=tmp_path)
    assert found.answers.scores is None


def test_second_process_cannot_buy_into_the_folder(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from stingy_attacker_eval.files import lock_folder\n"
        f"with lock_folder(pathlib.Path({str(tmp_path)!r})):\n"
        " print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        with pytest.raises(AuditError, match="in use by another process"):
            buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)
        other.stdin.close()
    with lock_folder(tmp_path):
        pass


def test_ctrl_c_during_a_purchase_loses_no_answer(tmp_path: Path) -> None:
    oracle = Interrupted()
    with pytest.raises(KeyboardInterrupt, match="64 of 150"):
        buy(oracle, IMAGES, budget=150, folder=tmp_path)
    found = buy(oracle, IMAGES, budget=150, folder=tmp_path)
    assert sum(oracle.requests) == found.queries == found.charged == 150
