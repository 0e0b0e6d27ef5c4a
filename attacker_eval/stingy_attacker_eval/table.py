"""The audit's outcome on a terminal."""

from rich.console import Console
from rich.table import Table

from stingy_attacker_eval.protocol import NO_ENDPOINT
from stingy_attacker_eval.report import Audit, verdict


def print_table(audit: Audit, console: Console) -> None:
    """One line an attack, the best of each endpoint in bold, then a verdict an endpoint."""
    best = {name: (s.attack, s.student) for name, s in audit.best.items()}
    table = Table("endpoint", "attack", "student")
    for title in ("accuracy %", "agreement %", "uplift, points"):
        table.add_column(title, justify="right")
    previous = None
    for s in audit.summaries:
        if previous not in (None, s.endpoint):
            table.add_section()
        previous = s.endpoint
        baseline = s.endpoint == NO_ENDPOINT
        table.add_row(
            "no API" if baseline else s.endpoint,
            s.attack.replace("[", r"\["),
            s.student,
            _number(s.accuracy_mean, s.accuracy_spread) if s.n else "broken attack",
            _number(s.agreement_mean, None),
            "" if baseline else _number(s.uplift_mean, s.uplift_spread, "+"),
            style="bold" if best.get(s.endpoint) == (s.attack, s.student) else None,
        )
    console.print(table)
    for endpoint in audit.endpoints:
        found = verdict(audit, endpoint)
        text = f"{found.endpoint}: {found.sentence} {found.remark}"
        console.print(text, highlight=False, markup=False)


def _number(mean: float | None, spread: float | None, sign: str = "") -> str:
    if mean is None:
        return ""
    return f"{mean:{sign}.1f}" if spread is None else f"{mean:{sign}.1f} ± {spread:.1f}"
