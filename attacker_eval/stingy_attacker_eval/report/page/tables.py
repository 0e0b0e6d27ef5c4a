"""The tables of a page: cells with the numbers by which the page's script sorts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from stingy_attacker_eval.report.analysis import Audit, health
from stingy_attacker_eval.report.formatting import cost, percent, signed, with_errors
from stingy_attacker_eval.report.label_only_baseline import LabelOnlyBaseline, Outcome
from stingy_attacker_eval.report.verdicts import AttackerVerdict

_DIGEST = 12


@dataclass(frozen=True)
class Column:
    """A column.

    kind: "text", "number", "mark" or "figure". The script sorts by all but figures.
    hides: "minor" or "tiny" for a column that a narrow or a very narrow screen leaves to another
        table; empty for one that is always there.
    """

    title: str
    kind: str = "text"
    hides: str = ""


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


def without_empty_columns(table: Table) -> Table:
    """Leave out the columns in which no line has anything."""
    filled = [
        place
        for place in range(len(table.head))
        if not table.lines or any(line[place] != Cell() for line in table.lines)
    ]
    return replace(
        table,
        head=tuple(table.head[place] for place in filled),
        lines=tuple(tuple(line[place] for place in filled) for line in table.lines),
    )


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
            *_comparison_cells(compared.get(item.name)),
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
        Column("list over labels (95 % interval)", "number"),
        Column("attacks"),
        Column("outcome"),
    )
    table = Table("clients", "What clients keep, and what lists add to labels", head, tuple(lines))
    return without_empty_columns(table)


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


def _comparison_cells(compared: LabelOnlyBaseline | None) -> tuple[Cell, ...]:
    """Return the gap of the list over labels alone, the two attacks, and the outcome."""
    if compared is None:
        return (Cell(), Cell(), Cell())
    if compared.outcome is Outcome.UNTRIED:
        return (Cell(), Cell(), Cell(compared.outcome_text))
    gap = compared.gap
    numbers = f"{signed(gap.mean)} ({gap.reliability.partition(',')[0]})"
    return (
        Cell(numbers, gap.mean),
        Cell(compared.attacks_text),
        Cell(compared.outcome_text),
    )


def _scores_text(scores: str, decimals: int) -> str:
    if scores not in ("log_prob", "prob", "logit"):
        return scores
    return f"{scores}, {decimals} decimal{'' if decimals == 1 else 's'}"


def _queries_text(transfer: int, evaluation: int, attacks: int) -> str:
    text = f"{transfer:,} + {evaluation:,}"
    return f"{text} + {attacks:,}" if attacks else text
