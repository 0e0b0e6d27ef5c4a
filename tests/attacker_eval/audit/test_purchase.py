"""An audit buys what its protocol needs, within its budget, from the described endpoint."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attack_lab import TeacherOracle
from audit_fakes import FakeOracle, audit, numbers, tiny_protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.errors import AuditError, TransferError
from stingy_attacker_eval.report_schema import Attacker, Report
from stingy_attacker_eval.students import cnn
from stingy_clients import ModelInfo
from stingy_protection import build_policy


def test_E1_spent_and_charged_are_both_reported(tmp_path: Path, dataset: str) -> None:
    oracle = FakeOracle()
    (endpoint,) = audit(tiny_protocol(dataset), tmp_path / "out", stingy=oracle)["endpoints"]
    assert endpoint["queries_transfer"] == 96
    assert endpoint["queries_evaluation"] == 48
    assert endpoint["queries_spent"] == endpoint["queries_charged"] == sum(oracle.requests) == 144


def test_E1_attack_queries_are_spent_charged_and_in_rows(tmp_path: Path, dataset: str) -> None:
    oracle = FakeOracle()
    attacks = (
        '"label_only"',
        '{ name = "knockoff", queries = 40 }',
        '{ name = "semi_supervised", queries = 20 }',
        '{ name = "data_free_hard", queries = 64, batch = 64 }',
    )
    protocol = tiny_protocol(dataset, attacks=attacks, seeds=(0, 1))
    protocol = protocol.model_copy(update={"budget": 144 + 40 + 2 * 64})
    report = audit(protocol, tmp_path / "out", stingy=oracle)
    spent = {row["attack"].partition("[")[0]: row["queries"] for row in report["rows"]}
    assert spent == {
        "no_api": 0,
        "label_only": 96,
        "knockoff": 40,
        "semi_supervised": 20,
        "data_free_hard": 64,
    }
    (endpoint,) = report["endpoints"]
    # The shapes once for both seeds, the noise for each, the own images not again.
    assert endpoint["queries_attacks"] == 40 + 2 * 64
    assert endpoint["queries_spent"] == endpoint["queries_charged"] == sum(oracle.requests)
    assert sum(oracle.requests) == protocol.budget


def test_E1_endpoints_sharing_a_key_are_charged_for_their_own(tmp_path: Path, dataset: str) -> None:
    attacks = (
        '{ name = "knockoff", queries = 40 }',
        '{ name = "data_free_hard", queries = 64, batch = 64 }',
    )
    protocol = tiny_protocol(dataset, endpoints=("open", "stingy"), attacks=attacks, seeds=(0, 1))
    protocol = protocol.model_copy(update={"budget": 144 + 40 + 2 * 64})
    key: list[int] = []
    oracles = {name: FakeOracle(requests=key) for name in ("open", "stingy")}
    report = audit(protocol, tmp_path / "out", **oracles)
    assert [item["queries_charged"] for item in report["endpoints"]] == [protocol.budget] * 2
    assert sum(key) == 2 * protocol.budget


def test_E3_attacks_beyond_the_budget_are_refused_before_a_query(
    tmp_path: Path, dataset: str
) -> None:
    oracle = FakeOracle()
    protocol = tiny_protocol(dataset, attacks=('{ name = "knockoff", queries = 40 }',))
    with pytest.raises(AuditError, match=r"a budget of at least 184 images .* 40 for attacks"):
        audit(protocol, tmp_path / "out", stingy=oracle)
    assert oracle.requests == []


def test_attack_killed_while_querying_buys_nothing_twice(tmp_path: Path, dataset: str) -> None:
    attacks = ('{ name = "data_free_hard", queries = 128, batch = 64 }',)
    protocol = tiny_protocol(dataset, attacks=attacks)
    protocol = protocol.model_copy(update={"budget": 144 + 128})
    oracle = FakeOracle(fails_after=4)
    with pytest.raises(TransferError, match="64 of 128 images were answered"):
        audit(protocol, tmp_path / "out", stingy=oracle)
    oracle.fails_after = None
    report = audit(protocol, tmp_path / "out", stingy=oracle)
    (endpoint,) = report["endpoints"]
    assert endpoint["queries_spent"] == endpoint["queries_charged"] == sum(oracle.requests) == 272
    assert numbers(report) == numbers(audit(protocol, tmp_path / "fresh"))


@pytest.mark.parametrize("request_number", [1, 3, 4, 6])
def test_model_swapped_during_a_purchase_is_never_mixed_in(
    tmp_path: Path, dataset: str, request_number: int
) -> None:
    class Swapped(FakeOracle):
        def describe(self) -> ModelInfo:
            changes = {"version": "2", "fingerprint": "b" * 12}
            swapped = len(self.requests) >= request_number
            return super().describe().model_copy(update=changes if swapped else {})

    protocol = tiny_protocol(dataset, attacks=('{ name = "knockoff", queries = 40 }',))
    protocol = protocol.model_copy(update={"budget": 184})
    with pytest.raises(TransferError, match="another version, fingerprint: answers are never"):
        audit(protocol, tmp_path / "out", stingy=Swapped(max_batch=32))
    # Three requests to learn from, two to compare with, two of the attack; the last is not kept.
    oracle = FakeOracle(max_batch=32)
    audit(protocol, tmp_path / "out", stingy=oracle)
    assert len(oracle.requests) == 7 - (request_number - 1)


def test_two_tiers_collude_and_both_purchases_count(tmp_path: Path, dataset: str) -> None:
    attacks = ('{ name = "collusion", partner = "open" }',)
    protocol = tiny_protocol(dataset, endpoints=("open", "stingy"), attacks=attacks)
    report = audit(protocol, tmp_path / "out", open=FakeOracle(support=3), stingy=FakeOracle())
    (row,) = [row for row in report["rows"] if row["endpoint"] == "stingy"]
    assert (row["attack"], row["queries"]) == ("collusion[partner=open]", 192)
    (skipped,) = report["skipped"]
    assert skipped["endpoint"] == "open"
    assert "has no endpoint open" in skipped["reason"]


def test_white_box_attack_needs_the_network_in_process(tmp_path: Path, dataset: str) -> None:
    protocol = tiny_protocol(dataset, attacks=('"label_only"', '{ name = "dafl", steps = 3 }'))
    teacher = cnn(num_classes=3, width=4).eval()
    (skipped,) = audit(protocol, tmp_path / "http")["skipped"]
    assert skipped["attack"] == "dafl[white-box,steps=3]"
    assert "gives answers only" in skipped["reason"]
    report = run_audit(
        protocol,
        oracles={"stingy": TeacherOracle(teacher, build_policy("stingy", num_classes=3, n=2))},
        out=tmp_path / "lab",
        console=Console(file=StringIO()),
        networks={"stingy": teacher},
    )
    assert [(row.attack, row.queries) for row in report.rows][2:] == [
        ("dafl[white-box,steps=3]", 0)
    ]


def test_network_of_another_endpoint_is_refused_as_white_box(tmp_path: Path, dataset: str) -> None:
    protocol = tiny_protocol(dataset, attacks=('{ name = "dafl", steps = 3 }',))
    another = {"stingy": cnn(num_classes=3, width=4)}
    with pytest.raises(AuditError, match=r"got others for stingy, where .* % of the labels"):
        run_audit(protocol, oracles={"stingy": FakeOracle()}, out=tmp_path, networks=another)


def test_key_that_cannot_pay_is_refused_before_a_query(tmp_path: Path, dataset: str) -> None:
    oracle = FakeOracle()
    with pytest.raises(AuditError, match="nothing was sent"):
        run_audit(
            tiny_protocol(dataset), oracles={"stingy": oracle}, out=tmp_path / "o", remaining=10
        )
    assert oracle.requests == []


def test_key_must_pay_for_attack_queries_too(tmp_path: Path, dataset: str) -> None:
    attacks = (
        '{ name = "knockoff", queries = 40 }',
        '{ name = "data_free_hard", queries = 64, batch = 64 }',
    )
    protocol = tiny_protocol(dataset, endpoints=("open", "stingy"), attacks=attacks, seeds=(0, 1))
    protocol = protocol.model_copy(update={"budget": 144 + 40 + 2 * 64})
    key: list[int] = []
    oracles = {name: FakeOracle(requests=key) for name in ("open", "stingy")}

    def start(remaining: int, **options: Any) -> Report:
        return run_audit(
            protocol, oracles=oracles, out=tmp_path / "o", remaining=remaining, **options
        )

    wanted = 2 * protocol.budget
    with pytest.raises(AuditError, match=rf"at least {wanted} images .*\({2 * 168} for attacks"):
        start(wanted - 1)
    assert key == []
    # Of chosen runs alone nobody knows what they will ask beyond what all of them need.
    start(2 * 144, only=["no_api"])
    assert sum(key) == 2 * 144


def test_key_with_exactly_enough_images_is_accepted(tmp_path: Path, dataset: str) -> None:
    protocol = tiny_protocol(dataset, attacks=('{ name = "knockoff", queries = 40 }',))
    protocol = protocol.model_copy(update={"budget": 184})
    oracle = FakeOracle()
    run_audit(protocol, oracles={"stingy": oracle}, out=tmp_path / "o", remaining=184)
    assert sum(oracle.requests) == 184


def test_measures_of_an_attack_are_in_its_row(tmp_path: Path, dataset: str) -> None:
    walk = '{ name = "boundary_walk", queries = 60, truth = "open" }'
    protocol = tiny_protocol(dataset, endpoints=("open", "stingy"), attacks=(walk,))
    protocol = protocol.model_copy(update={"budget": 144 + 60})
    oracles = {"open": FakeOracle(support=3), "stingy": FakeOracle()}
    report = audit(protocol, tmp_path / "out", **oracles)
    (row,) = [row for row in report["rows"] if row["endpoint"] == "stingy"]
    assert row["measures"]["questions"] == 3 * 5  # starts and steps, one withheld class
    assert row["queries"] == 96 + 60  # the truth is no part of the cost
    assert [item["endpoint"] for item in report["skipped"]] == ["open"]


@pytest.mark.parametrize("requests", [4, 7])
def test_E1_two_accounts_and_views_resume_without_buying_twice(
    tmp_path: Path, dataset: str, requests: int
) -> None:
    attacks = ('{ name = "collusion", partner = "open" }', '{ name = "consistent", views = 3 }')
    protocol = tiny_protocol(dataset, endpoints=("open", "stingy"), attacks=attacks)
    thief = Attacker(name="thief", answers=3, accounts=2)
    protocol = protocol.model_copy(update={"attackers": (thief,), "budget": 144 + 2 * 96})
    key: list[int] = []
    oracles = {
        "open": FakeOracle(support=3, requests=key, fails_after=requests),
        "stingy": FakeOracle(requests=key, fails_after=requests),
    }
    with pytest.raises(TransferError, match="the endpoint failed"):
        audit(protocol, tmp_path / "out", **oracles)
    assert len(key) == requests
    for oracle in oracles.values():
        oracle.fails_after = None
    report = audit(protocol, tmp_path / "out", **oracles)
    whole = audit(protocol, tmp_path / "whole", open=FakeOracle(support=3), stingy=FakeOracle())
    for item, undisturbed in zip(report["endpoints"], whole["endpoints"], strict=True):
        assert item["queries_charged"] == item["queries_spent"] == undisturbed["queries_spent"]
    assert sum(key) == sum(item["queries_charged"] for item in report["endpoints"])
    assert numbers(report) == numbers(whole)
