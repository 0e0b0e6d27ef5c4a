"""Boundary walks: the bisection and the estimate by hand, and the attack against its controls."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from attack_lab import (
    TeacherOracle,
    attacker_data,
    digits_data,
    digits_oracle,
    run,
    striped_oracle,
)
from stingy_attacker_eval.attacks import AttackerData
from stingy_attacker_eval.attacks.recovery.boundary_walk import BoundaryWalk, rank_correlation
from stingy_attacker_eval.attacks.recovery.walks import Walk, estimate_scores, walk_image
from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.oracle.oracle import Answers
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import TrainResult, TrainSettings
from stingy_protection import build_policy, parse_policy

SHORT = TrainSettings(epochs=4, batch=32, lr=0.05)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Linear(nn.Module):
    """A network whose logits are the means of six patches of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(6.0))

    def forward(self, inputs: Tensor) -> Tensor:
        patches = inputs[:, 0, :6].reshape(len(inputs), 6, 8).mean(dim=2)
        logits: Tensor = self.scale * patches
        return logits


def linear_oracle(policy: str) -> TeacherOracle:
    name, more = parse_policy(policy)
    return TeacherOracle(Linear().eval(), build_policy(name, num_classes=6, **more))


def linear_images(count: int = 60) -> Images:
    """Draw images whose six patches have grey levels of their own."""
    levels = torch.randint(0, 256, (count, 6), generator=torch.Generator().manual_seed(0))
    levels[torch.arange(count), torch.arange(count) % 6] = 255  # each class is first in ten
    images = torch.zeros(count, 8, 8, 3, dtype=torch.uint8)
    images[:, :6] = levels[:, :, None, None].byte()
    return images.numpy()


def linear_data(policy: str) -> AttackerData:
    images, labels = linear_images(), torch.zeros(60, dtype=torch.int64)
    found = attacker_data(linear_oracle(policy), images, labels)
    return replace(found, partner=attacker_data(linear_oracle("open:decimals=6"), images, labels))


def walked(found: AttackerData, attack: BoundaryWalk) -> TrainResult:
    student = cnn(num_classes=found.info.num_classes, width=8)  # type: ignore[union-attr]
    return run(attack, found, student=student, settings=SHORT)


def test_E3_walks_recover_the_order_that_an_answer_withholds() -> None:
    attack = BoundaryWalk(queries=2000, starts=5, steps=7, truth="open")
    measures = walked(linear_data("stingy:n=2"), attack).measures
    assert measures["rank_correlation_withheld"] > 0.7
    assert measures["rank_correlation_withheld"] > (
        measures["student_rank_correlation_withheld"] + 0.3
    )
    assert measures["score_error"] < 0.8 * measures["filled_score_error"]
    assert measures["questions"] == 4 * 5 * 7


def test_E3_walks_recover_an_order_of_digits() -> None:
    found = digits_data(digits_oracle())
    found = replace(found, partner=digits_data(digits_oracle("open")))
    attack = BoundaryWalk(queries=8000, starts=3, steps=5, truth="open")
    measures = walked(found, attack).measures
    assert measures["rank_correlation_withheld"] > 0.35
    assert measures["rank_correlation"] > measures["rank_correlation_withheld"]


def test_more_questions_recover_more() -> None:
    found = linear_data("ranked_labels:n=2")
    few = walked(found, BoundaryWalk(queries=200, starts=1, steps=1, truth="open")).measures
    many = walked(found, BoundaryWalk(queries=2000, starts=3, steps=8, truth="open")).measures
    assert many["rank_correlation_withheld"] > few["rank_correlation_withheld"] + 0.1
    assert "score_error" not in many  # an answer without scores has no values to estimate


def test_rounds_along_the_boundary_come_nearer() -> None:
    images = torch.from_numpy(linear_images()).permute(0, 3, 1, 2)
    oracle = linear_oracle("ranked_labels:n=2")
    indices = torch.from_numpy(oracle.query(linear_images()).indices)

    def walk(rounds: int) -> Walk:
        session = QuerySession(oracle, budget=100_000)
        found = walk_image(
            0,
            images,
            indices,
            session.query,
            num_classes=6,
            starts=2,
            steps=6,
            rounds=rounds,
            generator=torch.Generator().manual_seed(0),
        )
        assert found.questions == session.spent
        return found

    near, nearer = walk(1), walk(60)
    assert (nearer.closeness >= near.closeness - 1e-3).all()
    assert nearer.closeness.sum() > 0.97 * near.closeness.sum()  # closeness is below 0


def test_bisection_finds_the_boundary_by_hand() -> None:
    # Class 1 enters the answer of one class at 40 % of the way.
    def query(images: Tensor) -> Answers:
        first = (images.float().mean(dim=(1, 2, 3)) >= 40).long()
        return Answers(first[:, None].numpy(), None, 2, "none")

    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images[1] = 100
    found = walk_image(
        0,
        images,
        torch.tensor([[0], [1]]),
        query,
        num_classes=2,
        starts=1,
        steps=6,
        rounds=0,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.classes.tolist() == [1]
    assert found.weights.item() == pytest.approx(0.4, abs=2**-5)
    near = walk_image(
        0,
        images,
        torch.tensor([[0], [1]]),
        query,
        num_classes=2,
        starts=1,
        steps=6,
        rounds=80,
        generator=torch.Generator().manual_seed(0),
    )
    # The nearest image of mean 40 is at 40 grey levels in each of 192 values.
    assert -near.closeness.item() >= 39.5 * 192**0.5


def test_linear_scores_are_estimated_by_hand() -> None:
    # At weight 1/4 class 2 is level with the lowest answer; at the goal it leads by 3.
    # So at weight 0 it is behind by 3 * (1/4) / (3/4) = 1.
    inf = torch.inf
    logits = torch.tensor([[-0.1, -2.0, -inf], [-3.5, -inf, -0.5]])
    walk = Walk(
        torch.tensor([2]), torch.tensor([[1]]), torch.tensor([[0.25]]), torch.tensor([-0.25]), 1
    )
    found = estimate_scores(walk, logits[0], logits)
    torch.testing.assert_close(found, torch.tensor([-0.1, -2.0, -3.0]))


def test_rank_correlation_is_spearmans() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 12, generator=generator)
    expected = spearmanr(one.numpy(), other.numpy()).statistic
    assert rank_correlation(one, other) == pytest.approx(float(expected))


def test_walk_stays_within_its_queries_and_needs_no_scores() -> None:
    found = attacker_data(striped_oracle("label"))
    result = run(BoundaryWalk(queries=300), replace(found, labels=None))
    assert result.finite
    assert result.measures == {}


def test_walk_skips_endpoints_it_cannot_walk() -> None:
    open_one = attacker_data(striped_oracle("open"))
    assert "answers all" in (BoundaryWalk().skip_reason(open_one) or "")
    found = attacker_data(striped_oracle("label"))
    assert "needs 30 queries" in (BoundaryWalk(queries=29).skip_reason(found) or "")
    attack = BoundaryWalk(truth="open")
    assert "has no endpoint open" in (attack.skip_reason(found) or "")
    assert "is none" in (attack.skip_reason(replace(found, partner=found)) or "")
    assert attack.skip_reason(replace(found, partner=open_one)) is None
