"""Adaptive Knockoff Nets: a policy learns from rewards which images of a pool to query."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    Capability,
    least_faults,
    positive_faults,
)
from stingy_attacker_eval.attacks.losses import kd_loss, kd_loss_fn
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.datasets.query_pools import SYNTHETIC
from stingy_attacker_eval.training import TrainResult, normalise


@dataclass(frozen=True, kw_only=True)
class AdaptiveKnockoff(Attack):
    """Distillation on a pool's images whose classes a gradient bandit chooses.

    The actions of the bandit are the classes of the pool. In each round the attacker draws classes
    from the bandit's policy, queries images of them, and takes one training step on the answers.
    Rewards are high for confident answers, for answers unlike the latest ones, and for answers
    that the student does not predict (`knockoff_rewards`). They move the policy
    (`GradientBandit`). At the end the student starts again from its initial weights and trains on
    all answers with soft cross-entropy at tau 1.

    The attacker needs a pool of images with classes of their own, and queries during the run. It
    needs no images and no labels of the task. If the endpoint gives no scores, its top-1 is the
    answer, and the first reward is the same for all.

    pool: a data set by name; never the audit's own.
    queries: images to query.
    size: images of the pool to choose from.
    batch: images of a round. The published policy moves after each image.

    Its control is `knockoff`, which chooses at random, with the same pool and queries.

    References:
        "Knockoff Nets" (Orekondy et al., CVPR 2019), section 4.1.2 and the rewards of equations 3
        to 5; the bandit is that of Sutton and Barto, 2nd edition, section 2.8.
    """

    name: ClassVar[str] = "adaptive_knockoff"
    title: ClassVar[str] = "answers to images of other classes, chosen by their rewards"
    reference: ClassVar[str] = "Orekondy et al. 2019, Knockoff Nets, section 4.1.2"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.POOL, Capability.QUERIES})
    per_run: ClassVar[bool] = True

    pool: str
    queries: int = 5000
    size: int = 20_000
    batch: int = 16

    def faults(self) -> Iterator[str]:
        yield from least_faults(2, queries=self.queries)
        yield from positive_faults(size=self.size, batch=self.batch)
        if self.pool == SYNTHETIC:
            yield "expected a data set with classes as the pool, got drawn shapes"
        if self.queries > self.size:
            yield f"expected at most {self.size} queries, got {self.queries}"

    def pool_name(self) -> str | None:
        return self.pool

    def budget(self, images: int) -> int:
        return self.queries

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        images, classes = context.labelled_pool(self.pool, self.size)
        first = copy.deepcopy(student.state_dict())
        source = context.generator()
        bandit = GradientBandit(classes, source)
        optimizer = torch.optim.SGD(student.parameters(), lr=context.settings.lr, momentum=0.5)
        rows = torch.empty(0, dtype=torch.int64, device=context.device)
        targets = torch.empty(0, context.info.num_classes, device=context.device)
        total = min(self.queries, len(images))
        while len(rows) < total:
            drawn = bandit.draw(min(self.batch, total - len(rows)))
            answers = context.targets(context.session.query(images[drawn]))
            rewards = knockoff_rewards(
                answers, targets, compute_logits(student, images[drawn]), window=self.batch
            )
            bandit.update(classes[drawn], rewards)
            rows, targets = torch.cat([rows, drawn]), torch.cat([targets, answers])
            if len(drawn) < 2:
                continue
            student.train()
            logits = student(normalise(images[drawn])).float()
            loss = kd_loss(logits, answers, None, tau=1.0, alpha=1.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        student.load_state_dict(first)
        return context.train(student, images[rows], kd_loss_fn(targets), pure=True)


class GradientBandit:
    """A softmax policy over the classes of a pool, which draws each image once at most.

    H(a) += (r - r_mean) (1 - pi(a)) / n(a) for the class a that was drawn, and
    H(b) -= (r - r_mean) pi(b) / n(a) for the others. r_mean is the mean of all rewards so far, and
    n(a) counts the draws of a. In the published bandit r_mean is the mean of the latest rewards.
    """

    def __init__(self, classes: Tensor, generator: torch.Generator) -> None:
        count = int(classes.max()) + 1
        self._classes = classes
        self._generator = generator
        self._free = torch.ones(len(classes), dtype=torch.bool, device=classes.device)
        self.preferences = torch.zeros(count, device=classes.device)
        self._draws = torch.zeros(count, device=classes.device)
        self._reward_sum, self._rewards = 0.0, 0

    @property
    def policy(self) -> Tensor:
        """The probability of each class, `[classes]`; 0 where no image is left."""
        left = torch.bincount(self._classes[self._free], minlength=len(self.preferences))
        return self.preferences.masked_fill(left == 0, -torch.inf).softmax(dim=0)

    def draw(self, count: int) -> Tensor:
        """Draw images, one after the other, and return their rows, int64 `[count]`."""
        rows = []
        for _ in range(count):
            label = torch.multinomial(self.policy, 1, generator=self._generator)
            free = (self._free & (self._classes == label)).nonzero()[:, 0]
            at = torch.randint(
                len(free), (1,), generator=self._generator, device=self._generator.device
            )
            self._free[free[at]] = False
            rows.append(free[at])
        return torch.cat(rows)

    def update(self, classes: Tensor, rewards: Tensor) -> None:
        """Move the preferences by the rewards of drawn classes, one after the other.

        classes, rewards: `[m]`.
        """
        for label, reward in zip(classes.tolist(), rewards.tolist(), strict=True):
            self._reward_sum += reward
            self._rewards += 1
            self._draws[label] += 1
            gain = (reward - self._reward_sum / self._rewards) / float(self._draws[label])
            policy = self.preferences.softmax(dim=0)
            self.preferences -= gain * policy
            self.preferences[label] += gain


def knockoff_rewards(
    answers: Tensor, former: Tensor, student_logits: Tensor, *, window: int
) -> Tensor:
    """Compute the sum of the three published rewards of each answer, `[m]`.

    - certainty: the largest probability minus the second
    - diversity: sum_k max(0, y_k - mean of the latest y_k)
    - loss: cross-entropy of the student on the answer

    Each reward is divided by its largest value in the batch, so that none outweighs the others.

    answers, former: as logits `[m, classes]` and `[f, classes]`, -inf where withheld.
    student_logits: `[m, classes]`.
    window: the number of the latest answers in the mean.
    """
    y = functional.softmax(answers, dim=1)
    best = y.topk(2, dim=1).values
    latest = functional.softmax(former[-window:], dim=1) if len(former) else y
    diversity = (y - latest.mean(dim=0)).clamp_min(0).sum(dim=1)
    loss = functional.cross_entropy(student_logits, y, reduction="none")
    rewards = torch.stack([best[:, 0] - best[:, 1], diversity, loss])
    return (rewards / rewards.amax(dim=1, keepdim=True).clamp_min(1e-8)).sum(dim=0)
