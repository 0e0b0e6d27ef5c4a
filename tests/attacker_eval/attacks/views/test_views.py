"""Attacks on several views of each image: their formulas, and each against its own control."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

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
from audit_fakes import striped
from stingy_attacker_eval.attacks import Attack, AttackContext, AttackerData, Capability
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.losses import plackett_luce
from stingy_attacker_eval.attacks.views.augmentation_union import (
    AugmentationUnion,
    borda_points,
    order_by_points,
)
from stingy_attacker_eval.attacks.views.consistent import Consistent
from stingy_attacker_eval.attacks.views.label_votes import LabelVotes, label_shares
from stingy_attacker_eval.attacks.views.view_answers import buy_views, make_views
from stingy_attacker_eval.errors import AnswersError
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import (
    TrainSettings,
    normalise,
    percent_equal,
    predict,
    to_device,
)
from stingy_protection import build_policy

SETTINGS = TrainSettings(epochs=10, batch=8, lr=0.02, augment=1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Moody(nn.Module):
    """A network that finds the brightest channel, but often says another class.

    Whether it does depends on the place of the image's pixels, so views of an image differ in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.scale * inputs.mean(dim=(2, 3))
        weights = torch.arange(64.0).view(1, 1, 8, 8) * 37.7 % 11
        mood = (inputs * weights).sum(dim=(1, 2, 3)).mul(9.7).sin()
        return torch.where((mood > 0.3)[:, None], logits.roll(1, dims=1), logits)


def moody_data(policy: str = "label") -> AttackerData:
    oracle = TeacherOracle(Moody().eval(), build_policy(policy, num_classes=3))
    images, labels = striped(40)
    return attacker_data(oracle, images, torch.from_numpy(labels))


def accuracy(attack: Attack, found: AttackerData) -> float:
    """Return the mean accuracy of three students on true classes, in percent."""
    images, labels = striped(150, seed=1)
    total = 0.0
    for seed in range(3):
        torch.manual_seed(seed)
        student = cnn(num_classes=3, width=4)
        assert run(attack, found, student=student, settings=SETTINGS, seed=seed).finite
        total += percent_equal(predict(student, to_device(images, CPU)).numpy(), labels)
    return total / 3


def test_E3_votes_beat_one_label_of_a_moody_endpoint() -> None:
    found = moody_data()
    control = accuracy(LabelOnly(), found)
    for attack in (LabelVotes(views=9), AugmentationUnion(views=9, mixtures=False)):
        assert accuracy(attack, found) > control + 15


def test_label_shares_match_a_count() -> None:
    labels = torch.tensor([[0, 2], [0, 1], [1, 1]])
    expected = [[2 / 3, 1 / 3, 0.0], [0.0, 2 / 3, 1 / 3]]
    torch.testing.assert_close(label_shares(labels, 3), torch.tensor(expected))


@pytest.mark.parametrize(("true_labels", "inner"), [(False, "label_only"), (True, "two_labels")])
def test_votes_without_average_are_consistent_labels(true_labels: bool, inner: str) -> None:
    found = attacker_data(striped_oracle("label"))
    votes = LabelVotes(views=3, average=False, true_labels=true_labels)
    same = Consistent(attack=inner, views=3)
    assert run(votes, found).last_loss == run(same, found).last_loss


def test_votes_use_true_labels_only_if_they_say_so() -> None:
    found = attacker_data(striped_oracle("label"))
    without = replace(found, labels=None)
    assert run(LabelVotes(views=2), without).last_loss == run(LabelVotes(views=2), found).last_loss
    with pytest.raises(AnswersError, match="labels"):
        run(LabelVotes(views=2, true_labels=True), without)


@pytest.mark.parametrize("attack", ["soft_label", "label_only", "rank_distillation"])
def test_consistent_without_label_needs_no_true_labels(attack: str) -> None:
    found = replace(attacker_data(striped_oracle()), labels=None)
    assert run(Consistent(attack=attack, views=2), found).finite


def test_the_control_of_views_queries_nothing() -> None:
    oracle = striped_oracle()
    found = attacker_data(oracle)
    oracle.requests.clear()
    control = Consistent(attack="no_api", views=3)
    assert control.budget(64) == 0
    assert control.needs == {Capability.LABELS}
    assert run(control, AttackerData(found.images, labels=found.labels)).finite
    assert oracle.requests == []


def test_attacks_on_views_query_the_same_images() -> None:
    found = attacker_data(striped_oracle())
    context = AttackContext(found, Consistent.requires, settings=QUICK, seed=7)
    more = make_views(context, 4)
    assert torch.equal(make_views(context, 2), more[:128])
    assert torch.equal(more[:64], found.images)
    assert not torch.equal(more[64:128], found.images)  # moved although the protocol moves nothing
    other = AttackContext(found, LabelVotes.requires, settings=QUICK, seed=8)
    assert torch.equal(make_views(other, 4), more)


def test_views_have_the_answers_of_the_endpoint() -> None:
    oracle = digits_oracle()
    found = digits_data(oracle)
    found = replace(found, session=QuerySession(oracle, budget=1200))
    context = AttackContext(found, Consistent.requires, settings=QUICK, seed=0)
    bought = buy_views(context, 3)
    answers = oracle.query(bought.images.permute(0, 2, 3, 1).numpy())
    assert bought.indices is not None
    assert bought.indices.numpy().tolist() == answers.indices.tolist()
    assert bought.labels is not None
    assert bought.labels.tolist() == found.labels.repeat(3).tolist()  # type: ignore[union-attr]


def test_settings_of_the_inner_attack_are_passed_on() -> None:
    attack = Consistent(attack="paper_kd", tau=4.0, views=2)
    assert attack.inner.settings() == {"tau": 4.0, "alpha": 0.9}
    assert attack.label == "consistent[attack=paper_kd,views=2,tau=4]"
    with pytest.raises(ValueError, match="expected no settings, got tau"):
        Consistent(attack="label_only", tau=4.0)


def test_borda_points_match_a_hand_computation() -> None:
    orders = torch.tensor([[[0, 1, 3]], [[0, 3, 1]], [[2, 0, 1]]])
    points = borda_points(orders, 5)
    assert points.tolist() == [[8.0, 4.0, 3.0, 3.0, 0.0]]
    order, lengths, places = order_by_points(points)
    assert order.tolist() == [[0, 1, 2, 3]]
    assert lengths.tolist() == [4]
    assert places.tolist() == [[0, 1, 2, 2]]


def test_rows_of_other_lengths_do_not_change_a_rows_loss() -> None:
    student = torch.tensor([[0.3, -1.0, 2.0, 0.1], [1.0, 0.0, 0.5, -0.2]])
    order = torch.tensor([[2, 0, 1], [0, 2, 3]])
    found = plackett_luce(student, order, lengths=torch.tensor([3, 1]))

    def likelihood(row: Tensor, ranked: list[int]) -> Tensor:
        """Sum over all complete orders that begin with `ranked`."""
        total = torch.zeros(())
        for complete in permutations(range(4)):
            if list(complete[: len(ranked)]) == ranked:
                odds = row[list(complete)].exp()
                total = total + torch.stack([odds[at] / odds[at:].sum() for at in range(4)]).prod()
        return total

    expected = -(likelihood(student[0], [2, 0, 1]).log() + likelihood(student[1], [0]).log()) / 2
    torch.testing.assert_close(found, expected)


def test_merged_orders_name_the_next_class_better_than_one_order() -> None:
    oracle = digits_oracle("ranked_labels:n=3")
    found = digits_data(oracle)
    found = replace(found, session=QuerySession(oracle, budget=600 * 8))
    attack = AugmentationUnion(mixtures=False)
    context = AttackContext(found, attack.requires, settings=QUICK, seed=0)
    order, lengths, _ = attack._merge_orders(context)
    images, _, _, _ = digits()
    truth = digits_teacher()(normalise(to_device(images, CPU))).detach()
    fourth = truth.topk(4, dim=1).indices[:, 3]
    more = lengths > 3
    assert more.float().mean() > 0.5
    hits = (order[:, 3] == fourth)[more].float().mean()
    assert hits > 0.2  # of the seven classes that one order withholds, 0.14 by chance


@pytest.mark.parametrize("policy", ["label", "ranked_labels:n=2", "stingy:n=2", "open"])
def test_union_runs_on_labels_ranks_and_scores(policy: str) -> None:
    found = attacker_data(striped_oracle(policy))
    assert AugmentationUnion().skip_reason(found) is None
    assert run(AugmentationUnion(views=3), replace(found, labels=None)).finite


def test_answers_to_views_name_more_classes_than_one_answer() -> None:
    oracle = digits_oracle()
    found = digits_data(oracle)
    found = replace(found, session=QuerySession(oracle, budget=600 * 4))
    attack = AugmentationUnion(views=5, mixtures=False)
    context = AttackContext(found, attack.requires, settings=QUICK, seed=0)
    merged = attack._merge_probabilities(context)
    assert found.logits is not None
    assert (merged > 0).sum() > 1.2 * found.logits.isfinite().sum()
    torch.testing.assert_close(merged.sum(1), torch.ones(len(merged)), atol=2e-3, rtol=0)
