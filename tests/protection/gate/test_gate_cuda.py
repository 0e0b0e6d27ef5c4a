"""The gate on CUDA gives the answers of the gate on the CPU, for ties and bfloat16 too."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stingy_protection import LogitsRejected, Policy, SparseLogits, build_policy, sanitize

pytestmark = pytest.mark.cuda
ROWS, CLASSES = 10_000, 100
KINDS = ("float32", "bfloat16", "tied", "zeros")


def rows(kind: str) -> Tensor:
    """Make logits [10,000, 100]: random, in bfloat16, on a coarse grid, or signed zeros."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(ROWS, CLASSES, generator=generator)
    if kind == "bfloat16":
        return logits.bfloat16()
    if kind == "tied":
        return logits.round()
    if kind == "zeros":
        signs = torch.randint(0, 2, logits.shape, generator=generator) * 2.0 - 1.0
        return torch.where(logits > 6, logits, signs * 0.0)
    return logits


def policies() -> list[Policy]:
    choices: tuple[tuple[str, dict[str, Any]], ...] = (
        ("stingy", {"n": 1}),
        ("stingy", {"n": 10}),
        ("stingy", {"n": 10, "scores": "prob", "decimals": 6}),
        ("stingy", {"n": 100}),
        ("stingy_smooth", {"n": 10}),
        ("reversed", {}),
        ("label", {}),
        ("ranked_labels", {"n": 10}),
        ("open", {}),
    )
    return [build_policy(name, num_classes=CLASSES, **options) for name, options in choices]


def count_differing_rows(left: SparseLogits, right: SparseLogits) -> int:
    """Count the rows that are not the same to the last bit."""
    other = (left.indices != right.indices).any(dim=1)
    if left.scores is not None and right.scores is not None:
        other |= (left.scores != right.scores).any(dim=1)
    return int(other.sum())


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: policy.describe())
@pytest.mark.parametrize("kind", KINDS)
def test_P1_cuda_gate_answers_as_the_cpu_gate(kind: str, policy: Policy) -> None:
    logits = rows(kind)
    assert count_differing_rows(sanitize(policy, logits.cuda()), sanitize(policy, logits)) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_P2_cuda_gate_refuses_logits_that_are_not_finite(bad: float) -> None:
    logits = rows("float32")
    logits[7_777, 77] = bad
    with pytest.raises(LogitsRejected, match="finite"):
        sanitize(policies()[1], logits.cuda())
