"""Classes are matched by name: an endpoint answers in the order of the data, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from audit_fakes import FakeOracle, audit, numbers, striped, tiny_protocol
from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.oracle.class_order import OrderedOracle, class_fault
from stingy_attacker_eval.oracle.oracle import Answers, PinnedOracle

ORDER = (2, 0, 1)  # the endpoint's index of each class of the data


class Reordered(FakeOracle):
    """An endpoint of the same task that numbers its classes in another order."""

    def query(self, images: Images) -> Answers:
        answers = super().query(images)
        return Answers(np.array(ORDER)[answers.indices], answers.scores, 3, answers.form)


def reordered() -> Reordered:
    return Reordered(labels=("1", "2", "0"))


def test_E6_endpoint_in_another_order_makes_the_same_students(tmp_path: Path, dataset: str) -> None:
    protocol = tiny_protocol(dataset)
    plain = audit(protocol, tmp_path / "plain")
    found = audit(protocol, tmp_path / "found", stingy=reordered())
    assert numbers(found) == numbers(plain)
    assert found["endpoints"][0]["teacher_accuracy"] == 100.0


def test_E6_oracle_answers_in_the_order_of_the_data() -> None:
    images, labels = striped(20)
    oracle = OrderedOracle(PinnedOracle(reordered()), ("0", "1", "2"))
    assert (oracle.query(images).top1 == labels).all()
    assert oracle.describe().labels == ("0", "1", "2")


def test_E6_unknown_labels_are_all_named_before_a_query(tmp_path: Path, dataset: str) -> None:
    protocol = tiny_protocol(dataset, endpoints=("cats", "twice", "stingy"))
    protocol = protocol.model_copy(update={"budget": 100})
    oracles = {
        "cats": FakeOracle(labels=("cat", "1", "2")),
        "twice": FakeOracle(labels=("0", "0", "1")),
        "stingy": FakeOracle(),
    }
    with pytest.raises(AuditError) as caught:
        audit(protocol, tmp_path / "out", **oracles)
    assert 'cats: expected the data\'s classes "0", got "cat"' in str(caught.value)
    assert 'twice: expected each class name once, got "0" several times' in str(caught.value)
    assert "expected a budget of at least 144 images" in str(caught.value)
    assert not any(oracle.requests for oracle in oracles.values())


def test_many_unknown_labels_are_cut_after_three() -> None:
    fault = class_fault([f"n{i}" for i in range(9)], [str(i) for i in range(9)])
    assert fault is not None
    assert 'classes "0", "1", "2", ..., got "n0", "n1", "n2", ...:' in fault


def test_another_number_of_classes_is_a_fault() -> None:
    assert class_fault(("a",), ("a", "b")) == "expected 2 classes, got 1"
    assert class_fault(("b", "a"), ("a", "b")) is None
