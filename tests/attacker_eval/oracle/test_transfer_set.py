"""What was paid for stays, is bought once, and is never mixed."""

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


def test_every_image_is_asked_once_in_chunks(tmp_path: Path) -> None:
    oracle, steps = FakeOracle(), list[int]()
    found = buy(oracle, IMAGES, budget=150, folder=tmp_path, progress=steps.append)
    assert oracle.requests == [64, 64, 22]
    assert (found.queries, found.charged, len(found.answers)) == (150, 150, 150)
    assert sum(steps) == 150
    direct = FakeOracle().query(IMAGES)
    np.testing.assert_array_equal(found.answers.indices, direct.indices)
    assert found.answers.scores is not None
    np.testing.assert_array_equal(found.answers.scores, direct.scores)


def test_chunks_are_no_larger_than_the_server_takes(tmp_path: Path) -> None:
    oracle = FakeOracle(max_batch=50)
    buy(oracle, IMAGES, budget=150, folder=tmp_path)
    assert oracle.requests == [50, 50, 50]


def test_a_second_run_buys_nothing(tmp_path: Path) -> None:
    first = buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)
    oracle = FakeOracle()
    second = buy(oracle, IMAGES, budget=0, folder=tmp_path)
    assert oracle.requests == []
    assert (second.queries, second.charged) == (first.queries, first.charged)
    np.testing.assert_array_equal(second.answers.indices, first.answers.indices)


def test_after_a_failure_what_was_bought_is_kept_and_the_rest_is_bought(tmp_path: Path) -> None:
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


def test_a_folder_begun_before_charges_were_added_up_goes_on(tmp_path: Path) -> None:
    oracle = FakeOracle(fails_after=2)
    with pytest.raises(TransferError):
        buy(oracle, IMAGES, budget=150, folder=tmp_path)
    path = tmp_path / "meta.json"
    meta = json.loads(path.read_bytes()) | {"charged_before": 100}
    del meta["charged_so_far"]
    path.write_text(json.dumps(meta))
    oracle.fails_after = None
    assert buy(oracle, IMAGES, budget=22, folder=tmp_path).charged == 150


def test_ctrl_c_keeps_what_was_bought_and_says_how_much(tmp_path: Path) -> None:
    oracle = FakeOracle(fails_after=1, failure=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="64 of 150"):
        buy(oracle, IMAGES, budget=150, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("chunk-*")) == ["chunk-00000.npz"]


def test_a_file_half_written_at_a_kill_is_bought_again(tmp_path: Path) -> None:
    buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)
    (tmp_path / "chunk-00001.npz").rename(tmp_path / "chunk-00001.npz.tmp")
    oracle = FakeOracle()
    buy(oracle, IMAGES, budget=64, folder=tmp_path)
    assert oracle.requests == [64]


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


def test_answers_to_other_images_are_never_mixed_in(tmp_path: Path) -> None:
    buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)
    changed = IMAGES.copy()
    changed[7, 0, 0, 0] ^= 1
    with pytest.raises(TransferError, match="another digest"):
        buy(FakeOracle(), changed, budget=150, folder=tmp_path)


def test_a_damaged_chunk_is_named_and_not_used(tmp_path: Path) -> None:
    buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)
    (tmp_path / "chunk-00002.npz").write_bytes(b"PK half")
    with pytest.raises(TransferError, match=r"chunk-00002\.npz, got a damaged file"):
        buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)


def test_a_foreign_meta_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"something": "else"}))
    with pytest.raises(TransferError, match=r"expected a transfer set's meta\.json"):
        buy(FakeOracle(), IMAGES, budget=150, folder=tmp_path)


def test_an_endpoint_that_answers_another_n_than_described_is_an_error(tmp_path: Path) -> None:
    class Liar(FakeOracle):
        def describe(self) -> ModelInfo:
            return FakeOracle(support=1).describe()

    with pytest.raises(TransferError, match="0 of 150"):
        buy(Liar(), IMAGES, budget=150, folder=tmp_path)


def test_labels_without_scores_are_bought_too(tmp_path: Path) -> None:
    found = buy(FakeOracle(form="none", support=1), IMAGES, budget=150, folder=tmp_path)
    assert found.answers.scores is None


def test_two_processes_cannot_buy_into_one_folder(tmp_path: Path) -> None:
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


def test_ctrl_c_waits_for_the_request_in_flight_and_loses_nothing(tmp_path: Path) -> None:
    oracle = Interrupted()
    with pytest.raises(KeyboardInterrupt, match="64 of 150"):
        buy(oracle, IMAGES, budget=150, folder=tmp_path)
    found = buy(oracle, IMAGES, budget=150, folder=tmp_path)
    assert sum(oracle.requests) == found.queries == found.charged == 150
