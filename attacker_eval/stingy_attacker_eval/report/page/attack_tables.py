"""The tables of every attack and of every student."""

from collections.abc import Sequence

from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.formatting import cost, percent, signed
from stingy_attacker_eval.report.page.figures import bar_row
from stingy_attacker_eval.report.page.scale import Scale, scale_of
from stingy_attacker_eval.report.page.tables import (
    Cell,
    Column,
    Table,
    number,
    without_empty_columns,
)
from stingy_attacker_eval.results import NO_ENDPOINT, Row, Summary

_DIGEST = 12


def attacks_table(audit: Audit, *, with_bars: bool) -> Table:
    """Return every attack of every attacker, run at any budget.

    with_bars: True for a column of bars.
    """
    several = len(audit.views) > 1
    scale = _accuracy_scale(audit.report.summary)
    lines: list[tuple[Cell, ...]] = []
    best: set[int] = set()
    for view in audit.views:
        for s in view.summaries:
            if view.best.get(s.endpoint) == s:
                best.add(len(lines))
            lines.append(_attack_line(view, s, several, scale if with_bars else None))
    head = (
        *([Column("attacker")] if several else []),
        Column("endpoint"),
        Column("attack"),
        Column("student"),
        Column("queries", "number"),
        Column("seeds", "number"),
        Column("accuracy %", "number"),
        *([Column("from no API to the student", "figure")] if with_bars else []),
        Column("uplift", "number"),
        Column("agreement %", "number"),
        Column("least class %", "number"),
        Column("KL", "number"),
        Column("transfer %", "number"),
    )
    table = Table("attacks", "Every attack", head, tuple(lines), frozenset(best))
    return without_empty_columns(table)


def seeds_table(audit: Audit) -> Table:
    """Return every student by itself."""
    several = len(audit.views) > 1
    choosing = audit.report.config.selection_seeds
    has_digests = any(row.predictions for row in audit.report.rows)
    lines = [_seed_line(row, several, choosing, has_digests) for row in audit.report.rows]
    head = (
        *([Column("attacker")] if several else []),
        Column("endpoint"),
        Column("attack"),
        Column("student"),
        Column("seed", "number"),
        Column("queries", "number"),
        Column("accuracy %", "number"),
        Column("uplift", "number"),
        Column("agreement %", "number"),
        Column("seconds", "number"),
        *([Column("predictions")] if has_digests else []),
    )
    return Table("seeds", "Every student", head, tuple(lines))


def _attack_line(view: Audit, s: Summary, several: bool, scale: Scale | None) -> tuple[Cell, ...]:
    is_baseline = s.endpoint == NO_ENDPOINT
    is_best = view.best.get(s.endpoint) == s
    owner = (Cell(s.attacker),) if several else ()
    names = (
        Cell("no API" if is_baseline else s.endpoint),
        Cell(s.shown, tags=("best",) if is_best else ()),
        Cell(s.student),
        number(s.queries, cost(s.queries)),
        number(s.n, str(s.n)),
    )
    if s.accuracy_mean is None:
        broken = (Cell("broken"), *([Cell()] if scale else []), *[Cell()] * 5)
        return (*owner, *names, *broken)
    uplift = Cell()
    bar: tuple[Cell, ...] = (Cell(),) if scale else ()
    if not is_baseline:
        uplift = Cell(view.uplift_text(s), s.uplift_mean)
        if scale is not None and view.has_baseline(s.student, s.budget):
            base = view.baseline(s.student, s.budget).accuracy_mean or 0.0
            bar = (Cell(figure=bar_row(scale, base=base, value=s.accuracy_mean)),)
    if not s.all_finite:
        uplift = Cell(f"{uplift.text} (some seeds broke)", uplift.value)
    return (
        *owner,
        *names,
        number(s.accuracy_mean, percent(s.accuracy_mean)),
        *bar,
        uplift,
        number(s.agreement_mean, percent(s.agreement_mean)),
        number(s.least_agreement, percent(s.least_agreement)),
        Cell() if s.kl_mean is None else Cell(f"{s.kl_mean:.3f}", s.kl_mean),
        number(s.transfer_mean, percent(s.transfer_mean)),
    )


def _seed_line(
    row: Row, several: bool, choosing: Sequence[int], has_digests: bool
) -> tuple[Cell, ...]:
    is_baseline = row.endpoint == NO_ENDPOINT
    budget = "" if row.budget is None else f", {row.budget:,} images"
    copied = row.trained_on not in (None, row.endpoint)
    origin = f" (as on {row.trained_on})" if copied else ""
    tags = ("chooses",) if row.seed in choosing else ()
    numbers = (
        (
            number(row.accuracy, f"{row.accuracy:.2f}"),
            Cell() if is_baseline else Cell(signed(row.uplift), row.uplift),
            number(row.agreement, percent(row.agreement)),
        )
        if row.finite
        else (Cell("broken"), Cell(), Cell())
    )
    return (
        *((Cell(row.attacker),) if several else ()),
        Cell("no API" if is_baseline else row.endpoint),
        Cell(f"{row.attack}{budget}{origin}"),
        Cell(row.student),
        Cell(str(row.seed), float(row.seed), tags=tags),
        number(row.queries, cost(row.queries)),
        *numbers,
        number(row.seconds, f"{row.seconds:,.1f}"),
        *((Cell((row.predictions or "")[:_DIGEST]),) if has_digests else ()),
    )


def _accuracy_scale(summaries: Sequence[Summary]) -> Scale:
    return scale_of([s.accuracy_mean for s in summaries if s.accuracy_mean is not None])
