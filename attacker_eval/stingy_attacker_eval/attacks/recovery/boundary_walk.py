"""Boundary walks: the order of the withheld classes of one image, from many queries around it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    AttackerData,
    Capability,
    least_faults,
    positive_faults,
)
from stingy_attacker_eval.attacks.losses import fill_constant, plackett_luce
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.attacks.recovery.walks import Walk, estimate_scores, walk_image
from stingy_attacker_eval.oracle.oracle import Answers, scores_unsupported_reason
from stingy_attacker_eval.training import TrainResult

_SAME_MODEL = 0.9


@dataclass(frozen=True, kw_only=True)
class BoundaryWalk(Attack):
    """Rank distillation on complete orders, which walks along each image's boundaries recover.

    The attacker blends an image with own images of each withheld class. A bisection finds the
    smallest weight at which the class enters the answer. The sooner it enters, the better the
    class ranks. With `rounds` the attacker then walks along the boundary towards the image, and
    ranks the classes by their distance. It walks as many of its images as `queries` allow. The
    student trains on the orders of all images, complete or as answered, like `rank_distillation`.
    With `true_labels` it trains on these, too, half and half.

    The attacker needs answers for its own images, and queries during the run. Scores, if there are
    any, give estimates of the withheld scores.

    queries: images to query in all.
    starts: blends for each withheld class.
    steps: queries for each blend.
    rounds: queries for each withheld class after the blends.
    true_labels: use the true labels, too.
    truth: an endpoint that answers all classes of the same model. The attack then reports what the
        walks recovered, and trains as without it.

    `measures` of the result, if there is a truth, are means over the walked images:

    - questions: queries of one image.
    - rank_correlation, rank_correlation_withheld: Spearman's correlation of the recovered order
      with the truth, over all classes and over the withheld ones.
    - student_rank_correlation, student_rank_correlation_withheld: that of the trained student,
      which needs no walk at all: the control.
    - score_error: mean error of the recovered withheld scores, relative to the best one.
    - filled_score_error: the same for scores filled one nat below the lowest one: the control.

    References:
        "Decision-Based Adversarial Attacks" (Brendel et al., ICLR 2018), section 3, the walk along
        the boundary.
    """

    name: ClassVar[str] = "boundary_walk"
    title: ClassVar[str] = "the order of withheld classes, by walks along boundaries"
    reference: ClassVar[str] = "after Brendel et al. 2018, section 3"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.ANSWERS,
            Capability.SCORES,
            Capability.LABELS,
            Capability.QUERIES,
            Capability.SECOND_TIER,
        }
    )

    partner_is_truth: ClassVar[bool] = True

    queries: int = 20_000
    starts: int = 3
    steps: int = 5
    rounds: int = 0
    true_labels: bool = False
    truth: str = ""

    def faults(self) -> Iterator[str]:
        yield from positive_faults(queries=self.queries, starts=self.starts, steps=self.steps)
        yield from least_faults(0, rounds=self.rounds)

    @property
    def needs(self) -> frozenset[Capability]:
        labels = {Capability.LABELS} if self.true_labels else set()
        truth = {Capability.SECOND_TIER} if self.truth else set()
        return frozenset({Capability.ANSWERS, Capability.QUERIES} | labels | truth)

    def partner_name(self) -> str | None:
        return self.truth or None

    def budget(self, images: int) -> int:
        return self.queries

    def questions(self, withheld: int) -> int:
        """Return the most queries of one image with so many withheld classes."""
        return withheld * (self.starts * self.steps + self.rounds)

    def unsupported_reason(self, data: AttackerData) -> str | None:
        if data.info is None:
            return None
        withheld = data.info.num_classes - data.info.support
        if not withheld:
            return "needs withheld classes, and the endpoint answers all"
        if self.queries < self.questions(withheld):
            return f"needs {self.questions(withheld)} queries for one image, and has {self.queries}"
        if data.partner is not None and not _is_truth(data.partner, data):
            return f"needs a truth with all scores of the same model, and {self.truth} is none"
        return None

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        rows, walks = self._walk(context)
        order, lengths = _complete_orders(context.indices, rows, walks, context.info.num_classes)

        def loss(student_logits: Tensor, batch: Tensor, _: Tensor) -> Tensor:
            ranks = plackett_luce(student_logits, order[batch], lengths=lengths[batch])
            if not self.true_labels:
                return ranks
            return (ranks + functional.cross_entropy(student_logits, context.labels[batch])) / 2

        result = context.train(student, context.images, loss, pure=True)
        if not self.truth or not context.has(Capability.SECOND_TIER):
            return result
        found = compute_logits(student, context.images[rows])
        return dataclasses.replace(result, measures=_measure(context, rows, walks, found))

    def _walk(self, context: AttackContext) -> tuple[Tensor, list[Walk]]:
        """Return the walked rows, int64 `[m]`, and their walks."""
        info = context.info
        count = self.queries // self.questions(info.num_classes - info.support)
        generator = context.generator(seed=0)
        order = torch.randperm(len(context.images), generator=generator, device=context.device)
        rows = order[:count]

        def query(images: Tensor) -> Answers:
            return context.session.query(images)

        walks = [
            walk_image(
                int(row),
                context.images,
                context.indices,
                query,
                num_classes=info.num_classes,
                starts=self.starts,
                steps=self.steps,
                rounds=self.rounds,
                generator=generator,
            )
            for row in rows
        ]
        return rows, walks


def _is_truth(partner: AttackerData, data: AttackerData) -> bool:
    """Return whether the partner answers all classes, and mostly the same top-1.

    Where nothing is bought yet, its description decides.
    """
    if partner.top1 is None:
        if partner.info is None:
            return True
        has_scores = scores_unsupported_reason(partner.info.scores) is None
        return has_scores and partner.info.support == partner.info.num_classes
    if partner.logits is None or data.top1 is None:
        return False
    same = float((partner.top1 == data.top1).float().mean())
    return same >= _SAME_MODEL and bool(partner.logits.isfinite().all())


def _complete_orders(
    answered: Tensor, rows: Tensor, walks: list[Walk], num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return the orders of all images, int64 `[n, classes]`, and their known lengths, int64 `[n]`.

    Rows that were not walked have their answered order alone.
    """
    count, support = answered.shape
    points = torch.zeros(count, num_classes, device=answered.device)
    worth = 2.0 * num_classes - torch.arange(support, device=answered.device)
    points.scatter_(1, answered, worth.expand(count, -1))
    lengths = torch.full((count,), support, device=answered.device)
    for row, walk in zip(rows.tolist(), walks, strict=True):
        points[row, walk.classes] = 1.0 + walk.closeness.argsort().argsort()
        lengths[row] += len(walk.classes)
    return points.argsort(dim=1, descending=True, stable=True), lengths


def _measure(
    context: AttackContext, rows: Tensor, walks: list[Walk], student_logits: Tensor
) -> dict[str, float]:
    """Return the means that the class docstring names."""
    truth = context.partner.logits[rows]
    sums: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        sums.setdefault(name, []).append(value)

    for place, (row, walk) in enumerate(zip(rows.tolist(), walks, strict=True)):
        shown = context.indices[row]
        estimate = torch.full_like(truth[place], -torch.inf)
        estimate[walk.classes] = walk.closeness
        estimate[shown] = walk.closeness.max() + torch.arange(len(shown), 0, -1).to(estimate)
        for name, scores in (("", estimate), ("student_", student_logits[place])):
            note(f"{name}rank_correlation", rank_correlation(scores, truth[place]))
            if len(walk.classes) > 1:
                note(
                    f"{name}rank_correlation_withheld",
                    rank_correlation(scores[walk.classes], truth[place][walk.classes]),
                )
        note("questions", float(walk.questions))
        if context.has(Capability.SCORES) and len(shown) > 1:
            answers = context.logits[row]
            best = truth[place] - truth[place].max()
            for name, scores in (
                ("score_error", estimate_scores(walk, answers, context.logits)),
                ("filled_score_error", fill_constant(answers[None], delta=1.0)[0]),
            ):
                gap = (scores - answers.max() - best)[walk.classes]
                note(name, float(gap.abs().mean()))
    return {name: sum(values) / len(values) for name, values in sums.items()}


def rank_correlation(estimate: Tensor, truth: Tensor) -> float:
    """Compute Spearman's rank correlation of two rows `[classes]`, whose ties go by index."""
    ranks = torch.stack([row.argsort().argsort().double() for row in (estimate, truth)])
    return float(torch.corrcoef(ranks)[0, 1])
