"""Agreement by class, KL to the teacher, transfer: measured where known, counted where sent."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn import functional

from attack_lab import CPU, TeacherOracle, digits, digits_oracle, digits_teacher
from audit_fakes import FakeOracle, audit, tiny_protocol
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.audit.measures import adversarial_examples, class_agreement, mean_kl
from stingy_attacker_eval.audit.run_folder import read_predictions
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.results import Row
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import percent_equal, predict, to_device


def test_agreement_by_class_is_on_the_true_class() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    student, teacher = np.array([0, 1, 1, 1, 0]), np.array([0, 0, 1, 0, 0])
    assert class_agreement(student, teacher, labels, 3) == (50.0, 66.667, None)


def test_kl_is_of_the_student_from_the_teacher() -> None:
    images = to_device(digits()[2][:50], CPU)
    torch.manual_seed(0)
    student, teacher = cnn(num_classes=10, width=4), digits_teacher()
    log_probs = functional.log_softmax(compute_logits(teacher, images), dim=1)
    own = functional.log_softmax(compute_logits(student, images), dim=1)
    expected = float((log_probs.exp() * (log_probs - own)).sum(1).mean())
    assert mean_kl(student, images, log_probs) == pytest.approx(expected, rel=1e-4)
    assert mean_kl(teacher, images, log_probs) == pytest.approx(0.0, abs=1e-5)


def test_adversarial_examples_stay_near_and_mislead() -> None:
    teacher = digits_teacher()
    images = to_device(digits()[2][:200], CPU)
    labels = predict(teacher, images).clone()
    found = adversarial_examples(teacher, images, labels, seed=0)
    clean = digits()[2][:200]
    assert np.abs(found.astype(int) - clean.astype(int)).max() == 8
    misled = 100 - percent_equal(predict(teacher, to_device(found, CPU)).numpy(), labels.numpy())
    noise = np.random.default_rng(0).choice([-8, 8], clean.shape)
    noisy = (clean.astype(int) + noise).clip(0, 255).astype(np.uint8)
    by_chance = 100 - percent_equal(predict(teacher, to_device(noisy, CPU)).numpy(), labels.numpy())
    assert misled > by_chance + 5
    assert (adversarial_examples(teacher, images, labels, seed=0) == found).all()


def test_transfer_is_sent_counted_and_within_the_budget(tmp_path: Path, dataset: str) -> None:
    protocol = tiny_protocol(dataset, attacks=('"label_only"',))
    protocol = protocol.model_copy(update={"transfer_images": 10})
    with pytest.raises(AuditError, match=r"at least 164 images .* 20 for .*adversarial examples"):
        audit(protocol, tmp_path / "out")
    oracle = FakeOracle()
    protocol = protocol.model_copy(update={"budget": 164})
    report = audit(protocol, tmp_path / "out", stingy=oracle)
    assert [row["transfer"] is not None for row in report["rows"]] == [True, True]
    assert all(0 <= row["transfer"] <= 100 for row in report["rows"])
    (endpoint,) = report["endpoints"]
    assert endpoint["queries_spent"] == endpoint["queries_charged"] == sum(oracle.requests)
    assert 144 < sum(oracle.requests) <= 164
    assert [s["transfer_mean"] for s in report["summary"]] == [
        row["transfer"] for row in report["rows"]
    ]


def test_kl_is_known_from_an_open_endpoint_or_the_network_alone(tmp_path: Path) -> None:
    endpoints = ("open", "stingy", "reversed")
    protocol = tiny_protocol("digits", attacks=('"label_only"',), endpoints=endpoints, budget=1797)

    def kls(*endpoints: str, networks: bool = False) -> dict[str, bool]:
        chosen = tuple(item for item in protocol.endpoints if item.name in endpoints)
        oracles: dict[str, TeacherOracle] = {
            "open": digits_oracle("open"),
            "stingy": digits_oracle("stingy"),
            "reversed": digits_oracle("reversed"),
        }
        report = run_audit(
            protocol.model_copy(update={"endpoints": chosen}),
            oracles=oracles,
            out=tmp_path / f"{'-'.join(endpoints)}{networks}",
            console=Console(file=StringIO()),
            networks={"stingy": digits_teacher()} if networks else None,
        )
        return {row.endpoint: row.kl is not None for row in report.rows}

    # It answers every class, but not with the teacher's probabilities.
    assert kls("reversed") == {"none": False, "reversed": False}
    assert kls("stingy") == {"none": False, "stingy": False}
    assert kls("open", "stingy") == {"none": False, "open": True, "stingy": True}
    assert kls("stingy", networks=True) == {"none": False, "stingy": True}


def test_predictions_of_each_row_are_kept_once(tmp_path: Path, dataset: str) -> None:
    out = tmp_path / "out"
    report = audit(
        tiny_protocol(dataset, endpoints=("a", "b")), out, a=FakeOracle(), b=FakeOracle()
    )
    rows = [Row(**row) for row in report["rows"]]
    files = {path.stem for path in (out / "predictions").iterdir()}
    assert files == {row.predictions for row in rows}
    assert len(files) < len(rows)  # label_only of both is one student
    data = tiny_protocol(dataset).load()
    for row in rows:
        found = read_predictions(out, row)
        assert percent_equal(found, data.test_y) == row.accuracy
    path = out / "predictions" / f"{rows[0].predictions}.npz"
    with np.load(path) as file:
        assert file["top1"].dtype == np.uint8
    np.savez(path, top1=np.zeros(48, np.uint8))
    with pytest.raises(AuditError, match="got others"):
        read_predictions(out, rows[0])
    path.unlink()
    with pytest.raises(AuditError, match="got none"):
        read_predictions(out, rows[0])
