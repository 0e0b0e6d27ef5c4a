"""The conclusions of a finished audit, as numbers and sentences computed from its report."""

import contextlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from stingy_attacker_eval.attacks import Attack, attack_types
from stingy_attacker_eval.report.formatting import (
    cost,
    endpoint_title,
    percent,
    readable,
    signed,
    with_errors,
)
from stingy_attacker_eval.report.frontier import Point, frontier
from stingy_attacker_eval.report.label_only_baseline import (
    LabelOnlyBaseline,
    gives_a_list,
    label_only_baselines,
)
from stingy_attacker_eval.report.significance import Difference, difference
from stingy_attacker_eval.report_schema import (
    Attacker,
    AuditConfig,
    EndpointResult,
    Report,
    read_report,
)
from stingy_attacker_eval.results import (
    NO_ENDPOINT,
    Row,
    Summary,
    attack_name,
    best_attacks,
    candidates,
)

_NOISE = 1e-9  # points; less than this is noise of the arithmetic


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
    """A finished audit as one of its attackers makes it, with the conclusions from its report.

    number: of the attacker in the configuration.
    """

    report: Report
    number: int = 0

    @property
    def attacker(self) -> Attacker:
        return self.report.config.attackers[self.number]

    @cached_property
    def views(self) -> tuple["Audit", ...]:
        """The same audit as each of its attackers makes it."""
        count = len(self.report.config.attackers)
        return tuple(replace(self, number=number) for number in range(count))

    @property
    def endpoints(self) -> tuple[EndpointResult, ...]:
        return self.report.endpoints

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """Those of this attacker."""
        return tuple(s for s in self.report.summary if s.attacker == self.attacker.name)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows of this attacker with the seeds that are reported."""
        choosing = self.report.config.selection_seeds
        return tuple(
            row
            for row in self.report.rows
            if row.attacker == self.attacker.name and row.seed not in choosing
        )

    @property
    def students(self) -> tuple[str, ...]:
        """Every student of any run, in order."""
        return tuple(dict.fromkeys(summary.student for summary in self.summaries))

    @cached_property
    def best(self) -> dict[str, Summary]:
        """The best attack by endpoint; white-box attacks never count.

        An attack whose student has no baseline with a finite loss does not count either.
        """
        found = best_attacks(self.summaries)
        return {name: best for name, best in found.items() if self.has_baseline(best.student)}

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The frontier's points, of endpoints with a best attack."""
        return frontier(self.endpoints, self.best)

    @cached_property
    def label_baselines(self) -> tuple[LabelOnlyBaseline, ...]:
        """The comparisons with labels alone, for endpoints that give more than a label."""
        config = self.report.config
        return label_only_baselines(
            self.endpoints,
            self.summaries,
            self.rows,
            _attacks(config),
            margin=config.margin,
            test_images=self.test_images,
            is_baseline_alike=self.is_baseline_alike,
            skipped=[s for s in self.report.skipped if s.attacker == self.attacker.name],
        )

    @property
    def test_images(self) -> int:
        """The images of the test set; 1 if the audit has no answers to any."""
        return max((item.utility.images for item in self.endpoints), default=0) or 1

    @property
    def is_baseline_alike(self) -> bool:
        """True if this attacker's baseline trains on as many images as its other students."""
        return self.attacker.labelled == 1

    @property
    def list_endpoints(self) -> tuple[str, ...]:
        """The endpoints that give more than a label."""
        return tuple(item.name for item in self.endpoints if gives_a_list(item))

    def baseline(self, student: str, budget: int | None = None) -> Summary:
        """Return the no-API baseline of this student, on as many images as the budget has.

        Raises StopIteration if there is none.
        """
        wanted = NO_ENDPOINT, student, budget
        return next(s for s in self.summaries if (s.endpoint, s.student, s.budget) == wanted)

    def uplift(self, best: Summary) -> Difference:
        """Return the difference between an attack and its no-API baseline on as many images.

        Its mean is the one in the report, so that both round alike. That of equal students is 0,
        without the noise of the last digits.
        """
        found = difference(
            best,
            self.baseline(best.student, best.budget),
            self.rows,
            test_images=self.test_images,
            is_baseline_alike=self.is_baseline_alike,
        )
        if best.uplift_mean is None:
            return found
        is_noise = abs(best.uplift_mean) < _NOISE
        return replace(found, mean=0.0 if is_noise else best.uplift_mean)

    def uplift_text(self, summary: Summary) -> str:
        """Format the uplift with two standard errors, as every table and sentence prints it.

        There is no error with one seed, or without a baseline of a finite loss.
        """
        is_compared = self.has_baseline(summary.student, summary.budget)
        error = self.uplift(summary).error if is_compared else None
        return with_errors(summary.uplift_mean, error)

    def has_baseline(self, student: str, budget: int | None = None) -> bool:
        """Return whether this student has a no-API baseline with a finite loss."""
        wanted = NO_ENDPOINT, student, budget
        return any(s.n and (s.endpoint, s.student, s.budget) == wanted for s in self.summaries)


def read_audit(folder: Path) -> Audit:
    """Read FOLDER/report.json, as its first attacker makes the audit.

    Raises AuditError if it is absent or no report of this schema.
    """
    return Audit(read_report(folder))


def verdict(audit: Audit, endpoint: EndpointResult) -> Verdict:
    """State the best attack's uplift, its cost in queries, and its confidence interval."""
    title = endpoint_title(endpoint.name, endpoint.defence)
    best = audit.best.get(endpoint.name)
    if best is None or best.uplift_mean is None:
        return Verdict(title, unanswered(audit, endpoint.name), "")
    base = audit.baseline(best.student)
    sentence = (
        f"{audit.uplift_text(best)} points of uplift over training without "
        f"the API: the best attack, {best.attack}, took the student {best.student} to "
        f"{percent(best.accuracy_mean)} % after {cost(best.queries)} queries; "
        f"without the API it reaches {percent(base.accuracy_mean)} %."
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
    reliability = _remark(audit.uplift(best), several=best.n > 1 == base.n)
    remark = f"{reliability} {choice_remark(audit, endpoint.name)}".rstrip()
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
            item.attack
            for item in audit.report.skipped
            if item.attacker == audit.attacker.name and endpoint in (None, item.endpoint)
        ]
        return f"Not run; skipped: {', '.join(skipped)}." if skipped else "Not run."
    if not any(s.endpoint == NO_ENDPOINT and s.n for s in audit.summaries):
        return "Broken: no baseline without the API has a finite loss."
    own = [s for s in own if not s.white_box]
    if not own:
        return "White-box only: no attack that a customer can make was run."
    if any(s.n for s in own):
        return "Not chosen: no attack has a finite loss with a seed that chooses."
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


def _remark(uplift: Difference, *, several: bool) -> str:
    if uplift.error is None:
        if several:
            return "The baseline without the API is finite with one seed, which gives no error."
        return "One seed: nothing is known about the spread."
    if uplift.mean > 0 and uplift.is_clear:
        return f"95 % interval {uplift.reliability}."
    if uplift.mean > 0:
        return f"95 % interval {uplift.reliability}: no uplift could be measured."
    return (
        "This attack did not reach what training without the API gives "
        f"(95 % interval {uplift.reliability})."
    )


def choice_remark(audit: Audit, endpoint: str) -> str:
    """State on which seeds the best attack was chosen, and which attacks could not be chosen."""
    seeds = audit.report.config.selection_seeds
    tried = [s for s in candidates(audit.summaries) if (s.endpoint, s.budget) == (endpoint, None)]
    is_chosen = any(s.selection_mean is not None for s in tried)
    said = []
    if tried and seeds and not is_chosen:
        said.append("No attack has a finite loss with a seed that chooses, so the others chose.")
    elif len(tried) > 1 and seeds:
        others = "one other seed" if len(seeds) == 1 else f"{len(seeds)} other seeds"
        said.append(f"Chosen out of {len(tried)} on {others}.")
    elif len(tried) > 1:
        said.append(f"Chosen out of {len(tried)} on the same seeds, which leans upwards.")
    said += [
        f"{readable(s.attack)} has no finite loss with a seed that chooses, so it was not chosen; "
        f"on the reported seeds it gained {signed(s.uplift_mean)}."
        for s in audit.summaries
        if (s.endpoint, s.budget) == (endpoint, None)
        and is_chosen
        and s.n
        and s.selection_mean is None
        and not s.white_box
    ]
    return " ".join(said)
