"""The documents of an audit: OUT/report.json and the configuration in OUT/config.json.

The audit writes them and the reports read them only through these models.
"""

from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import write_json
from stingy_attacker_eval.results import OWNER, Row, Summary, summarise
from stingy_attacker_eval.training import TrainSettings
from stingy_clients.utility import Utility

SCHEMA = "stingy.audit/1"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
"""A name that can be that of a folder."""
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
    skip: images to leave out, so that an attacker owns images that the teacher did not train on:
        those of an attacker with so many.
    omega, tau: of the nasty loss; None for the published values for that number of classes.
    nasty_from_normal: True if the nasty teacher starts from the normal one's weights.
    nasty_epochs, nasty_lr: of the nasty teacher; None for the normal one's.
    """

    name: Name
    network: str
    width: Annotated[int, Field(gt=0, le=4096)] | None = None
    skip: Annotated[int, Field(ge=0, le=2**40)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    nasty: bool = True
    nasty_from_normal: bool = False
    nasty_epochs: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    nasty_lr: Annotated[float, Field(gt=0, le=1e6)] | None = None
    omega: Annotated[float, Field(ge=0, le=1e6)] | None = None
    tau: Annotated[float, Field(gt=0, le=1e6)] | None = None


class Attacker(Document):
    """The possessions of one attacker.

    images: images of the task; None for all of the protocol's.
    labelled: share of those images whose true labels it owns, 0 to 1, as many of each class.
    pretrained: the data set on which its networks were trained before; None for new networks.
    answers: answers that each of its accounts may use for each image; None for any number.
    accounts: keys that it has; None for any number.
    """

    name: Name = OWNER
    images: Annotated[int, Field(gt=0, le=2**40)] | None = None
    labelled: Annotated[float, Field(ge=0, le=1)] = 1.0
    pretrained: Annotated[str, Field(min_length=1)] | None = None
    answers: Annotated[int, Field(gt=0, le=2**20)] | None = None
    accounts: Annotated[int, Field(gt=0, le=2**20)] | None = None

    def owned(self, images: int) -> int:
        """Return how many images it owns, out of so many of the protocol."""
        return images if self.images is None else min(images, self.images)

    def labels(self, images: int) -> int:
        """Return of how many of so many images it owns the true labels."""
        return round(self.labelled * images)

    @property
    def text(self) -> str:
        """Its possessions in words, to follow "An attacker with"."""
        parts = [] if self.images is None else [f"{self.images:,} images"]
        parts.append(_labels_text(self.labelled))
        if self.pretrained is not None:
            parts.append(f"a network trained on {_data_set_text(self.pretrained)}")
        if self.answers is not None:
            parts.append(f"{self.answers} answer{'' if self.answers == 1 else 's'} an image")
        if self.accounts is not None and self.accounts > 1:
            parts.append(f"{self.accounts} accounts")
        return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _data_set_text(name: str) -> str:
    """Return the name of a data set without its path: "tin100" of "npz:DIR/tin100.npz"."""
    return PurePath(name.rpartition(":")[2]).name.removesuffix(".npz")


def _labels_text(share: float) -> str:
    if share == 1:
        return "the true labels of all its images"
    return "no true label" if share == 0 else f"true labels for {100 * share:g} % of its images"


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

    pixels: side length to which images are reduced; None for that of the data set.
    budget: the most images that each endpoint may be sent.
    budgets: smaller numbers of images that the first attacker tries as well.
    seeds: the seeds that are reported.
    selection_seeds: the seeds that choose the best attack; empty if the reported ones choose.
    margin: points below which a list counts as teaching no more than labels.
    transfer_images: test images on which adversarial examples are made and tried; 0 for none.
    attacks: those on every endpoint, the baseline included.
    student_widths: width of the first block, for students whose name implies one.
    train_digest, test_digest: SHA-256 of the images.
    train_labels_digest, test_labels_digest: SHA-256 of the true labels; None if not recorded.
    """

    title: str
    dataset: str
    pixels: int | None = None
    budget: int
    students: tuple[str, ...]
    seeds: tuple[int, ...]
    selection_seeds: tuple[int, ...] = ()
    margin: float = 1.0
    transfer_images: int = 0
    attackers: Annotated[tuple[Attacker, ...], Field(min_length=1)] = (Attacker(),)
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
    queries_attacks: images that attacks queried as they ran, and adversarial examples.
    queries_spent: images sent in all; it must equal queries_charged, the server's own count.
    teacher_accuracy: percent of the test set.
    best: the label of the first attacker's best attack; None if no attack counts.
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
    """An attack that could not run on an endpoint; `reason` continues "the attack ...".

    beyond: True if the attacker lacks what the attack needs, whatever the endpoint.
    """

    endpoint: str
    attack: str
    reason: str
    attacker: str = OWNER
    beyond: bool = False


class Report(Document):
    """A finished audit: OUT/report.json.

    environment: versions, hardware, source commit and date of the last call.
    rows: one per trained student.
    summary: one per attacker, endpoint, attack, student and budget, over the reported seeds.
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
        if [item.name for item in self.endpoints] != [e.name for e in self.config.endpoints]:
            raise ValueError("expected the endpoints of the configuration, got others")
        return self

    def write(self, folder: Path) -> None:
        """Write FOLDER/report.json."""
        write_json(folder / "report.json", self.model_dump(mode="json"))


def read_report(folder: Path) -> Report:
    """Read FOLDER/report.json.

    Raises AuditError if it is absent, no report of this schema, or its summary is not that of its
    rows.
    """
    path = folder / "report.json"
    try:
        report = Report.model_validate_json(path.read_bytes())
        summary = summarise(report.rows, selection_seeds=report.config.selection_seeds)
    except FileNotFoundError:
        raise AuditError(f"expected a finished audit, got no report.json in {folder}") from None
    except ValueError:  # of pydantic, or because rows of other numbers of classes have no mean
        raise AuditError(
            f"expected a {SCHEMA} document at {path}, got another: run the audit again, or read it "
            "with the version that wrote it"
        ) from None
    if tuple(summary) != report.summary:
        raise AuditError(
            f"expected the summary of the rows at {path}, got another: run the audit again, or "
            "restore the file"
        )
    return report
