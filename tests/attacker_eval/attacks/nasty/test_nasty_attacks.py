"""Attacks made for nasty teachers: their published losses, and each against its own control."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_lab import (
    TeacherOracle,
    attacker_data,
    digits_mean,
    digits_teacher,
    run,
    striped_oracle,
)
from stingy_attacker_eval.attacks import Attack, AttackerData, Batch
from stingy_attacker_eval.attacks.nasty.htc import Htc, compose_target
from stingy_attacker_eval.attacks.nasty.scm import Scm, contrastive_loss
from stingy_attacker_eval.attacks.nasty.skeptical import Skeptical, skeptical_loss
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.attacks.scores.paper_kd import PaperKd
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import TrainSettings
from stingy_protection import build_policy, nasty_loss

SHORT = TrainSettings(epochs=4, batch=32, lr=0.05)


class Peaked(nn.Module):
    """A network with two false peaks beside its top-1, as a nasty teacher has."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = digits_teacher()

    def forward(self, inputs: Tensor) -> Tensor:
        top1 = self.inner(inputs).argmax(dim=1, keepdim=True)
        logits = torch.zeros(len(top1), 10)
        for step in (3, 5):
            logits.scatter_(1, (top1 + step) % 10, 7.8)
        return logits.scatter_(1, top1, 8.0)


def misleading_oracle() -> TeacherOracle:
    return TeacherOracle(Peaked().eval(), build_policy("open", num_classes=10))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def misled() -> float:
    """Return the accuracy of the paper's attacker on an endpoint that misleads."""
    torch.set_num_threads(1)
    return digits_mean(PaperKd(), misleading_oracle(), settings=SHORT)


@pytest.mark.parametrize("attack", [Skeptical(), Htc(), Scm()])
def test_E3_attacks_on_nasty_teachers_are_misled_less(attack: Attack, misled: float) -> None:
    assert digits_mean(attack, misleading_oracle(), settings=SHORT) > misled + 10


def rows(count: int = 5, classes: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second, third = 2 * torch.randn(3, count, classes, generator=generator)
    return first, second, third, torch.randint(0, classes, (count,), generator=generator)


def test_skeptical_loss_is_the_published_one() -> None:
    head, early, teacher, labels = rows()
    tau, alpha = 4.0, 0.9

    def divergence(target: Tensor, found: Tensor) -> Tensor:
        p, q = (target / tau).softmax(1), (found / tau).softmax(1)
        return (p * (p / q).log()).sum() / len(p)

    def label_loss(found: Tensor) -> Tensor:
        return -found.log_softmax(1)[torch.arange(5), labels].mean()

    # train_kd_to_SD.py of the published code, with the answers distilled into its exit 1.
    expected = (
        alpha * tau**2 * divergence(teacher, early)
        + (1 - alpha) * label_loss(early)
        + (0.3 * divergence(head, early) + 0.7 * label_loss(early))
        + label_loss(head)
    )
    found = skeptical_loss(head, early, teacher, labels, tau=tau, alpha=alpha, weight=0.3)
    # kd_loss has no constant of its own: kl_div counts the target's entropy as published.
    torch.testing.assert_close(found, expected)


def test_skeptical_student_has_labels_alone_in_the_delay() -> None:
    found = attacker_data(striped_oracle())
    settings = TrainSettings(epochs=2, batch=32, lr=0.05)

    def weights(attack: Attack) -> Tensor:
        torch.manual_seed(0)
        student = cnn(num_classes=3, width=4)
        assert run(attack, found, student=student, settings=settings).finite
        return torch.cat([each.detach().flatten() for each in student.parameters()])

    # The order of batches is that of no_api, and the exit has no gradient.
    torch.testing.assert_close(weights(Skeptical(delay=2)), weights(NoApi()))
    assert not torch.allclose(weights(Skeptical(delay=1)), weights(NoApi()))


def test_composed_target_matches_a_hand_computation() -> None:
    teacher = torch.tensor([[4.0, 0.0, -torch.inf]])
    found = compose_target(teacher, torch.tensor([1]), tau=4.0, weight=0.25)
    share = torch.e / (1 + torch.e)
    expected = [[0.25 * share, 0.75 + 0.25 * (1 - share), 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_composition_without_answers_is_training_without_the_api() -> None:
    student, teacher, _, labels = rows()
    images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    data = AttackerData(images, labels=labels, top1=labels, logits=teacher)
    batch = Batch(data, Htc.requires, torch.arange(5))
    torch.testing.assert_close(
        Htc(weight=0.0).loss(student, batch), functional.cross_entropy(student, labels)
    )


def test_contrastive_loss_is_the_nasty_loss() -> None:
    logits, former, _, labels = rows()
    found = contrastive_loss(logits, former, labels, omega=0.04, tau=4.0)
    torch.testing.assert_close(found, nasty_loss(logits, labels, former, omega=0.04, tau=4.0))


def test_contrastive_models_differ_from_their_control() -> None:
    found = attacker_data(striped_oracle("open"))
    near = run(Scm(omega=1e-9), found).last_loss
    assert run(Scm(), found).last_loss != near
    assert run(Scm(models=2), found).finite
