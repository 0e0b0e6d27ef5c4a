"""An audit's numbers beside the published ones; a cell that was not run stays empty."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from stingy_attacker_eval.report_schema import AuditConfig, EndpointResult
from stingy_attacker_eval.results import NO_ENDPOINT, Summary

_SELF = "self"
_NORMAL = ("normal", "open")


@dataclass(frozen=True)
class Cell:
    """One printed number in percent, and ours if it was run; differences are in points."""

    printed: float | None
    printed_difference: float | None = None
    ours: Summary | None = None
    ours_difference: float | None = None


@dataclass(frozen=True)
class PaperTable:
    """One published table with this audit's numbers.

    baseline: one cell per student.
    rows: the teacher with its defence, the teacher's accuracy as printed and ours, and one cell per
        student.
    """

    title: str
    dataset: str
    attack: str
    students: tuple[str, ...]
    baseline: tuple[Cell, ...]
    rows: tuple[tuple[str, float, float | None, tuple[Cell, ...]], ...]


def paper_tables(
    config: AuditConfig,
    endpoints: Sequence[EndpointResult],
    summaries: Sequence[Summary],
) -> tuple[PaperTable, ...]:
    """Return the published tables of which this audit ran at least one cell.

    A cell needs the same networks as printed. It may be of another data set, which the table names.
    Two tables of one attack are distinguished by their number of classes.
    """
    text = (files("stingy_attacker_eval.report") / "paper_tables.toml").read_text(encoding="utf-8")
    places = _places(config, endpoints)
    found = []
    for printed in tomllib.loads(text).values():
        if printed["attack"] == "dafl" and not _same_size(printed["dataset"], endpoints):
            continue
        table = _table(printed, places, summaries)
        if any(cell.ours is not None for row in table.rows for cell in row[3]):
            found.append(table)
    return tuple(found)


def _places(
    config: AuditConfig, endpoints: Sequence[EndpointResult]
) -> dict[tuple[str, str], EndpointResult]:
    """Return endpoints by the teacher's network and the defence, if the protocol names both."""
    networks = {teacher.name: teacher.network for teacher in config.teachers}
    bundles = {item.name: item.bundle or "" for item in config.endpoints}
    places: dict[tuple[str, str], EndpointResult] = {}
    for item in endpoints:
        network = networks.get(bundles.get(item.name, "").rpartition("-")[0])
        defence = "normal" if item.defence in _NORMAL else item.defence
        if network is not None:
            places.setdefault((network, defence), item)
    return places


def _same_size(dataset: str, endpoints: Sequence[EndpointResult]) -> bool:
    classes = int(dataset.rpartition("-")[2])
    return any(item.num_classes == classes for item in endpoints)


def _table(
    printed: Mapping[str, Any],
    places: Mapping[tuple[str, str], EndpointResult],
    summaries: Sequence[Summary],
) -> PaperTable:
    students = tuple(printed["students"])
    rows = []
    for row in printed["rows"]:
        place = places.get((row["teacher"], row["defence"]))
        cells = []
        for student, number, difference in zip(
            students, row["students"], row["difference"], strict=True
        ):
            named = row["teacher"] if student == _SELF else student
            ours = None
            if place is not None:
                ours = _find(summaries, place.name, printed["attack"], named)
            cells.append(Cell(number, difference, ours, ours.uplift_mean if ours else None))
        accuracy = place.teacher_accuracy if place is not None else None
        title = f"{row['teacher']} {row['defence']}"
        rows.append((title, row["accuracy"], accuracy, tuple(cells)))
    if not printed["baseline"]:
        rows = _from_normal(rows)
    baseline = tuple(
        Cell(printed["baseline"].get(name), ours=_find(summaries, NO_ENDPOINT, "no_api", name))
        for name in students
    )
    return PaperTable(
        title=printed["title"],
        dataset=printed["dataset"],
        attack=printed["attack"],
        students=students,
        baseline=baseline if printed["baseline"] else (),
        rows=tuple(rows),
    )


_Rows = list[tuple[str, float, float | None, tuple[Cell, ...]]]


def _from_normal(rows: _Rows) -> _Rows:
    """Count the differences from the normal teacher's student, as table 2 of the paper does."""
    base = [cell.ours.accuracy_mean if cell.ours is not None else None for cell in rows[0][3]]
    counted = []
    for title, printed, ours, cells in rows:
        changed = []
        for cell, normal in zip(cells, base, strict=True):
            mean = cell.ours.accuracy_mean if cell.ours is not None else None
            difference = None if mean is None or normal is None else mean - normal
            changed.append(Cell(cell.printed, cell.printed_difference, cell.ours, difference))
        counted.append((title, printed, ours, tuple(changed)))
    return counted


def _find(summaries: Sequence[Summary], endpoint: str, attack: str, student: str) -> Summary | None:
    return next(
        (
            s
            for s in summaries
            if s.endpoint == endpoint
            and s.student == student
            and s.budget is None
            and (s.attack == attack or (s.white_box and s.attack_name == attack))
        ),
        None,
    )
