"""A run's folder: what is in it is never done or bought twice, and never mixed with another's."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit_fakes import Contrary, FakeOracle, audit, numbers, tiny_protocol
from stingy_attacker_eval.audit import executors
from stingy_attacker_eval.audit.train_student import train_student
from stingy_attacker_eval.errors import AuditError


def test_second_run_sends_nothing_and_trains_nothing(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, out, oracle = tiny_protocol(dataset), tmp_path / "out", FakeOracle()
    first = audit(protocol, out)
    monkeypatch.setattr(executors, "train_student", None)
    second = audit(protocol, out, stingy=oracle)
    assert oracle.requests == []
    assert second["rows"] == first["rows"]


def test_stopped_run_resumes_and_repeats_no_row(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, out = tiny_protocol(dataset, seeds=(0, 1)), tmp_path / "out"
    real, trained = train_student, list[str]()

    def train_three_then_stop(*arguments: Any) -> Any:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append("one")
        return real(*arguments)

    monkeypatch.setattr(executors, "train_student", train_three_then_stop)
    with pytest.raises(KeyboardInterrupt):
        audit(protocol, out)
    rows_path = out / "rows.jsonl"
    assert len(rows_path.read_text().splitlines()) == 3
    rows_path.write_bytes(rows_path.read_bytes() + b'{"endpoint": "stin')  # killed while writing
    monkeypatch.setattr(executors, "train_student", real)
    resumed = audit(protocol, out)
    assert len(rows_path.read_text().splitlines()) == 6
    assert audit(protocol, out)["rows"] == resumed["rows"]  # the torn line has left nothing
    assert numbers(resumed) == numbers(audit(protocol, tmp_path / "fresh"))


def test_another_configuration_in_the_same_folder_is_refused(tmp_path: Path, dataset: str) -> None:
    out, oracle = tmp_path / "out", FakeOracle()
    audit(tiny_protocol(dataset), out)
    with pytest.raises(AuditError, match="another configuration: choose a new folder"):
        audit(tiny_protocol(dataset, lr=0.01), out, stingy=oracle)
    assert oracle.requests == []


@pytest.mark.parametrize("part", ["train_y", "test_y"])
def test_other_true_labels_in_the_same_folder_are_refused(
    tmp_path: Path, dataset: str, part: str
) -> None:
    out, protocol, oracle = tmp_path / "out", tiny_protocol(dataset), FakeOracle()
    audit(protocol, out)
    _change_labels(dataset, part)
    with pytest.raises(AuditError, match="another configuration: choose a new folder"):
        audit(protocol, out, stingy=oracle)
    assert oracle.requests == []


def test_budget_and_title_may_change_in_the_same_folder(tmp_path: Path, dataset: str) -> None:
    out, protocol, oracle = tmp_path / "out", tiny_protocol(dataset), FakeOracle()
    rows = audit(protocol, out)["rows"]
    raised = protocol.model_copy(update={"budget": 500, "title": "more"})
    report = audit(raised, out, stingy=oracle)
    assert report["rows"] == rows
    assert oracle.requests == []
    assert (report["config"]["budget"], report["config"]["title"]) == (500, "more")
    assert json.loads((out / "config.json").read_text())["config"] == report["config"]


def test_folder_of_version_0_1_0_is_refused_before_a_query(tmp_path: Path, dataset: str) -> None:
    out, protocol, oracle = tmp_path / "out", tiny_protocol(dataset), FakeOracle()
    audit(protocol, out)
    path = out / "config.json"
    path.write_text(json.dumps({"config": json.loads(path.read_bytes())["config"]}))
    with pytest.raises(AuditError, match=r"form stingy\.run/2 at .*, got that of another version"):
        audit(protocol, out, stingy=oracle)
    assert oracle.requests == []


def _change_labels(dataset: str, part: str) -> None:
    path = dataset.removeprefix("npz:")
    with np.load(path) as file:
        arrays: dict[str, Any] = dict(file)
    np.savez(path, **arrays | {part: np.roll(arrays[part], 1)})


@pytest.mark.parametrize("content", ["[]", '{"config": []}', "{}", "no JSON"])
def test_a_damaged_configuration_is_no_run_of_this_protocol(
    tmp_path: Path, dataset: str, content: str
) -> None:
    out, protocol = tmp_path / "out", tiny_protocol(dataset)
    audit(protocol, out)
    (out / "config.json").write_text(content)
    with pytest.raises(AuditError, match="got that of another version"):
        audit(protocol, out)


def test_rows_trained_on_other_answers_are_refused(tmp_path: Path, dataset: str) -> None:
    out, protocol = tmp_path / "out", tiny_protocol(dataset)
    audit(protocol, out)
    before = (out / "report.json").read_bytes()
    shutil.rmtree(out / "answers")
    other = FakeOracle(fingerprint="b" * 12)
    with pytest.raises(AuditError, match="another fingerprint: choose a new folder with --out"):
        audit(protocol, out, stingy=other)
    assert other.requests == []
    # The same description, another teacher behind it: only its answers tell.
    with pytest.raises(AuditError, match="another transfer, evaluation: choose a new folder"):
        audit(protocol, out, stingy=Contrary())
    assert (out / "report.json").read_bytes() == before
    shutil.rmtree(out / "answers")
    assert audit(protocol, out)["rows"] == json.loads(before)["rows"]


def test_rows_without_a_record_of_their_answers_are_refused(tmp_path: Path, dataset: str) -> None:
    out, protocol, oracle = tmp_path / "out", tiny_protocol(dataset), FakeOracle()
    rows = audit(protocol, out)["rows"]
    (out / "sources.json").unlink()
    with pytest.raises(AuditError, match="got rows only"):
        audit(protocol, out, stingy=oracle)
    assert oracle.requests == []
    # The baseline is trained on no answers.
    (out / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert numbers({"rows": audit(protocol, out)["rows"]}) == numbers({"rows": rows})


def test_damaged_sources_file_is_named(tmp_path: Path, dataset: str) -> None:
    out, protocol = tmp_path / "out", tiny_protocol(dataset)
    audit(protocol, out)
    (out / "sources.json").write_text("[]")
    with pytest.raises(AuditError, match=r"sources of rows in .*sources\.json, got another"):
        audit(protocol, out)


def test_foreign_rows_are_refused(tmp_path: Path, dataset: str) -> None:
    out = tmp_path / "out"
    audit(tiny_protocol(dataset), out)
    (out / "rows.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(AuditError, match=r"row of an audit in line 1 of .*: restore the line"):
        audit(tiny_protocol(dataset), out)


def test_second_result_of_a_run_is_refused_and_named(tmp_path: Path, dataset: str) -> None:
    out, protocol = tmp_path / "out", tiny_protocol(dataset)
    first = audit(protocol, out)
    path = out / "rows.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole)  # a shard's copy of the same rows
    assert audit(protocol, out)["rows"] == first["rows"]
    for change in ({"accuracy": 1.0}, {"finite": False}, {"predictions": "0" * 32}):
        row = json.loads(whole.splitlines()[0]) | change
        path.write_text(whole + json.dumps(row) + "\n")
        with pytest.raises(AuditError, match=r"one result of owner/none/no_api/.*, got a second"):
            audit(protocol, out)


@pytest.mark.parametrize("damage", ["cut", "NaN", "Infinity", "joined"])
def test_damaged_line_of_the_rows_is_named(tmp_path: Path, dataset: str, damage: str) -> None:
    out, protocol = tmp_path / "out", tiny_protocol(dataset)
    audit(protocol, out)
    path = out / "rows.jsonl"
    first, second, *rest = path.read_text().splitlines()
    accuracy = f'"accuracy": {json.loads(second)["accuracy"]}'
    assert accuracy in second
    lines = {
        "cut": [first, second[:40], *rest],
        "joined": [first, second[:40] + second, *rest],
    }.get(damage, [first, second.replace(accuracy, f'"accuracy": {damage}'), *rest])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(AuditError, match=r"in line 2 of .*rows\.jsonl, got another text"):
        audit(protocol, out)


def _edited(out: Path, **values: object) -> None:
    """Change the last row of a finished audit."""
    path = out / "rows.jsonl"
    *lines, last = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps(json.loads(last) | values)]) + "\n")


@pytest.mark.parametrize(
    "values",
    [
        {"accuracy": 500.0},
        {"accuracy": -5.0},
        {"agreement": 1e308},
        {"uplift": 101.0},
        {"queries": -1},
        {"seed": 2**32},
        {"predictions": "../../x"},
        {"class_agreement": [-1.0, None, 3.0]},
    ],
)
def test_row_with_an_impossible_number_is_refused(
    tmp_path: Path, dataset: str, values: dict[str, object]
) -> None:
    out, oracle = tmp_path / "out", FakeOracle()
    audit(tiny_protocol(dataset), out)
    _edited(out, **values)
    with pytest.raises(AuditError, match=r"expected a row of an audit in line 3 of .*rows\.jsonl"):
        audit(tiny_protocol(dataset), out, stingy=oracle)
    assert oracle.requests == []


def test_row_that_its_predictions_contradict_is_refused(tmp_path: Path, dataset: str) -> None:
    out = tmp_path / "out"
    found = audit(tiny_protocol(dataset), out)["rows"][-1]["accuracy"]
    _edited(out, accuracy=99.0, class_agreement=[1.0, 2.0])
    with pytest.raises(AuditError) as caught:
        audit(tiny_protocol(dataset), out)
    assert [fault.partition(" of ")[0] for fault in caught.value.faults] == [
        "expected the agreement on 3 classes",
        f"expected the accuracy {found:g} %",
    ]


def test_damaged_predictions_are_named(tmp_path: Path, dataset: str) -> None:
    out = tmp_path / "out"
    audit(tiny_protocol(dataset), out)
    for path in (out / "predictions").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(AuditError, match="expected the predictions of a row at"):
        audit(tiny_protocol(dataset), out)


def test_uplift_follows_from_the_accuracies(tmp_path: Path, dataset: str) -> None:
    out = tmp_path / "out"
    first = audit(tiny_protocol(dataset), out)
    _edited(out, uplift=99.0)
    assert audit(tiny_protocol(dataset), out)["rows"] == first["rows"]


@pytest.mark.parametrize("file", ["config.json", "sources.json"])
def test_file_that_is_too_deep_is_refused(tmp_path: Path, dataset: str, file: str) -> None:
    out = tmp_path / "out"
    audit(tiny_protocol(dataset), out)
    (out / file).write_text("[" * 100_000)
    with pytest.raises(AuditError, match="expected"):
        audit(tiny_protocol(dataset), out)
