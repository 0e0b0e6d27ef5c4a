"""What an attacker has; an attack reads what it declared it needs and nothing else."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.datasets.query_pools import load_pool
from stingy_attacker_eval.errors import AnswersError, AttackError
from stingy_attacker_eval.oracle.oracle import Answers, dense_logits, scores_refusal
from stingy_attacker_eval.oracle.query_session import Session
from stingy_attacker_eval.training import LossFn, TrainResult, TrainSettings, to_device, train
from stingy_clients import ModelInfo

T = TypeVar("T")


class Need(StrEnum):
    """What an attacker must own to run the attack."""

    ANSWERS = "answers"
    """Answers bought once for its own images."""
    SCORES = "scores"
    """Scores in those answers."""
    LABELS = "labels"
    """The true labels of its own images."""
    IMAGES = "images"
    """Its own images, not yet asked for; what it then asks for are these alone."""
    POOL = "pool"
    """Other images than those of the task."""
    QUERIES = "queries"
    """Questions while it runs."""
    SECOND_TIER = "second_tier"
    """A second key that sees another tier of the same model."""
    WHITE_BOX = "white_box"
    """The network itself, in process; no customer has that."""


_OWN_IMAGES = frozenset({Need.ANSWERS, Need.SCORES, Need.LABELS, Need.IMAGES})


@dataclass(frozen=True, eq=False)
class Material:
    """What the attacker holds, on one device, None where it does not have it.

    images: its own, uint8 `[n, 3, H, W]`; labels: true classes int64 `[n]`; top1: the endpoint's
    int64 `[n]`; logits: the answers as float32 `[n, classes]`, -inf where withheld; indices: the
    answered classes int64 `[n, N]`, best first; info: what the endpoint says about its model and
    policy; session: what it may still ask; partner: the same of a second tier of the same model;
    network: the teacher, for images as `train.normalise` makes them; owned: how many images it
    has in all, None for these: who learns from fewer, or more, takes as many steps.
    """

    images: Tensor
    labels: Tensor | None = None
    top1: Tensor | None = None
    logits: Tensor | None = None
    indices: Tensor | None = None
    info: ModelInfo | None = None
    session: Session | None = None
    partner: "Material | None" = None
    network: nn.Module | None = None
    owned: int | None = None

    @classmethod
    def of(cls, images: Tensor, labels: Tensor, answers: Answers, info: ModelInfo) -> Self:
        """What an attacker has who bought these answers for these images, on the images' device."""
        device = images.device
        has_scores = scores_refusal(answers.form) is None
        return cls(
            images,
            labels=labels,
            top1=torch.from_numpy(answers.top1).to(device),
            logits=dense_logits(answers, device) if has_scores else None,
            indices=torch.from_numpy(answers.indices).to(device),
            info=info,
        )

    def first(self, count: int) -> "Material":
        """What an attacker has that owns, and asked about, the first `count` images alone."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[:count]

        return replace(
            self,
            images=self.images[:count],
            labels=cut(self.labels),
            top1=cut(self.top1),
            logits=cut(self.logits),
            indices=cut(self.indices),
            partner=None if self.partner is None else self.partner.first(count),
            owned=self.owned or len(self.images),
        )

    def on(self, device: torch.device) -> "Material":
        """The same on another device, without sessions."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            images=self.images.to(device),
            labels=moved(self.labels),
            top1=moved(self.top1),
            logits=moved(self.logits),
            indices=moved(self.indices),
            session=None,
            partner=None if self.partner is None else self.partner.on(device),
            network=None if self.network is None else copy.deepcopy(self.network).to(device),
        )

    def own(self) -> "Material":
        """The same with copies of labels and answers: what is written into them stays in them."""

        def copied(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.clone()

        return replace(
            self,
            labels=copied(self.labels),
            top1=copied(self.top1),
            logits=copied(self.logits),
            indices=copied(self.indices),
            partner=None if self.partner is None else self.partner.own(),
        )

    def lacks(self, need: Need) -> bool:
        """Whether the attacker does not have it. Images and pools are there for everyone."""
        held: dict[Need, object] = {
            Need.ANSWERS: self.top1,
            Need.SCORES: self.logits,
            Need.LABELS: self.labels,
            Need.QUERIES: self.session,
            Need.SECOND_TIER: self.partner,
            Need.WHITE_BOX: self.network,
        }
        return need in held and held[need] is None


class Batch:
    """The rows of one training step. Reading what the attack did not declare is an error."""

    def __init__(self, material: Material, needs: frozenset[Need], rows: Tensor) -> None:
        self._material = material
        self._needs = needs
        self._rows = rows

    @property
    def labels(self) -> Tensor:
        """True classes, int64 `[batch]`; needs Need.LABELS."""
        return self._take(self._material.labels, Need.LABELS)

    @property
    def top1(self) -> Tensor:
        """The endpoint's top-1, int64 `[batch]`; needs Need.ANSWERS."""
        return self._take(self._material.top1, Need.ANSWERS)

    @property
    def indices(self) -> Tensor:
        """The answered classes, int64 `[batch, N]`, best first; needs Need.ANSWERS."""
        return self._take(self._material.indices, Need.ANSWERS)

    @property
    def places(self) -> Tensor:
        """The place of each answered class, int64 `[batch, N]`, 0 for the best; needs Need.ANSWERS.

        Classes of one score share the first of their places, for a list has them by index. The
        top-1 has its place alone: it is listed first even among its equals.
        """
        order = self.indices
        places = torch.arange(order.shape[1], device=order.device).repeat(len(order), 1)
        if self._material.logits is None or order.shape[1] < 2:
            return places
        scores = self._material.logits[self._rows].gather(1, order)
        tied = functional.pad(scores[:, 2:] == scores[:, 1:-1], (2, 0))
        return places.masked_fill(tied, 0).cummax(dim=1).values

    @property
    def logits(self) -> Tensor:
        """The answers, float32 `[batch, classes]`, -inf where withheld; needs Need.SCORES."""
        return self._take(self._material.logits, Need.SCORES)

    def _take(self, tensor: Tensor | None, need: Need) -> Tensor:
        return _declared(tensor, need, self._needs)[self._rows]


class Means:
    """Everything one run of an attack may use. Reading what it did not declare is an error."""

    def __init__(
        self, material: Material, needs: frozenset[Need], *, settings: TrainSettings, seed: int
    ) -> None:
        self._material = material
        self._needs = needs
        self.settings = settings
        self.seed = seed
        self.device = material.images.device

    @property
    def images(self) -> Tensor:
        """Its own images, uint8 `[n, 3, H, W]`; needs any of them, their labels or answers."""
        if not self._needs & _OWN_IMAGES:
            raise AttackError(f"expected an attack that declares the need {Need.IMAGES}")
        return self._material.images

    @property
    def owned(self) -> int:
        """How many images the attacker has in all; a student takes as many steps as they make."""
        return self._material.owned or len(self._material.images)

    @property
    def labels(self) -> Tensor:
        """True classes, int64 `[n]`; needs Need.LABELS."""
        return _declared(self._material.labels, Need.LABELS, self._needs)

    @property
    def top1(self) -> Tensor:
        """The endpoint's top-1, int64 `[n]`; needs Need.ANSWERS."""
        return _declared(self._material.top1, Need.ANSWERS, self._needs)

    @property
    def indices(self) -> Tensor:
        """The answered classes, int64 `[n, N]`, best first; needs Need.ANSWERS."""
        return _declared(self._material.indices, Need.ANSWERS, self._needs)

    @property
    def logits(self) -> Tensor:
        """The answers, float32 `[n, classes]`, -inf where withheld; needs Need.SCORES."""
        return _declared(self._material.logits, Need.SCORES, self._needs)

    @property
    def session(self) -> Session:
        """What may still be asked; needs Need.QUERIES."""
        return _declared(self._material.session, Need.QUERIES, self._needs)

    @property
    def network(self) -> nn.Module:
        """The teacher itself; needs Need.WHITE_BOX."""
        return _declared(self._material.network, Need.WHITE_BOX, self._needs)

    @property
    def partner(self) -> "Means":
        """What the second key has, under the same needs; needs Need.SECOND_TIER."""
        partner = _declared(self._material.partner, Need.SECOND_TIER, self._needs)
        return Means(partner, self._needs, settings=self.settings, seed=self.seed)

    def has(self, need: Need) -> bool:
        """Whether it is declared and there: of a second tier the scores may be missing."""
        return need in self._needs and not self._material.lacks(need)

    @property
    def info(self) -> ModelInfo:
        """What the endpoint says about its model and its policy, which every attacker knows."""
        if self._material.info is None:
            raise AnswersError("expected an endpoint's description, got none")
        return self._material.info

    def pool(self, name: str, count: int) -> Tensor:
        """Up to `count` images of another source, uint8 `[m, 3, H, W]`; needs Need.POOL."""
        if Need.POOL not in self._needs:
            raise AttackError(f"expected an attack that declares the need {Need.POOL}")
        size = (int(self._material.images.shape[2]), int(self._material.images.shape[3]))
        return to_device(load_pool(name, count=count, size=size), self.device)

    def batch(self, rows: Tensor) -> Batch:
        """The bought rows of one training step."""
        return Batch(self._material, self._needs, rows)

    def generator(self, *, seed: int | None = None) -> torch.Generator:
        """A source of random numbers of the run's own, or of that seed."""
        return torch.Generator(self.device).manual_seed(self.seed if seed is None else seed)

    def dense(self, answers: Answers) -> Tensor:
        """Answers as logits float32 `[n, classes]`, -inf where withheld; raises AnswersError."""
        return dense_logits(answers, self.device)

    def targets(self, answers: Answers) -> Tensor:
        """Like `dense`; where the endpoint tells no scores, the top-1 alone is not -inf."""
        if scores_refusal(answers.form) is None:
            return self.dense(answers)
        top1 = torch.from_numpy(answers.top1).to(self.device)
        dense = torch.full((len(answers), answers.num_classes), -torch.inf, device=self.device)
        return dense.scatter_(1, top1[:, None], 0.0)

    def train(
        self, student: nn.Module, images: Tensor, loss_fn: LossFn, *, epoch_of: int | None = None
    ) -> TrainResult:
        """Train the student in place on images uint8 `[n, 3, H, W]` with the run's settings.

        epoch_of: how many images make an epoch, by default those the attacker owns, so that
        however many an attack asks about, its student takes as many steps as any other.

        Raises AttackError when the loss is not one number with a gradient.
        """
        return train(
            student,
            images,
            _checked(loss_fn),
            settings=self.settings,
            seed=self.seed,
            epoch_of=epoch_of or self.owned,
        )


def timed(body: Callable[[], float]) -> TrainResult:
    """What a training loop of an attack's own came to; the body returns its last loss."""
    started = time.perf_counter()
    loss = body()
    finite = bool(torch.isfinite(torch.tensor(loss)))
    return TrainResult(finite, time.perf_counter() - started, loss)


def _checked(loss_fn: LossFn) -> LossFn:
    def checked(student_logits: Tensor, rows: Tensor, inputs: Tensor) -> Tensor:
        loss = loss_fn(student_logits, rows, inputs)
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
            raise AttackError("expected a scalar loss with a gradient from the attack")
        return loss

    return checked


def _declared(value: T | None, need: Need, needs: frozenset[Need]) -> T:
    if need not in needs or value is None:
        raise AttackError(f"expected an attack that declares the need {need}, got one without")
    return value
