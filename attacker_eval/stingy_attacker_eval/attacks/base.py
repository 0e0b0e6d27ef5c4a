"""The base class of attacks. A plug-in writes one method and cannot skip the checks around it."""

import dataclasses
from abc import ABC
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from types import NoneType
from typing import ClassVar, Self, final, get_args

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.context import AttackContext, AttackerData, Batch, Capability
from stingy_attacker_eval.errors import AnswersError, AttackError, EvalError
from stingy_attacker_eval.oracle.oracle import scores_unsupported_reason
from stingy_attacker_eval.training import TrainResult, TrainSettings

__all__ = [
    "Attack",
    "AttackContext",
    "AttackerData",
    "Batch",
    "Capability",
    "as_float",
    "least_faults",
    "positive_faults",
    "setting_faults",
    "tau_alpha_faults",
]


_FINAL = (
    "label",
    "run",
    "settings",
    "skip_reason",
    "trains_on_fixed_answers",
    "uses_true_labels",
)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """One way to train a student from answers: a frozen dataclass whose fields are its settings.

    A plug-in sets the class variables and writes one method. It writes `loss` if the attack is a
    loss over answers bought once, else `train_student`. `run` does the rest and cannot be
    overridden.

    name, title, reference: for protocols, listings and reports.
    requires: the capabilities that the attack may read, whatever its settings.
    per_run: each student and seed queries other images, so no other run can reuse the answers.
    partner_is_truth: the second tier's answers measure the attack, and are no part of its cost.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    requires: ClassVar[frozenset[Capability]]
    per_run: ClassVar[bool] = False
    partner_is_truth: ClassVar[bool] = False

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if cls.loss is Attack.loss and cls.train_student is Attack.train_student:
            raise TypeError(f"expected {cls.__name__} to write loss or train_student, got neither")
        overridden = [name for name in _FINAL if getattr(cls, name) is not getattr(Attack, name)]
        if overridden:
            names = ", ".join(overridden)
            raise TypeError(f"expected {cls.__name__} not to override {names}")

    def __post_init__(self) -> None:
        """Raise ValueError, with each fault of the settings, if there is one."""
        if faults := list(self.faults()):
            raise ValueError("; ".join(faults))

    def faults(self) -> Iterable[str]:
        """Yield each fault of the settings, whose types are right."""
        return ()

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        """Return a scalar loss, a function of its arguments alone.

        It counts nothing, draws no random numbers and branches on no value, because on CUDA its
        kernels are recorded once and replayed. Another loss goes to `AttackContext.train`.

        student_logits: float32 `[batch, classes]`.
        batch: the data of these rows that the attack may read.
        """
        raise AttackError(f"expected {self.label} to write loss, got none")

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        """Train the student in place; by default with `loss` on the attacker's own images."""
        return context.train(
            student,
            context.images,
            lambda student_logits, rows, _: self.loss(student_logits, context.batch(rows)),
            pure=True,
        )

    def budget(self, images: int) -> int:
        """Return the largest number of images that one run queries; 0 without Capability.QUERIES.

        images: how many images the attacker owns.
        """
        return 0

    def new_images(self, images: int) -> int:
        """Return how many of the queried images are not the attacker's own, at most.

        images: how many images the attacker owns.
        """
        return 0 if Capability.IMAGES in self.requires else self.budget(images)

    @final
    @property
    def trains_on_fixed_answers(self) -> bool:
        """True if the attack trains on answers bought once, so an audit can try fewer of them."""
        querying = self.needs & {Capability.QUERIES, Capability.WHITE_BOX}
        return bool(self.needs & {Capability.ANSWERS, Capability.SCORES}) and not querying

    def partner_name(self) -> str | None:
        """Return the endpoint, by its name in the protocol, that the second key is for.

        None without Capability.SECOND_TIER.
        """
        return None

    @property
    def needs(self) -> frozenset[Capability]:
        """The capabilities that the attack cannot run without; a part of `requires`."""
        return self.requires

    @final
    @property
    def uses_true_labels(self) -> bool:
        """True if the student depends on the true labels of the attacker's images."""
        return Capability.LABELS in self.needs & self.requires

    @property
    def reads_top1_only(self) -> bool:
        """True if the attack reads only the top-1 of an answer.

        Endpoints that sold equal labels then make equal students.
        """
        return False

    @property
    def reads_list(self) -> bool:
        """True if the student depends on more of an answer than its top-1."""
        answers = {Capability.ANSWERS, Capability.SCORES, Capability.QUERIES, Capability.WHITE_BOX}
        return bool(self.needs & answers) and not self.reads_top1_only

    def pool_name(self) -> str | None:
        """Return the image pool's name for `load_pool`; None without Capability.POOL."""
        return None

    def unsupported_reason(self, data: AttackerData) -> str | None:
        """Return why the attack does not support this endpoint; None if it does.

        `skip_reason` checks the required capabilities first.
        """
        return None

    @classmethod
    def expand(cls, settings: Mapping[str, object]) -> tuple[Self, ...]:
        """Return the attacks of one protocol entry: one, unless the attack is a grid.

        Raises TypeError or ValueError, with each fault, if the settings do not fit.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        faults = setting_faults(settings, fields)
        faults += [
            f"expected the setting {name}, got none"
            for name, field in fields.items()
            if field.default is MISSING and name not in settings
        ]
        values: dict[str, object] = {}
        for name in (name for name in settings if name in fields):
            try:
                values[name] = _convert(name, settings[name], fields[name].type)
            except TypeError as error:
                faults.append(str(error))
        if faults:
            # The faults of the values with the right types are found as well.
            known = {name: field.default for name, field in fields.items()} | values
            faults += _value_faults(cls, known)
            raise TypeError("; ".join(faults))
        return (cls(**values),)

    @final
    def settings(self) -> dict[str, object]:
        """Return the fields by name, for the report."""
        return dataclasses.asdict(self)

    @final
    @property
    def label(self) -> str:
        """The name with the settings that are not the default: `sweep[tau=4,alpha=0.9]`.

        The label marks white-box attacks, so every output marks them.
        """
        changed = ["white-box"] if Capability.WHITE_BOX in self.requires else []
        changed += [
            f"{field.name}={value:g}" if isinstance(value, float) else f"{field.name}={value}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default or field.default is MISSING
        ]
        return f"{self.name}[{','.join(changed)}]" if changed else self.name

    @final
    def skip_reason(self, data: AttackerData) -> str | None:
        """Return why the attack cannot run on this data; None if it can.

        Query sessions are not checked, because they come with the run.
        """
        form = data.info.scores if data.info is not None else ""
        if Capability.SCORES in self.needs and scores_unsupported_reason(form) is not None:
            return scores_unsupported_reason(form)
        if Capability.WHITE_BOX in self.needs and data.network is None:
            return "needs the network itself (--bundles), and the endpoint gives answers only"
        if Capability.SECOND_TIER in self.needs and data.partner is None:
            return f"needs a second tier, and the audit has no endpoint {self.partner_name()}"
        return self.unsupported_reason(data)

    @final
    def run(
        self, student: nn.Module, data: AttackerData, *, settings: TrainSettings, seed: int
    ) -> TrainResult:
        """Train the student in place on the capabilities that the attack may read.

        The true labels are among them only if the attack needs them.
        Labels and answers are copies for this run. EvalError and OSError pass unchanged.
        Every other error of the attack becomes an AttackError.

        Raises AnswersError if the data lack a needed capability.
        Raises AttackError if the attack breaks its contract or fails.
        Raises BudgetExhausted if the attack queries more than its session allows.
        """
        lacking = sorted(capability for capability in self.needs if data.lacks(capability))
        if lacking:
            raise AnswersError(f"{self.label} needs {', '.join(lacking)}, and there are none")
        readable = self.requires if self.uses_true_labels else self.requires - {Capability.LABELS}
        context = AttackContext(data.clone(), readable, settings=settings, seed=seed)
        try:
            result = self.train_student(student, context)
        except AttackError as error:
            raise AttackError(f"{self.label}: {error}") from None
        except (EvalError, OSError):  # queries fail with these, and a full disk
            raise
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; the error names the plug-in
            raise AttackError(
                f"expected {self.label} to train its student, got {type(error).__name__} from it"
            ) from None
        if not isinstance(result, TrainResult):
            got = type(result).__name__
            raise AttackError(f"expected a TrainResult from {self.label}, got {got}")
        finite = all(bool(torch.isfinite(weights).all()) for weights in student.parameters())
        return result if finite else dataclasses.replace(result, finite=False)


def setting_faults(settings: Mapping[str, object], known: Iterable[str]) -> list[str]:
    """Return a fault for each setting that an attack does not have.

    known: the settings that it has.
    """
    names = ", ".join(known)
    wanted = f"expected settings out of {names}" if names else "expected no settings"
    return [
        f"{wanted}, got {name}: correct its name or remove it"
        for name in settings
        if name not in known
    ]


def _value_faults(attack: type[Attack], values: Mapping[str, object]) -> list[str]:
    """Return the faults of settings beside other faults; none if one of them has no value."""
    if MISSING in values.values():
        return []
    try:
        attack(**values)
    except (TypeError, ValueError) as error:
        return [str(error)]
    return []


def _convert(name: str, value: object, kind: object) -> object:
    """Convert a setting from TOML to its field's type. TOML has no None, so it is never given.

    Raises TypeError if the setting has another type.
    """
    kinds = [each for each in get_args(kind) or (kind,) if each is not NoneType]
    if kinds in ([float], ["float"]):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"expected a number for {name}, got {value!r}")
        return as_float(name, value)
    for plain, words in ((bool, "true or false"), (int, "an integer"), (str, "text")):
        if kinds in ([plain], [plain.__name__]) and type(value) is not plain:
            raise TypeError(f"expected {words} for {name}, got {value!r}")
    return value


def as_float(name: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise TypeError(f"expected a number of usual size for {name}, got a huge one") from None


def tau_alpha_faults(tau: float, alpha: float) -> list[str]:
    """Return each fault, unless 0 < tau and 0 <= alpha <= 1, both finite."""
    faults = []
    if not 0 < tau < float("inf"):
        faults.append(f"expected a finite tau above 0, got {tau}")
    if not 0 <= alpha <= 1:
        faults.append(f"expected alpha in 0..1, got {alpha}")
    return faults


def positive_faults(**numbers: float) -> list[str]:
    """Return a fault for each number that is not finite and above 0."""
    return [
        f"expected a finite {name} above 0, got {number}"
        for name, number in numbers.items()
        if not 0 < number < float("inf")
    ]


def least_faults(least: int, **numbers: float) -> list[str]:
    """Return a fault for each number that is not finite, or below `least`."""
    return [
        f"expected a finite {name} of {least} or more, got {number}"
        for name, number in numbers.items()
        if not least <= number < float("inf")
    ]
