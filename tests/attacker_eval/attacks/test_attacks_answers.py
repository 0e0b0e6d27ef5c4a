"""Attacks on answers bought once: each beats its control and skips endpoints it cannot use."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attack_lab import (
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
from stingy_attacker_eval.attacks import Attack, AttackerData, Batch
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.lists.collusion import Collusion, append_ranks, merge_scores
from stingy_attacker_eval.attacks.lists.rank_and_label import RankAndLabel
from stingy_attacker_eval.attacks.lists.rank_distillation import RankDistillation
from stingy_attacker_eval.attacks.losses import fill_constant, kd_loss
from stingy_attacker_eval.attacks.nasty.skeptical import Skeptical
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.attacks.recovery.inversion import Inversion
from stingy_attacker_eval.attacks.recovery.policy_simulation import (
    PolicyOptions,
    find_class_lists,
    simulate_policy,
)
from stingy_attacker_eval.attacks.scores.completion import Completion
from stingy_attacker_eval.attacks.scores.imputation import fill_class_mean, fill_low_rank
from stingy_attacker_eval.attacks.scores.paper_kd import PaperKd
from stingy_attacker_eval.attacks.scores.soft_label import SoftLabel
from stingy_attacker_eval.attacks.scores.subset_kl import SubsetKl
from stingy_attacker_eval.attacks.scores.sweep import Sweep
from stingy_attacker_eval.attacks.scores.tail_fill import TailFill
from stingy_attacker_eval.attacks.two_labels import TwoLabels
from stingy_attacker_eval.oracle.oracle import dense_logits
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.training import TrainSettings, normalise, to_device
from stingy_protection import class_prototypes

INF = float("inf")
CPU = torch.device("cpu")
SHORT = TrainSettings(epochs=3, batch=32, lr=0.05)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def collapsed() -> float:
    """Return the accuracy of the paper's attacker on the stingy digits."""
    torch.set_num_threads(1)
    return digits_mean(PaperKd(), digits_oracle(), settings=SHORT)


@pytest.mark.parametrize(
    "attack", [SoftLabel(), SubsetKl(), TailFill(), TailFill(fill="class_mean"), Completion()]
)
def test_E3_other_readings_of_stingy_answers_beat_the_paper(
    attack: Attack, collapsed: float
) -> None:
    assert digits_accuracy(attack, digits_oracle(), settings=SHORT) > collapsed + 2


@pytest.mark.parametrize("attack", [Inversion(steps=500), Skeptical()])
def test_E3_attacks_with_true_labels_beat_the_paper(attack: Attack, collapsed: float) -> None:
    assert digits_accuracy(attack, digits_oracle(), settings=SHORT) > collapsed + 2


def low_rank_logits(count: int = 400, classes: int = 12) -> Tensor:
    """Draw logits of rank 2, `[count, classes]`."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, 2, generator=generator)
    return 3 * features @ torch.randn(2, classes, generator=generator)


def test_completion_beats_tail_fill_on_low_rank_logits() -> None:
    logits = low_rank_logits()
    values, indices = logits.topk(6, dim=1)
    answers = torch.full_like(logits, -INF).scatter(1, indices, values)
    top1 = indices[:, 0]

    def error(estimate: Tensor) -> float:
        return float((estimate - logits)[answers.isinf()].abs().mean())

    completed = error(fill_low_rank(answers, top1, rank=2, iterations=100, delta=1.0))
    by_class = error(fill_class_mean(answers, top1, delta=1.0))
    constant = error(fill_constant(answers, delta=1.0))
    assert completed < 0.5 * by_class
    assert completed < 0.5 * constant


def test_estimates_stay_below_answered_classes() -> None:
    logits = low_rank_logits()
    values, indices = logits.topk(4, dim=1)
    answers = torch.full_like(logits, -INF).scatter(1, indices, values)
    for estimate in (
        fill_class_mean(answers, indices[:, 0], delta=1.0),
        fill_low_rank(answers, indices[:, 0], rank=3, iterations=5, delta=1.0),
    ):
        assert estimate.isfinite().all()
        torch.testing.assert_close(estimate.gather(1, indices), values)
        hidden = estimate.masked_fill(answers.isfinite(), -INF).amax(dim=1)
        assert (hidden <= values[:, -1] + 1e-5).all()


def test_class_averages_by_hand() -> None:
    answers = torch.tensor([[5.0, 3.0, -INF], [4.0, -INF, 2.0], [9.0, 6.0, -INF]])
    found = fill_class_mean(answers, torch.tensor([0, 0, 0]), delta=1.0)
    # Under class 0, class 1 is 2.5 behind on average and class 2 is 2, but no more than the floor.
    assert found.tolist() == [[5.0, 3.0, 3.0], [4.0, 1.5, 2.0], [9.0, 6.0, 6.0]]


def test_a_class_never_answered_is_put_below_all() -> None:
    found = fill_class_mean(torch.tensor([[5.0, 3.0, -INF]]), torch.tensor([0]), delta=1.0)
    assert found.tolist() == [[5.0, 3.0, 2.0]]


def test_two_labels_equal_kd_on_a_list_of_one() -> None:
    labels, top1 = torch.tensor([2, 1]), torch.tensor([0, 1])
    sold = torch.full((2, 3), -INF).scatter(1, top1[:, None], 0.0)
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    data = AttackerData(images, labels=labels, top1=top1, logits=sold, indices=top1[:, None])
    student = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, 0.5]])

    def loss(attack: Attack) -> Tensor:
        return attack.loss(student, Batch(data, attack.requires, torch.arange(2)))

    torch.testing.assert_close(loss(TwoLabels()), loss(Sweep(tau=1.0, alpha=0.5)))
    assert not torch.isclose(loss(TwoLabels()), loss(LabelOnly()))


def test_rank_and_label_is_half_of_each_loss() -> None:
    labels, order = torch.tensor([2, 1]), torch.tensor([[0, 2, 1], [1, 0, 2]])
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    data = AttackerData(images, labels=labels, top1=order[:, 0], indices=order)
    student = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, 0.5]])

    def loss(attack: Attack) -> Tensor:
        return attack.loss(student, Batch(data, attack.requires, torch.arange(2)))

    expected = (loss(RankDistillation(n=2)) + loss(NoApi())) / 2
    torch.testing.assert_close(loss(RankAndLabel(n=2)), expected)


def test_ranks_improve_the_students_second_choices() -> None:
    images, _, _, _ = digits()
    teacher = digits_teacher()(normalise(to_device(images, CPU))).detach()

    def second_choices(attack: Attack) -> float:
        """Return the mean probability of the teacher's second class, with the first excluded."""
        torch.manual_seed(0)
        student = cnn(num_classes=10, width=8)
        found = digits_data(digits_oracle("ranked_labels:n=4"))
        assert run(attack, found, student=student, settings=SHORT).finite
        student_logits = student.eval()(normalise(to_device(images, CPU))).detach()
        order = teacher.topk(2, dim=1).indices
        rest = student_logits.scatter(1, order[:, :1], -INF)
        return float(functional.softmax(rest, 1).gather(1, order[:, 1:]).mean())

    assert second_choices(RankDistillation()) > second_choices(LabelOnly()) + 0.05


def test_rank_distillation_with_n_reads_the_first_places() -> None:
    def trained_weights(attack: Attack, policy: str) -> Tensor:
        torch.manual_seed(0)
        student = cnn(num_classes=3, width=4)
        run(attack, attacker_data(striped_oracle(policy)), student=student)
        return torch.cat([weights.detach().flatten() for weights in student.parameters()])

    first_two = trained_weights(RankDistillation(n=2), "ranked_labels:n=3")
    assert torch.equal(first_two, trained_weights(RankDistillation(), "ranked_labels:n=2"))
    assert not torch.equal(first_two, trained_weights(RankDistillation(), "ranked_labels:n=3"))


def test_tied_scores_give_no_order_but_the_first() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    scores = torch.tensor([[-1.0, -1.0, -1.0, -2.0], [-1.0, -2.0, -2.0, -3.0]])
    order = torch.tensor([[3, 0, 1, 2], [0, 1, 2, 3]])

    def batch(order: Tensor, *, values: bool = True) -> Batch:
        logits = torch.zeros(2, 4).scatter(1, order, scores) if values else None
        data = AttackerData(images, top1=order[:, 0], logits=logits, indices=order)
        return Batch(data, RankDistillation.requires, torch.arange(2))

    assert batch(order).places.tolist() == [[0, 1, 1, 3], [0, 1, 1, 3]]
    assert batch(order, values=False).places.tolist() == [[0, 1, 2, 3]] * 2
    student = torch.tensor([[0.1, 0.9, -0.4, 2.0], [1.0, 0.3, -0.8, 0.5]])
    swapped = order[:, [0, 2, 1, 3]]
    for attack in (RankDistillation(), RankDistillation(n=2), RankDistillation(n=3)):
        torch.testing.assert_close(
            attack.loss(student, batch(order)), attack.loss(student, batch(swapped))
        )
    first = RankDistillation(n=2).loss(
        student, batch(order)
    )  # the tie extends past the second place
    torch.testing.assert_close(first, functional.cross_entropy(student, order[:, 0]))


@pytest.mark.parametrize("n", [1, 0, 2.5, True])
def test_rank_distillation_of_fewer_than_two_is_refused(n: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"expected .* n"):
        RankDistillation.expand({"n": n})


@pytest.mark.parametrize(
    ("policy", "reason"),
    [("label", "answers one class"), ("rounded", "set n")],
)
def test_rank_distillation_skips_answers_without_an_order(policy: str, reason: str) -> None:
    assert reason in (RankDistillation().skip_reason(attacker_data(striped_oracle(policy))) or "")


def test_rank_distillation_runs_on_ranks_and_on_scores() -> None:
    for policy in ("ranked_labels:n=2", "stingy:n=2"):
        found = attacker_data(striped_oracle(policy))
        assert RankDistillation().skip_reason(found) is None
        assert run(RankDistillation(), found).finite
    assert RankDistillation(n=2).skip_reason(attacker_data(striped_oracle("rounded"))) is None


@pytest.mark.parametrize(
    "policy",
    [
        "open",
        "stingy:n=3",
        "stingy:n=3,scores=prob,decimals=2",
        "reversed",
        "rounded",
        "stingy_smooth:n=2",
        "reverse_sigmoid",
        "ranked_buckets:n=4",
        "modelguard_w",
    ],
)
def test_E3_simulated_policy_answers_as_the_gate_does(policy: str) -> None:
    images, _, _, _ = digits()
    oracle = digits_oracle(policy)
    logits = digits_teacher()(normalise(to_device(images, CPU))).detach()
    real = dense_logits(oracle.query(images), CPU)
    copy = simulate_policy(logits, oracle.describe(), PolicyOptions())
    grid = 2 * 10.0**-oracle.policy.decimals
    apart = (copy.softmax(1) - real.softmax(1)).abs()
    # Where a score is on the edge of the grid the two may round apart.
    assert (apart <= grid).float().mean() > 0.98
    assert apart.max() <= 5 * grid
    assert (copy.isinf() == real.isinf()).float().mean() > 0.98


def test_class_prototypes_are_recovered_from_answers() -> None:
    images, _, _, _ = digits()
    logits = digits_teacher()(normalise(to_device(images, CPU))).detach()
    oracle = digits_oracle("class_prototype", lists=class_prototypes(logits, n=4), n=4)
    answers = oracle.query(images)
    lists = find_class_lists(torch.from_numpy(answers.indices), 10)
    copy = simulate_policy(logits, oracle.describe(), PolicyOptions(lists=lists))
    torch.testing.assert_close(copy, dense_logits(answers, CPU), atol=2e-3, rtol=0)


def test_simulated_policy_passes_gradients() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0]], requires_grad=True)
    values = simulate_policy(logits, striped_oracle("stingy:n=2").describe(), PolicyOptions())
    (gradient,) = torch.autograd.grad(values[0, 0], logits)
    assert gradient[0, 0] > 0
    assert gradient[0, 2] == 0


def test_inversion_skips_a_policy_it_cannot_simulate() -> None:
    found = attacker_data(striped_oracle())
    assert found.info is not None
    other = replace(found, info=found.info.model_copy(update={"policy": "secret"}))
    assert "this is secret" in (Inversion().skip_reason(other) or "")
    assert Inversion().skip_reason(found) is None


def test_skeptical_removes_its_exit_from_the_student() -> None:
    student = cnn(num_classes=3, width=4)
    names = list(student.state_dict())
    assert run(Skeptical(), attacker_data(striped_oracle()), student=student).finite
    assert list(student.state_dict()) == names
    assert not any(module._forward_hooks for module in student.modules())


def test_merged_scores_match_a_hand_computation() -> None:
    first = torch.tensor([[-0.1, -2.0, -INF, -INF]])
    second = torch.tensor([[-0.3, -2.25, -4.0, -INF]])
    # The second has more classes, so its scores stay. The first has no class that it lacks.
    found = merge_scores(first, second, torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([[-0.1, -2.05, -3.8, -INF]]))
    torch.testing.assert_close(merge_scores(second, first, torch.tensor([0])), second)


@pytest.mark.parametrize("more", [-INF, -3.0])
def test_second_answer_without_the_first_top1_is_left_out(more: float) -> None:
    first = torch.tensor([[-0.1, -2.3, -INF, -INF], [-0.1, -INF, -2.3, -INF]])
    second = torch.tensor([[-0.2, -1.7, -INF, more], [-INF, -0.2, -1.7, more]])
    found = merge_scores(first, second, torch.tensor([0, 0]))
    # The first row takes the longer list, the second row takes the first answer.
    expected = [-0.1, -2.3, -INF, -INF] if more == -INF else [-0.1, -1.6, -INF, -2.9]
    torch.testing.assert_close(found, torch.tensor([expected, [-0.1, -INF, -2.3, -INF]]))
    assert kd_loss(torch.zeros(2, 4), found, None, tau=1.0, alpha=1.0).isfinite()


def test_ranks_are_appended_below_one_nat_a_place() -> None:
    found = append_ranks(torch.tensor([[-0.1, -2.0, -INF, -INF]]), torch.tensor([[0, 3, 1, 2]]))
    torch.testing.assert_close(found, torch.tensor([[-0.1, -2.0, -4.0, -3.0]]))


@pytest.mark.parametrize("tier", ["ranked_labels:n=3", "open"])
def test_two_keys_recover_more_of_the_tail_than_one(tier: str) -> None:
    images, _, _, _ = digits()
    truth = digits_teacher()(normalise(to_device(images, CPU))).detach().log_softmax(1)
    one, other = digits_data(digits_oracle()), digits_data(digits_oracle(tier))
    assert one.logits is not None
    assert one.top1 is not None
    assert other.indices is not None
    both = (
        append_ranks(one.logits, other.indices)
        if other.logits is None
        else merge_scores(one.logits, other.logits, one.top1)
    )
    # At tau 4, where the tail counts.
    gaps = [
        functional.l1_loss((values / 4).softmax(1), (truth / 4).softmax(1))
        for values in (both, one.logits)
    ]
    assert gaps[0] < gaps[1]
    assert run(Collusion(partner="other"), replace(one, partner=other)).finite


def test_collusion_skips_an_endpoint_without_second_tier() -> None:
    attack, one = Collusion(partner="other"), attacker_data(striped_oracle("stingy:n=2"))
    assert "has no endpoint other" in (attack.skip_reason(one) or "")
    poorer = replace(one, partner=attacker_data(striped_oracle("label")))
    assert "has neither" in (attack.skip_reason(poorer) or "")
    assert one.top1 is not None
    stranger = replace(one, top1=(one.top1 + 1) % 3)
    assert "two tiers of one model" in (attack.skip_reason(replace(one, partner=stranger)) or "")
    assert attack.skip_reason(replace(one, partner=attacker_data(striped_oracle("open")))) is None
