"""An audit that the endpoints' descriptions rule out is refused before a query is spent."""

import math
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from audit_fakes import FakeOracle, audit, striped, tiny_protocol
from stingy_attacker_eval.audit import pretraining
from stingy_attacker_eval.audit.protocol import AttackEntry, Protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.report_schema import Attacker
from stingy_attacker_eval.training import TrainResult
from stingy_clients import ModelInfo, NotFound


@dataclass
class Foreign(FakeOracle):
    """An endpoint whose policy only its operator knows."""

    def describe(self) -> ModelInfo:
        return super().describe().model_copy(update={"policy": "house_rule"})


class Absent(FakeOracle):
    def describe(self) -> ModelInfo:
        raise NotFound(404, "not_found", "Expected a model that is served here, got another.")


def label_only_endpoint() -> FakeOracle:
    return FakeOracle(form="none", support=1)


def refused(
    protocol: Protocol, out: Path, *, only: tuple[str, ...] = (), **oracles: FakeOracle
) -> list[str]:
    """Return the faults for which the audit is refused, without a query."""
    with pytest.raises(AuditError) as caught:
        run_audit(protocol, oracles=oracles, out=out, only=only, console=Console(file=StringIO()))
    assert [oracle.requests for oracle in oracles.values()] == [[]] * len(oracles)
    assert not out.exists()
    return list(caught.value.faults)


def own(protocol: Protocol, *names: str) -> Protocol:
    """Return the protocol with attacks of its first endpoint's own."""
    first, *others = protocol.endpoints
    attacks = tuple(AttackEntry(name=name) for name in names)
    return protocol.model_copy(
        update={"endpoints": (first.model_copy(update={"attacks": attacks}), *others)}
    )


def test_E8_policy_without_an_inverter_is_refused(tmp_path: Path, dataset: str) -> None:
    protocol = tiny_protocol(dataset, attacks=('"label_only"', '"inversion"'))
    (fault,) = refused(protocol, tmp_path / "o", stingy=Foreign())
    assert fault.startswith(
        "expected an endpoint on which inversion can run, got none: it needs a policy it can"
    )
    assert fault.endswith("and this is house_rule")


def test_E8_attacks_of_an_endpoints_own_must_run_there(tmp_path: Path, dataset: str) -> None:
    protocol = own(
        tiny_protocol(dataset, attacks=('"label_only"',)), "soft_label", "rank_and_label"
    )
    faults = refused(protocol, tmp_path / "o", stingy=label_only_endpoint())
    assert [fault.partition(", which")[0] for fault in faults] == [
        "stingy: expected attacks that can run there, got soft_label",
        "stingy: expected attacks that can run there, got rank_and_label",
    ]


def test_E8_endpoint_without_a_possible_attack_is_refused(tmp_path: Path, dataset: str) -> None:
    for attacks in (('"soft_label"',), ('{ name = "dafl", steps = 3 }',)):
        protocol = tiny_protocol(dataset, attacks=attacks)
        (fault,) = refused(protocol, tmp_path / "o", stingy=label_only_endpoint())
        assert fault.startswith("stingy: expected an attack that can run there, got none: ")


def test_E8_every_endpoint_that_is_not_served_is_named(tmp_path: Path, dataset: str) -> None:
    protocol = tiny_protocol(dataset, endpoints=("label", "b", "c"), attacks=('"label_only"',))
    faults = refused(
        own(protocol, "paper_kd").model_copy(update={"budget": 100}),
        tmp_path / "o",
        label=label_only_endpoint(),
        b=Absent(),
        c=Absent(),
    )
    assert [fault.partition(":")[0] for fault in faults] == [
        "expected a budget of at least 144 images (96 to train on, 48 to compare), got 100",
        "b",
        "c",
        "label",
    ]


def test_E8_runs_that_fit_nothing_are_refused(tmp_path: Path, dataset: str) -> None:
    only = ("label_only", "stingy/lable_only/*", "nobody")
    (fault,) = refused(tiny_protocol(dataset), tmp_path / "o", only=only, stingy=FakeOracle())
    assert fault == "expected runs that fit stingy/lable_only/*, nobody, got none"


def test_attacks_on_all_endpoints_may_lack_scores(tmp_path: Path, dataset: str) -> None:
    protocol = tiny_protocol(dataset, attacks=('"label_only"', '"soft_label"'))
    report = audit(protocol, tmp_path / "o", stingy=label_only_endpoint())
    assert [item["attack"] for item in report["skipped"]] == ["soft_label"]


def test_E8_network_that_cannot_be_pretrained_costs_no_query(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (images, labels) = tmp_path / "other.npz", striped(64, seed=5)
    np.savez(path, train_x=images, train_y=labels, test_x=images, test_y=labels)
    monkeypatch.setattr(pretraining, "train", lambda *_, **__: TrainResult(False, 0.0, math.inf))
    trained = Attacker(pretrained=f"npz:{path}")
    protocol = tiny_protocol(dataset, attacks=('"label_only"',))
    oracle = FakeOracle()
    with pytest.raises(AuditError, match="expected a finite loss of cnn_tiny on npz:"):
        audit(protocol.model_copy(update={"attackers": (trained,)}), tmp_path / "o", stingy=oracle)
    assert oracle.requests == []
