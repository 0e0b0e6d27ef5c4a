"""`stingy watch`: the profiles of all keys, as a table or as JSON."""

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

from stingy_server.detection.key_profiles import Action, KeyProfile, KeyProfileStore
from stingy_server.store.database import Database
from stingy_server.store.keys import Key, Keys

EVERY_S = 1.0

# The columns fit a terminal of 80 characters. Only names may be cut.
COLUMNS = ("id", "name", "score", "step", "near", "cover", "norm", "bits", "images", "today", "ago")
COLOURS = {
    Action.NONE: "",
    Action.ALARM: "yellow",
    Action.MARK: "yellow",
    Action.LABELS: "yellow",
    Action.REFUSE: "red",
}


def document(profile: KeyProfile) -> dict[str, Any]:
    """Return the JSON object of one key, for scripts."""
    return {
        "id": profile.key,
        "score": round(profile.score, 3),
        "step": profile.action,
        "near_share": round(profile.near_share, 4),
        "coverage": round(profile.coverage, 4),
        "normality": None if profile.normality is None else round(profile.normality, 4),
        "bits": round(profile.bits, 1),
        "images": profile.images,
        "budget_used_today": round(profile.budget_used_today, 4),
        "updated": profile.updated,
    }


def table(profiles: Sequence[KeyProfile], keys: Sequence[Key]) -> Table:
    """Return the table of all keys, for people.

    Names are text, not markup, because the creators of the keys choose them.
    """
    names = {key.id: key.name for key in keys}
    grid = Table(box=box.SIMPLE, padding=0, pad_edge=False)
    for column in COLUMNS:
        grid.add_column(column, no_wrap=True, min_width=None if column == "name" else len(column))
    for profile in profiles:
        normality = "" if profile.normality is None else f"{profile.normality:.2f}"
        grid.add_row(
            profile.key,
            Text(names.get(profile.key, "")),
            f"{profile.score:.2f}",
            Text(profile.action, style=COLOURS[Action(profile.action)]),
            f"{profile.near_share:.0%}",
            f"{profile.coverage:.2f}",
            normality,
            f"{profile.bits:,.0f}",
            f"{profile.images:,}",
            f"{profile.budget_used_today:.0%}",
            f"{max(0.0, time.time() - profile.updated):.0f} s",
        )
    return grid


def run(database: Database, *, once: bool, as_json: bool) -> None:
    """Print once, or every second until interrupted. JSON is one line each time.

    Raises:
        StoreUnavailable: if the rows cannot be read.
    """
    profiles = KeyProfileStore(database)
    if as_json:
        for _ in _ticks(once=once):
            typer.echo(json.dumps([document(profile) for profile in profiles.all()]))
        return
    keys = Keys(database)
    console = Console()
    if once:
        console.print(_current_table(profiles, keys))
        return
    with Live(_current_table(profiles, keys), console=console, auto_refresh=False) as live:
        for _ in _ticks(once=False):
            live.update(_current_table(profiles, keys), refresh=True)


def _current_table(profiles: KeyProfileStore, keys: Keys) -> Table:
    return table(profiles.all(), [key for key, _ in keys.all()])


def _ticks(*, once: bool) -> Iterator[None]:
    yield
    with contextlib.suppress(KeyboardInterrupt):
        while not once:
            time.sleep(EVERY_S)
            yield
