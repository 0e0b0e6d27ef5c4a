"""The tables of a page: cells with the numbers by which the page's script sorts."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stingy_attacker_eval.report.analysis import Audit, health
from stingy_attacker_eval.report.formatting import cost, percent, signed, with_errors
from stingy_attacker_eval.report.page.figures import bar_row
from stingy_attacker_eval.report.page.scale import Scale, scale_of
from stingy_attacker_eval.report.verdicts import AttackerVerdict
from stingy_attacker_eval.results import NO_ENDPOINT, Row, Summary

_DIGEST = 12


@dataclass(frozen=True)
class Column:
    """A column.

    kind: "text", "number" or "figure". The script sorts by all but figures.
    is_minor: True for a column that a narrow screen leaves to another table.
    """

    title: str
    kind: str = "text"
    is_minor: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell: its text, the number to sort by if it is one, a figure, and a mark's shape."""

    text: str = ""
    value: float | None = None
    figure: Markup | None = None
    shape: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of a page.

    name: the anchor, and the start of the names of its parts.
    best: the numbers of the lines to mark.
    foot: cells of a last line that is never sorted, or none.
    figure_head: the figure that heads the column of figures.
    """

    name: str
    caption: str
    head: tuple[Column, ...]
    lines: tuple[tuple[Cell, ...], ...]
    best: frozenset[int] = frozenset()
    foot: tuple[Cell, ...] = ()
    is_filtered: bool = True
    figure_head: Markup | None = None


def number(value: float | None, text: str) -> Cell:
    """Make a cell of a number; empty without a value."""
    return Cell() if value is None else Cell(text, float(value))


def points(value: float | None, error: float | None = None) -> Cell:
    """Make a cell of points with two errors."""
    return Cell() if value is None else Cell(with_errors(value, error), value)


def clients_table(audit: Audit) -> Table:
    """Return what clients keep of each endpoint, beside the first attacker's comparison."""
    compared = {item.endpoint: item for item in audit.label_baselines}
    lines = [
        (
            Cell(item.name),
            Cell(item.policy if item.policy == item.defence else item.defence),
            number(item.utility.top1, percent(item.utility.top1)),
            number(item.utility.top5, percent(item.utility.top5)),
            number(item.utility.ece, percent(item.utility.ece)),
            number(item.utility.answer_bytes, cost(item.utility.answer_bytes)),
            _gap_cell(compared[item.name].gap.mean, compared[item.name].text)
            if item.name in compared
            else Cell(),
        )
        for item in audit.endpoints
    ]
    head = (
        Column("endpoint"),
        Column("policy"),
        Column("top-1 %", "number"),
        Column("first five %", "number"),
        Column("ECE, points", "number"),
        Column("bytes", "number"),
        Column("list over labels alone (95 % interval)", "number"),
    )
    return Table("clients", "What clients keep, and what lists add to labels", head, tuple(lines))


def attackers_table(found: Sequence[AttackerVerdict]) -> Table:
    """Return what each attacker gains from each endpoint, against its own baselines."""
    lines = [
        (
            Cell(item.view.attacker.name),
            Cell(item.view.attacker.text),
            Cell(leak.endpoint.name),
            number(leak.baseline.accuracy_mean, percent(leak.baseline.accuracy_mean)),
            number(leak.labels, signed(leak.labels)),
            points(leak.uplift.mean, leak.uplift.error),
            Cell(leak.best.shown),
            number(leak.best.queries, cost(leak.best.queries)),
        )
        for item in found
        for leak in item.leaks
    ]
    head = (
        Column("attacker"),
        Column("owns"),
        Column("endpoint"),
        Column("no API, %", "number"),
        Column("labels alone", "number"),
        Column("uplift", "number"),
        Column("best attack"),
        Column("queries", "number"),
    )
    return Table("attackers", "Each attacker against its own baselines", head, tuple(lines))


def attacks_table(audit: Audit, *, with_bars: bool) -> Table:
    """Return every attack of every attacker, run at any budget.

    with_bars: True for a column of bars.
    """
    several = len(audit.views) > 1
    scale = _accuracy_scale(audit.report.summary)
    lines, best = [], set()
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
    return Table("attacks", "Every attack", head, tuple(lines), frozenset(best))


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


def endpoints_table(audit: Audit) -> Table:
    """Return what identifies each endpoint and its answers, and what they cost."""
    lines = [
        (
            Cell(e.name),
            Cell(f"{e.model}, version {e.version}"),
            Cell(e.policy),
            Cell(e.fingerprint),
            Cell(_scores_text(e.scores, e.decimals)),
            number(e.support, f"{e.support} of {e.num_classes}"),
            number(e.teacher_accuracy, percent(e.teacher_accuracy)),
            Cell(e.labels[:_DIGEST]),
            number(
                e.queries_spent,
                _queries_text(e.queries_transfer, e.queries_evaluation, e.queries_attacks),
            ),
            number(e.queries_charged, cost(e.queries_charged)),
        )
        for e in audit.endpoints
    ]
    head = (
        Column("endpoint"),
        Column("model"),
        Column("policy"),
        Column("fingerprint"),
        Column("scores"),
        Column("N of K", "number"),
        Column("teacher %", "number"),
        Column("labels, digest"),
        Column("queries", "number"),
        Column("charged", "number"),
    )
    return Table("endpoints", "Endpoints, their answers and what they cost", head, tuple(lines))


def health_table(audit: Audit) -> Table:
    """Return each attack's runs, over all endpoints."""
    lines = [
        (
            Cell(item.attack),
            number(item.runs, cost(item.runs)),
            number(item.finite, cost(item.finite)),
            Cell() if item.attack in ("no_api", "guess") else number(item.gains, cost(item.gains)),
        )
        for item in health(audit)
    ]
    head = (
        Column("attack"),
        Column("runs", "number"),
        Column("finite", "number"),
        Column("above the baseline", "number"),
    )
    return Table("health", "Attack health", head, tuple(lines))


def _gap_cell(gap: float, text: str) -> Cell:
    return Cell(text, gap)


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
        has_baseline = view.has_baseline(s.student, s.budget)
        error = view.uplift(s).error if has_baseline else None
        uplift = points(s.uplift_mean, error)
        if scale is not None and has_baseline:
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


def _scores_text(scores: str, decimals: int) -> str:
    if scores not in ("log_prob", "prob", "logit"):
        return scores
    return f"{scores}, {decimals} decimal{'' if decimals == 1 else 's'}"


def _queries_text(transfer: int, evaluation: int, attacks: int) -> str:
    text = f"{transfer:,} + {evaluation:,}"
    return f"{text} + {attacks:,}" if attacks else text
