"""The HTML page of a report.json; it opens without a network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from stingy_attacker_eval.files import write_atomic
from stingy_attacker_eval.report.advice import Advice, advice
from stingy_attacker_eval.report.analysis import Audit, read_audit
from stingy_attacker_eval.report.ci_gate import count_missing
from stingy_attacker_eval.report.comparison import Change, Comparison
from stingy_attacker_eval.report.page.attack_tables import attacks_table, seeds_table
from stingy_attacker_eval.report.page.cost_curve import cost_curve
from stingy_attacker_eval.report.page.forest import MOST_GAUGES, main_figures, pairs_figure
from stingy_attacker_eval.report.page.render import render_page
from stingy_attacker_eval.report.page.tables import (
    attackers_table,
    clients_table,
    endpoints_table,
    health_table,
)
from stingy_attacker_eval.report.published import paper_tables
from stingy_attacker_eval.report.tiles import Tile, tiles
from stingy_attacker_eval.report.verdicts import (
    attacker_verdicts,
    headline,
    worst_by_kind,
)

__all__ = ["read_audit", "render", "render_comparison", "write_comparison", "write_report"]

_DATE, _COMMIT = 10, 7

_SHOWN = (Change.MORE, Change.LESS)


def write_report(folder: Path) -> Path:
    """Draw FOLDER/report.html from FOLDER/report.json and return its path."""
    audit = read_audit(folder)
    page = folder / "report.html"
    write_atomic(page, render(audit).encode())
    return page


def render(audit: Audit) -> str:
    """Render the whole page."""
    report = audit.report
    found = attacker_verdicts(audit)
    advised = advice(audit, found)
    needs = _needs(advised)
    figures = main_figures(found, needs)
    curves = [cost_curve(audit.summaries, student=student) for student in audit.students]
    shown_curves = [curve for curve in curves if curve is not None]
    several = len(audit.views) > 1
    papers = paper_tables(report.config, audit.endpoints, audit.summaries)
    gaps = {round(leak.gap, 6) for item in found for leak in item.leaks}
    environment = report.environment
    return render_page(
        "report.html.j2",
        {
            "report": report,
            "date": _shortened(environment.get("date"), _DATE),
            "commit": _shortened(environment.get("commit"), _COMMIT),
            "parts": _parts(bool(figures), bool(shown_curves), several, bool(papers)),
            "warnings": _warnings(audit),
            "verdicts": [
                (item.kind, item.view.attacker.name, tiles(item)) for item in worst_by_kind(found)
            ],
            "advice": advised,
            "figures": figures,
            "margin": f"{report.config.margin:g} point{'' if report.config.margin == 1 else 's'}",
            "has_forest": any(len(item.leaks) > MOST_GAUGES for item in found),
            "has_tags": bool(needs),
            "gap": gaps.pop() if len(gaps) == 1 else None,
            "headlines": [headline(item) for item in found],
            "curves": shown_curves,
            "clients": clients_table(audit),
            "attackers": attackers_table(found) if several else None,
            "attacks": attacks_table(audit, with_bars=len(audit.endpoints) <= MOST_GAUGES),
            "seeds_table": seeds_table(audit),
            "endpoints": endpoints_table(audit),
            "health": health_table(audit),
            "papers": papers,
            "skipped": _skipped(audit),
            "has_attack_queries": any(item.queries_attacks for item in audit.endpoints),
            "has_copies": any(s.trained_on is not None for s in report.summary),
            "broken": sum(not row.finite for row in report.rows),
            "seeds": len(report.config.seeds),
            "selection_seeds": len(report.config.selection_seeds),
            "white_box": any(s.white_box for s in report.summary),
            "config": [
                f"{name} = {json.dumps(value, ensure_ascii=False)}"
                for name, value in report.config.model_dump(mode="json", exclude_none=True).items()
            ],
        },
    )


def write_comparison(found: Comparison, page: Path) -> None:
    """Write the page of two audits."""
    write_atomic(page, render_comparison(found).encode())


def render_comparison(found: Comparison) -> str:
    """Render the page of two audits."""
    sides = [
        {
            "name": name,
            "title": audit.report.config.title,
            "date": _shortened(audit.report.environment.get("date"), _DATE),
            "commit": _shortened(audit.report.environment.get("commit"), _COMMIT),
            "seeds": len(audit.report.config.seeds),
        }
        for name, audit in (("A", found.before), ("B", found.after))
    ]
    return render_page(
        "comparison.html.j2",
        {
            "sides": sides,
            "tiles": _comparison_tiles(found),
            "figure": pairs_figure(found),
            "only": [
                (name, names)
                for name, names in (("A", found.only_before), ("B", found.only_after))
                if names
            ],
        },
    )


def _shortened(text: str | None, length: int) -> str:
    """Return the first characters of each of the values that a joined audit has."""
    return ", ".join(dict.fromkeys(part[:length] for part in (text or "").split("; ")))


def _comparison_tiles(found: Comparison) -> tuple[Tile, ...]:
    """Return the tiles REGRESSIONS, IMPROVEMENTS and NOT SHOWN."""
    names = {
        change: [pair.after.title for pair in found.pairs if pair.change is change]
        for change in Change
    }
    worse, better = names[Change.MORE], names[Change.LESS]
    rest = [each for change in Change for each in names[change] if change not in _SHOWN]
    return (
        Tile("Regressions", _count(worse), _listed(worse), is_quiet=not worse),
        Tile("Improvements", _count(better), _listed(better), is_quiet=True),
        Tile("Not shown", _count(rest), _reasons(names), is_quiet=True),
    )


def _reasons(names: Mapping[Change, Sequence[str]]) -> str:
    """Say how many endpoints have no change that was shown, for each reason."""
    return ", ".join(
        f"{change}: {len(found)}"
        for change, found in names.items()
        if found and change not in _SHOWN
    )


def _count(names: list[str]) -> str:
    return "none" if not names else f"{len(names)} endpoint{'' if len(names) == 1 else 's'}"


def _listed(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names)) if names else "at 95 %, each by itself"


def _parts(
    has_figures: bool, has_curves: bool, several: bool, has_papers: bool
) -> tuple[tuple[str, str], ...]:
    """Return the page's anchors and their names, in order."""
    parts = {
        "policies": ("Policies", has_figures),
        "cost": ("Cost curve", has_curves),
        "clients": ("What clients keep", True),
        "attackers": ("Attackers", several),
        "attacks": ("Every attack", True),
        "seeds": ("By seed", True),
        "published-1": ("Published", has_papers),
        "endpoints": ("Endpoints", True),
        "health": ("Health", True),
        "words": ("Words", True),
        "again": ("Run again", True),
    }
    return tuple((anchor, name) for anchor, (name, is_shown) in parts.items() if is_shown)


def _warnings(audit: Audit) -> list[tuple[str, str]]:
    """Return what makes the page's numbers partial, each as its first words and the rest."""
    found = []
    missing, expected = (sum(n) for n in zip(*map(count_missing, audit.views), strict=True))
    if missing:
        found.append(
            (
                "This audit is not complete.",
                f"{missing:,} of {expected:,} runs are missing. Continue it with the same command; "
                "until then every number is of the runs that are there.",
            )
        )
    if len(audit.report.config.seeds) < 2:
        found.append(("One seed.", "Nothing is known about the error of any number here."))
    unequal = [e.name for e in audit.endpoints if e.queries_spent != e.queries_charged]
    if unequal:
        found.append(
            (
                "Charged and spent differ.",
                f"The server charged other numbers of images than were sent: {', '.join(unequal)}.",
            )
        )
    return found


def _needs(advised: Advice) -> dict[str, tuple[str, ...]]:
    """Return, for each endpoint that the advice names, the needs."""
    needs: dict[str, tuple[str, ...]] = {}
    for choice in advised.choices:
        if choice.endpoint is not None:
            name = choice.need.removeprefix("need ")
            needs[choice.endpoint] = (*needs.get(choice.endpoint, ()), name)
    return needs


def _skipped(audit: Audit) -> list[str]:
    """Return a sentence for each attack that could not run."""
    several = len(audit.views) > 1
    return [
        f"Not run: {f'{item.attacker}, ' if several else ''}{item.attack} on {item.endpoint} "
        f"{item.reason}."
        for item in audit.report.skipped
    ]
