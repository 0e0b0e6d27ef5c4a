"""An attacker gets what it owns and no more, and each has its own baselines."""

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from attack_lab import attacker_data, striped_oracle
from audit_fakes import FakeOracle, audit, document, numbers, save_striped, tiny_protocol
from stingy_attacker_eval.attacks import context
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.lists.collusion import Collusion
from stingy_attacker_eval.attacks.networks import copy_with_new_weights, last_linear
from stingy_attacker_eval.attacks.recovery.boundary_walk import BoundaryWalk
from stingy_attacker_eval.attacks.scores.soft_label import SoftLabel
from stingy_attacker_eval.attacks.two_labels import TwoLabels
from stingy_attacker_eval.attacks.views.consistent import Consistent
from stingy_attacker_eval.attacks.views.label_votes import LabelVotes
from stingy_attacker_eval.audit import executors
from stingy_attacker_eval.audit.attackers import (
    baseline_attack,
    baseline_data,
    buys_answers,
    impossible_reason,
    purchased_data,
)
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.audit.runs import Shard
from stingy_attacker_eval.audit.train_student import train_student
from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.oracle.oracle import Answers
from stingy_attacker_eval.report.analysis import read_audit
from stingy_attacker_eval.report.html import write_report
from stingy_attacker_eval.report_schema import Attacker

OWNER, FEW, NONE = Attacker(), Attacker(name="few", labelled=0.25), Attacker(name="no", labelled=0)


class Mistaken(FakeOracle):
    """Gives every image the next class, so that its labels are never the true ones."""

    def query(self, images: Images) -> Answers:
        answers = super().query(images)
        return Answers((answers.indices + 1) % 3, answers.scores, 3, answers.form)


def protocol_of(dataset: str, *attackers: Attacker, **other: Any) -> Protocol:
    attacks = other.pop("attacks", ('"label_only"', '"two_labels"', '"soft_label"'))
    protocol = tiny_protocol(dataset, attacks=attacks)
    return protocol.model_copy(update={"attackers": attackers, **other})


def rows_by_attacker(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["attacker"], row["attack"].partition("[")[0]): row for row in report["rows"]}


def test_labels_that_are_not_owned_are_the_endpoints() -> None:
    data = attacker_data(striped_oracle())
    assert data.labels is not None
    wrong = torch.where(data.labels == 0, 1, 0)  # never the endpoint's
    mixed = purchased_data(FEW, attacker_data(striped_oracle(), None), 64)
    assert mixed.labels is not None
    found = purchased_data(FEW, data, 64).labels
    assert found is not None
    assert (found[:16] == data.labels[:16]).all()
    other = purchased_data(FEW, data.__class__(data.images, labels=wrong, top1=data.top1), 64)
    assert other.labels is not None
    assert data.top1 is not None
    assert (other.labels[:16] == wrong[:16]).all()
    assert (other.labels[16:] == data.top1[16:]).all()
    assert purchased_data(OWNER, data, 64) is data


def test_second_account_has_no_true_labels_beyond_those_owned() -> None:
    data = attacker_data(striped_oracle())
    assert data.top1 is not None
    wrong = (data.top1 + 1) % 3
    both = replace(data, labels=wrong, partner=replace(data, labels=wrong))
    found = purchased_data(FEW, both, 40)
    assert found.partner is not None
    for each in (found, found.partner):
        assert each.labels is not None
        assert (each.labels[:10] == wrong[:10]).all()
        assert (each.labels[10:] == data.top1[10:40]).all()


def test_baseline_has_the_labelled_images_and_as_many_steps() -> None:
    images, labels = torch.zeros(40, 3, 8, 8, dtype=torch.uint8), torch.arange(40)
    found = baseline_data(FEW, images, labels, 40)
    assert (len(found.images), found.owned) == (10, 40)
    assert len(baseline_data(NONE, images, labels, 40).images) == 40
    assert [baseline_attack(each).name for each in (OWNER, FEW, NONE)] == [
        "no_api",
        "no_api",
        "guess",
    ]


def test_each_attacker_has_its_own_baselines(tmp_path: Path, dataset: str) -> None:
    report = audit(protocol_of(dataset, OWNER, FEW, NONE), tmp_path / "out")
    found = rows_by_attacker(report)
    assert found["no", "guess"]["accuracy"] < 50
    for name, baseline in (("owner", "no_api"), ("few", "no_api"), ("no", "guess")):
        base = found[name, baseline]["accuracy"]
        for attack in ("label_only", "two_labels", "soft_label"):
            row = found[name, attack]
            assert row["uplift"] == pytest.approx(row["accuracy"] - base)
    # The bought label beside itself is the bought label.
    assert found["no", "two_labels"]["predictions"] == found["no", "label_only"]["predictions"]


def test_equal_students_of_two_attackers_are_trained_once(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, trained = train_student, list[str]()

    def noted(task: Any) -> Any:
        trained.append(task.attack.name)
        return real(task)

    monkeypatch.setattr(executors, "train_student", noted)
    views = OWNER.model_copy(update={"name": "views", "answers": 2})
    oracle = Mistaken()
    report = audit(protocol_of(dataset, OWNER, FEW, views), tmp_path / "out", stingy=oracle)
    once = ["no_api", "label_only", "two_labels", "soft_label"]
    assert sorted(trained) == sorted([*once, "no_api", "two_labels"])
    found = rows_by_attacker(report)
    assert found["few", "soft_label"]["trained_on"] == "stingy"
    same = {"attacker", "seconds", "trained_on"}
    left, right = (
        {k: v for k, v in found[name, "two_labels"].items() if k not in same}
        for name in ("owner", "views")
    )
    assert left == right


def test_stopped_run_of_attackers_resumes_with_equal_rows(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = ('"label_only"', '{ name = "consistent", views = 2 }')
    views = Attacker(name="views", answers=2)
    protocol = protocol_of(dataset, views, NONE, attacks=attacks, budget=144 + 2 * 192)
    whole, oracle = audit(protocol, tmp_path / "whole"), FakeOracle()
    real, count = train_student, [0]

    def stop_after_three(task: Any) -> Any:
        count[0] += 1
        if count[0] > 3:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(executors, "train_student", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        audit(protocol, tmp_path / "out", stingy=oracle)
    monkeypatch.setattr(executors, "train_student", real)
    resumed = audit(protocol, tmp_path / "out", stingy=oracle)
    assert numbers(resumed) == numbers(whole)
    (endpoint,) = resumed["endpoints"]
    assert endpoint["queries_spent"] == endpoint["queries_charged"] == sum(oracle.requests)


def test_fewer_images_are_the_first_and_cost_as_many_steps(tmp_path: Path, dataset: str) -> None:
    small = Attacker(name="small", images=40)
    report = audit(protocol_of(dataset, OWNER, small, budgets=(40,)), tmp_path / "out")
    of_budget = [row for row in numbers(report) if row["budget"] == 40]
    of_small = [row for row in numbers(report) if row["attacker"] == "small"]
    left_out = {"attacker", "budget", "trained_on"}
    assert [{k: v for k, v in row.items() if k not in left_out} for row in of_small] == [
        {k: v for k, v in row.items() if k not in left_out} for row in of_budget
    ]
    assert {row["queries"] for row in of_small} == {0, 40}


def test_attack_beyond_the_answers_is_skipped_for_that_attacker(
    tmp_path: Path, dataset: str
) -> None:
    attacks = ('"soft_label"', '{ name = "consistent", views = 3 }')
    plain, views = Attacker(name="plain", answers=1), Attacker(name="views", answers=3)
    protocol = protocol_of(dataset, plain, views, attacks=attacks, budget=144 + 288)
    report = audit(protocol, tmp_path / "out")
    (skipped,) = report["skipped"]
    assert skipped["beyond"]
    assert (skipped["attacker"], skipped["attack"]) == ("plain", "consistent[views=3]")
    assert skipped["reason"] == (
        "needs 288 answers, and the attacker gets 1 for each of its 96 images"
    )
    assert ("views", "consistent") in rows_by_attacker(report)


def test_reasons_follow_from_the_possessions() -> None:
    views = Consistent(views=4)
    assert impossible_reason(views, Attacker(answers=4), 10) is None
    assert impossible_reason(views, Attacker(answers=3), 10) is not None
    assert impossible_reason(views, Attacker(), 10) is None
    for attack in (LabelOnly(), SoftLabel(), TwoLabels()):
        assert impossible_reason(attack, Attacker(answers=1), 10) is None
    # The missing labels come with the queries.
    assert (
        impossible_reason(Consistent(attack="two_labels"), Attacker(answers=4, labelled=0), 9)
        is None
    )


def test_needs_of_the_settings_decide_what_an_attacker_cannot_do() -> None:
    walks = BoundaryWalk(queries=10, truth="open")  # the truth measures the attack
    assert impossible_reason(walks, Attacker(answers=2, accounts=1), 10) is None
    joined = impossible_reason(Collusion(partner="open"), Attacker(accounts=1), 10)
    assert joined == "needs a second account, and the attacker has one"
    control = Consistent(attack="no_api")
    assert not buys_answers(control, OWNER, 8)
    assert buys_answers(control, NONE, 8)


def test_querying_attack_is_shared_by_attackers_not_endpoints(tmp_path: Path, dataset: str) -> None:
    votes = ('{ name = "label_votes", views = 2 }',)
    protocol = tiny_protocol(dataset, endpoints=("open", "stingy"), attacks=votes)
    changes = {"attackers": (OWNER, FEW), "budget": 144 + 2 * 96}
    oracles = {"open": FakeOracle(support=3), "stingy": FakeOracle()}
    report = audit(protocol.model_copy(update=changes), tmp_path / "out", **oracles)
    found = [row for row in report["rows"] if row["endpoint"] != "none"]
    assert [(row["attacker"], row["endpoint"], row["trained_on"]) for row in found] == [
        ("owner", "open", None),
        ("owner", "stingy", None),
        ("few", "open", "open"),
        ("few", "stingy", "stingy"),
    ]
    assert {row["queries"] for row in found} == {2 * 96}
    (spent,) = {endpoint["queries_spent"] for endpoint in report["endpoints"]}
    assert 144 < spent <= 144 + 96  # a copy may equal its image


def test_the_control_of_attacks_on_views_is_trained_once(tmp_path: Path, dataset: str) -> None:
    control = ('{ name = "consistent", attack = "no_api", views = 2 }',)
    protocol = tiny_protocol(dataset, endpoints=("open", "stingy"), attacks=control)
    changes = {"attackers": (OWNER, FEW), "budget": 144}
    oracles = {"open": FakeOracle(support=3), "stingy": FakeOracle()}
    report = audit(protocol.model_copy(update=changes), tmp_path / "out", **oracles)
    found = [row for row in report["rows"] if row["endpoint"] != "none"]
    # The labels that "few" lacks are bought, and here they are the true ones.
    assert [row["trained_on"] for row in found] == [None, "open", "open", "open"]
    assert [row["queries"] for row in found] == [0, 0, 96, 96]


def test_attacks_on_labels_alone_read_no_list() -> None:
    for attack in (
        LabelOnly(),
        TwoLabels(),
        LabelVotes(),
        Consistent(attack="two_labels"),
        Consistent(attack="no_api"),
        baseline_attack(OWNER),
        baseline_attack(NONE),
    ):
        assert not attack.reads_list
    for attack in (SoftLabel(), Consistent(), BoundaryWalk()):
        assert attack.reads_list


def test_pretrained_network_is_the_start_of_every_student(tmp_path: Path, dataset: str) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    path = save_striped(folder).removeprefix("npz:")
    with np.load(path) as file:
        np.savez(path, **{name: file[name][::-1] for name in file.files})
    owner = Attacker(name="new")
    trained = Attacker(name="trained", pretrained=f"npz:{path}")
    protocol = protocol_of(dataset, owner, trained, lr=1e-6, attacks=('"label_only"',))
    report = audit(protocol, tmp_path / "out")
    (weights,) = (tmp_path / "out" / "pretrained").iterdir()
    found = rows_by_attacker(report)
    assert found["trained", "label_only"]["trained_on"] is None
    assert (
        found["trained", "label_only"]["predictions"] != found["new", "label_only"]["predictions"]
    )
    before = weights.stat().st_mtime_ns
    assert numbers(audit(protocol, tmp_path / "out")) == numbers(report)
    assert weights.stat().st_mtime_ns == before
    weights.write_bytes(b"damaged")
    with pytest.raises(Exception, match="got a damaged file: delete it"):
        audit(protocol, tmp_path / "out")


def test_networks_beside_a_pretrained_student_start_likewise(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = save_striped(tmp_path / "other")
    found: list[tuple[bool, bool]] = []

    def note(student: nn.Module, *, head_only: bool) -> nn.Module:
        new = copy_with_new_weights(student, head_only=head_only)
        pairs = zip(new.parameters(), student.parameters(), strict=True)
        equal = [torch.equal(a, b) for a, b in pairs if a.dim() == 4]
        head = last_linear(new).weight, last_linear(student).weight
        found.append((all(equal), torch.equal(*head)))
        return new

    monkeypatch.setattr(context, "copy_with_new_weights", note)
    owners = Attacker(name="new"), Attacker(name="trained", pretrained=other)
    audit(protocol_of(dataset, *owners, attacks=('"scm"',)), tmp_path / "out")
    models = len(found) // 2
    assert found == [(False, False)] * models + [(True, False)] * models


def test_shards_of_attackers_do_everything_together(tmp_path: Path, dataset: str) -> None:
    protocol = protocol_of(dataset, OWNER, FEW)
    whole = audit(protocol, tmp_path / "whole")
    for number in (1, 2):
        report = run_audit(
            protocol,
            oracles={"stingy": FakeOracle()},
            out=tmp_path / "parts",
            shard=Shard(number, 2),
            console=Console(file=StringIO()),
        )
    # A shard trains its own copy of a student that another shard trains, too.
    assert [row | {"trained_on": None} for row in numbers(document(report))] == [
        row | {"trained_on": None} for row in numbers(whole)
    ]


def test_report_has_a_sentence_and_a_row_for_each_attacker(tmp_path: Path, dataset: str) -> None:
    audit(protocol_of(dataset, OWNER, FEW, NONE), tmp_path / "out")
    page = write_report(tmp_path / "out").read_text()
    for text in ("the true labels of all its images", "true labels for 25 %", "no true label"):
        assert f"An attacker with {text}" in page
    assert [view.attacker.name for view in read_audit(tmp_path / "out").views] == [
        "owner",
        "few",
        "no",
    ]
