"""Attacks that query as they run: each beats its control and stays within its budget."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack_lab import (
    QUICK,
    TeacherOracle,
    attacker_data,
    digits,
    digits_accuracy,
    digits_data,
    digits_mean,
    digits_oracle,
    digits_teacher,
    run,
    striped_oracle,
)
from stingy_attacker_eval.attacks import Attack, AttackContext, Capability
from stingy_attacker_eval.attacks.data_free.dafl import Dafl
from stingy_attacker_eval.attacks.data_free.data_free_hard import DataFreeHard
from stingy_attacker_eval.attacks.data_free.data_free_soft import DataFreeSoft
from stingy_attacker_eval.attacks.data_free.generation import Generator, sample_noise, to_pixels
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.attacks.queries.active import Active, select_farthest
from stingy_attacker_eval.attacks.queries.adaptive_knockoff import AdaptiveKnockoff
from stingy_attacker_eval.attacks.queries.jbda import Jbda
from stingy_attacker_eval.attacks.queries.knockoff import Knockoff
from stingy_attacker_eval.attacks.queries.semi_supervised import SemiSupervised, make_strong_view
from stingy_attacker_eval.attacks.recovery.boundary_walk import BoundaryWalk
from stingy_attacker_eval.attacks.views.augmentation_union import AugmentationUnion
from stingy_attacker_eval.attacks.views.consistent import Consistent
from stingy_attacker_eval.attacks.views.label_votes import LabelVotes
from stingy_attacker_eval.datasets.query_pools import load_pool
from stingy_attacker_eval.errors import AnswersError, BudgetExhausted, DatasetError
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import (
    TrainResult,
    TrainSettings,
    augment,
    normalise,
    percent_equal,
    predict,
    to_device,
)
from stingy_protection import build_policy

CPU = torch.device("cpu")
SHORT = TrainSettings(epochs=4, batch=32, lr=0.05)
FEW = 5
QUERYING_ATTACKS: tuple[Attack, ...] = (
    AugmentationUnion(views=3),
    Consistent(views=2),
    LabelVotes(views=3),
    BoundaryWalk(queries=200),
    Knockoff(queries=64),
    AdaptiveKnockoff(queries=40, pool="digits", size=100),
    Active(queries=40, rounds=2),
    Jbda(seeds=10, rounds=2),
    SemiSupervised(queries=20),
    DataFreeSoft(queries=448, batch=64),
    DataFreeHard(queries=128, batch=64),
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("attack", QUERYING_ATTACKS, ids=lambda attack: attack.name)
def test_E1_spent_equals_sent_and_stays_within_the_budget(attack: Attack) -> None:
    oracle = striped_oracle()
    found = attacker_data(oracle)
    session = QuerySession(oracle, budget=attack.budget(len(found.images)))
    oracle.requests.clear()
    assert run_in(attack, replace(found, session=session)).finite
    assert 0 < session.spent == sum(oracle.requests) <= attack.budget(len(found.images))


@pytest.mark.parametrize("attack", QUERYING_ATTACKS, ids=lambda attack: attack.name)
def test_same_seed_gives_same_queries_and_loss(attack: Attack) -> None:
    found = attacker_data(striped_oracle())
    assert run(attack, found).last_loss == run(attack, found).last_loss


@pytest.mark.parametrize("attack", QUERYING_ATTACKS, ids=lambda attack: attack.name)
def test_querying_attack_without_a_session_is_refused(attack: Attack) -> None:
    with pytest.raises(AnswersError, match="queries"):
        run_in(attack, replace(attacker_data(striped_oracle()), session=None))


def run_in(attack: Attack, found: object) -> TrainResult:
    from stingy_attacker_eval.attacks import AttackerData

    assert isinstance(found, AttackerData)
    torch.manual_seed(0)
    return attack.run(cnn(num_classes=3, width=4), found, settings=QUICK, seed=0)


def test_plugin_that_queries_beyond_its_budget_is_stopped() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Greedy(Attack):
        name: ClassVar[str] = "greedy"
        title: ClassVar[str] = "queries all images"
        reference: ClassVar[str] = "none"
        requires: ClassVar[frozenset[Capability]] = frozenset(
            {Capability.IMAGES, Capability.QUERIES}
        )

        def budget(self, images: int) -> int:
            return 10

        def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
            context.session.query(context.images)
            raise AssertionError

    oracle = striped_oracle()
    found = attacker_data(oracle)
    oracle.requests.clear()
    with pytest.raises(BudgetExhausted, match="at most 10 images more, got 64"):
        run(Greedy(), found)
    assert oracle.requests == []


def test_answers_per_view_beat_one_answer_for_all_views() -> None:
    """Use bars of light at the border: a shift removes a part; the label depends on the rest."""

    class Bright(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(10.0))

        def forward(self, inputs: Tensor) -> Tensor:
            light = self.scale * (inputs.mean(dim=(1, 2, 3)) + 0.3)  # above 35 % are white
            return torch.stack([-light, light], dim=1)

    def bars(widths: Tensor) -> Tensor:
        lit = torch.arange(8) < widths[:, None]
        return lit[:, None, None, :].expand(-1, 3, 8, -1).byte() * 255

    teacher = Bright().eval()
    oracle = TeacherOracle(teacher, build_policy("label", num_classes=2))
    images = bars(torch.arange(300) % 6 + 1)
    found = attacker_data(oracle, images.permute(0, 2, 3, 1).numpy(), torch.zeros(300).long())
    settings = TrainSettings(epochs=8, batch=16, lr=0.05, augment=3)
    tests = augment(images, settings, torch.Generator().manual_seed(1))
    truth = predict(teacher, tests)

    def accuracy(attack: Attack) -> float:
        student = cnn(num_classes=2, width=4)
        assert run(attack, found, student=student, settings=settings).finite
        return percent_equal(predict(student, tests).numpy(), truth.numpy())

    assert accuracy(Consistent(attack="label_only", views=4)) > accuracy(LabelOnly()) + 15


class Counting(nn.Module):
    """A student that counts its training steps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.steps = cnn(num_classes=3, width=4), 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.steps += self.training
        logits: Tensor = self.inner(inputs)
        return logits


@pytest.mark.parametrize(
    "attack",
    [
        LabelOnly(),
        Consistent(),
        LabelVotes(views=2),
        AugmentationUnion(views=2),
        Knockoff(queries=40),
        Active(queries=40, rounds=1),
    ],
    ids=lambda attack: attack.name,
)
def test_E2_training_steps_do_not_depend_on_queried_images(
    attack: Attack,
) -> None:
    whole = attacker_data(striped_oracle())
    for found in (whole, whole.first(40)):
        student = Counting()
        assert run(attack, found, student=student).finite
        assert student.steps == QUICK.epochs * (len(whole.images) // QUICK.batch)


def test_consistent_skips_endpoints_its_inner_attack_skips() -> None:
    labels = attacker_data(striped_oracle("label"))
    assert "score" in (Consistent().skip_reason(labels) or "")
    assert Consistent(attack="label_only").skip_reason(labels) is None
    with pytest.raises(ValueError, match=r'out of no_api, .*, got "dafl"'):
        Consistent(attack="dafl")
    with pytest.raises(ValueError, match="views above 0, got 0"):
        Consistent(views=0)


def test_knockoff_gets_digits_from_drawn_shapes() -> None:
    settings = replace(SHORT, epochs=16)  # 40 to 47 %; without training, 15 at most
    assert digits_accuracy(Knockoff(queries=2000), digits_oracle(), settings=settings) > 25


def test_knockoff_without_scores_trains_on_labels() -> None:
    assert run(Knockoff(queries=64), attacker_data(striped_oracle("label"))).finite


def test_pool_is_deterministic_and_resized_to_the_task() -> None:
    shapes = load_pool("synthetic", count=20, size=(12, 8))
    assert shapes.shape == (20, 12, 8, 3)
    assert shapes.dtype == np.uint8
    assert len(np.unique(shapes.reshape(20, -1), axis=0)) == 20
    np.testing.assert_array_equal(shapes, load_pool("synthetic", count=20, size=(12, 8)))
    assert load_pool("digits", count=5, size=(16, 16)).shape == (5, 16, 16, 3)
    with pytest.raises(DatasetError):
        load_pool("nowhere", count=5, size=(8, 8))


def test_farthest_points_match_a_hand_computation() -> None:
    points = torch.tensor([[0.0], [1.0], [5.0], [9.0], [10.0]])
    assert select_farthest(points, torch.tensor([0]), 3).tolist() == [4, 2, 1]


def test_active_never_buys_an_image_twice() -> None:
    for strategy in ("entropy", "k_center", "random"):
        oracle = striped_oracle()
        found = attacker_data(oracle)
        inputs_fed: list[bytes] = []
        real = oracle.query

        def query(
            images: object, real: object = real, inputs_fed: list[bytes] = inputs_fed
        ) -> object:
            assert isinstance(images, np.ndarray)
            inputs_fed.extend(image.tobytes() for image in images)
            assert callable(real)
            return real(images)

        oracle.query = query  # type: ignore[assignment, method-assign]
        assert run(Active(strategy=strategy, queries=40, rounds=4), found).finite
        assert len(inputs_fed) == len(set(inputs_fed)) == 40


def test_active_buys_the_images_with_the_highest_entropy() -> None:
    found = digits_data(digits_oracle())
    teacher = digits_teacher()
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    chosen = order[:100]
    entropy, random = (
        Active(strategy=strategy)._pick(teacher, found.images, chosen, order, 50)
        for strategy in ("entropy", "random")
    )
    sure = compute_logits(teacher, found.images).softmax(1).amax(1)
    assert sure[entropy].mean() < sure[random].mean() - 0.1
    for picked in (entropy, random):
        assert len(picked) == 50
        assert not set(picked.tolist()) & set(chosen.tolist())


def test_images_without_answers_help_a_few_answers() -> None:
    with_them = SemiSupervised(queries=20)
    nothing_is_sure = SemiSupervised(queries=20, threshold=1.0)
    settings = TrainSettings(epochs=16, batch=32, lr=0.05)
    assert digits_mean(with_them, digits_oracle(), settings=settings) > (
        digits_mean(nothing_is_sure, digits_oracle(), settings=settings)
    )


def test_labelled_images_are_augmented_as_all_others() -> None:
    class Recording(nn.Module):
        """A student that keeps the first `FEW` inputs of each batch."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.inputs_fed = cnn(num_classes=3, width=4), set[bytes]()

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training and len(inputs) > SHORT.batch:  # skip batches of weak views only
                self.inputs_fed.update(each.numpy().tobytes() for each in inputs[:FEW])
            logits: Tensor = self.inner(inputs)
            return logits

    def distinct(settings: TrainSettings) -> int:
        student = Recording()
        attack = SemiSupervised(queries=FEW)
        assert run(
            attack, attacker_data(striped_oracle()), student=student, settings=settings
        ).finite
        return len(student.inputs_fed)

    assert distinct(SHORT) <= FEW
    assert distinct(replace(SHORT, augment=1)) > 2 * FEW


def test_strong_view_cuts_a_square_out_of_every_image() -> None:
    inputs = torch.ones(4, 3, 9, 9)
    view = make_strong_view(inputs, torch.Generator().manual_seed(0))
    assert ((view == 0).sum(dim=(1, 2, 3)) == 27).all()
    assert view.abs().max() <= 1


def test_E3_noise_and_scores_beat_chance() -> None:
    attack, settings = DataFreeSoft(queries=8960, batch=64), replace(SHORT, epochs=8)
    assert digits_accuracy(attack, digits_oracle(), settings=settings) > 16


def test_E3_noise_and_labels_beat_chance() -> None:
    attack, settings = DataFreeHard(queries=4480, batch=64), replace(SHORT, epochs=8)
    assert digits_accuracy(attack, digits_oracle("label"), settings=settings) > 16


def test_data_free_attacks_use_no_image_of_the_task() -> None:
    found = attacker_data(striped_oracle())
    black = replace(found, images=torch.zeros_like(found.images))
    for attack in (DataFreeSoft(queries=448, batch=64), DataFreeHard(queries=128, batch=64)):
        assert run(attack, black).last_loss == run(attack, found).last_loss


def test_generator_makes_8_bit_images_of_any_size() -> None:
    source = torch.Generator().manual_seed(0)
    for size in ((8, 8), (9, 14), (32, 32)):
        images = Generator(size, width=4)(sample_noise(5, source))
        assert images.shape == (5, 3, *size)
        assert images.abs().max() <= 1
        pixels = to_pixels(images)
        assert pixels.dtype == torch.uint8
        torch.testing.assert_close(normalise(pixels), images.detach(), atol=1 / 127, rtol=0)


def test_dafl_beats_chance_without_queries_given_the_network() -> None:
    attack, oracle = Dafl(steps=150), digits_oracle()
    before = digits_teacher().state_dict()["classifier.weight"].clone()
    found = digits_data(oracle)
    oracle.requests.clear()
    assert digits_accuracy(attack, oracle, settings=SHORT) > 15
    assert sum(oracle.requests) == 600  # bought by digits_accuracy
    torch.testing.assert_close(digits_teacher().state_dict()["classifier.weight"], before)
    assert "gives answers only" in (attack.skip_reason(replace(found, network=None)) or "")
    assert not any(module._forward_hooks for module in digits_teacher().modules())
    images, _, _, _ = digits()
    assert digits_teacher()(normalise(to_device(images[:2], CPU))).shape == (2, 10)
