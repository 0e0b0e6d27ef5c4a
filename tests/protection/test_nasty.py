"""The nasty loss: a hand computation, and the direction of its gradient."""

import math

import pytest
import torch

from stingy_protection import nasty_loss

LOGITS = [[2.0, 0.0], [1.0, 3.0]]
NORMAL = [[1.0, 1.0], [0.0, 4.0]]
LABELS = [0, 1]


def softmax(row: list[float], tau: float) -> list[float]:
    exps = [math.exp(value / tau) for value in row]
    return [value / sum(exps) for value in exps]


@pytest.mark.parametrize(("omega", "tau"), [(0.04, 4.0), (0.5, 1.0), (0.005, 20.0)])
def test_nasty_loss_equals_a_hand_computation(omega: float, tau: float) -> None:
    expected = 0.0
    for logits, normal, label in zip(LOGITS, NORMAL, LABELS, strict=True):
        p, q = softmax(logits, tau), softmax(normal, tau)
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected += -math.log(softmax(logits, 1)[label]) - omega * tau**2 * divergence
    loss = nasty_loss(
        torch.tensor(LOGITS), torch.tensor(LABELS), torch.tensor(NORMAL), omega=omega, tau=tau
    )
    assert loss.item() == pytest.approx(expected / 2, abs=1e-5)


def test_only_the_nasty_teacher_receives_gradients() -> None:
    nasty = torch.tensor(LOGITS, requires_grad=True)
    normal = torch.tensor(NORMAL, requires_grad=True)
    loss = nasty_loss(nasty, torch.tensor(LABELS), normal, omega=0.1, tau=4.0)
    torch.autograd.backward(loss)
    assert nasty.grad is not None
    assert normal.grad is None


def test_a_gradient_step_moves_away_from_the_normal_teacher() -> None:
    nasty = torch.tensor([[0.2, 0.1, 0.0]], requires_grad=True)
    normal = torch.tensor([[0.0, 0.1, 0.2]])

    def divergence(logits: torch.Tensor) -> float:
        p = logits.log_softmax(dim=1)
        return float((p.exp() * (p - normal.log_softmax(dim=1))).sum())

    loss = nasty_loss(nasty, torch.tensor([0]), normal, omega=10.0, tau=1.0)
    torch.autograd.backward(loss)
    assert nasty.grad is not None
    with torch.no_grad():
        assert divergence(nasty - 0.1 * nasty.grad) > divergence(nasty)


@pytest.mark.parametrize(
    ("normal", "omega", "tau"),
    [([[1.0, 1.0]], 1.0, 1.0), (NORMAL, 0.0, 1.0), (NORMAL, 1.0, 0.0), (NORMAL, 1.0, -1.0)],
)
def test_wrong_shapes_and_weights_are_refused(
    normal: list[list[float]], omega: float, tau: float
) -> None:
    with pytest.raises(ValueError, match="expected"):
        nasty_loss(
            torch.tensor(LOGITS), torch.tensor(LABELS), torch.tensor(normal), omega=omega, tau=tau
        )
