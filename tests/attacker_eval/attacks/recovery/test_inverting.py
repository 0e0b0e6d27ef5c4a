"""Inversion: the copies of the policies, and what an inverter recovers against its controls."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.nn import functional

from attack_lab import (
    CPU,
    QUICK,
    TeacherOracle,
    attacker_data,
    digits,
    digits_data,
    digits_oracle,
    digits_teacher,
    run,
    striped_oracle,
)
from stingy_attacker_eval.attacks import AttackContext, AttackerData
from stingy_attacker_eval.attacks.recovery.inversion import Inversion, compute_shadow_logits
from stingy_attacker_eval.attacks.recovery.inverter import Inverter
from stingy_attacker_eval.attacks.recovery.modelguard_copy import disturb
from stingy_attacker_eval.attacks.recovery.policy_simulation import (
    SUPPORTED_POLICIES,
    PolicyOptions,
    rank_scores,
    simulate_policy,
)
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import TrainSettings, normalise, to_device
from stingy_protection import build_policy, parse_policy, policy_names

SHORT = TrainSettings(epochs=8, batch=32, lr=0.05)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Unsure(nn.Module):
    """The digits teacher with half of its logits, as a teacher of a harder task is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = digits_teacher()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.inner(inputs) / 2
        return logits


def true_logits() -> Tensor:
    images, _, _, _ = digits()
    logits: Tensor = Unsure()(normalise(to_device(images, CPU))).detach()
    return logits


def divergence(answers: Tensor) -> float:
    """Return the mean KL divergence of the answers from the teacher's own, in nats."""
    truth = true_logits().log_softmax(1)
    found = answers.log_softmax(1).clamp_min(-30)
    return float(functional.kl_div(found, truth, reduction="batchmean", log_target=True))


def unsure_data(policy: str) -> AttackerData:
    name, more = parse_policy(policy)
    teacher = Unsure().eval()
    return digits_data(TeacherOracle(teacher, build_policy(name, num_classes=10, **more)))


def test_E3_every_shipped_policy_can_be_simulated() -> None:
    assert set(policy_names()) == set(SUPPORTED_POLICIES)


@pytest.mark.parametrize("eps", [0.2, 1.0, 2.0])
@pytest.mark.parametrize("classes", [4, 10])
def test_modelguard_copy_reaches_the_linear_programs_cost(eps: float, classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    y = (3 * torch.randn(6, classes, generator=generator)).softmax(1).sort(1, True).values
    found = disturb(y, eps).double().numpy()
    for row, ours in zip(y.double().numpy(), found, strict=True):
        cost = np.log(row + 1e-6)
        # The variables are y' and the parts of |y' - y| above and below.
        eye, none = np.eye(classes), np.zeros((classes, classes))
        top = np.hstack([eye[1:] - eye[:1], none[1:], none[1:]])
        budget = np.concatenate([np.zeros(classes), np.ones(2 * classes)])
        best = linprog(
            np.concatenate([cost, np.zeros(2 * classes)]),
            A_ub=np.vstack([top, budget]),
            b_ub=np.concatenate([np.zeros(classes - 1), [eps]]),
            A_eq=np.vstack([np.hstack([eye, -eye, eye]), 1 - budget]),
            b_eq=np.concatenate([row, [1.0]]),
        )
        assert ours.sum() == pytest.approx(1, abs=1e-5)
        assert np.abs(ours - row).sum() <= eps + 1e-4
        assert ours[0] >= ours.max() - 1e-6
        assert cost @ ours == pytest.approx(best.fun, abs=5e-3)


def test_simulated_noise_is_that_of_the_gate() -> None:
    found = unsure_data("keyed_noise:n=4,sigma=0.5,decimals=6")
    info = found.info
    assert info is not None
    assert found.logits is not None
    logits = true_logits()
    copies = [simulate_policy(logits, info, PolicyOptions(sigma=0.5)) for _ in range(2)]
    assert torch.equal(copies[0].isinf(), found.logits.isinf())
    errors = []
    for answers in (*copies, found.logits):
        order = logits.topk(4, dim=1).indices[:, 2:]  # untouched by the lift of the top-1
        gap = answers.gather(1, order) - logits.gather(1, order)
        errors.append(float((gap[:, 0] - gap[:, 1]).std()))
    assert errors[0] == pytest.approx(0.5 * 2**0.5, abs=0.06)
    assert errors[2] == pytest.approx(errors[0], abs=0.15)
    assert not torch.equal(*copies)


def test_ranks_are_read_as_scores() -> None:
    found = rank_scores(torch.tensor([[2, 0]]), 4)
    assert found.tolist() == [[-1.0, -torch.inf, 0.0, -torch.inf]]
    info = digits_oracle("ranked_labels:n=3").describe()
    simulated = simulate_policy(true_logits(), info, PolicyOptions())
    order = true_logits().topk(3, dim=1).indices
    assert torch.equal(simulated, rank_scores(order, 10))


@cache
def shadow_logits() -> Tensor:
    """Return the logits of two shadows of the digits, as the attack makes them."""
    found = digits_data(digits_oracle())
    context = AttackContext(found, Inversion.requires, settings=SHORT, seed=0)
    torch.manual_seed(0)
    return compute_shadow_logits(cnn(num_classes=10, width=8), context, context.labels)


def inverted(attack: Inversion, found: AttackerData) -> Tensor:
    torch.manual_seed(0)
    context = AttackContext(found, Inversion.requires, settings=QUICK, seed=0)
    return attack.invert_answers(shadow_logits(), context)


@pytest.mark.parametrize(
    ("policy", "share"),
    [("reverse_sigmoid", 0.7), ("modelguard_w", 0.7), ("keyed_noise:n=10,sigma=3", 0.95)],
)
def test_E3_inverter_recovers_more_than_the_answer_says(policy: str, share: float) -> None:
    found = unsure_data(policy)
    assert found.logits is not None
    attack = Inversion(steps=400, sigma=3.0)
    assert divergence(inverted(attack, found)) < share * divergence(found.logits)


def test_inverter_keeps_the_top1_among_equal_scores() -> None:
    found = unsure_data("modelguard_w")
    assert found.logits is not None
    assert found.top1 is not None
    ties = (found.logits == found.logits.amax(1, keepdim=True)).sum(1) > 1
    assert ties.float().mean() > 0.3
    kept = inverted(Inversion(steps=400), found).argmax(1) == found.top1
    assert kept[ties].float().mean() > 0.9


def test_inverter_of_another_policy_recovers_less() -> None:
    """Compare with the control: the same training with wrong options of the policy."""
    found = unsure_data("reverse_sigmoid")
    knows, guesses = Inversion(steps=400), Inversion(steps=400, beta=0.9, gamma=0.9)
    assert divergence(inverted(knows, found)) < 0.8 * divergence(inverted(guesses, found))


@pytest.mark.parametrize(("classes", "width"), [(10, 64), (100, 512), (200, 1024)])
def test_inverter_has_the_published_size(classes: int, width: int) -> None:
    layers = [each for each in Inverter(classes).modules() if isinstance(each, nn.Linear)]
    assert [layer.out_features for layer in layers] == [width, width, classes]


@pytest.mark.parametrize(
    "policy", ["label", "ranked_labels:n=2", "modelguard_w", "keyed_noise:n=2"]
)
def test_inversion_runs_on_every_kind_of_answer(policy: str) -> None:
    found = attacker_data(striped_oracle(policy))
    attack = Inversion(steps=5)
    assert attack.skip_reason(found) is None
    assert run(attack, found).finite


def test_inversion_without_true_labels_does_not_read_them() -> None:
    found = attacker_data(striped_oracle("stingy:n=2"))
    attack = Inversion(steps=5, true_labels=False)
    without: AttackerData = replace(found, labels=None)
    assert run(attack, without).last_loss == run(attack, found).last_loss
