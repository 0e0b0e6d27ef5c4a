"""The data of an attacker; an attack reads only the capabilities that it requires."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.networks import copy_with_new_weights
from stingy_attacker_eval.datasets.query_pools import load_labelled_pool, load_pool
from stingy_attacker_eval.errors import AnswersError, AttackError
from stingy_attacker_eval.oracle.oracle import Answers, dense_logits, scores_unsupported_reason
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.training import LossFn, TrainResult, TrainSettings, to_device, train
from stingy_clients import ModelInfo

T = TypeVar("T")


class Capability(StrEnum):
    """A resource that an attacker needs to run an attack."""

    ANSWERS = "answers"
    """Answers bought once for its own images."""
    SCORES = "scores"
    """Scores in those answers."""
    LABELS = "labels"
    """The true labels of its own images."""
    IMAGES = "images"
    """Its own images, without answers; the attack then queries these images only."""
    POOL = "pool"
    """Other images than those of the task."""
    QUERIES = "queries"
    """Queries while the attack runs."""
    SECOND_TIER = "second_tier"
    """A second key, for another tier of the same model."""
    WHITE_BOX = "white_box"
    """The network itself, in process; no customer has that."""


_OWN_IMAGES = frozenset(
    {Capability.ANSWERS, Capability.SCORES, Capability.LABELS, Capability.IMAGES}
)


@dataclass(frozen=True, eq=False)
class AttackerData:
    """The data of an attacker, on one device; a field is None where the attacker lacks it.

    images: its own images, uint8 `[n, 3, H, W]`.
    labels: their true classes, int64 `[n]`.
    top1: the endpoint's top-1, int64 `[n]`.
    logits: the answers, float32 `[n, classes]`, -inf where withheld.
    indices: the answered classes, int64 `[n, N]`, best first.
    info: the endpoint's description of its model and policy.
    session: the queries that are left to the attack.
    partner: the data bought with a second key, for another tier of the same model.
    network: the teacher, for images as `training.normalise` makes them.
    owned: images the attacker owns; None stands for len(images). Their number sets the training
        steps, so runs on subsets take equally many.
    is_pretrained: True if the student that it trains starts from weights of another data set.
    """

    images: Tensor
    labels: Tensor | None = None
    top1: Tensor | None = None
    logits: Tensor | None = None
    indices: Tensor | None = None
    info: ModelInfo | None = None
    session: QuerySession | None = None
    partner: "AttackerData | None" = None
    network: nn.Module | None = None
    owned: int | None = None
    is_pretrained: bool = False

    @classmethod
    def from_answers(
        cls, images: Tensor, labels: Tensor | None, answers: Answers, info: ModelInfo
    ) -> Self:
        """Return the data of an attacker that bought these answers, on the device of the images."""
        device = images.device
        has_scores = scores_unsupported_reason(answers.form) is None
        return cls(
            images,
            labels=labels,
            top1=torch.from_numpy(answers.top1).to(device),
            logits=dense_logits(answers, device) if has_scores else None,
            indices=torch.from_numpy(answers.indices).to(device),
            info=info,
        )

    def first(self, count: int) -> "AttackerData":
        """Return the data of an attacker that owns, and queried, only the first `count` images."""
        return replace(
            self._map_tensors(lambda tensor: tensor[:count]),
            images=self.images[:count],
            partner=None if self.partner is None else self.partner.first(count),
            owned=self.owned or len(self.images),
        )

    def to(self, device: torch.device) -> "AttackerData":
        """Return the same data on another device, without query sessions."""
        return replace(
            self._map_tensors(lambda tensor: tensor.to(device)),
            images=self.images.to(device),
            session=None,
            partner=None if self.partner is None else self.partner.to(device),
            network=None if self.network is None else copy.deepcopy(self.network).to(device),
        )

    def clone(self) -> "AttackerData":
        """Return the same data with copies of labels and answers, so that an attack may edit them.

        The images are shared.
        """
        partner = None if self.partner is None else self.partner.clone()
        return replace(self._map_tensors(Tensor.clone), partner=partner)

    def _map_tensors(self, fn: Callable[[Tensor], Tensor]) -> "AttackerData":
        """Apply `fn` to the labels and the answers; images and partner stay as they are."""

        def apply(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else fn(tensor)

        return replace(
            self,
            labels=apply(self.labels),
            top1=apply(self.top1),
            logits=apply(self.logits),
            indices=apply(self.indices),
        )

    def lacks(self, capability: Capability) -> bool:
        """Return whether the attacker lacks the capability. All have images and pools."""
        values: dict[Capability, object] = {
            Capability.ANSWERS: self.top1,
            Capability.SCORES: self.logits,
            Capability.LABELS: self.labels,
            Capability.QUERIES: self.session,
            Capability.SECOND_TIER: self.partner,
            Capability.WHITE_BOX: self.network,
        }
        return capability in values and values[capability] is None


class Batch:
    """The rows of one training step. Reading a capability that is not required is an error."""

    def __init__(self, data: AttackerData, requires: frozenset[Capability], rows: Tensor) -> None:
        self._data = data
        self._requires = requires
        self._rows = rows

    @property
    def labels(self) -> Tensor:
        """True classes, int64 `[batch]`; needs Capability.LABELS."""
        return self._take(self._data.labels, Capability.LABELS)

    @property
    def top1(self) -> Tensor:
        """The endpoint's top-1, int64 `[batch]`; needs Capability.ANSWERS."""
        return self._take(self._data.top1, Capability.ANSWERS)

    @property
    def indices(self) -> Tensor:
        """The answered classes, int64 `[batch, N]`, best first; needs Capability.ANSWERS."""
        return self._take(self._data.indices, Capability.ANSWERS)

    @property
    def places(self) -> Tensor:
        """The rank of each answered class, int64 `[batch, N]`, 0 for the best.

        Needs Capability.ANSWERS. Classes with equal scores share the first of their places,
        because an answer lists them by index. The top-1 shares its place with no class: it is
        listed first even among equals.
        """
        order = self.indices
        places = torch.arange(order.shape[1], device=order.device).repeat(len(order), 1)
        if self._data.logits is None or order.shape[1] < 2:
            return places
        scores = self._data.logits[self._rows].gather(1, order)
        tied = functional.pad(scores[:, 2:] == scores[:, 1:-1], (2, 0))
        return places.masked_fill(tied, 0).cummax(dim=1).values

    @property
    def logits(self) -> Tensor:
        """The answers, float32 `[batch, classes]`, -inf where withheld; needs Capability.SCORES."""
        return self._take(self._data.logits, Capability.SCORES)

    def _take(self, tensor: Tensor | None, capability: Capability) -> Tensor:
        return _declared(tensor, capability, self._requires)[self._rows]


class AttackContext:
    """The data and settings of one run. Reading a capability that is not required is an error."""

    def __init__(
        self,
        data: AttackerData,
        requires: frozenset[Capability],
        *,
        settings: TrainSettings,
        seed: int,
    ) -> None:
        self._data = data
        self._requires = requires
        self.settings = settings
        self.seed = seed
        self.device = data.images.device

    @property
    def images(self) -> Tensor:
        """Its own images, uint8 `[n, 3, H, W]`; needs IMAGES, LABELS, ANSWERS or SCORES."""
        if not self._requires & _OWN_IMAGES:
            raise AttackError(f"expected an attack that requires {Capability.IMAGES}")
        return self._data.images

    @property
    def owned(self) -> int:
        """The number of images the attacker owns; it sets the training steps of every student."""
        return self._data.owned or len(self._data.images)

    @property
    def epoch_steps(self) -> int:
        """The training steps in an epoch of `train`, where no epoch size is given."""
        return max(1, self.owned // min(self.settings.batch, self.owned))

    @property
    def labels(self) -> Tensor:
        """True classes, int64 `[n]`; needs Capability.LABELS."""
        return _declared(self._data.labels, Capability.LABELS, self._requires)

    @property
    def top1(self) -> Tensor:
        """The endpoint's top-1, int64 `[n]`; needs Capability.ANSWERS."""
        return _declared(self._data.top1, Capability.ANSWERS, self._requires)

    @property
    def indices(self) -> Tensor:
        """The answered classes, int64 `[n, N]`, best first; needs Capability.ANSWERS."""
        return _declared(self._data.indices, Capability.ANSWERS, self._requires)

    @property
    def logits(self) -> Tensor:
        """The answers, float32 `[n, classes]`, -inf where withheld; needs Capability.SCORES."""
        return _declared(self._data.logits, Capability.SCORES, self._requires)

    @property
    def session(self) -> QuerySession:
        """The queries that are left to the run; needs Capability.QUERIES."""
        return _declared(self._data.session, Capability.QUERIES, self._requires)

    def another_network(self, student: nn.Module) -> nn.Module:
        """Copy a student that has not trained yet, with weights of its own.

        A pretrained attacker has them for the head alone: its other weights are as good a start
        here as for the student. torch's global random generator draws them.
        """
        return copy_with_new_weights(student, head_only=self._data.is_pretrained)

    @property
    def network(self) -> nn.Module:
        """The teacher itself; needs Capability.WHITE_BOX."""
        return _declared(self._data.network, Capability.WHITE_BOX, self._requires)

    @property
    def partner(self) -> "AttackContext":
        """The data of the second key, under the same requirements; needs Capability.SECOND_TIER."""
        partner = _declared(self._data.partner, Capability.SECOND_TIER, self._requires)
        return AttackContext(partner, self._requires, settings=self.settings, seed=self.seed)

    def has(self, capability: Capability) -> bool:
        """Return whether the attack requires the capability and the attacker has it.

        A second tier may have no scores.
        """
        return capability in self._requires and not self._data.lacks(capability)

    @property
    def info(self) -> ModelInfo:
        """The endpoint's description of model and policy, which every attacker can read."""
        if self._data.info is None:
            raise AnswersError("expected an endpoint's description, got none")
        return self._data.info

    def pool(self, name: str, count: int) -> Tensor:
        """Return up to `count` images of another source, uint8 `[m, 3, H, W]`; needs POOL."""
        if Capability.POOL not in self._requires:
            raise AttackError(f"expected an attack that requires {Capability.POOL}")
        size = (int(self._data.images.shape[2]), int(self._data.images.shape[3]))
        return to_device(load_pool(name, count=count, size=size), self.device)

    def labelled_pool(self, name: str, count: int) -> tuple[Tensor, Tensor]:
        """Return up to `count` images of another data set, and their classes there; needs POOL.

        The images are uint8 `[m, 3, H, W]`, the classes int64 `[m]`.
        """
        if Capability.POOL not in self._requires:
            raise AttackError(f"expected an attack that requires {Capability.POOL}")
        size = (int(self._data.images.shape[2]), int(self._data.images.shape[3]))
        images, labels = load_labelled_pool(name, count=count, size=size)
        return to_device(images, self.device), torch.from_numpy(labels).to(self.device)

    def batch(self, rows: Tensor) -> Batch:
        """Return the rows of one training step."""
        return Batch(self._data, self._requires, rows)

    def generator(self, *, seed: int | None = None) -> torch.Generator:
        """Return a random generator with the run's seed, or with the given one."""
        return torch.Generator(self.device).manual_seed(self.seed if seed is None else seed)

    def dense(self, answers: Answers) -> Tensor:
        """Return answers as logits float32 `[n, classes]`, -inf where withheld.

        Raises AnswersError if the answers have no scores.
        """
        return dense_logits(answers, self.device)

    def targets(self, answers: Answers) -> Tensor:
        """Return answers like `dense`; without scores, every class but the top-1 is -inf."""
        if scores_unsupported_reason(answers.form) is None:
            return self.dense(answers)
        top1 = torch.from_numpy(answers.top1).to(self.device)
        dense = torch.full((len(answers), answers.num_classes), -torch.inf, device=self.device)
        return dense.scatter_(1, top1[:, None], 0.0)

    def train(
        self,
        student: nn.Module,
        images: Tensor,
        loss_fn: LossFn,
        *,
        pure: bool = False,
        epoch_size: int | None = None,
    ) -> TrainResult:
        """Train the student in place on images uint8 `[n, 3, H, W]` with the run's settings.

        pure: the loss is a function of its arguments alone, as `training.train` describes.
        epoch_size: images in an epoch, by default those the attacker owns. A student then takes
            equally many steps however many images its attack queries.

        Raises AttackError if the loss is not one number with a gradient.
        """
        return train(
            student,
            images,
            _checked(loss_fn),
            settings=self.settings,
            seed=self.seed,
            pure=pure,
            epoch_size=epoch_size or self.owned,
        )


def timed(body: Callable[[], float]) -> TrainResult:
    """Time an attack's own training loop; `body` returns the last loss."""
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


def _declared(value: T | None, capability: Capability, requires: frozenset[Capability]) -> T:
    if capability not in requires or value is None:
        raise AttackError(f"expected an attack that requires {capability}, got one that does not")
    return value
