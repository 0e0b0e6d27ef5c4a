"""The audit's results on a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stingy_attacker_eval.report.analysis import Audit, headlines, verdict
from stingy_attacker_eval.report.formatting import percent, signed
from stingy_attacker_eval.results import NO_ENDPOINT


def print_table(audit: Audit, console: Console) -> None:
    """Print a table per student, with each endpoint's best attack in bold, then the verdicts."""
    for view in audit.views:
        for student in view.students:
            console.print(_table(view, student))
    for endpoint in audit.endpoints:
        found = verdict(audit, endpoint)
        text = f"{found.title}: {found.sentence} {found.remark}\n"
        console.print(text, highlight=False, markup=False)
    for sentence in headlines(audit):
        console.print(f"{sentence}\n", highlight=False, markup=False)


def _table(audit: Audit, student: str) -> Table:
    owner = f"attacker {audit.attacker.name}, " if len(audit.views) > 1 else ""
    table = Table("endpoint", title=f"{owner}student {student}", box=SIMPLE_HEAD)
    table.add_column("attack", no_wrap=True)
    for title in ("accuracy %", "agreement %", "uplift"):
        table.add_column(title, justify="right", no_wrap=True)
    previous = NO_ENDPOINT
    for s in (s for s in audit.summaries if s.student == student):
        if previous != s.endpoint:
            table.add_section()
        previous = s.endpoint
        baseline = s.endpoint == NO_ENDPOINT
        table.add_row(
            "no API" if baseline else s.endpoint,
            s.shown.replace("[", r"\["),
            percent(s.accuracy_mean, s.accuracy_spread) if s.n else "broken attack",
            "" if s.agreement_mean is None else percent(s.agreement_mean),
            "" if baseline or not s.n else signed(s.uplift_mean, s.uplift_spread),
            style="bold" if audit.best.get(s.endpoint) == s else None,
        )
    return table
