"""Loading: a policy whose answers tell whole rows needs `allow_open`, whatever its name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from torch import Tensor

from serving import make_bundle, make_settings
from stingy_protection import Policy, Proposal, best_first
from stingy_protection.policies import registry
from stingy_server.models.loading import load_bundles


def faults_of(tmp_path: Path, policy: str, *, allow_open: bool = False) -> list[str]:
    bundle = make_bundle(tmp_path / "b", policy=policy)
    _, faults = load_bundles(make_settings(tmp_path / "s", bundle, allow_open=allow_open))
    return faults


@pytest.mark.parametrize(
    "policy",
    [
        "open",
        "stingy:n=9",
        "stingy_smooth:n=9,scores=logit,decimals=6",
        "reversed:scores=logit,decimals=6",
        "rounded:scores=logit,decimals=6",
        "keyed_noise:n=10,sigma=1e-9,scores=logit,decimals=6",
        "modelguard_w:eps=1e-9,scores=log_prob,decimals=6",
        "reverse_sigmoid:beta=1e-9,scores=log_prob,decimals=6",
    ],
)
def test_P10_open_policy_loads_with_permission_alone(tmp_path: Path, policy: str) -> None:
    (fault,) = faults_of(tmp_path, policy)
    assert "hides nothing: its answers tell whole rows to within" in fault
    assert fault.endswith("set allow_open = true to serve it")
    assert faults_of(tmp_path, policy, allow_open=True) == []


@pytest.mark.parametrize("policy", ["stingy:n=5", "label", "ranked_buckets", "keyed_noise:n=10"])
def test_P10_policy_that_hides_loads_without_permission(tmp_path: Path, policy: str) -> None:
    assert faults_of(tmp_path, policy) == []


@dataclass(frozen=True, kw_only=True)
class Unhashable(Policy):
    """A policy of another package with an option that cannot be hashed."""

    name: ClassVar[str] = "unhashable"
    weights: list[int] = field(default_factory=list)

    @property
    def support(self) -> int:
        return 1

    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, 1)
        return Proposal(indices, values)


@dataclass(frozen=True, kw_only=True)
class Failing(Policy):
    """A policy of another package that fails on every row."""

    name: ClassVar[str] = "failing"

    @property
    def support(self) -> int:
        return 1

    def propose(self, logits: Tensor) -> Proposal:
        raise KeyError(float(logits[0, 0]))


@pytest.mark.parametrize("allow_open", [False, True])
@pytest.mark.parametrize("policy", [Unhashable, Failing])
def test_P10_policy_that_cannot_be_measured_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: type[Policy], allow_open: bool
) -> None:
    monkeypatch.setitem(registry.SHIPPED, policy.name, policy)
    (fault,) = faults_of(tmp_path, policy.name, allow_open=allow_open)
    assert f"the policy {policy.name} fails on random rows" in fault
