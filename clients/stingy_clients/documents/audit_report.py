"""A finished audit as pages show it: the gain of the best attack on an endpoint, with bounds.

It reads report.json of `stingy audit` without the packages of an audit. Invariant: a broken attack
is no measurement, and an endpoint of another policy or version is never found.
"""

import math
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stingy_clients.errors import ClientError

FILE = "report.json"
MAX_BYTES = 2**28
NO_ENDPOINT = "none"  # the endpoint's name in the summaries of an attacker without the API
WHITE_BOX = "white-box"  # in the label of an attack that reads the network itself

# 97.5 % quantiles of Student's t distribution with 1, 2, ... 30 degrees of freedom.
_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class _Part(BaseModel):
    # Unknown fields are ignored, because an audit's document has far more than is shown.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class AuditedEndpoint(_Part):
    """An endpoint of an audit.

    Attributes:
        name: the audit's name of it.
        policy: the name of the policy.
        fingerprint: of the policy and its options, the number of classes included.
        model: the name under which it was served.
        version: the version that answered.
        queries_charged: images that the server charged.
        teacher_accuracy: percent of the test set.
    """

    name: str
    policy: str
    fingerprint: str
    model: str
    version: str
    queries_charged: Annotated[int, Field(ge=0)]
    teacher_accuracy: float


class _Summary(_Part):
    endpoint: str
    attack: str
    student: str
    attacker: str = "owner"
    n: Annotated[int, Field(ge=0)]
    accuracy_mean: float | None
    accuracy_spread: float | None
    uplift_mean: float | None
    queries: int
    budget: int | None
    selection_mean: float | None = None

    @property
    def counts(self) -> bool:
        """True if it may be the best attack: with a finite mean, and not white-box."""
        settings = self.attack.partition("[")[2].rstrip("]").split(",")
        return self.uplift_mean is not None and self.n > 0 and WHITE_BOX not in settings

    @property
    def choice(self) -> float:
        """The uplift by which the best is chosen: over the choosing seeds, if there are any."""
        found = self.uplift_mean if self.selection_mean is None else self.selection_mean
        return found or 0.0


class _ConfiguredEndpoint(_Part):
    name: str
    bundle: str | None = None


class _Attacker(_Part):
    name: str = "owner"


class _Config(_Part):
    title: str
    attackers: tuple[_Attacker, ...] = (_Attacker(),)
    endpoints: tuple[_ConfiguredEndpoint, ...] = ()


@dataclass(frozen=True)
class MeasuredLeak:
    """The gain of one attacker's best attack over training without the API.

    Attributes:
        attacker: the audit's name of it.
        attack: the label of the attack.
        queries: images whose answers the student was trained on.
        budget: images to which the attacker was limited; None for all of the audit.
        uplift: points of accuracy.
        low, high: a 95 % interval of the uplift, in points; None with one seed. It takes the two
            means as independent, so it is wider than the paired one in the audit's report.
        gap: points from the attacker without the API to the teacher.
    """

    attacker: str
    attack: str
    queries: int
    budget: int | None
    uplift: float
    low: float | None
    high: float | None
    gap: float

    @property
    def is_clear(self) -> bool:
        """True if the interval does not contain 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def share(self) -> float | None:
        """The part of the gap that the attack closed; None if there is no gap."""
        return self.uplift / self.gap if self.gap > 0 else None


class AuditReport(_Part):
    """A finished audit."""

    schema_name: Annotated[Literal["stingy.audit/1"], Field(alias="schema")]
    config: _Config
    endpoints: tuple[AuditedEndpoint, ...]
    summary: tuple[_Summary, ...]

    @property
    def title(self) -> str:
        """The title of the audit's protocol."""
        return self.config.title

    def find(
        self, *, fingerprint: str, version: str, names: Iterable[str]
    ) -> tuple[AuditedEndpoint, ...]:
        """Return the endpoints of the same policy and version.

        An audit does not record weights. So endpoints whose model or bundle has one of the names
        are taken alone, if there are any.

        Args:
            fingerprint: of the policy.
            version: of the model.
            names: the names of the model and of its bundle.
        """
        wanted = frozenset(names)
        found = [
            each
            for each in self.endpoints
            if (each.fingerprint, each.version) == (fingerprint, version)
        ]
        bundles = {each.name: each.bundle for each in self.config.endpoints}
        named = [each for each in found if {each.model, bundles.get(each.name)} & wanted]
        return tuple(named or found)

    def leaks(self, endpoint: str, *, budget: int | None = None) -> tuple[MeasuredLeak, ...]:
        """Return the best attack of each attacker, in the order of the attackers.

        An attacker whose attacks were not run, or all broke, has none.

        Args:
            endpoint: the audit's name of it.
            budget: images to which the attackers were limited; None for all of the audit.
        """
        (audited,) = (each for each in self.endpoints if each.name == endpoint)
        found = (
            self._leak(audited, attacker.name, budget=budget) for attacker in self.config.attackers
        )
        return tuple(leak for leak in found if leak is not None)

    def budgets(self, endpoint: str) -> tuple[int, ...]:
        """Return the smaller numbers of images that attackers of an endpoint were limited to."""
        found = {each.budget for each in self.summary if each.endpoint == endpoint}
        return tuple(sorted(budget for budget in found if budget is not None))

    def _leak(
        self, endpoint: AuditedEndpoint, attacker: str, *, budget: int | None
    ) -> MeasuredLeak | None:
        own = [each for each in self.summary if (each.attacker, each.budget) == (attacker, budget)]
        candidates = [each for each in own if each.endpoint == endpoint.name and each.counts]
        if any(each.selection_mean is not None for each in candidates):
            candidates = [each for each in candidates if each.selection_mean is not None]
        best = max(candidates, key=lambda each: each.choice, default=None)
        if best is None or best.uplift_mean is None:
            return None
        base = next(
            (
                each
                for each in own
                if (each.endpoint, each.student) == (NO_ENDPOINT, best.student)
                and each.accuracy_mean is not None
            ),
            None,
        )
        if base is None or base.accuracy_mean is None:
            return None
        reach = _reach(best, base)
        return MeasuredLeak(
            attacker=attacker,
            attack=best.attack,
            queries=best.queries,
            budget=budget,
            uplift=best.uplift_mean,
            low=None if reach is None else best.uplift_mean - reach,
            high=None if reach is None else best.uplift_mean + reach,
            gap=endpoint.teacher_accuracy - base.accuracy_mean,
        )


def read_audit_report(folder: Path) -> AuditReport:
    """Read FOLDER/report.json.

    Raises:
        ClientError: if it is absent, above `MAX_BYTES`, or no report of this schema.
    """
    path = folder / FILE
    try:
        found = path.stat()
        readable = stat.S_ISREG(found.st_mode) and found.st_size <= MAX_BYTES
        content = path.read_bytes() if readable else None
    except OSError:
        content = None
    if content is None:
        raise ClientError(f"expected a finished audit, got no {FILE} to read in {folder}")
    try:
        return AuditReport.model_validate_json(content)
    except ValidationError:
        raise ClientError(f"expected a stingy.audit/1 document, got another at {path}") from None


def _reach(best: _Summary, base: _Summary) -> float | None:
    """Return half the width of the interval of a difference, in points; None with one seed."""
    n = min(best.n, base.n)
    if n < 2 or best.accuracy_spread is None or base.accuracy_spread is None:
        return None
    error = math.sqrt(best.accuracy_spread**2 / best.n + base.accuracy_spread**2 / base.n)
    # As many degrees of freedom as the side with fewer seeds has, so that it is never too narrow.
    return _QUANTILES[min(n - 1, len(_QUANTILES)) - 1] * error
