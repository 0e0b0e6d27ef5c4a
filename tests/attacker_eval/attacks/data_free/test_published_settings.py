"""The data-free attacks against the published code: losses, modes, rates, replay."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_lab import QUICK, attacker_data, run, striped_oracle
from stingy_attacker_eval.attacks import AttackContext
from stingy_attacker_eval.attacks.data_free.data_free_hard import DataFreeHard
from stingy_attacker_eval.attacks.data_free.data_free_soft import DataFreeSoft
from stingy_attacker_eval.attacks.data_free.generation import DataFree, ReplayBuffer
from stingy_attacker_eval.students import cnn


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_dfme_student_loss_is_the_published_l1() -> None:
    generator = torch.Generator().manual_seed(0)
    student, logits = torch.randn(2, 5, 4, generator=generator)
    # train.py: t = log_softmax(t); t -= t.mean(1); l1_loss(s, t)
    teacher = functional.log_softmax(logits, dim=1)
    teacher = teacher - teacher.mean(dim=1).view(-1, 1)
    expected = functional.l1_loss(student, teacher)
    torch.testing.assert_close(DataFreeSoft().student_loss(student, logits), expected)


def test_defaults_are_the_published_settings() -> None:
    soft, hard = DataFreeSoft(), DataFreeHard()
    assert (soft.batch, soft.student_lr, soft.generator_lr, soft.balance) == (256, 0.1, 1e-4, 0.0)
    assert (soft.student_steps, soft.rate_steps) == (5, (0.1, 0.3, 0.5))
    assert (hard.batch, hard.student_lr, hard.generator_lr, hard.balance) == (256, 0.03, 1e-4, 0.2)
    assert (hard.generator_steps, hard.replay_steps) == (1, 3)
    assert hard.rate_steps == (0.4, 0.8)


@pytest.mark.parametrize("attack", [DataFreeSoft(batch=8), DataFreeHard(batch=8)])
def test_rates_fall_to_three_tenths_at_the_published_steps(attack: DataFree) -> None:
    network = cnn(num_classes=3, width=4)
    adam, sgd, end_round = attack.build_optimizers(cnn(num_classes=3, width=4), network)
    assert sgd.param_groups[0]["weight_decay"] == 5e-4
    rounds = attack.queries // attack.round_queries
    rates: dict[str, list[float]] = {"adam": [], "sgd": []}
    for _ in range(rounds):
        rates["adam"].append(adam.param_groups[0]["lr"])
        rates["sgd"].append(sgd.param_groups[0]["lr"])
        adam.step()
        sgd.step()
        end_round()
    for name, first in (("adam", attack.generator_lr), ("sgd", attack.student_lr)):
        for round_number, rate in enumerate(rates[name]):
            falls = sum(round_number >= int(share * rounds) for share in attack.rate_steps)
            assert rate == pytest.approx(first * 0.3**falls)


class Watched(nn.Module):
    """A student that notes the mode of each forward pass and whether its input has a gradient."""

    notes: list[tuple[bool, bool]]

    def __init__(self) -> None:
        super().__init__()
        self.inner = cnn(num_classes=3, width=4)
        self.notes = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.notes.append((self.training, inputs.requires_grad))
        logits: Tensor = self.inner(inputs)
        return logits


def run_rounds(attack: DataFree) -> Watched:
    student = Watched()
    found = attacker_data(striped_oracle())
    assert run(attack, found, student=student).finite
    return student


def test_disguide_students_are_in_eval_mode_under_the_generator() -> None:
    notes = run_rounds(DataFreeHard(queries=32, batch=16)).notes
    one_round = [(False, True), *[(True, False)] * 4]  # one new batch and three of the replay
    assert notes[: 2 * len(one_round)] == 2 * one_round


def test_replay_draws_from_all_earlier_images() -> None:
    found = attacker_data(striped_oracle())
    context = AttackContext(found, DataFreeHard.requires, settings=QUICK, seed=0)
    replay = ReplayBuffer(context)
    for number in range(4):
        replay.add(torch.full((8, 3, 8, 8), number, dtype=torch.uint8), torch.full((8,), number))
    images, targets = replay.sample()
    assert images.shape == (8, 3, 8, 8)
    assert torch.equal(images[:, 0, 0, 0].long(), targets)
    assert len(set(targets.tolist())) > 1


def test_dfme_estimates_in_eval_mode_and_takes_five_steps() -> None:
    notes = run_rounds(DataFreeSoft(queries=2 * 7 * 16, batch=16)).notes
    # approximate_gradients.py: clone_model.eval() for both passes, then clone_model.train().
    one_round = [*[(False, False)] * 2, *[(True, False)] * 5]
    assert notes[:14] == 2 * one_round
