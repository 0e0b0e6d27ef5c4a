"""`stingy ledger`: read the ledger, verify its chains, and prune it."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stingy_server.cli.command import (
    MAX_COUNT,
    AsJson,
    Config,
    State,
    end,
    open_present,
    open_state,
)
from stingy_server.cli.keys import find_key
from stingy_server.cli.progress import counting

if TYPE_CHECKING:
    from stingy_server.store.ledger import Entry

EVERY_S = 1.0  # between two looks for new entries
COUNTED = 1000  # entries between two reports of progress

app = typer.Typer(
    no_args_is_help=True, help="Read the ledger, the record of all prediction requests."
)


@app.command()
def tail(
    count: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=MAX_COUNT, help="Number of entries.")
    ] = 10,
    key: Annotated[
        str | None, typer.Option(metavar="ID|NAME", help="Only the entries of this key.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new entries until interrupted.")
    ] = False,
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show the latest entries, and with --follow each new one."""
    with (
        open_state(config, state, read_only=True) as (_, database),
        contextlib.suppress(KeyboardInterrupt),
    ):
        from stingy_server.cli.tables.ledger import ledger_lines
        from stingy_server.store.keys import Keys
        from stingy_server.store.ledger import PAGE, Ledger

        keys, ledger_store = Keys(database), Ledger(database)
        key_id = None if key is None else find_key(keys, key).id
        after = ledger_store.last(count, key=key_id)
        heads = True
        while True:
            entries = ledger_store.entries(after=after, key=key_id)
            while page := [*islice(entries, PAGE)]:
                after = page[-1][0]
                if as_json:
                    lines = [_json_line(*entry) for entry in page]
                else:
                    names = {each.id: each.name for each, _ in keys.all()}
                    lines = ledger_lines(page, names, heads=heads)
                heads = False
                for line in lines:
                    typer.echo(line)
            if not follow:
                break
            time.sleep(EVERY_S)
        if heads and not as_json:
            typer.echo("the ledger has no such entry")


@app.command()
def export(
    form: Annotated[
        str, typer.Option("--format", help="Format of the output, jsonl or csv.")
    ] = "jsonl",
    after: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Print only entries after this number.")
    ] = 0,
    config: Config = None,
    state: State = None,
) -> None:
    """Print all entries, as JSON lines or CSV."""
    import csv

    if form not in ("jsonl", "csv"):
        end([f"expected the format jsonl or csv, got {form}"])
    with open_state(config, state, read_only=True) as (_, database), counting("exporting") as count:
        from stingy_server.store.ledger import Entry, Ledger

        entries = _counted(Ledger(database).entries(after=after), count)
        if form == "jsonl":
            for seq, entry in entries:
                typer.echo(_json_line(seq, entry))
            return
        rows = csv.writer(sys.stdout)
        rows.writerow(["seq", *Entry._fields])
        rows.writerows([seq, *entry] for seq, entry in entries)


@app.command()
def head(config: Config = None, state: State = None) -> None:
    """Print the head of each chain, one JSON object a line. Keep them on another machine."""
    with open_present(config, state) as reader:
        from stingy_server.maintenance.verify import read_heads

        for found in read_heads(reader):
            typer.echo(json.dumps(found.fields()))


@app.command()
def verify(
    against: Annotated[
        Path | None,
        typer.Option(help="Heads that `stingy ledger head` or the log had earlier, one a line."),
    ] = None,
    config: Config = None,
    state: State = None,
) -> None:
    """Verify that no entry was changed, removed or inserted, as far as the chains show it."""
    with open_present(config, state) as reader:
        from stingy_server.maintenance.heads import read_kept_heads
        from stingy_server.maintenance.verify import verify as verify_chains

        kept = [] if against is None else read_kept_heads(against)
        with counting("verifying") as count:
            found = verify_chains(reader, against=kept, on_entries=count)
    for note in found.notes:
        typer.echo(note)
    if found.faults:
        end(found.faults)
    typer.echo(f"{found.chained} entries are linked as they were written")
    if found.unchained:
        typer.echo(f"{found.unchained} entries of release 0.1.0 are in no chain")
    if against is None:
        typer.echo("compared with no head that was kept elsewhere, so a rebuilt chain or a cut end")
        typer.echo("would not show: see --against")


@app.command()
def prune(
    before: Annotated[
        str, typer.Option(help="Date or time of UTC, such as 2026-01-31. Older entries go.")
    ],
    config: Config = None,
    state: State = None,
) -> None:
    """Delete the oldest entries for good, while servers run. Budgets do not change."""
    from stingy_server.maintenance.prune import parse_moment
    from stingy_server.maintenance.prune import prune as prune_ledger

    try:
        moment = parse_moment(before)
    except ValueError as error:
        end([f"--before: {error}"])
    deleted, began = 0, time.monotonic()
    with open_state(config, state) as (_, database):
        for pruned in prune_ledger(database, before=moment):
            deleted += pruned.entries
            rate = deleted / max(time.monotonic() - began, 1e-3)
            typer.echo(
                f"{deleted} entries are deleted, up to number {pruned.last}, {rate:,.0f} a second"
            )
    if not deleted:
        typer.echo("no entry is older, so none is deleted")


def _counted(
    entries: "Iterator[tuple[int, Entry]]", count: Callable[[int], None]
) -> "Iterator[tuple[int, Entry]]":
    """Yield entries, and count them where the output is not on the terminal too."""
    for place, entry in enumerate(entries, 1):
        yield entry
        if place % COUNTED == 0 and not sys.stdout.isatty():
            count(COUNTED)


def _json_line(seq: int, entry: "Entry") -> str:
    return json.dumps({"seq": seq, **entry._asdict()})
