"""Write the tables of published audits into the pages that show them.

    python benchmarks/audit/tables.py [--check]

A table stands between two lines, of which the first names a folder of attacker_eval/results and a
kind, with the attacker's or attack's name where the kind takes one:

    <!-- table frontier_cifar10 attackers -->
    <!-- end of table -->

| kind | what the table has |
|---|---|
| brief ENDPOINT,... | attackers by endpoints: the best attack's uplift |
| attackers | each attacker and endpoint: baselines, best attack, uplift and its interval |
| students ATTACK | endpoints by students: accuracy, and points over no API |
| attacks | endpoints by attacks: the same, of the first attacker's first student |
| list ATTACKER | every attack of an attacker: queries, accuracy, uplift |
| frontier | each endpoint's use to clients, and its best attack |
| gaps | the comparisons of heldout.py, beside the numbers of other code |
| thieves, innocents, costs, orders | of a study of marks: study_tables.py |

With --check the command changes nothing, and fails if a page differs from its audits.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import study_tables
from heldout import gap_table

from stingy_attacker_eval.report.analysis import Audit, read_audit
from stingy_attacker_eval.report.exporters import ATTACKER_HEAD, as_markdown, attacker_table
from stingy_attacker_eval.report.formatting import cost, percent
from stingy_attacker_eval.results import NO_ENDPOINT, Summary

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "attacker_eval" / "results"
PAGES = ("README.md", "docs/results.md", "docs/policies.md", "docs/prove.md")
_BLOCK = re.compile(r"(<!-- table (\S+) (\w+)(?: (\S+))? -->\n).*?(<!-- end of table -->)", re.S)


def fill(text: str, results: Path = RESULTS) -> str:
    """Return the page with each table drawn from its audit.

    Raises AuditError if an audit is absent, KeyError if a kind is unknown.
    """

    def draw(found: re.Match[str]) -> str:
        head, folder, kind, name, end = found.groups()
        if kind in study_tables.KINDS:
            table = study_tables.KINDS[kind](study_tables.read_results(results / folder))
            return f"{head}{_table(*table)}{end}"
        return f"{head}{KINDS[kind](read_audit(results / folder), name)}{end}"

    return _BLOCK.sub(draw, text)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _attackers(audit: Audit, _: str | None) -> str:
    return _table(ATTACKER_HEAD, attacker_table(audit))


def _brief(audit: Audit, endpoints: str | None) -> str:
    """Draw attackers, in words, by some endpoints."""
    names = (endpoints or "").split(",")
    lines = []
    for view in audit.views:
        found = [view.best.get(name) for name in names]
        cells = ["" if s is None else view.uplift_text(s) for s in found]
        lines.append([view.attacker.text, *cells])
    return _table(["the attacker owns", *(f"*{name}*" for name in names)], lines)


def _frontier(audit: Audit, _: str | None) -> str:
    printed = as_markdown(audit)
    start = printed.index("| endpoint | top-1")
    return printed[start:].partition("\n\n")[0] + "\n"


def _students(audit: Audit, attack: str | None) -> str:
    """Draw endpoints by students, for one attack, with the baseline first."""
    whole = [s for s in audit.summaries if s.budget is None]
    students = list(dict.fromkeys(s.student for s in whole))
    accuracies = {item.name: item.teacher_accuracy for item in audit.endpoints}

    def cells(endpoint: str, name: str) -> list[str]:
        own = {s.student: s for s in whole if (s.endpoint, s.attack_name) == (endpoint, name)}
        return [_cell(audit, own.get(student)) for student in students]

    lines = [["no API", "", *cells(NO_ENDPOINT, "no_api")]]
    lines += [[name, percent(accuracies[name]), *cells(name, attack or "")] for name in accuracies]
    return _table(["endpoint", "teacher", *students], lines)


def _attacks(audit: Audit, _: str | None) -> str:
    """Draw endpoints by attacks, for the first student."""
    whole = [s for s in audit.summaries if s.budget is None and s.student == audit.students[0]]
    attacks = list(dict.fromkeys(s.attack for s in whole if s.endpoint != NO_ENDPOINT))
    found = {(s.endpoint, s.attack): s for s in whole}
    lines = [
        [item.name, *(_cell(audit, found.get((item.name, attack))) for attack in attacks)]
        for item in audit.endpoints
    ]
    return _table(["endpoint", *attacks], lines)


def _list(audit: Audit, attacker: str | None) -> str:
    view = next(view for view in audit.views if view.attacker.name == attacker)
    lines = [
        [
            "no API" if s.endpoint == NO_ENDPOINT else s.endpoint,
            s.shown,
            cost(s.queries),
            percent(s.accuracy_mean),
            "" if s.endpoint == NO_ENDPOINT else view.uplift_text(s),
        ]
        for s in view.summaries
    ]
    return _table(["endpoint", "attack", "queries", "accuracy, %", "uplift"], lines)


def _cell(audit: Audit, summary: Summary | None) -> str:
    if summary is None:
        return ""
    accuracy = percent(summary.accuracy_mean)
    if summary.endpoint == NO_ENDPOINT:
        return accuracy
    return f"{accuracy} ({audit.uplift_text(summary)})"


KINDS: dict[str, Callable[[Audit, str | None], str]] = {
    "brief": _brief,
    "attackers": _attackers,
    "students": _students,
    "attacks": _attacks,
    "list": _list,
    "frontier": _frontier,
    "gaps": lambda audit, _: _table(*gap_table(audit.report)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    check = parser.parse_args().check
    differing = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        filled = fill(text)
        if filled != text:
            differing.append(page)
            if not check:
                path.write_text(filled, encoding="utf-8")
    if differing:
        print(f"{'differs' if check else 'written'}: {', '.join(differing)}")  # noqa: T201
    sys.exit(bool(check and differing))


if __name__ == "__main__":
    main()
