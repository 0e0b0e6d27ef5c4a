"""report.json to one HTML page that opens without a network; every sentence is computed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import write_atomic
from stingy_attacker_eval.protocol import NO_ENDPOINT
from stingy_attacker_eval.results import Summary, best_attacks
from stingy_attacker_eval.wording import endpoint_title, percent, signed

_SCHEMA = "stingy.audit/1"


@dataclass(frozen=True)
class Verdict:
    """One endpoint's sentence: what the best attack of the suite got out of it."""

    title: str
    sentence: str
    remark: str


@dataclass(frozen=True)
class Audit:
    """A report.json, read back: summaries as objects, the rest as it stands."""

    document: Mapping[str, Any]
    summaries: tuple[Summary, ...]

    @property
    def endpoints(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.document["endpoints"]
        return found

    @property
    def best(self) -> dict[str, Summary]:
        return best_attacks(self.summaries)

    def baseline(self, student: str) -> Summary:
        """The no-API baseline of this student."""
        return next(s for s in self.summaries if s.endpoint == NO_ENDPOINT and s.student == student)


def read_report(folder: Path) -> Audit:
    """Read FOLDER/report.json. Raises AuditError when it is absent or not a report."""
    path = folder / "report.json"
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != _SCHEMA:
            raise ValueError
        return Audit(document, tuple(Summary(**item) for item in document["summary"]))
    except FileNotFoundError:
        raise AuditError(f"expected a finished audit, got no report.json in {folder}") from None
    except (ValueError, KeyError, TypeError):
        raise AuditError(f"expected a {_SCHEMA} document at {path}, got another") from None


def write_report(folder: Path) -> Path:
    """Draw FOLDER/report.html from FOLDER/report.json and return its path."""
    audit = read_report(folder)
    page = folder / "report.html"
    write_atomic(page, render(audit).encode())
    return page


def render(audit: Audit) -> str:
    """The whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from stingy_attacker_eval.chart import draw_chart

    document = audit.document
    shown = chart_summaries(audit.summaries)
    teachers = {item["name"]: item["teacher_accuracy"] for item in audit.endpoints}
    charts = [
        draw_chart(shown, teachers, student=student, title=_chart_text(shown, student))
        for student in document["config"]["students"]
    ]
    environment = Environment(
        loader=PackageLoader("stingy_attacker_eval", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["signed"] = signed
    best = audit.best
    return environment.get_template("template.html.j2").render(
        audit=document,
        best={name: (s.attack, s.student) for name, s in best.items()},
        verdicts=[verdict(audit, item) for item in audit.endpoints],
        summaries=audit.summaries,
        broken=[row for row in document["rows"] if not row["finite"]],
        charts=charts,
        no_endpoint=NO_ENDPOINT,
        seeds=len(document["config"]["seeds"]),
        tried=len({s.attack for s in audit.summaries if s.endpoint != NO_ENDPOINT}),
        config=json.dumps(document["config"], indent=2, ensure_ascii=False),
    )


def verdict(audit: Audit, endpoint: Mapping[str, Any]) -> Verdict:
    """What the best attack got, how that compares with the seeds' spread, and at what price."""
    title = endpoint_title(endpoint["name"], endpoint["defence"])
    best = audit.best.get(endpoint["name"])
    if best is None or best.uplift_mean is None:
        return Verdict(title, "No attack of this suite could be run to a finite loss.", "")
    base = audit.baseline(best.student)
    sentence = (
        f"{signed(best.uplift_mean, best.uplift_spread)} points of uplift over training without "
        f"the API: the best attack, {best.attack}, took the student {best.student} to "
        f"{percent(best.accuracy_mean)} % after {endpoint['queries_transfer']:,} queries; "
        f"without the API it reaches {percent(base.accuracy_mean, base.accuracy_spread)} %."
    )
    weakest = min(
        (s for s in audit.summaries if s.endpoint == best.endpoint and s.uplift_mean is not None),
        key=lambda s: s.uplift_mean or 0.0,
    )
    remark = _remark(best, base)
    if weakest != best:
        remark += (
            f" The weakest attack, {weakest.attack}, would have said {signed(weakest.uplift_mean)}."
        )
    return Verdict(title, sentence, remark)


def _remark(best: Summary, base: Summary) -> str:
    if best.accuracy_spread is None or base.accuracy_spread is None or best.uplift_mean is None:
        return "One seed: nothing is known about the spread."
    spread = math.hypot(best.accuracy_spread, base.accuracy_spread)
    if abs(best.uplift_mean) <= spread:
        return "Within the spread of the seeds: no uplift could be measured."
    if best.uplift_mean > 0:
        return "More than the spread of the seeds."
    return "No attack of this suite reached what training without the API gives."


def chart_summaries(summaries: Sequence[Summary]) -> list[Summary]:
    """As given, but of an attack with several settings only the best per endpoint and student."""
    best: dict[tuple[str, str, str], Summary] = {}
    for summary in summaries:
        key = summary.endpoint, summary.student, summary.attack.partition("[")[0]
        kept = best.get(key)
        if kept is None or _rank(summary) > _rank(kept):
            best[key] = summary
    return list(best.values())


def _rank(summary: Summary) -> float:
    return -math.inf if summary.uplift_mean is None else summary.uplift_mean


def _chart_text(summaries: Sequence[Summary], student: str) -> str:
    """What the chart shows, for those who do not see it; the table has every number."""
    parts = [
        f"{s.endpoint}, {s.attack}: {percent(s.accuracy_mean)} %"
        for s in summaries
        if s.student == student
    ]
    return f"Accuracy of the student {student} by endpoint and attack. " + "; ".join(parts) + "."
