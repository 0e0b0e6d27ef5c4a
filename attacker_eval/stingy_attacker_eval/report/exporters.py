"""A finished audit as JSON, CSV or Markdown, for pipelines and pull requests."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict

from stingy_attacker_eval.report.analysis import Audit, health, verdict
from stingy_attacker_eval.report.formatting import cost, percent, readable
from stingy_attacker_eval.report.frontier import Point
from stingy_attacker_eval.report.label_only_baseline import LabelOnlyBaseline, Outcome
from stingy_attacker_eval.report.verdicts import headlines
from stingy_attacker_eval.results import NO_ENDPOINT, Summary

SCHEMA = "stingy.audit.outcome/2"
ATTACKER_HEAD = (
    "attacker",
    "endpoint",
    "no API, %",
    "best on labels",
    "best attack",
    "queries",
    "uplift (95 % interval)",
)
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
    "uplift, points",
    "agreement %",
    "least class %",
    "KL",
    "transfer %",
)


def as_json(audit: Audit) -> str:
    """Format each attacker's verdicts and comparisons with labels alone, and all summaries.

    report.json has the single runs.
    """
    document = {
        "schema": SCHEMA,
        "title": audit.report.config.title,
        "endpoints": [
            {
                "endpoint": item.name,
                "defence": item.defence,
                "policy": item.policy,
                "fingerprint": item.fingerprint,
                "utility": item.utility.model_dump(),
            }
            for item in audit.endpoints
        ],
        "attackers": [
            _attacker_document(view, sentence)
            for view, sentence in zip(audit.views, headlines(audit), strict=True)
        ],
        "health": [asdict(item) for item in health(audit)],
        "skipped": [item.model_dump() for item in audit.report.skipped],
        "summary": [summary.model_dump() for summary in audit.report.summary],
        "environment": audit.report.environment,
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(audit: Audit) -> str:
    """Format one line per summary. Numbers are not rounded; a missing number is empty."""
    names = list(Summary.model_fields)
    content = io.StringIO()
    table = csv.DictWriter(content, [*names, "white_box", "best"], lineterminator="\n")
    table.writeheader()
    for view in audit.views:
        for summary in view.summaries:
            is_best = view.best.get(summary.endpoint) == summary
            more = {"white_box": summary.white_box, "best": is_best}
            table.writerow(summary.model_dump() | more)
    return content.getvalue()


def as_markdown(audit: Audit) -> str:
    """Format the audit as Markdown.

    It has a sentence per attacker, a sentence per endpoint, the utility for clients, and every
    attack, run or skipped.
    """
    parts = [f"## {_escape(audit.report.config.title)}", *map(_escape, headlines(audit))]
    if len(audit.views) > 1:
        parts.append("\n".join(f"- **{name}** has {text}." for name, text in possessions(audit)))
        parts.append(_table(ATTACKER_HEAD, attacker_table(audit)))
        parts.append(f"Each endpoint for the attacker {_escape(audit.attacker.name)}:")
    found = [verdict(audit, item) for item in audit.endpoints]
    parts.append(
        "\n".join(
            f"- **{_escape(v.title)}**: {_escape(v.sentence)} {v.remark}".rstrip() for v in found
        )
    )
    if audit.points:
        parts.append(_table(_UTILITY_HEAD, [_utility_row(audit, point) for point in audit.points]))
    several = len(audit.views) > 1
    rows = [_attack_row(view, s, several) for view in audit.views for s in view.summaries]
    parts.append(_table(("attacker", *_ATTACK_HEAD) if several else _ATTACK_HEAD, rows))
    parts += [
        f"Not run: {f'{item.attacker}, ' if several else ''}{item.attack} on {item.endpoint} "
        f"{_escape(item.reason)}."
        for item in audit.report.skipped
    ]
    environment = audit.report.environment
    parts.append(", ".join(f"{name}: {value}" for name, value in environment.items()))
    return "\n".join(map(readable, "\n\n".join(parts).split("\n"))) + "\n"


def attacker_table(audit: Audit) -> tuple[tuple[str, ...], ...]:
    """Return a line of cells for each attacker and endpoint with a best attack.

    The cells are those of ATTACKER_HEAD.

    "Best on labels" is the uplift of the best attack that reads labels alone on this endpoint.
    """
    lines = []
    for view in audit.views:
        labels = {item.endpoint: item.baseline for item in view.label_baselines}
        for endpoint in view.endpoints:
            best = view.best.get(endpoint.name)
            if best is None:
                continue
            base = view.baseline(best.student)
            lines.append(
                (
                    view.attacker.name,
                    endpoint.name,
                    percent(base.accuracy_mean),
                    _labels_cell(view, labels.get(endpoint.name)),
                    best.shown,
                    cost(best.queries),
                    view.uplift(best).text,
                )
            )
    return tuple(lines)


def possessions(audit: Audit) -> tuple[tuple[str, str], ...]:
    """Return each attacker's name and its possessions in words."""
    return tuple((view.attacker.name, view.attacker.text) for view in audit.views)


def _labels_cell(view: Audit, baseline: Summary | None) -> str:
    if baseline is None:
        return ""
    return f"{view.uplift_text(baseline)} ({baseline.attack})"


def _attacker_document(view: Audit, sentence: str) -> dict[str, object]:
    return {
        **view.attacker.model_dump(),
        "headline": sentence,
        "verdicts": [
            {
                "endpoint": item.name,
                "best": view.best[item.name].model_dump() if item.name in view.best else None,
                "sentence": verdict(view, item).sentence,
                "remark": verdict(view, item).remark,
            }
            for item in view.endpoints
        ],
        "lists": [_list_document(item) for item in view.label_baselines],
    }


def _list_document(item: LabelOnlyBaseline) -> dict[str, object]:
    return {
        "endpoint": item.endpoint,
        "reader": item.reader.attack,
        "over": item.baseline.attack,
        "on": item.baseline.endpoint,
        "gap": item.gap.mean,
        "standard_error": item.gap.error,
        "degrees_of_freedom": item.gap.freedom,
        "interval": item.gap.interval,
        "seeds": item.gap.n,
        "margin": item.margin,
        "power": item.power,
        "p_more": item.p_more,
        "p_no_more": item.p_no_more,
        "outcome": item.outcome,
        "no_more_than_labels": item.outcome is Outcome.NO_MORE,
    }


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
        audit.uplift_text(point.best),
        "" if baseline is None else baseline.text,
    )


def _attack_row(view: Audit, s: Summary, several: bool) -> tuple[str, ...]:
    is_baseline = s.endpoint == NO_ENDPOINT
    return (
        *((s.attacker,) if several else ()),
        "no API" if is_baseline else s.endpoint,
        f"**{s.shown}**" if view.best.get(s.endpoint) == s else s.shown,
        s.student,
        cost(s.queries),
        str(s.n),
        percent(s.accuracy_mean) if s.n else "broken attack",
        "" if is_baseline or not s.n else view.uplift_text(s),
        "" if s.agreement_mean is None else percent(s.agreement_mean),
        "" if s.least_agreement is None else percent(s.least_agreement),
        "" if s.kl_mean is None else f"{s.kl_mean:.3f}",
        "" if s.transfer_mean is None else percent(s.transfer_mean),
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *([_escape(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _escape(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")
