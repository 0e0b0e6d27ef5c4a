"""The CI gate: an audit must be complete and finite, and its best attack below a threshold."""

import math
import xml.etree.ElementTree as ET  # written, never parsed
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stingy_attacker_eval.attacks.guess import Guess
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.report.analysis import Audit, unanswered
from stingy_attacker_eval.report.formatting import (
    endpoint_title,
    readable,
    signed_finely,
)
from stingy_attacker_eval.results import NO_ENDPOINT, Row

CALL = "the call"
"""The subject of the case that has the faults of what was asked for."""

_SHOWN = 3
_FEWEST_SEEDS = 3
_BASELINES = (NoApi.name, Guess.name)


@dataclass(frozen=True)
class GateCase:
    """One thing that the gate judges, with the reasons why it does not pass."""

    subject: str
    faults: tuple[str, ...]


def gate_cases(
    audit: Audit,
    *,
    max_uplift: float,
    endpoints: Sequence[str] = (),
    attackers: Sequence[str] = (),
) -> tuple[GateCase, ...]:
    """Judge an audit: first the call, then whether it is sound, then each uplift.

    It passes if every run of its configuration that was not skipped is there with a finite loss, if
    at least three seeds are reported, and if no best attack's uplift can be above `max_uplift`:
    its one-sided 95 % upper bound, mean + t * error, must not exceed it. Where one step has a
    fault, the later ones are left out, because they would prove nothing.

    max_uplift: points.
    endpoints, attackers: those to judge; empty for all.
    """
    names = tuple(endpoint.name for endpoint in audit.endpoints)
    owners = tuple(view.attacker.name for view in audit.views)
    unknown = [
        *_unknown("endpoints", endpoints, names),
        *_unknown("attackers", attackers, owners),
    ]
    if not math.isfinite(max_uplift):
        unknown.append(f"expected a finite number of points, got {max_uplift}")
    if unknown:
        return (GateCase(CALL, tuple(unknown)),)
    judged = endpoints or names
    views = [view for view in audit.views if not attackers or view.attacker.name in attackers]
    unsound = [fault for view in views for fault in _soundness_faults(view, judged)]
    complete = GateCase("every run is there and finite", tuple(unsound))
    if unsound:
        return (complete,)
    return (
        complete,
        *(
            GateCase(_title(view, name), tuple(_uplift_faults(view, name, max_uplift)))
            for view in views
            for name in judged
        ),
    )


def gate_faults(
    audit: Audit,
    *,
    max_uplift: float,
    endpoints: Sequence[str] = (),
    attackers: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the reasons why the audit does not pass `gate_cases`; none if it passes."""
    cases = gate_cases(audit, max_uplift=max_uplift, endpoints=endpoints, attackers=attackers)
    return tuple(fault for case in cases for fault in case.faults)


def junit_xml(cases: Sequence[GateCase], *, title: str) -> bytes:
    """Format the cases as a JUnit report: one test case each, failed with its reasons."""
    failed = sum(bool(case.faults) for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failed), "errors": "0"}
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": readable(title), **counts})
    for case in cases:
        names = {"classname": "stingy.audit.gate", "name": readable(case.subject)}
        element = ET.SubElement(suite, "testcase", names)
        if case.faults:
            text = "\n".join(map(readable, case.faults))
            failure = ET.SubElement(element, "failure", {"message": readable(case.faults[0])})
            failure.text = text
    ET.indent(root)
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def count_missing(view: Audit) -> tuple[int, int]:
    """Return how many runs of one attacker are missing, and how many there should be."""
    names = [endpoint.name for endpoint in view.endpoints]
    expected = set(_expected_runs(view, names))
    return len(expected - {_key(row) for row in _whole_rows(view)}), len(expected)


def gate_lines(
    audit: Audit, *, endpoints: Sequence[str] = (), attackers: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return one line for each endpoint compared, and one for each attack that was not run."""
    views = [view for view in audit.views if not attackers or view.attacker.name in attackers]
    compared = [
        f"{_title(view, name)}: {view.uplift_text(best)} points, "
        f"{_bound_text(view, name)} ({best.attack}, {best.student}, {best.n} seeds)"
        for view in views
        for name, best in view.best.items()
        if not endpoints or name in endpoints
    ]
    skipped = [
        f"{_title(view, item.endpoint)}: {item.attack} was not run: it {item.reason}"
        for view in views
        for item in view.report.skipped
        if item.attacker == view.attacker.name and (not endpoints or item.endpoint in endpoints)
    ]
    return (*compared, *skipped)


def _unknown(kind: str, chosen: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    unknown = [name for name in chosen if name not in names]
    if unknown:
        yield f"expected {kind} of the audit ({', '.join(names)}), got {', '.join(unknown)}"


def _soundness_faults(view: Audit, judged: Sequence[str]) -> Iterator[str]:
    """Yield the faults that make the numbers incomparable."""
    config, rows = view.report.config, _whole_rows(view)
    if not judged or len(config.seeds) < _FEWEST_SEEDS:
        yield (
            f"expected {_FEWEST_SEEDS} seeds or more and an endpoint, got {len(config.seeds)} "
            f"and {len(judged)}"
        )
    expected = set(_expected_runs(view, judged))
    missing = expected - {_key(row) for row in rows}
    if missing:
        yield f"expected {len(expected)} runs, {len(missing)} are missing: {_list_first(missing)}"
    broken = {_key(row) for row in rows if not row.finite} & expected
    if broken:
        listed = _list_first(broken)
        yield f"expected finite losses, {len(broken)} of {len(expected)} runs broke: {listed}"
    for name in judged:
        if name not in view.best:
            yield f"{_title(view, name)}: {unanswered(view, name)}"


def _uplift_faults(view: Audit, name: str, max_uplift: float) -> Iterator[str]:
    best = view.best[name]
    upper = view.uplift(best).upper
    if upper is None or not upper <= max_uplift:
        yield (
            f"{_title(view, name)}: {best.attack} gained "
            f"{view.uplift_text(best)} points with {best.student}, "
            f"{_bound_text(view, name)}, more than {max_uplift:g}"
        )


def _whole_rows(view: Audit) -> list[Row]:
    """Return the attacker's rows on all images.

    Runs with smaller budgets are for the curve: they are neither required nor judged.
    """
    attacker = view.attacker.name
    return [row for row in view.report.rows if row.budget is None and row.attacker == attacker]


def _bound_text(view: Audit, name: str) -> str:
    upper = view.uplift(view.best[name]).upper
    return "without a bound" if upper is None else f"at most {signed_finely(upper)} (95 %)"


def _expected_runs(view: Audit, judged: Sequence[str]) -> Iterator[tuple[str, str, str, int]]:
    """Yield every run of the configuration, without those that the audit skipped."""
    config = view.report.config
    skipped = {
        (item.endpoint, item.attack)
        for item in view.report.skipped
        if item.attacker == view.attacker.name
    }
    own = {item.name: item for item in config.endpoints}
    common = tuple(attack for attack in config.attacks if attack not in _BASELINES)
    baseline = NoApi.name if view.attacker.labelled else Guess.name
    for name in (NO_ENDPOINT, *judged):
        attacks: tuple[str, ...] = (baseline,)
        students = config.students
        if name != NO_ENDPOINT:
            attacks = (*common, *own[name].attacks)
            students = (*students, *own[name].students)
        for attack in attacks:
            if (name, attack) in skipped:
                continue
            for student in students:
                for seed in (*config.selection_seeds, *config.seeds):
                    yield name, attack, student, seed


def _key(row: Row) -> tuple[str, str, str, int]:
    return row.endpoint, row.attack, row.student, row.seed


def _list_first(keys: set[tuple[str, str, str, int]]) -> str:
    shown = [f"{e}, {a}, {s}, seed {seed}" for e, a, s, seed in sorted(keys)[:_SHOWN]]
    return "; ".join(shown) + ("; ..." if len(keys) > _SHOWN else "")


def _title(view: Audit, name: str) -> str:
    """Return the endpoint's title, after the attacker's name if the audit has several."""
    endpoint = next(item for item in view.endpoints if item.name == name)
    attacker = f"{view.attacker.name}, " if len(view.views) > 1 else ""
    return f"{attacker}{endpoint_title(name, endpoint.defence)}"
