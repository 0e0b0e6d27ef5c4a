"""Policies as values: faults, fingerprints and descriptions. The function `best_first`."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policy_strategies import finite_logits
from stingy_protection import (
    Label,
    Open,
    PolicyConfigError,
    RankedLabels,
    Rounded,
    ScoreForm,
    Stingy,
    best_first,
)


def test_every_fault_of_the_options_is_listed() -> None:
    with pytest.raises(PolicyConfigError) as caught:
        Stingy(num_classes=10, n=11, decimals=7, scores="prob")  # type: ignore[arg-type]
    assert len(caught.value.faults) == 3
    assert str(caught.value) == "; ".join(caught.value.faults)


@pytest.mark.parametrize("n", [0, -1, 11, 2.0, True, "2"])
def test_a_support_outside_one_to_k_is_a_fault(n: int) -> None:
    with pytest.raises(PolicyConfigError, match="support"):
        Stingy(num_classes=10, n=n)


@pytest.mark.parametrize("num_classes", [1, 0, -3, 2.0, True])
def test_fewer_than_two_classes_are_a_fault(num_classes: int) -> None:
    with pytest.raises(PolicyConfigError, match="num_classes"):
        Open(num_classes=num_classes)


@pytest.mark.parametrize("decimals", [-1, 7, 1.5, True])
def test_a_grid_outside_zero_to_six_decimals_is_a_fault(decimals: int) -> None:
    with pytest.raises(PolicyConfigError, match="decimals"):
        Open(num_classes=10, decimals=decimals)


def test_policies_without_scores_refuse_another_form() -> None:
    with pytest.raises(PolicyConfigError, match="label has no scores"):
        Label(num_classes=10, scores=ScoreForm.PROB)
    with pytest.raises(PolicyConfigError, match="ranked_labels has ranks only"):
        RankedLabels(num_classes=10, n=2, scores=ScoreForm.PROB)


def test_the_fingerprint_depends_on_the_name_and_every_option() -> None:
    policy = Stingy(num_classes=10, n=2)
    others = (
        replace(policy, n=3),
        replace(policy, decimals=2),
        replace(policy, scores=ScoreForm.PROB),
        replace(policy, num_classes=11),
        RankedLabels(num_classes=10, n=2, scores=ScoreForm.RANK),
    )
    assert policy.fingerprint == Stingy(num_classes=10, n=2).fingerprint
    assert len({policy.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert len(policy.fingerprint) == 12
    assert int(policy.fingerprint, 16) >= 0


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    assert Stingy(num_classes=10, n=2).fingerprint == "82a2befe7ba7"


def test_options_are_resolved_and_survive_json() -> None:
    options = Stingy(num_classes=10, n=2).options()
    assert options == {"num_classes": 10, "scores": "log_prob", "decimals": 3, "n": 2}
    assert json.loads(json.dumps(options)) == options


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (Stingy(num_classes=10, n=2), "stingy: top 2 of 10 classes, log_prob at 3 decimals"),
        (Open(num_classes=10), "open: all 10 classes, logit at 3 decimals"),
        (Rounded(num_classes=10), "rounded: all 10 classes, prob at 2 decimals"),
        (Label(num_classes=10), "label: top 1 of 10 classes, no scores"),
        (RankedLabels(num_classes=10, n=3), "ranked_labels: top 3 of 10 classes, ranks only"),
    ],
)
def test_a_policy_describes_itself_in_one_line(policy: Open, line: str) -> None:
    assert policy.describe() == line


@settings(max_examples=150)
@given(logits=finite_logits(), data=st.data())
def test_best_first_equals_a_stable_sort_cut_at_n(logits: Tensor, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, logits.shape[1]))
    values, indices = best_first(logits, n)
    falling = logits.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, falling.values[:, :n])
    assert torch.equal(indices, falling.indices[:, :n])


def test_best_first_breaks_ties_at_the_cut_by_index() -> None:
    logits = torch.zeros(1, 100)
    assert best_first(logits, 5)[1].tolist() == [[0, 1, 2, 3, 4]]
