"""Attacks that choose their queries by rewards and gradients: formulas, and their controls."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack_lab import CPU, QUICK, attacker_data, run, striped_oracle
from audit_fakes import save_striped, striped
from stingy_attacker_eval.attacks import Attack
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.attacks.queries.adaptive_knockoff import (
    AdaptiveKnockoff,
    GradientBandit,
    knockoff_rewards,
)
from stingy_attacker_eval.attacks.queries.jbda import Jbda, move_images
from stingy_attacker_eval.attacks.queries.knockoff import Knockoff
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import TrainSettings, percent_equal, predict, to_device


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def save_pool(folder: Path) -> str:
    """Save 10 classes: the first has striped images, the others one dark image each, repeated."""
    images, labels = [], []
    useful, _ = striped(300, seed=5)
    for number in range(10):
        part = useful if number == 0 else np.full((300, 8, 8, 3), 3 * number, np.uint8)
        images.append(part)
        labels += [number] * 300
    path = folder / "pool.npz"
    pixels, classes = np.concatenate(images), np.array(labels)
    names = np.array([str(number) for number in range(10)])
    np.savez(path, train_x=pixels, train_y=classes, test_x=pixels[:20], test_y=classes[:20],
             class_names=names)  # fmt: skip
    return f"npz:{path}"


def test_E3_rewards_find_the_useful_classes_of_a_pool(tmp_path: Path) -> None:
    pool = save_pool(tmp_path)
    found = attacker_data(striped_oracle("stingy:n=2"))

    def useful_share(attack: Attack) -> float:
        oracle = striped_oracle("stingy:n=2")
        sent: list[Tensor] = []
        session = QuerySession(oracle, budget=attack.budget(64))
        real = session.query

        def query(images: Tensor) -> object:
            sent.append(images)
            return real(images)

        session.query = query  # type: ignore[assignment, method-assign]
        torch.manual_seed(0)
        student = cnn(num_classes=3, width=4)
        attack.run(student, replace(found, session=session), settings=QUICK, seed=0)
        images = torch.cat(sent).float()
        return float((images.flatten(1).std(dim=1) > 0).float().mean())

    adaptive = useful_share(AdaptiveKnockoff(pool=pool, queries=400, size=3000))
    control = useful_share(Knockoff(pool=pool, queries=400))
    assert control == pytest.approx(0.1, abs=0.05)
    assert adaptive > 2 * control


def test_E3_adaptive_knockoff_beats_random_knockoff(tmp_path: Path) -> None:
    pool = save_pool(tmp_path)
    found = attacker_data(striped_oracle("stingy:n=2"))
    images, labels = striped(150, seed=1)
    settings = TrainSettings(epochs=8, batch=16, lr=0.02)

    def accuracy(attack: Attack) -> float:
        scores = []
        for seed in range(3):
            torch.manual_seed(seed)
            student = cnn(num_classes=3, width=4)
            assert run(attack, found, student=student, settings=settings, seed=seed).finite
            predictions = predict(student, to_device(images, CPU)).numpy()
            scores.append(percent_equal(predictions, labels))
        return sum(scores) / 3

    queries = 100
    adaptive = accuracy(AdaptiveKnockoff(pool=pool, queries=queries, size=3000, batch=8))
    assert adaptive >= accuracy(Knockoff(pool=pool, queries=queries))


def test_bandit_moves_as_published() -> None:
    bandit = GradientBandit(torch.tensor([0, 0, 1, 1, 2, 2]), torch.Generator().manual_seed(0))
    bandit.update(torch.tensor([1]), torch.tensor([2.0]))
    assert bandit.preferences.tolist() == [0.0, 0.0, 0.0]  # the first reward is the mean
    bandit.update(torch.tensor([1]), torch.tensor([4.0]))
    gain = (4.0 - 3.0) / 2  # over the mean of 2 and 4, at the class's second draw
    expected = [-gain / 3, gain * (1 - 1 / 3), -gain / 3]
    torch.testing.assert_close(bandit.preferences, torch.tensor(expected))


def test_bandit_draws_every_image_once() -> None:
    bandit = GradientBandit(torch.tensor([0, 0, 1, 1, 1, 2]), torch.Generator().manual_seed(0))
    assert sorted(bandit.draw(6).tolist()) == list(range(6))


def test_rewards_match_a_hand_computation() -> None:
    answers = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]]).log()
    former = torch.tensor([[0.1, 0.1, 0.8], [0.5, 0.3, 0.2]]).log()
    found = knockoff_rewards(answers, former, torch.zeros(2, 3), window=1)
    certainty = torch.tensor([0.5, 0.0])
    diversity = torch.tensor([0.2, 0.1])  # above the latest answer, 0.5, 0.3 and 0.2
    loss = torch.tensor([1.0, 1.0])  # a flat student is as wrong on both
    torch.testing.assert_close(found, certainty / 0.5 + diversity / 0.2 + loss)


def test_adaptive_knockoff_needs_a_pool_with_classes() -> None:
    with pytest.raises(ValueError, match="a data set with classes"):
        AdaptiveKnockoff(pool="synthetic")
    with pytest.raises(ValueError, match="at most 10 queries"):
        AdaptiveKnockoff(pool="digits", queries=11, size=10)


def test_adaptive_knockoff_runs_on_labels(tmp_path: Path) -> None:
    found = attacker_data(striped_oracle("label"))
    attack = AdaptiveKnockoff(pool=save_striped(tmp_path), queries=33, size=96)
    assert run(attack, found).finite


class Plane(nn.Module):
    """A linear network, whose gradients are known."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(3, 192, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = inputs.flatten(1) @ self.weights.T
        return logits


@pytest.mark.parametrize("step", [26, -26])
def test_moved_images_follow_the_jacobians_sign(step: int) -> None:
    student = Plane()
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 2, 1, 1])
    found = move_images(student, images, labels, step=step)
    # The gradient of p_c is p_c (w_c - sum_k p_k w_k).
    inputs = images.float() / 127.5 - 1
    shares = (inputs.flatten(1) @ student.weights.T).softmax(1)
    slope = (student.weights[labels] - shares @ student.weights).view(4, 3, 8, 8)
    expected = (images.float() + step * slope.sign()).clamp(0, 255).byte()
    # Rounding decides the sign where the slope is almost 0.
    clear = slope.abs() > 1e-3
    assert clear.float().mean() > 0.5
    assert torch.equal(found[clear], expected[clear])


def test_jbda_queries_seeds_then_grows_by_its_reservoir() -> None:
    oracle = striped_oracle()
    found = attacker_data(oracle)
    attack = Jbda(seeds=10, rounds=4, full_rounds=2, reservoir=15)
    assert attack.budget(64) == 10 + 10 + 20 + 15 + 15
    assert attack.new_images(64) == attack.budget(64) - 10
    oracle.requests.clear()
    assert run(attack, found).finite
    assert oracle.requests == [10, 10, 20, 15, 15]


def test_moved_images_are_more_certain_than_their_control() -> None:
    torch.manual_seed(0)
    student = cnn(num_classes=3, width=4)
    found = attacker_data(striped_oracle())
    assert run(LabelOnly(), found, student=student).finite
    assert found.top1 is not None

    def certainty(step: int) -> float:
        moved = move_images(student, found.images, found.top1, step=step)  # type: ignore[arg-type]
        shares = compute_logits(student, moved).softmax(1)
        return float(shares.gather(1, found.top1[:, None]).mean())  # type: ignore[index]

    assert certainty(26) > certainty(0) > certainty(-26)
