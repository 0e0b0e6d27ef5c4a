"""The audit's results on a terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stingy_attacker_eval.report.advice import advice
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.comparison import Comparison
from stingy_attacker_eval.report.formatting import (
    cost,
    percent,
    readable,
    share_text,
    with_errors,
)
from stingy_attacker_eval.report.tiles import tiles
from stingy_attacker_eval.report.verdicts import (
    AttackerVerdict,
    attacker_verdicts,
    worst_by_kind,
)
from stingy_attacker_eval.results import NO_ENDPOINT

_WIDE = 120
_SYMBOLS = {
    "more": "\N{BLACK CIRCLE}",
    "same": "\N{BLACK SQUARE}",
    "unclear": "\N{WHITE DIAMOND}",
}


def print_table(audit: Audit, console: Console) -> None:
    """Print a table per student, with each endpoint's best attack in bold, then the verdicts."""
    for view in audit.views:
        for student in view.students:
            console.print(_table(view, student))
    print_verdicts(audit, console)


def print_verdicts(audit: Audit, console: Console) -> None:
    """Print what leaks, to whom, at what price and what to do, then a line for each endpoint."""
    found = attacker_verdicts(audit)
    console.print(Text(readable(audit.report.config.title), style="bold"), highlight=False)
    console.print(_verdict_grid(audit, found))
    if any(item.leaks for item in found):
        console.print(_policy_table(found, is_wide=console.width >= _WIDE))


def print_verdict_lines(audit: Audit, console: Console, *, attackers: Sequence[str] = ()) -> None:
    """Print the verdict alone: what leaks, to whom, at what price.

    attackers: those to print; empty for all.
    """
    found = tuple(
        item
        for item in attacker_verdicts(audit)
        if not attackers or item.view.attacker.name in attackers
    )
    grid = _grid()
    _add_tiles(grid, found)
    console.print(grid)


def print_comparison(found: Comparison, console: Console) -> None:
    """Print a line for each endpoint of two audits, regressions first."""
    several = len({pair.attacker for pair in found.pairs}) > 1
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    if several:
        table.add_column("attacker", overflow="fold")
    table.add_column("endpoint", overflow="fold")
    for title in ("before", "after", "change"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for pair in found.pairs:
        table.add_row(
            *((_text(pair.attacker),) if several else ()),
            _text(pair.after.title),
            with_errors(pair.before.uplift.mean, pair.before.uplift.error),
            with_errors(pair.after.uplift.mean, pair.after.uplift.error),
            with_errors(pair.delta, pair.error),
            f"{_SYMBOLS[pair.change.shape]} {pair.change}",
        )
    console.print(table)
    for title, names in (("A", found.only_before), ("B", found.only_after)):
        if names:
            console.print(_text(f"Only in {title}: {', '.join(names)}"), highlight=False)
    count = len(found.regressions)
    console.print(
        f"{count or 'No'} regression{'' if count == 1 else 's'} at 95 % "
        f"in {len(found.judged)} comparison{'' if len(found.judged) == 1 else 's'}"
        f"{_unjudged_text(found)}.",
        highlight=False,
    )


def _unjudged_text(found: Comparison) -> str:
    """Say how many pairs could not be judged."""
    count = len(found.pairs) - len(found.judged)
    return f"; {count} without an error or with other attacks" if count else ""


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    return grid


def _verdict_grid(audit: Audit, found: tuple[AttackerVerdict, ...]) -> Table:
    grid = _grid()
    _add_tiles(grid, found)
    advised = advice(audit, found)
    title = "DO"
    for choice in advised.choices:
        named = "" if choice.endpoint is None else f"{readable(choice.endpoint)}, "
        grid.add_row(title, _text(f"{choice.need}: {named}{choice.text}"))
        title = ""
    for remark in advised.remarks:
        grid.add_row(title, _text(remark))
        title = ""
    if advised.unable:
        grid.add_row("", _text(f"Could not run: {', '.join(advised.unable)}."))
    if advised.untried:
        grid.add_row("", _text(f"Not tried: {', '.join(advised.untried)}."))
    return grid


def _add_tiles(grid: Table, found: tuple[AttackerVerdict, ...]) -> None:
    shown = worst_by_kind(found)
    for item in shown:
        if len(shown) > 1:
            grid.add_row("", Text(f"{item.kind} ({item.view.attacker.name})", style="underline"))
        for tile in tiles(item):
            lead = Text(f"{tile.lead}: ", style="" if tile.is_quiet else "bold")
            grid.add_row(tile.title.upper(), lead + _text(tile.text))


def _policy_table(found: Sequence[AttackerVerdict], *, is_wide: bool) -> Table:
    """Return the endpoints of each attacker, those that keep most of the first five first."""
    several = len(found) > 1
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for name in (*(("attacker",) if several else ()), "endpoint", "teaches"):
        table.add_column(name, overflow="fold")
    for name in (
        "uplift",
        "of gap",
        *(("first 5 %", "ECE", "bytes", "queries") if is_wide else ()),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("best attack", overflow="fold")
    for item in found:
        for leak in sorted(item.leaks, key=lambda leak: -leak.endpoint.utility.top5):
            kept = leak.endpoint.utility
            wide = (
                percent(kept.top5),
                "" if kept.ece is None else percent(kept.ece),
                cost(kept.answer_bytes),
                cost(leak.best.queries),
            )
            mark = str(leak.mark) if is_wide else leak.mark.removesuffix(" than labels")
            table.add_row(
                *((_text(item.view.attacker.name),) if several else ()),
                _text(leak.endpoint.name),
                f"{_SYMBOLS[leak.mark.shape]} {mark}",
                with_errors(leak.uplift.mean, leak.uplift.error),
                share_text(leak.share),
                *(wide if is_wide else ()),
                _text(leak.best.attack),
            )
        table.add_section()
    return table


def _text(text: str) -> Text:
    """Return a name or a sentence without markup and without invisible characters."""
    return Text(readable(text))


def _table(audit: Audit, student: str) -> Table:
    owner = f"attacker {audit.attacker.name}, " if len(audit.views) > 1 else ""
    table = Table(title=_text(f"{owner}student {student}"), box=SIMPLE_HEAD, padding=(0, 1))
    for title in ("endpoint", "attack"):
        table.add_column(title, overflow="fold")
    for title in ("accuracy %", "agreement %", "uplift"):
        table.add_column(title, justify="right", no_wrap=True)
    previous = NO_ENDPOINT
    for s in (s for s in audit.summaries if s.student == student):
        if previous != s.endpoint:
            table.add_section()
        previous = s.endpoint
        baseline = s.endpoint == NO_ENDPOINT
        table.add_row(
            _text("no API" if baseline else s.endpoint),
            _text(s.shown),
            percent(s.accuracy_mean) if s.n else "broken attack",
            "" if s.agreement_mean is None else percent(s.agreement_mean),
            "" if baseline or not s.n else audit.uplift_text(s),
            style="bold" if audit.best.get(s.endpoint) == s else None,
        )
    return table
