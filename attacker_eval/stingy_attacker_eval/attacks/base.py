"""What an attack is: one method over what it declared; no plug-in can skip the checks around it."""

import dataclasses
from abc import ABC
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.context import Batch, Material, Means, Need
from stingy_attacker_eval.errors import AnswersError, AttackError, EvalError
from stingy_attacker_eval.oracle.oracle import scores_refusal
from stingy_attacker_eval.training import TrainResult, TrainSettings

__all__ = ["Attack", "Batch", "Material", "Means", "Need", "check_positive", "check_tau_alpha"]


_FINAL = ("label", "learns_from_answers_alone", "refusal", "run", "settings")


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """One way to learn from answers: a frozen dataclass whose fields are its settings.

    A plug-in names itself and writes one method: `loss`, where a loss over answers bought once is
    the whole attack, or `steal`, where it is more. `run` does the rest and cannot be overridden.

    per_run: whether each student and seed asks for images of its own, so that nothing it buys
    serves another run. reads_top1_alone: whether of the answers it uses the top-1 and nothing else,
    so that endpoints which sell the same labels make the same student.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    per_run: ClassVar[bool] = False
    reads_top1_alone: ClassVar[bool] = False

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if cls.loss is Attack.loss and cls.steal is Attack.steal:
            raise TypeError(f"expected {cls.__name__} to write loss or steal, got neither")
        taken = [name for name in _FINAL if getattr(cls, name) is not getattr(Attack, name)]
        if taken:
            raise TypeError(f"expected {cls.__name__} to leave {', '.join(taken)} as Attack has it")

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        """Student logits float32 `[batch, classes]` and what was bought for them, to a scalar."""
        raise AttackError(f"{self.label} has no loss of its own")

    def steal(self, student: nn.Module, means: Means) -> TrainResult:
        """Train the student in place on what the attack declared; by default on `loss` alone."""
        return means.train(
            student,
            means.images,
            lambda student_logits, rows, _: self.loss(student_logits, means.batch(rows)),
        )

    def budget(self, images: int) -> int:
        """The most images one run asks for when the attacker owns `images`; 0 without QUERIES."""
        return 0

    @final
    @property
    def learns_from_answers_alone(self) -> bool:
        """Whether all it costs is the answers bought once, so that fewer of them can be tried."""
        asks = self.needs & {Need.QUERIES, Need.WHITE_BOX}
        return bool(self.needs & {Need.ANSWERS, Need.SCORES}) and not asks

    def partner_name(self) -> str | None:
        """The endpoint of the protocol the second key is for; None without SECOND_TIER."""
        return None

    @property
    def uses_true_labels(self) -> bool:
        """Whether what it learns depends on the true labels of its images."""
        return Need.LABELS in self.needs

    def pool_name(self) -> str | None:
        """Where its other images are from, as `pools.load_pool` knows it; None without POOL."""
        return None

    def objection(self, material: Material) -> str | None:
        """Why this attack cannot learn from this endpoint, beyond what its needs say."""
        return None

    @classmethod
    def expand(cls, settings: Mapping[str, object]) -> tuple[Self, ...]:
        """The runs a protocol's entry stands for: one, unless the attack is a grid.

        Raises TypeError or ValueError for settings that do not fit.
        """
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        fitted = {name: _fitted(name, value, kinds.get(name)) for name, value in settings.items()}
        return (cls(**fitted),)

    @final
    def settings(self) -> dict[str, object]:
        """The fields by name, for the report."""
        return dataclasses.asdict(self)

    @final
    @property
    def label(self) -> str:
        """The name, with the settings that are not the default: `sweep[tau=4,alpha=0.9]`.

        An attack that sees the network itself says so here, and so in every output.
        """
        changed = ["white-box"] if Need.WHITE_BOX in self.needs else []
        changed += [
            f"{field.name}={value:g}" if isinstance(value, float) else f"{field.name}={value}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default or field.default is MISSING
        ]
        return f"{self.name}[{','.join(changed)}]" if changed else self.name

    @final
    def refusal(self, material: Material) -> str | None:
        """Why the attack cannot run on this; None when it can. Sessions come with the run."""
        form = material.info.scores if material.info is not None else ""
        if Need.SCORES in self.needs and scores_refusal(form) is not None:
            return scores_refusal(form)
        if Need.WHITE_BOX in self.needs and material.network is None:
            return "needs the network itself, and the endpoint shows its answers alone"
        if Need.SECOND_TIER in self.needs and material.partner is None:
            return f"needs a second tier, and the audit has no endpoint {self.partner_name()}"
        return self.objection(material)

    @final
    def run(
        self, student: nn.Module, material: Material, *, settings: TrainSettings, seed: int
    ) -> TrainResult:
        """Train the student in place on what the attack declared it needs, and nothing else.

        Labels and answers are copies of the run's own. Raises AnswersError when the material lacks
        a need, AttackError when the attack breaks its contract or fails, BudgetExhausted when it
        asks for more than its session allows; errors of ours and of the machine stay what they are.
        """
        lacking = sorted(need for need in self.needs if material.lacks(need))
        if lacking:
            raise AnswersError(f"{self.label} needs {', '.join(lacking)}, and there are none")
        means = Means(material.own(), self.needs, settings=settings, seed=seed)
        try:
            result = self.steal(student, means)
        except AttackError as error:
            raise AttackError(f"{self.label}: {error}") from None
        except (EvalError, OSError):  # asking fails with these, and a full disk
            raise
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; it is named here
            raise AttackError(
                f"expected {self.label} to train its student, got {type(error).__name__} from it"
            ) from None
        if not isinstance(result, TrainResult):
            raise AttackError(f"expected a TrainResult from {self.label}")
        sound = all(bool(torch.isfinite(weights).all()) for weights in student.parameters())
        return result if sound else dataclasses.replace(result, finite=False)


def _fitted(name: str, value: object, kind: object) -> object:
    """A setting from TOML as its field's type; unknown names are the constructor's to refuse."""
    if kind in (float, "float"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"expected a number for {name}, got {type(value).__name__}")
        return float(value)
    for plain in (bool, int, str):
        if kind in (plain, plain.__name__) and type(value) is not plain:
            raise TypeError(f"expected {plain.__name__} for {name}, got {type(value).__name__}")
    return value


def check_tau_alpha(tau: float, alpha: float) -> None:
    """Raises ValueError unless 0 < tau, 0 <= alpha <= 1, both finite."""
    faults = []
    if not 0 < tau < float("inf"):
        faults.append(f"expected a finite tau above 0, got {tau}")
    if not 0 <= alpha <= 1:
        faults.append(f"expected alpha in 0..1, got {alpha}")
    if faults:
        raise ValueError("; ".join(faults))


def check_positive(**numbers: float) -> None:
    """Raises ValueError naming every number that is not finite and above 0."""
    faults = [
        f"expected a finite {name} above 0, got {number}"
        for name, number in numbers.items()
        if not 0 < number < float("inf")
    ]
    if faults:
        raise ValueError("; ".join(faults))
