"""The HTML page of a study; it opens without a network."""

from pathlib import Path

from stingy_attacker_eval.files import write_atomic
from stingy_attacker_eval.mark_study.analysis import QUESTIONS, Results
from stingy_attacker_eval.mark_study.rows import LEVELS
from stingy_attacker_eval.mark_study.settings import Study
from stingy_attacker_eval.ownership.proof import format_p
from stingy_attacker_eval.templates import open_templates

PAGE = "report.html"


def write_page(folder: Path, study: Study, results: Results) -> Path:
    """Write `report.html` to the study's folder and return its path."""
    page = folder / PAGE
    write_atomic(page, render(study, results).encode())
    return page


def render(study: Study, results: Results) -> str:
    """Render the whole page."""
    environment = open_templates("stingy_attacker_eval.mark_study")
    environment.filters |= {"p": format_p, "percent": _percent, "count": _count}
    return environment.get_template("study.html.j2").render(
        study=study,
        results=results,
        headline=write_headline(study, results),
        counts=QUESTIONS,
        levels=[f"{level:g}" for level in LEVELS],
    )


def write_headline(study: Study, results: Results) -> str:
    """Say in two sentences which thieves are found at the study's share, and who is accused."""
    thieves = [each for each in results.thieves if each.share == study.share]
    found = [each.student for each in thieves if each.found == each.seeds]
    escaped = [each.student for each in thieves if not each.found]
    parts = [
        f"With {study.share:.1%} of the answers marked, {len(found)} of {len(thieves)} thieves are "
        f"found in every seed (p at most 0.001): {', '.join(found) or 'none'}."
    ]
    if escaped:
        parts.append(f"No seed finds: {', '.join(escaped)}.")
    pooled = [each for each in results.innocents if each.data == "all"]
    if pooled:
        worst = max(pooled, key=lambda each: each.at_most["0.001"])
        parts.append(
            f"Of {worst.tried:,} pairs of an innocent student and a secret it never met, "
            f"{worst.at_most['0.001']:.2%} are accused at that level."
        )
    return " ".join(parts)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _count(value: int | None) -> str:
    return "not found" if value is None else f"{value:,}"
