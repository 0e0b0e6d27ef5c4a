"""The fused gate: exported, its outputs equal the gate's, and it has no other output."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from policy_strategies import build_shipped, normal_logits
from stingy_protection import (
    Label,
    LogitsRejected,
    PolicyConfigError,
    PolicyViolation,
    Preprocessing,
    RankedLabels,
    ScoreForm,
    Stingy,
    sanitize,
)
from stingy_protection.bundles.fused import FusedClassifier, FusedGate, read_outputs

torch.set_num_threads(1)
CLASSES = 12
TIED = torch.cat([normal_logits(200, CLASSES), normal_logits(200, CLASSES, seed=1).round()])
FUSABLE = (
    "label",
    "open",
    "ranked_buckets",
    "ranked_labels",
    "reverse_sigmoid",
    "reversed",
    "rounded",
    "stingy",
)


def export(module: nn.Module, example: Tensor) -> ExportedProgram:
    rows = {0: Dim("batch", min=1, max=1024)}
    return torch.export.export(module.eval(), (example,), dynamic_shapes=(rows,))


def output_shapes(program: ExportedProgram) -> list[tuple[int, ...]]:
    """Return the shapes of the graph's outputs, without the batch dimension."""
    (output,) = [node for node in program.graph.nodes if node.op == "output"]
    return [tuple(value.meta["val"].shape[1:]) for value in output.args[0]]


@pytest.mark.parametrize("name", FUSABLE)
def test_P1_an_exported_gate_equals_the_gate_with_ties(name: str) -> None:
    policy = build_shipped(name, CLASSES)
    program = export(FusedGate(policy), TIED)
    outputs = [output.numpy() for output in program.module()(TIED)]
    answer, expected = read_outputs(policy, outputs, rows=len(TIED)), sanitize(policy, TIED)
    assert torch.equal(answer.indices, expected.indices)
    assert (answer.scores is None) == (expected.scores is None)
    if answer.scores is not None and expected.scores is not None:
        assert torch.equal(answer.scores, expected.scores)


@pytest.mark.parametrize("form", ScoreForm)
def test_every_score_form_equals_the_gates(form: ScoreForm) -> None:
    policy = Stingy(num_classes=CLASSES, n=4, scores=form, decimals=1)
    outputs = export(FusedGate(policy), TIED).module()(TIED)
    expected = sanitize(policy, TIED)
    assert torch.equal(outputs[0], expected.indices)
    if expected.scores is not None:
        assert torch.equal(outputs[1], expected.scores)


def test_L4_a_graph_outputs_only_n_indices_and_n_scores() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, CLASSES)).requires_grad_(False)
    preprocessing = Preprocessing(size=(4, 4), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    images = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    for policy, expected in (
        (Stingy(num_classes=CLASSES, n=2), [(2,), (2,)]),
        (RankedLabels(num_classes=CLASSES, n=3), [(3,), (3,)]),
        (Label(num_classes=CLASSES), [(1,)]),
    ):
        fused = FusedClassifier(network, preprocessing=preprocessing, policy=policy)
        assert output_shapes(export(fused, images)) == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_P2_a_graph_refuses_only_the_rows_that_are_not_finite(
    bad: float,
) -> None:
    logits = TIED[:4].clone()
    logits[2, 5] = bad
    policy = Stingy(num_classes=CLASSES, n=3)
    indices, scores = export(FusedGate(policy), TIED).module()(logits)
    assert indices[2].tolist() == [-1, -1, -1]
    assert scores[2].tolist() == [0.0, 0.0, 0.0]
    expected = sanitize(policy, TIED[:4])
    assert torch.equal(indices[[0, 1, 3]], expected.indices[[0, 1, 3]])
    with pytest.raises(LogitsRejected):
        read_outputs(policy, [indices.numpy(), scores.numpy()], rows=4)


def test_a_policy_with_noise_cannot_be_fused() -> None:
    with pytest.raises(PolicyConfigError, match="without noise"):
        FusedGate(build_shipped("keyed_noise", CLASSES))


INDICES = np.array([[3, 1], [0, 2]])
SCORES = np.array([[-0.5, -0.9], [-0.2, -1.7]], np.float32)
Change = Callable[[], list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]]
SABOTAGES: dict[str, Change] = {
    "no scores": lambda: [INDICES],
    "a third output": lambda: [INDICES, SCORES, SCORES],
    "int32 indices": lambda: [INDICES.astype(np.int32), SCORES],
    "float64 scores": lambda: [INDICES, SCORES.astype(np.float64)],
    "one row more": lambda: [np.tile(INDICES, (2, 1)), np.tile(SCORES, (2, 1))],
    "too many": lambda: [np.array([[3, 1, 0], [0, 2, 1]]), np.zeros((2, 3), np.float32)],
    "nothing": lambda: [INDICES[:, :0], SCORES[:, :0]],
    "shapes that differ": lambda: [INDICES, SCORES[:, :1]],
    "one dimension": lambda: [INDICES[:, 0], SCORES[:, 0]],
    "an index twice": lambda: [INDICES * 0, SCORES],
    "index K": lambda: [INDICES + CLASSES, SCORES],
    "NaN": lambda: [INDICES, SCORES * np.float32(np.nan)],
    "off the grid": lambda: [INDICES, SCORES + np.float32(0.01)],
}


@pytest.mark.parametrize("change", SABOTAGES.values(), ids=SABOTAGES.keys())
def test_L4_outputs_that_break_a_promise_are_refused(change: Change) -> None:
    policy = Stingy(num_classes=CLASSES, n=2, decimals=1, scores=ScoreForm.LOG_PROB)
    fine = [INDICES, SCORES]
    assert len(read_outputs(policy, fine, rows=2)) == 2
    with pytest.raises(PolicyViolation):
        read_outputs(policy, change(), rows=2)
