"""The conclusions of a finished audit, as numbers and sentences computed from its report."""

import contextlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stingy_attacker_eval.attacks import Attack, attack_types
from stingy_attacker_eval.report.formatting import cost, endpoint_title, percent, signed
from stingy_attacker_eval.report.frontier import Point, frontier
from stingy_attacker_eval.report.label_only_baseline import (
    LabelOnlyBaseline,
    gives_a_list,
    label_only_baselines,
    label_only_sentence,
)
from stingy_attacker_eval.report.significance import Difference, difference
from stingy_attacker_eval.report_schema import AuditConfig, EndpointResult, Report, read_report
from stingy_attacker_eval.results import NO_ENDPOINT, Summary, attack_name, best_attacks


@dataclass(frozen=True)
class Verdict:
    """One endpoint's sentence on the uplift that the suite's best attack gained from it."""

    title: str
    sentence: str
    remark: str


@dataclass(frozen=True)
class Health:
    """One attack over all endpoints.

    finite: runs whose loss stayed finite.
    gains: those of them that beat the baseline.
    """

    attack: str
    runs: int
    finite: int
    gains: int


@dataclass(frozen=True)
class Audit:
    """A finished audit, with the conclusions from its report."""

    report: Report

    @property
    def endpoints(self) -> tuple[EndpointResult, ...]:
        return self.report.endpoints

    @property
    def summaries(self) -> tuple[Summary, ...]:
        return self.report.summary

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
        """The frontier's points, of endpoints with a best attack."""
        return frontier(self.endpoints, self.summaries)

    @cached_property
    def label_baselines(self) -> tuple[LabelOnlyBaseline, ...]:
        """The comparisons with labels alone, for endpoints that give more than a label."""
        attacks = _attacks(self.report.config)
        return label_only_baselines(self.endpoints, self.summaries, self.report.rows, attacks)

    @property
    def list_endpoints(self) -> tuple[str, ...]:
        """The endpoints that give more than a label."""
        return tuple(item.name for item in self.endpoints if gives_a_list(item))

    def baseline(self, student: str) -> Summary:
        """Return the no-API baseline of this student."""
        wanted = NO_ENDPOINT, student, None
        return next(s for s in self.summaries if (s.endpoint, s.student, s.budget) == wanted)


def read_audit(folder: Path) -> Audit:
    """Read FOLDER/report.json.

    Raises AuditError if it is absent or no report of this schema.
    """
    return Audit(read_report(folder))


def headline(audit: Audit) -> str:
    """State the highest uplift of any attack on any endpoint.

    Also state whether a list teaches more than labels alone.
    """
    if not audit.best:
        return unanswered(audit)
    best = max(audit.best.values(), key=lambda summary: summary.uplift_mean or 0.0)
    endpoint = next(item for item in audit.endpoints if item.name == best.endpoint)
    lists = label_only_sentence(audit.label_baselines, audit.list_endpoints)
    sentence = (
        f"The best attack of this audit, {best.attack} on "
        f"{endpoint_title(best.endpoint, endpoint.defence)}, gained "
        f"{signed(best.uplift_mean, best.uplift_spread)} points over training without the API, "
        f"after {cost(best.queries)} queries. {lists}"
    )
    return sentence.rstrip()


def verdict(audit: Audit, endpoint: EndpointResult) -> Verdict:
    """State the best attack's uplift, its cost in queries, and its standard errors."""
    title = endpoint_title(endpoint.name, endpoint.defence)
    best = audit.best.get(endpoint.name)
    if best is None or best.uplift_mean is None:
        return Verdict(title, unanswered(audit, endpoint.name), "")
    base = audit.baseline(best.student)
    sentence = (
        f"{signed(best.uplift_mean, best.uplift_spread)} points of uplift over training without "
        f"the API: the best attack, {best.attack}, took the student {best.student} to "
        f"{percent(best.accuracy_mean)} % after {cost(best.queries)} queries; "
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
    remark = _remark(difference(best, base, audit.report.rows))
    if weakest != best:
        remark += (
            f" The weakest attack, {weakest.attack}, would have said {signed(weakest.uplift_mean)}."
        )
    return Verdict(title, sentence, remark)


def unanswered(audit: Audit, endpoint: str | None = None) -> str:
    """State why there is no best attack, on one endpoint or, for None, on any."""
    own = [
        s
        for s in audit.summaries
        if s.budget is None and s.endpoint != NO_ENDPOINT and endpoint in (None, s.endpoint)
    ]
    if not own:
        skipped = [
            item.attack for item in audit.report.skipped if endpoint in (None, item.endpoint)
        ]
        return f"Not run; skipped: {', '.join(skipped)}." if skipped else "Not run."
    if all(s.white_box for s in own):
        return "White-box only: no attack that a customer can make was run."
    return "Broken: no attack of this suite could be run to a finite loss."


def health(audit: Audit) -> tuple[Health, ...]:
    """Return one entry per attack, the baseline included, in the order of their first runs."""
    found: dict[str, Health] = {}
    for row in audit.report.rows:
        old = found.get(row.attack, Health(row.attack, 0, 0, 0))
        is_gain = row.finite and row.uplift > 0 and row.endpoint != NO_ENDPOINT
        found[row.attack] = Health(
            old.attack, old.runs + 1, old.finite + row.finite, old.gains + is_gain
        )
    return tuple(found.values())


def _attacks(config: AuditConfig) -> dict[str, Attack]:
    """Return an audit's attacks by label, without those that are not installed here."""
    known = attack_types()
    found = {}
    for attacks in (config.attacks, *(endpoint.attacks for endpoint in config.endpoints)):
        for label, settings in attacks.items():
            attack = known.get(attack_name(label))
            # The settings may be those of another version of the attack.
            with contextlib.suppress(TypeError, ValueError):
                if attack is not None:
                    found[label] = attack(**settings)
    return found


def _remark(uplift: Difference) -> str:
    if uplift.error is None:
        return "One seed: nothing is known about the spread."
    if not uplift.is_clear:
        return f"Within two standard errors ({uplift.reliability}): no uplift could be measured."
    if uplift.mean > 0:
        return f"More than two standard errors ({uplift.reliability})."
    return "No attack of this suite reached what training without the API gives."
