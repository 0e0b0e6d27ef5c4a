"""A finished audit as JSON, CSV or Markdown, for pipelines and pull requests."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict

from stingy_attacker_eval.report.analysis import Audit, headline, health, verdict
from stingy_attacker_eval.report.formatting import cost, percent, signed
from stingy_attacker_eval.report.frontier import Point
from stingy_attacker_eval.report.label_only_baseline import Outcome
from stingy_attacker_eval.results import NO_ENDPOINT, Summary

SCHEMA = "stingy.audit.outcome/1"
_UTILITY_HEAD = (
    "endpoint",
    "top-1 %",
    "first five %",
    "ECE, points",
    "bytes",
    "best attack",
    "uplift",
    "over labels alone",
)
_ATTACK_HEAD = (
    "endpoint",
    "attack",
    "student",
    "queries",
    "seeds",
    "accuracy %",
    "agreement %",
    "uplift, points",
)


def as_json(audit: Audit) -> str:
    """Format verdicts with utility, comparisons with labels alone, and summaries as JSON.

    report.json has the single runs.
    """
    document = {
        "schema": SCHEMA,
        "title": audit.report.config.title,
        "headline": headline(audit),
        "verdicts": [
            {
                "endpoint": item.name,
                "defence": item.defence,
                "policy": item.policy,
                "fingerprint": item.fingerprint,
                "best": audit.best[item.name].model_dump() if item.name in audit.best else None,
                "sentence": verdict(audit, item).sentence,
                "remark": verdict(audit, item).remark,
                "utility": item.utility.model_dump(),
            }
            for item in audit.endpoints
        ],
        "label_floors": [
            {
                "endpoint": item.endpoint,
                "over": item.baseline.attack,
                "on": item.baseline.endpoint,
                "gap": item.gap.mean,
                "standard_error": item.gap.error,
                "seeds": item.gap.n,
                "outcome": item.outcome,
                "holds": item.outcome is Outcome.NO_MORE,
            }
            for item in audit.label_baselines
        ],
        "health": [asdict(item) for item in health(audit)],
        "skipped": [item.model_dump() for item in audit.report.skipped],
        "summary": [summary.model_dump() for summary in audit.summaries],
        "environment": audit.report.environment,
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(audit: Audit) -> str:
    """Format one line per summary. Numbers are not rounded; a missing number is empty."""
    names = list(Summary.model_fields)
    content = io.StringIO()
    table = csv.DictWriter(content, [*names, "white_box", "best"], lineterminator="\n")
    table.writeheader()
    for summary in audit.summaries:
        is_best = audit.best.get(summary.endpoint) == summary
        table.writerow(summary.model_dump() | {"white_box": summary.white_box, "best": is_best})
    return content.getvalue()


def as_markdown(audit: Audit) -> str:
    """Format the audit as Markdown.

    It has the headline, a sentence per endpoint, the utility for clients, and every attack, run or
    skipped.
    """
    parts = [f"## {_escape(audit.report.config.title)}", headline(audit)]
    found = [verdict(audit, item) for item in audit.endpoints]
    parts.append(
        "\n".join(
            f"- **{_escape(v.title)}**: {_escape(v.sentence)} {v.remark}".rstrip() for v in found
        )
    )
    if audit.points:
        parts.append(_table(_UTILITY_HEAD, [_utility_row(audit, point) for point in audit.points]))
    parts.append(_table(_ATTACK_HEAD, [_attack_row(audit, summary) for summary in audit.summaries]))
    parts += [
        f"Not run: {item.attack} on {item.endpoint} {_escape(item.reason)}."
        for item in audit.report.skipped
    ]
    environment = audit.report.environment
    parts.append(", ".join(f"{name}: {value}" for name, value in environment.items()))
    return "\n\n".join(parts) + "\n"


def _utility_row(audit: Audit, point: Point) -> tuple[str, ...]:
    kept = point.utility
    baseline = next(
        (each for each in audit.label_baselines if each.endpoint == point.endpoint), None
    )
    return (
        point.endpoint,
        percent(kept.top1),
        percent(kept.top5),
        "" if kept.ece is None else percent(kept.ece),
        cost(kept.answer_bytes),
        point.best.shown,
        signed(point.best.uplift_mean, point.best.uplift_spread),
        "" if baseline is None else baseline.text,
    )


def _attack_row(audit: Audit, s: Summary) -> tuple[str, ...]:
    is_baseline = s.endpoint == NO_ENDPOINT
    return (
        "no API" if is_baseline else s.endpoint,
        f"**{s.shown}**" if audit.best.get(s.endpoint) == s else s.shown,
        s.student,
        cost(s.queries),
        str(s.n),
        percent(s.accuracy_mean, s.accuracy_spread) if s.n else "broken attack",
        "" if s.agreement_mean is None else percent(s.agreement_mean),
        "" if is_baseline or not s.n else signed(s.uplift_mean, s.uplift_spread),
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *([_escape(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _escape(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")
