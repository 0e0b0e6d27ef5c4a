"""What a finished audit says, in numbers and sentences; every sentence is computed."""

import contextlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stingy_attacker_eval.attacks import Attack, attack_types
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.report.formatting import cost, endpoint_title, percent, signed
from stingy_attacker_eval.report.label_only_baseline import (
    LabelOnlyBaseline,
    Point,
    frontier,
    gives_a_list,
    label_only_baselines,
    label_only_sentence,
)
from stingy_attacker_eval.report.significance import Difference, difference
from stingy_attacker_eval.results import NO_ENDPOINT, Summary, best_attacks

_SCHEMA = "stingy.audit/1"
_PARTS = {"config", "environment", "endpoints", "rows", "summary", "skipped"}


@dataclass(frozen=True)
class Verdict:
    """One endpoint's sentence: what the best attack of the suite got out of it."""

    title: str
    sentence: str
    remark: str


@dataclass(frozen=True)
class Health:
    """One attack over all endpoints: how many runs stayed finite, how many beat the baseline."""

    attack: str
    runs: int
    finite: int
    gains: int


@dataclass(frozen=True)
class Audit:
    """A report.json, read back: summaries as objects, the rest as it stands."""

    document: Mapping[str, Any]
    summaries: tuple[Summary, ...]

    @property
    def endpoints(self) -> Sequence[Mapping[str, Any]]:
        """As the report has them."""
        found: Sequence[Mapping[str, Any]] = self.document["endpoints"]
        return found

    @property
    def students(self) -> tuple[str, ...]:
        """Every student of any run, in order."""
        return tuple(dict.fromkeys(summary.student for summary in self.summaries))

    @cached_property
    def best(self) -> dict[str, Summary]:
        """The best attack by endpoint; white-box attacks never count."""
        return best_attacks(self.summaries)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Of endpoints whose utility is known."""
        return frontier(self.endpoints, self.summaries)

    @cached_property
    def label_baselines(self) -> tuple[LabelOnlyBaseline, ...]:
        """Of endpoints that give more than a label."""
        return label_only_baselines(
            self.endpoints, self.summaries, self.document["rows"], _attacks(self.document["config"])
        )

    @property
    def lists(self) -> tuple[str, ...]:
        """The endpoints that give more than a label."""
        return tuple(item["name"] for item in self.endpoints if gives_a_list(item))

    def baseline(self, student: str) -> Summary:
        """The no-API baseline of this student."""
        wanted = NO_ENDPOINT, student, None
        return next(s for s in self.summaries if (s.endpoint, s.student, s.budget) == wanted)


def read_report(folder: Path) -> Audit:
    """Read FOLDER/report.json. Raises AuditError when it is absent or not a report."""
    path = folder / "report.json"
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != _SCHEMA or _PARTS - document.keys():
            raise ValueError
        return Audit(document, tuple(Summary(**item) for item in document["summary"]))
    except FileNotFoundError:
        raise AuditError(f"expected a finished audit, got no report.json in {folder}") from None
    except (ValueError, KeyError, TypeError):
        raise AuditError(f"expected a {_SCHEMA} document at {path}, got another") from None


def headline(audit: Audit) -> str:
    """The most that any attack got out of any endpoint, and whether a list costs anything."""
    if not audit.best:
        return unanswered(audit)
    best = max(audit.best.values(), key=lambda summary: summary.uplift_mean or 0.0)
    endpoint = next(item for item in audit.endpoints if item["name"] == best.endpoint)
    lists = label_only_sentence(audit.label_baselines, audit.lists)
    sentence = (
        f"The best attack of this audit, {best.attack} on "
        f"{endpoint_title(best.endpoint, endpoint['defence'])}, gained "
        f"{signed(best.uplift_mean, best.uplift_spread)} points over training without the API, "
        f"after {cost(_queries(best, endpoint))} queries. {lists}"
    )
    return sentence.rstrip()


def verdict(audit: Audit, endpoint: Mapping[str, Any]) -> Verdict:
    """What the best attack got, how that compares with the seeds' spread, and at what price."""
    title = endpoint_title(endpoint["name"], endpoint["defence"])
    best = audit.best.get(endpoint["name"])
    if best is None or best.uplift_mean is None:
        return Verdict(title, unanswered(audit, endpoint["name"]), "")
    base = audit.baseline(best.student)
    sentence = (
        f"{signed(best.uplift_mean, best.uplift_spread)} points of uplift over training without "
        f"the API: the best attack, {best.attack}, took the student {best.student} to "
        f"{percent(best.accuracy_mean)} % after {cost(_queries(best, endpoint))} queries; "
        f"without the API it reaches {percent(base.accuracy_mean, base.accuracy_spread)} %."
    )
    weakest = min(
        (
            s
            for s in audit.summaries
            if (s.endpoint, s.budget) == (best.endpoint, best.budget)
            and s.uplift_mean is not None
            and not s.white_box
        ),
        key=lambda s: s.uplift_mean or 0.0,
    )
    remark = _remark(difference(best, base, audit.document["rows"]))
    if weakest != best:
        remark += (
            f" The weakest attack, {weakest.attack}, would have said {signed(weakest.uplift_mean)}."
        )
    return Verdict(title, sentence, remark)


def unanswered(audit: Audit, endpoint: str | None = None) -> str:
    """Why no best attack is known, of one endpoint or of all."""
    own = [
        s
        for s in audit.summaries
        if s.budget is None and s.endpoint != NO_ENDPOINT and endpoint in (None, s.endpoint)
    ]
    if not own:
        skipped = [
            item["attack"]
            for item in audit.document["skipped"]
            if endpoint in (None, item["endpoint"])
        ]
        return f"Not run; skipped: {', '.join(skipped)}." if skipped else "Not run."
    if all(s.white_box for s in own):
        return "White-box only: no attack that a customer can make was run."
    return "Broken: no attack of this suite could be run to a finite loss."


def health(audit: Audit) -> tuple[Health, ...]:
    """One entry an attack, the baseline among them, in the order of their first runs."""
    found: dict[str, Health] = {}
    for row in audit.document["rows"]:
        old = found.get(row["attack"], Health(row["attack"], 0, 0, 0))
        is_gain = row["finite"] and row.get("uplift", 0.0) > 0 and row["endpoint"] != NO_ENDPOINT
        found[row["attack"]] = Health(
            old.attack, old.runs + 1, old.finite + row["finite"], old.gains + is_gain
        )
    return tuple(found.values())


def _attacks(config: Mapping[str, Any]) -> dict[str, Attack]:
    """The attacks of an audit by their labels, but for those that are not installed here."""
    known = attack_types()
    said = [config, *config.get("endpoints", ())]
    found = {}
    for label, settings in itertools.chain.from_iterable(
        part.get("attacks", {}).items() for part in said
    ):
        attack = known.get(label.partition("[")[0])
        with contextlib.suppress(TypeError, ValueError):  # of another version of it
            if attack is not None:
                found[label] = attack(**settings)
    return found


def _queries(best: Summary, endpoint: Mapping[str, Any]) -> int:
    transfer: int = endpoint["queries_transfer"]
    return transfer if best.queries is None else best.queries


def _remark(uplift: Difference) -> str:
    if uplift.error is None:
        return "One seed: nothing is known about the spread."
    if not uplift.is_clear:
        return f"Within two standard errors ({uplift.reliability}): no uplift could be measured."
    if uplift.mean > 0:
        return f"More than two standard errors ({uplift.reliability})."
    return "No attack of this suite reached what training without the API gives."
