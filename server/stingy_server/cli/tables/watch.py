"""`stingy watch`: the profiles of all keys, as a table or as JSON."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from stingy_clients.text_table import Column, format_table
from stingy_server.cli.tables.short import short_number, short_time
from stingy_server.detection.key_profiles import Action, KeyProfile, KeyProfileStore
from stingy_server.store.database import Database
from stingy_server.store.key import Key
from stingy_server.store.keys import Keys

EVERY_S = 1.0

# Only names may be cut, because `stingy keys release` needs the id.
COLUMNS = (
    Column("id"),
    Column("name", least=6),
    Column("score", right=True),
    Column("step"),
    *(Column(head, right=True) for head in ("near", "cover", "norm", "bits", "images", "today")),
    Column("ago", right=True),
)
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


def lines(profiles: Sequence[KeyProfile], keys: Sequence[Key]) -> list[str]:
    """Return the lines of the table of all keys, for people: the titles, then one line a key."""
    names = {key.id: key.name for key in keys}
    return format_table(
        COLUMNS,
        [
            (
                profile.key,
                names.get(profile.key, ""),
                f"{profile.score:.2f}",
                profile.action,
                f"{profile.near_share:.0%}",
                f"{profile.coverage:.2f}",
                "" if profile.normality is None else f"{profile.normality:.2f}",
                short_number(round(profile.bits)),
                short_number(profile.images),
                f"{profile.budget_used_today:.0%}",
                short_time(time.time() - profile.updated),
            )
            for profile in profiles
        ],
    )


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
        console.print(_coloured(profiles, keys), soft_wrap=True)
        return
    with Live(_coloured(profiles, keys), console=console, auto_refresh=False) as live:
        for _ in _ticks(once=False):
            live.update(_coloured(profiles, keys), refresh=True)


def _coloured(store: KeyProfileStore, keys: Keys) -> Text:
    """Return the present table, with the keys that an alarm has acted on in colour."""
    profiles = store.all()
    head, *rows = lines(profiles, [key for key, _ in keys.all()])
    styled = [Text(head, style="bold")]
    for row, profile in zip(rows, profiles, strict=True):
        styled.append(Text(row, style=COLOURS[Action(profile.action)]))
    if not rows:
        styled.append(Text("no key has got an answer yet"))
    table = Text("\n").join(styled)
    table.no_wrap, table.overflow = True, "ignore"
    return table


def _ticks(*, once: bool) -> Iterator[None]:
    yield
    with contextlib.suppress(KeyboardInterrupt):
        while not once:
            time.sleep(EVERY_S)
            yield
