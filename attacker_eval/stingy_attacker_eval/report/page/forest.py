"""The main figure of a report: a forest plot of all policies, or gauges where there are few."""

from collections.abc import Sequence

from stingy_attacker_eval.report.comparison import Comparison
from stingy_attacker_eval.report.formatting import cost, percent, share_text, signed
from stingy_attacker_eval.report.page.figures import (
    axis_row,
    forest_row,
    gauge_row,
    head_row,
    pair_row,
)
from stingy_attacker_eval.report.page.scale import Scale, scale_of
from stingy_attacker_eval.report.page.tables import Cell, Column, Table, number, points
from stingy_attacker_eval.report.verdicts import AttackerVerdict, Leak

MOST_GAUGES = 2
"""With so many endpoints or fewer, gauges stand for the forest plot."""


def main_figures(
    found: Sequence[AttackerVerdict], needs: dict[str, tuple[str, ...]]
) -> tuple[Table, ...]:
    """Return the report's main figures: gauges in one table, or a forest plot an attacker.

    needs: for endpoints that the advice names, the needs that it names them for.
    """
    shown = [item for item in found if item.leaks]
    if not shown:
        return ()
    few = all(len(item.leaks) <= MOST_GAUGES for item in shown)
    if few and all(leak.share is not None for item in shown for leak in item.leaks):
        return (_gauges(shown, needs),)
    return tuple(
        _forest(item, place, needs, several=len(found) > 1) for place, item in enumerate(shown)
    )


def pairs_figure(found: Comparison) -> Table:
    """Return two audits' uplifts of each endpoint as paired dots, regressions first."""
    several = len({pair.attacker for pair in found.pairs}) > 1
    sides = [side for pair in found.pairs for side in (pair.before, pair.after)]
    scale = scale_of([0.0, *(side.uplift.mean for side in sides)])
    lines = tuple(
        (
            Cell(pair.after.title),
            *((Cell(pair.attacker),) if several else ()),
            Cell(
                figure=pair_row(
                    scale,
                    before=pair.before.uplift.mean,
                    after=pair.after.uplift.mean,
                    shape=pair.change.shape,
                )
            ),
            points(pair.before.best.uplift_mean, pair.before.uplift.error),
            points(pair.after.best.uplift_mean, pair.after.uplift.error),
            points(pair.delta, pair.error),
            Cell(pair.change, shape=pair.change.shape),
            Cell(_attacks_text(pair.before.best.attack, pair.after.best.attack)),
            points(pair.after.endpoint.utility.top1 - pair.before.endpoint.utility.top1),
            points(pair.after.endpoint.utility.top5 - pair.before.endpoint.utility.top5),
        )
        for pair in found.pairs
    )
    head = (
        Column("endpoint"),
        *((Column("attacker"),) if several else ()),
        Column("uplift of the best attack, points", "figure"),
        Column("A", "number", hides="minor"),
        Column("B", "number", hides="minor"),
        Column("\N{GREEK CAPITAL LETTER DELTA}", "number"),
        Column("change", "mark"),
        Column("best attack", hides="minor"),
        Column("top-1, \N{GREEK CAPITAL LETTER DELTA}", "number", hides="minor"),
        Column("first five, \N{GREEK CAPITAL LETTER DELTA}", "number", hides="minor"),
    )
    return Table(
        name="policies",
        caption="What the best attack gains, in A and in B",
        head=head,
        lines=lines,
        foot=_foot(head, scale),
        is_filtered=False,
        figure_head=head_row(scale, ((0.0, "zero", "no API"),)),
    )


def _attacks_text(before: str, after: str) -> str:
    return after if before == after else f"{before}, then {after}"


def _forest(
    found: AttackerVerdict, place: int, needs: dict[str, tuple[str, ...]], *, several: bool
) -> Table:
    """Return one attacker's forest plot, the endpoints that keep most of the first five first."""
    leaks = sorted(found.leaks, key=lambda leak: (-leak.endpoint.utility.top5, leak.uplift.mean))
    scale = scale_of(value for leak in leaks for value in (0.0, *_reach(leak)))
    lines = tuple(
        (
            Cell(leak.endpoint.name, tags=needs.get(leak.endpoint.name, ())),
            Cell(
                figure=forest_row(
                    scale,
                    mean=leak.uplift.mean,
                    error=leak.uplift.error,
                    labels=leak.labels,
                    shape=leak.mark.shape,
                )
            ),
            Cell(leak.mark, shape=leak.mark.shape),
            points(leak.best.uplift_mean, leak.uplift.error),
            _share_cell(leak),
            number(leak.endpoint.utility.top5, percent(leak.endpoint.utility.top5)),
            number(leak.endpoint.utility.ece, percent(leak.endpoint.utility.ece)),
            number(leak.endpoint.utility.answer_bytes, cost(leak.endpoint.utility.answer_bytes)),
            Cell(leak.best.attack),
        )
        for leak in leaks
    )
    head = (
        Column("endpoint"),
        Column("uplift of the best attack, points", "figure"),
        Column("teaches", "mark", hides="tiny"),
        Column("uplift", "number"),
        Column("of gap", "number"),
        Column("first five %", "number", hides="minor"),
        Column("ECE", "number", hides="minor"),
        Column("bytes", "number", hides="minor"),
        Column("best attack", hides="minor"),
    )
    owner = f": an attacker with {found.view.attacker.text}" if several else ""
    return Table(
        name="policies" if place == 0 else f"policies-{place + 1}",
        caption=f"What the best attack gains from each endpoint{owner}",
        head=head,
        lines=lines,
        foot=_foot(head, scale),
        is_filtered=False,
        figure_head=head_row(scale, _upright_lines(leaks)),
    )


def _gauges(found: Sequence[AttackerVerdict], needs: dict[str, tuple[str, ...]]) -> Table:
    """Return the share of the gap that each attacker closes on each endpoint."""
    pairs = [(item, leak) for item in found for leak in item.leaks]
    values = [0.0, 100.0]
    for _, leak in pairs:
        values += [share for value in _reach(leak) if (share := leak.share_of(value)) is not None]
    scale = scale_of(values)
    lines = tuple(
        (
            *((Cell(item.view.attacker.name),) if len(found) > 1 else ()),
            Cell(leak.endpoint.name, tags=needs.get(leak.endpoint.name, ())),
            Cell(
                figure=gauge_row(
                    scale,
                    share=leak.share or 0.0,
                    error=_share_of(leak, leak.uplift.error),
                    labels=_share_of(leak, leak.labels),
                    shape=leak.mark.shape,
                    is_measured=leak.is_measured,
                )
            ),
            Cell(leak.mark, shape=leak.mark.shape),
            points(leak.best.uplift_mean, leak.uplift.error),
            _share_cell(leak),
            number(leak.best.queries, cost(leak.best.queries)),
            Cell(leak.best.attack),
        )
        for item, leak in pairs
    )
    head = (
        *((Column("attacker"),) if len(found) > 1 else ()),
        Column("endpoint"),
        Column("share of the gap to your model", "figure"),
        Column("teaches", "mark", hides="tiny"),
        Column("uplift", "number"),
        Column("of gap", "number"),
        Column("queries", "number", hides="minor"),
        Column("best attack", hides="minor"),
    )
    return Table(
        name="policies",
        caption="How much of the gap to your model the best attack closes",
        head=head,
        lines=lines,
        foot=_foot(head, scale, (0.0, 100.0), unit=" %"),
        is_filtered=False,
        figure_head=head_row(scale, ((0.0, "zero", "no API"), (100.0, "teacher", "your model"))),
    )


def _reach(leak: Leak) -> tuple[float, ...]:
    """Return the values that a figure of the leak must cover."""
    error = leak.uplift.error or 0.0
    ends = (leak.uplift.mean - 2 * error, leak.uplift.mean + 2 * error)
    return ends if leak.labels is None else (*ends, leak.labels)


def _share_of(leak: Leak, value: float | None) -> float | None:
    return None if value is None else leak.share_of(value)


def _share_cell(leak: Leak) -> Cell:
    return number(leak.share, share_text(leak.share))


def _upright_lines(leaks: Sequence[Leak]) -> tuple[tuple[float, str, str], ...]:
    """Return the lines to name: no API, and labels alone where they are worth the same to all."""
    lines = [(0.0, "zero", "no API")]
    worth = {signed(leak.labels): leak.labels for leak in leaks if leak.labels is not None}
    if worth:
        common = max(worth.values())
        name = "labels alone" if len(worth) == 1 else "labels alone, most"
        lines.append((common, "labels", name))
    return tuple(lines)


def _foot(
    head: Sequence[Column], scale: Scale, ticks: Sequence[float] = (), unit: str = ""
) -> tuple[Cell, ...]:
    return tuple(
        Cell(figure=axis_row(scale, ticks=ticks, unit=unit)) if column.kind == "figure" else Cell()
        for column in head
    )
