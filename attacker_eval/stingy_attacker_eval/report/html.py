"""The HTML page of a report.json; it opens without a network."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from stingy_attacker_eval.files import write_atomic
from stingy_attacker_eval.report.analysis import Audit, headlines, health, read_audit, verdict
from stingy_attacker_eval.report.attackers import HEAD, attacker_table, possessions
from stingy_attacker_eval.report.formatting import cost, percent, printed, signed
from stingy_attacker_eval.report.published import paper_tables
from stingy_attacker_eval.results import NO_ENDPOINT, Summary

__all__ = ["chart_summaries", "read_audit", "render", "write_report"]

# If a chart would have more bars than this, it shows only the best attacks and the controls.
_MOST_BARS = 30
_BEST_SHOWN = 3
_CONTROLS = ("no_api", "label_only", "paper_kd")


def write_report(folder: Path) -> Path:
    """Draw FOLDER/report.html from FOLDER/report.json and return its path."""
    audit = read_audit(folder)
    page = folder / "report.html"
    write_atomic(page, render(audit).encode())
    return page


def render(audit: Audit) -> str:
    """Render the whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from stingy_attacker_eval.report.curves import letters

    report = audit.report
    environment = Environment(
        loader=PackageLoader("stingy_attacker_eval.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "signed": signed,
        "cost": cost,
        "printed": printed,
    }
    tried = {s.attack for s in audit.summaries if s.endpoint != NO_ENDPOINT and not s.white_box}
    return environment.get_template("template.html.j2").render(
        report=report,
        headlines=headlines(audit),
        attacker_head=HEAD,
        attacker_table=attacker_table(audit) if len(audit.views) > 1 else (),
        possessions=possessions(audit),
        attacker=audit.attacker,
        all_summaries=report.summary,
        bests=[summary for view in audit.views for summary in view.best.values()],
        verdicts=[verdict(audit, item) for item in audit.endpoints],
        summaries=audit.summaries,
        papers=paper_tables(report.config, audit.endpoints, audit.summaries),
        lettered=list(zip(letters(len(audit.points)), audit.points, strict=True)),
        has_attack_queries=any(item.queries_attacks for item in audit.endpoints),
        label_baselines={item.endpoint: item for item in audit.label_baselines},
        broken=[row for row in report.rows if not row.finite],
        health=health(audit),
        no_endpoint=NO_ENDPOINT,
        seeds=len(report.config.seeds),
        selection_seeds=len(report.config.selection_seeds),
        tried=len(tried),
        white_box=any(s.white_box for s in audit.summaries),
        config=json.dumps(report.config.model_dump(mode="json"), indent=2, ensure_ascii=False),
        **_charts(audit),
    )


def _charts(audit: Audit) -> dict[str, object]:
    """Draw the page's charts as SVG."""
    from stingy_attacker_eval.report.bar_chart import draw_chart
    from stingy_attacker_eval.report.curves import draw_budgets, draw_frontier

    teachers = {item.name: item.teacher_accuracy for item in audit.endpoints}
    whole = [s for s in audit.summaries if s.budget is None]
    charts, shortened = [], False
    for student in audit.students:
        own = chart_summaries([s for s in whole if s.student == student])
        shown = shorten(own)
        shortened |= len(shown) < len(own)
        endpoints = {s.endpoint for s in shown}
        places = {name: accuracy for name, accuracy in teachers.items() if name in endpoints}
        if places:
            title = _chart_text(shown, student)
            charts.append(draw_chart(shown, places, student=student, title=title))
    curves = [draw_budgets(audit.summaries, student=student) for student in audit.students]
    return {
        "charts": charts,
        "shortened": shortened,
        "curves": [curve for curve in curves if curve is not None],
        "frontier": draw_frontier(audit.points) if audit.points else None,
    }


def chart_summaries(summaries: Sequence[Summary]) -> list[Summary]:
    """Return the summaries to draw.

    Of an attack with several settings, they have only the best per endpoint and student.
    """
    best: dict[tuple[str, str, str], Summary] = {}
    for summary in summaries:
        key = summary.endpoint, summary.student, summary.attack_name
        kept = best.get(key)
        if kept is None or _rank(summary) > _rank(kept):
            best[key] = summary
    return list(best.values())


def shorten(summaries: Sequence[Summary]) -> list[Summary]:
    """Return the summaries if they fit a readable chart.

    If not, return only the controls and each endpoint's best attacks.
    """
    if len(summaries) <= _MOST_BARS:
        return list(summaries)
    ranked: dict[str, list[Summary]] = {}
    for summary in sorted(summaries, key=_rank, reverse=True):
        ranked.setdefault(summary.endpoint, []).append(summary)
    return [s for s in summaries if s.attack in _CONTROLS or s in ranked[s.endpoint][:_BEST_SHOWN]]


def _rank(summary: Summary) -> float:
    return -math.inf if summary.uplift_mean is None else summary.uplift_mean


def _chart_text(summaries: Sequence[Summary], student: str) -> str:
    """Describe the chart for readers who cannot view it; the table has every number."""
    parts = [
        f"{s.endpoint}, {s.attack}: {percent(s.accuracy_mean)} %"
        for s in summaries
        if s.student == student
    ]
    return f"Accuracy of the student {student} by endpoint and attack. " + "; ".join(parts) + "."
