"""Constructed cases in which an attack must beat its control in accuracy."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack_lab import (
    CPU,
    TeacherOracle,
    attacker_data,
    digits_accuracy,
    digits_mean,
    digits_oracle,
    run,
    striped_oracle,
)
from audit_fakes import striped
from stingy_attacker_eval.attacks import Attack, AttackerData
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.lists.collusion import Collusion
from stingy_attacker_eval.attacks.lists.rank_and_label import RankAndLabel
from stingy_attacker_eval.attacks.lists.rank_distillation import RankDistillation
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.attacks.queries.active import Active
from stingy_attacker_eval.attacks.scores.completion import Completion
from stingy_attacker_eval.attacks.scores.paper_kd import PaperKd
from stingy_attacker_eval.attacks.scores.soft_label import SoftLabel
from stingy_attacker_eval.attacks.scores.sweep import Sweep
from stingy_attacker_eval.attacks.scores.tail_fill import TailFill
from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import TrainSettings, percent_equal, predict, to_device
from stingy_protection import build_policy, parse_policy

CLASSES = 12
LONG = TrainSettings(epochs=30, batch=32, lr=0.5)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Compass(nn.Module):
    """A network of twelve classes on a circle: an image's first two channels are its direction.

    Its logits have rank 2, so withheld scores follow from answered ones. As a student its
    weights start at zero.

    knows: True for a teacher, False for a student.
    late: hours by which the network is wrong.
    """

    def __init__(self, *, knows: bool, late: float = 0.0) -> None:
        super().__init__()
        self.last = nn.Linear(2, CLASSES, bias=False)
        angles = (torch.arange(CLASSES) + late) * 2 * math.pi / CLASSES
        with torch.no_grad():
            self.last.weight.copy_(6 * torch.stack([angles.cos(), angles.sin()], 1) * knows)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(images[:, :2].mean(dim=(2, 3)))
        return logits


def pointing_images(first: float, last: float, *, count: int = 256) -> Images:
    """Make plain images with directions from one hour to another, uint8 `[count, 8, 8, 3]`."""
    angles = torch.linspace(first, last, count) * 2 * math.pi / CLASSES
    where = torch.stack([angles.cos(), angles.sin(), torch.zeros(count)], 1)
    pixels = ((where + 1) * 127.5).round().byte()
    return pixels[:, None, None, :].expand(-1, 8, 8, -1).contiguous().numpy()


def compass(policy: str) -> TeacherOracle:
    name, more = parse_policy(policy)
    return TeacherOracle(Compass(knows=True), build_policy(name, num_classes=CLASSES, **more))


def accuracy_beyond(attack: Attack, found: AttackerData) -> float:
    """Return a student's accuracy on hours 4 to 6 after training on hours 0 to 3.5 only."""
    student = Compass(knows=False)
    assert run(attack, found, student=student, settings=LONG).finite
    images = pointing_images(3.6, 6.0, count=100)
    truth = compass("open").query(images).top1
    return percent_equal(predict(student, to_device(images, CPU)).numpy(), truth)


def compass_data(policy: str) -> AttackerData:
    return attacker_data(
        compass(policy), pointing_images(0, 3.49), torch.zeros(256, dtype=torch.int64)
    )


def test_completed_scores_find_classes_that_were_never_first() -> None:
    found = compass_data("stingy:n=5")
    completed = accuracy_beyond(Completion(rank=2, alpha=1.0), found)
    for fill in ("constant", "class_mean"):
        assert completed > accuracy_beyond(TailFill(fill=fill, alpha=1.0), found) + 5


def test_ranks_find_classes_that_were_never_first() -> None:
    found = compass_data("ranked_labels:n=8")
    assert accuracy_beyond(RankDistillation(), found) > accuracy_beyond(LabelOnly(), found) + 20


def test_true_labels_beside_ranks_lose_nothing() -> None:
    found = compass_data("ranked_labels:n=8")
    found = replace(found, labels=found.top1)
    for control in (LabelOnly(), NoApi()):
        assert accuracy_beyond(RankAndLabel(), found) > accuracy_beyond(control, found) + 15


def test_true_labels_correct_an_order_with_a_wrong_top1() -> None:
    images = pointing_images(0, 3.49)
    truth = compass("label").query(images).top1
    early = TeacherOracle(
        Compass(knows=True, late=1.0), build_policy("ranked_labels", num_classes=CLASSES, n=8)
    )
    found = attacker_data(early, images, torch.from_numpy(truth))

    def accuracy(attack: Attack) -> float:
        student = Compass(knows=False)
        assert run(attack, found, student=student, settings=LONG).finite
        return percent_equal(predict(student, to_device(images, CPU)).numpy(), truth)

    assert accuracy(RankAndLabel()) > accuracy(RankDistillation()) + 10


def test_second_key_finds_classes_that_the_first_withholds() -> None:
    one = compass_data("stingy:n=1")
    both = replace(one, partner=compass_data("stingy:n=8"))
    united = accuracy_beyond(Collusion(partner="other"), both)
    assert united > accuracy_beyond(SoftLabel(), one) + 20


def rare_class() -> tuple[Images, Tensor]:
    """Make striped images of three classes; the last class is one image in fifty."""
    images, labels = striped(3000)
    keep = [n for n, label in enumerate(labels) if label < 2][:490]
    keep += [n for n, label in enumerate(labels) if label == 2][:10]
    return images[keep], torch.from_numpy(labels[keep])


@pytest.mark.parametrize("strategy", ["entropy", "k_center"])
def test_chosen_queries_find_a_rare_class_that_chance_misses(strategy: str) -> None:
    oracle = striped_oracle()
    found = attacker_data(oracle, *rare_class())
    test_images, truth = striped(150, seed=1)
    settings = TrainSettings(epochs=8, batch=16, lr=0.02)

    def accuracy(attack: Active) -> float:
        torch.manual_seed(0)
        student = cnn(num_classes=3, width=4)
        assert run(attack, found, student=student, settings=settings).finite
        return percent_equal(predict(student, to_device(test_images, CPU)).numpy(), truth)

    chosen = Active(strategy=strategy, queries=60, rounds=6)
    assert accuracy(chosen) > accuracy(replace(chosen, strategy="random")) + 5


def test_bought_labels_beat_wrong_own_labels() -> None:
    images, truth = striped(96)
    wrong = torch.from_numpy(truth)
    wrong[::2] = (wrong[::2] + 1) % 3
    found = attacker_data(striped_oracle("label"), images, wrong)
    test_images, labels = striped(150, seed=1)
    settings = TrainSettings(epochs=4, batch=16, lr=0.02)

    def accuracy(attack: Attack) -> float:
        torch.manual_seed(0)
        student = cnn(num_classes=3, width=4)
        assert run(attack, found, student=student, settings=settings).finite
        return percent_equal(predict(student, to_device(test_images, CPU)).numpy(), labels)

    assert accuracy(LabelOnly()) > accuracy(NoApi()) + 10


def test_sweep_has_a_point_that_beats_the_papers_attacker() -> None:
    settings = TrainSettings(epochs=3, batch=32, lr=0.05)
    swept = digits_accuracy(Sweep(tau=1.0, alpha=0.9), digits_oracle(), settings=settings)
    assert swept > digits_mean(PaperKd(), digits_oracle(), settings=settings) + 2
