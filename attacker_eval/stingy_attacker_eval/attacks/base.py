"""What an attack is: one loss over answers; no plug-in can skip the checks around it."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from enum import StrEnum
from typing import ClassVar, Self, final

from torch import Tensor, nn

from stingy_attacker_eval.errors import AnswersError, AttackError
from stingy_attacker_eval.oracle import scores_refusal
from stingy_attacker_eval.train import TrainResult, TrainSettings, train


class Need(StrEnum):
    """What an attacker must own to run the attack."""

    ANSWERS = "answers"
    SCORES = "scores"
    LABELS = "labels"


@dataclass(frozen=True, eq=False)
class Material:
    """What the attacker holds, on one device, None where it does not have it.

    images: uint8 `[n, 3, H, W]`; labels: true classes int64 `[n]`; top1: the endpoint's int64
    `[n]`; logits: the answers as float32 `[n, classes]`, -inf where withheld.
    """

    images: Tensor
    labels: Tensor | None = None
    top1: Tensor | None = None
    logits: Tensor | None = None


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
    def logits(self) -> Tensor:
        """The answers, float32 `[batch, classes]`, -inf where withheld; needs Need.SCORES."""
        return self._take(self._material.logits, Need.SCORES)

    def _take(self, tensor: Tensor | None, need: Need) -> Tensor:
        if need not in self._needs or tensor is None:
            raise AttackError(f"expected an attack that declares the need {need}, got one without")
        return tensor[self._rows]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """One way to learn from answers: a frozen dataclass whose fields are its settings.

    A plug-in writes `loss` and names itself; `run` does the rest and cannot be overridden.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    needs: ClassVar[frozenset[Need]]

    @abstractmethod
    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        """Student logits float32 `[batch, classes]` and what was bought for them, to a scalar."""

    @classmethod
    def expand(cls, settings: Mapping[str, object]) -> tuple[Self, ...]:
        """The runs a protocol's entry stands for: one, unless the attack is a grid.

        Raises TypeError or ValueError for settings that do not fit.
        """
        floats = {field.name for field in dataclasses.fields(cls) if field.type in (float, "float")}
        numbers = {name: _number(name, value) for name, value in settings.items() if name in floats}
        return (cls(**{**settings, **numbers}),)

    @final
    def settings(self) -> dict[str, object]:
        """The fields by name, for the report."""
        return dataclasses.asdict(self)

    @final
    @property
    def label(self) -> str:
        """The name, with the settings that are not the default: `sweep[tau=4,alpha=0.9]`."""
        changed = [
            f"{field.name}={value:g}" if isinstance(value, float) else f"{field.name}={value}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default or field.default is MISSING
        ]
        return f"{self.name}[{','.join(changed)}]" if changed else self.name

    @final
    def refusal(self, form: str) -> str | None:
        """Why the attack cannot learn from answers of this score form; None when it can."""
        return scores_refusal(form) if Need.SCORES in self.needs else None

    @final
    def run(
        self, student: nn.Module, material: Material, *, settings: TrainSettings, seed: int
    ) -> TrainResult:
        """Train the student in place on what the attack declared it needs, and nothing else.

        Raises AnswersError when the material lacks a need, AttackError when the loss is not one
        finite-or-not number with a gradient.
        """
        held = {
            Need.ANSWERS: material.top1,
            Need.SCORES: material.logits,
            Need.LABELS: material.labels,
        }
        lacking = sorted(need for need in self.needs if held[need] is None)
        if lacking:
            raise AnswersError(f"{self.label} needs {', '.join(lacking)}, and there are none")

        def checked_loss(student_logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
            loss = self.loss(student_logits, Batch(material, self.needs, rows))
            if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
                raise AttackError(f"expected a scalar loss with a gradient from {self.label}")
            return loss

        return train(student, material.images, checked_loss, settings=settings, seed=seed)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number for {name}, got {type(value).__name__}")
    return float(value)


def check_tau_alpha(tau: float, alpha: float) -> None:
    """Raises ValueError unless 0 < tau, 0 <= alpha <= 1, both finite."""
    faults = []
    if not 0 < tau < float("inf"):
        faults.append(f"expected a finite tau above 0, got {tau}")
    if not 0 <= alpha <= 1:
        faults.append(f"expected alpha in 0..1, got {alpha}")
    if faults:
        raise ValueError("; ".join(faults))
