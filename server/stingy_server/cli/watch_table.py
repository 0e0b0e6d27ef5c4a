"""`stingy watch`: what the rows of all keys say, as a table or as JSON."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stingy_server.detection.key_profiles import Standing, Standings, Step
from stingy_server.store.database import Database
from stingy_server.store.keys import Key, Keys

EVERY_S = 1.0

# Short enough for a terminal of 80 columns; names may be cut, nothing else.
COLUMNS = ("id", "name", "score", "step", "near", "cover", "norm", "bits", "images", "today", "ago")
COLOURS = {Step.NONE: "", Step.ALARM: "yellow", Step.LABELS: "yellow", Step.REFUSE: "red"}


def document(standing: Standing) -> dict[str, Any]:
    """One row for scripts."""
    return {
        "id": standing.key,
        "score": round(standing.score, 3),
        "step": standing.step,
        "near_share": round(standing.near_share, 4),
        "coverage": round(standing.coverage, 4),
        "normality": None if standing.normality is None else round(standing.normality, 4),
        "bits": round(standing.bits, 1),
        "images": standing.images,
        "burnt_today": round(standing.burnt, 4),
        "updated": standing.updated,
    }


def table(standings: Sequence[Standing], keys: Sequence[Key]) -> Table:
    """The rows for people; names come from whoever made the keys and are no markup."""
    names = {key.id: key.name for key in keys}
    shown = Table(box=box.SIMPLE, padding=0, pad_edge=False)
    for column in COLUMNS:
        shown.add_column(column, no_wrap=True, min_width=None if column == "name" else len(column))
    for standing in standings:
        normality = "" if standing.normality is None else f"{standing.normality:.2f}"
        shown.add_row(
            standing.key,
            Text(names.get(standing.key, "")),
            f"{standing.score:.2f}",
            Text(standing.step, style=COLOURS[Step(standing.step)]),
            f"{standing.near_share:.0%}",
            f"{standing.coverage:.2f}",
            normality,
            f"{standing.bits:,.0f}",
            f"{standing.images:,}",
            f"{standing.burnt:.0%}",
            f"{max(0.0, time.time() - standing.updated):.0f} s",
        )
    return shown


def run(database: Database, *, once: bool, as_json: bool) -> None:
    """Print once, or every second until interrupted; JSON is one line a time.

    Raises:
        StoreUnavailable: the rows cannot be read.
    """
    standings = Standings(database)
    if as_json:
        for _ in _times(once=once):
            typer.echo(json.dumps([document(standing) for standing in standings.all()]))
        return
    keys = Keys(database)
    console = Console()
    if once:
        console.print(_now(standings, keys))
        return
    with Live(_now(standings, keys), console=console, auto_refresh=False) as live:
        for _ in _times(once=False):
            live.update(_now(standings, keys), refresh=True)


def _now(standings: Standings, keys: Keys) -> Table:
    return table(standings.all(), [key for key, _ in keys.all()])


def _times(*, once: bool) -> Iterator[None]:
    yield
    with contextlib.suppress(KeyboardInterrupt):
        while not once:
            time.sleep(EVERY_S)
            yield
