"""`stingy ledger`: read the ledger, verify its chains, and prune it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stingy_server.cli.command import MAX_COUNT, Config, State, end, open_present, open_state

if TYPE_CHECKING:
    from stingy_server.store.ledger import Ledger

app = typer.Typer(
    no_args_is_help=True, help="Read the ledger, the record of all prediction requests."
)


@app.command()
def tail(
    count: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=MAX_COUNT, help="Number of entries.")
    ] = 10,
    config: Config = None,
    state: State = None,
) -> None:
    """Print the latest entries, one JSON object a line."""
    with open_state(config, state) as (_, database):
        from stingy_server.store.ledger import Ledger

        ledger_store = Ledger(database)
        for line in _json_lines(ledger_store, after=ledger_store.last(count)):
            typer.echo(line)


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
    import sys

    if form not in ("jsonl", "csv"):
        end([f"expected the format jsonl or csv, got {form}"])
    with open_state(config, state) as (_, database):
        from stingy_server.store.ledger import Entry, Ledger

        ledger_store = Ledger(database)
        if form == "jsonl":
            for line in _json_lines(ledger_store, after=after):
                typer.echo(line)
            return
        rows = csv.writer(sys.stdout)
        rows.writerow(["seq", *Entry._fields])
        rows.writerows([seq, *entry] for seq, entry in ledger_store.entries(after=after))


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
        found = verify_chains(reader, against=kept)
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
    deleted = 0
    with open_state(config, state) as (_, database):
        for pruned in prune_ledger(database, before=moment):
            deleted += pruned.entries
            typer.echo(f"{deleted} entries are deleted, up to number {pruned.last}")
    if not deleted:
        typer.echo("no entry is older, so none is deleted")


def _json_lines(ledger_store: "Ledger", *, after: int) -> Iterator[str]:
    for seq, entry in ledger_store.entries(after=after):
        yield json.dumps({"seq": seq, **entry._asdict()})
