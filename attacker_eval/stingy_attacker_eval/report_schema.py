"""The documents of an audit: OUT/report.json and the configuration in OUT/config.json.

The audit writes them and the reports read them only through these models.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import write_json
from stingy_attacker_eval.results import Row, Summary
from stingy_attacker_eval.training import TrainSettings
from stingy_attacker_eval.utility import Utility

SCHEMA = "stingy.audit/1"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
AttackSettings = dict[str, dict[str, Any]]
"""The settings of each attack, by its label."""


class Document(BaseModel):
    """The base of all parts: frozen, without unknown fields, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Schedule(Document):
    """The training of a network.

    images: the number of training images; None for all.
    """

    images: Annotated[int, Field(gt=0, le=2**40)] | None = None
    epochs: Annotated[int, Field(gt=0, le=1_000_000)]
    batch: Annotated[int, Field(gt=1, le=2**20)] = 64
    lr: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 5e-4
    augment: Annotated[int, Field(ge=0, le=4096)] = 0
    flip: bool = False
    milestones: tuple[Annotated[int, Field(gt=0, le=1_000_000)], ...] = ()
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.2

    @property
    def training(self) -> TrainSettings:
        return TrainSettings(
            epochs=self.epochs,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            augment=self.augment,
            flip=self.flip,
            milestones=self.milestones,
            gamma=self.gamma,
        )


class TeacherEntry(Schedule):
    """A teacher for the lab to train: bundle NAME-normal and, by default, bundle NAME-nasty.

    width: of the network's first block; None for the network's own.
    omega, tau: of the nasty loss; None for the published values for that number of classes.
    nasty_from_normal: True if the nasty teacher starts from the normal one's weights.
    nasty_epochs, nasty_lr: of the nasty teacher; None for the normal one's.
    """

    name: Name
    network: str
    width: Annotated[int, Field(gt=0, le=4096)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    nasty: bool = True
    nasty_from_normal: bool = False
    nasty_epochs: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    nasty_lr: Annotated[float, Field(gt=0, le=1e6)] | None = None
    omega: Annotated[float, Field(ge=0, le=1e6)] | None = None
    tau: Annotated[float, Field(gt=0, le=1e6)] | None = None


class EndpointConfig(Document):
    """An endpoint of the protocol.

    students, attacks: those of this endpoint only, beside the protocol's.
    """

    name: str
    model: str
    defence: str
    students: tuple[str, ...] = ()
    bundle: str | None = None
    policy: str | None = None
    attacks: AttackSettings = {}


class AuditConfig(Schedule):
    """Everything that decides an audit's numbers, except the endpoints' answers.

    budget: the most images that each endpoint may be sent.
    budgets: smaller numbers of images that are tried as well.
    attacks: those on every endpoint, the baseline included.
    student_widths: width of the first block, for students whose name implies one.
    train_digest, test_digest: SHA-256 of the images.
    train_labels_digest, test_labels_digest: SHA-256 of the true labels; None if not recorded.
    """

    title: str
    dataset: str
    budget: int
    students: tuple[str, ...]
    seeds: tuple[int, ...]
    teachers: tuple[TeacherEntry, ...] = ()
    budgets: tuple[int, ...] = ()
    attacks: AttackSettings
    endpoints: tuple[EndpointConfig, ...]
    student_widths: dict[str, int | None]
    train_digest: str
    test_digest: str
    train_labels_digest: str | None
    test_labels_digest: str | None


class EndpointResult(Document):
    """One endpoint, its answers and their cost.

    scores, decimals, support: the policy's score form, grid and N.
    labels: SHA-256 of the top-1 of the transfer set, so that equal labels are known as such.
    queries_transfer, queries_evaluation: distinct images bought to train on, and to compare with.
    queries_attacks: images that attacks queried as they ran.
    queries_spent: images sent in all; it must equal queries_charged, the server's own count.
    teacher_accuracy: percent of the test set.
    best: the label of the best attack; None if no attack counts.
    """

    name: str
    defence: str
    policy: str
    scores: str
    decimals: int
    fingerprint: str
    model: str
    version: str
    support: int
    labels: str
    num_classes: int
    queries_transfer: int
    queries_evaluation: int
    queries_attacks: int
    queries_spent: int
    queries_charged: int
    teacher_accuracy: float
    utility: Utility
    best: str | None


class SkippedAttack(Document):
    """An attack that could not run on an endpoint; `reason` continues "the attack ..."."""

    endpoint: str
    attack: str
    reason: str


class Report(Document):
    """A finished audit: OUT/report.json.

    environment: versions, hardware, source commit and date of the last call.
    rows: one per trained student.
    summary: one per endpoint, attack, student and budget, over the seeds.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    schema_name: Literal["stingy.audit/1"] = Field(default="stingy.audit/1", alias="schema")
    config: AuditConfig
    environment: dict[str, str | None]
    endpoints: tuple[EndpointResult, ...]
    rows: tuple[Row, ...]
    summary: tuple[Summary, ...]
    skipped: tuple[SkippedAttack, ...]

    @model_validator(mode="after")
    def _check_endpoints(self) -> Self:
        unknown = {item.name for item in self.endpoints} - {e.name for e in self.config.endpoints}
        if unknown:
            raise ValueError(f"expected endpoints of the configuration, got {sorted(unknown)}")
        return self

    def write(self, folder: Path) -> None:
        """Write FOLDER/report.json."""
        write_json(folder / "report.json", self.model_dump(mode="json"))


def read_report(folder: Path) -> Report:
    """Read FOLDER/report.json.

    Raises AuditError if it is absent or no report of this schema.
    """
    path = folder / "report.json"
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise AuditError(f"expected a finished audit, got no report.json in {folder}") from None
    except ValidationError:
        raise AuditError(f"expected a {SCHEMA} document at {path}, got another") from None
