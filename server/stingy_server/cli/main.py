"""The server's part of the `stingy` command.

Each command imports heavy packages when it runs, so that `stingy --help` stays fast.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stingy_server.cli import keys, models
from stingy_server.cli.bundles import bundle
from stingy_server.cli.command import MAX_COUNT, AsJson, Config, State, end, open_state

if TYPE_CHECKING:
    from stingy_server.store.ledger import Ledger

app = typer.Typer()
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
ledger = typer.Typer(
    no_args_is_help=True, help="Read the ledger, the record of all prediction requests."
)
app.add_typer(ledger, name="ledger")
app.add_typer(bundle, name="bundle")


@app.command()
def serve(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Bundles to serve, each under its own name.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Policy of these bundles, such as stingy:n=3; default: their own."),
    ] = None,
    config: Config = None,
    state: State = None,
    host: Annotated[str | None, typer.Option(help="Address; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default: 8080; 0: any free one.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of gRPC; default: none; 0: any free one.")
    ] = None,
    allow_open: Annotated[
        bool | None, typer.Option("--allow-open", help="Permit policies that hide nothing.")
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict", help="Run every batch at one padded shape.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default: 1.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the metrics for Prometheus; default: none.")
    ] = None,
) -> None:
    """Serve model bundles behind their policies."""
    from rich.console import Console

    console = Console(stderr=True)
    models = [{"bundle": bundle, "policy": policy} for bundle in bundles or []]
    with console.status("loading"):
        from stingy_server.errors import ConfigurationError
        from stingy_server.serve import serve as run
        from stingy_server.settings_sources import load_settings
        from stingy_server.store.base import StoreUnavailable
    settings, faults = load_settings(
        config,
        models=models or None,
        state=state,
        host=host,
        port=port,
        grpc_port=grpc_port,
        workers=workers,
        metrics_port=metrics_port,
        allow_open=allow_open,
        strict=strict,
    )
    if policy is not None and not models:
        faults.append("--policy: expected bundles on the command line, got none")
    try:
        run(settings, faults, console=console)
    except ConfigurationError as error:
        end(error.faults)
    except StoreUnavailable as error:
        end([str(error)])


@ledger.command()
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


@ledger.command()
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
def watch(
    once: Annotated[bool, typer.Option("--once", help="Print once and exit.")] = False,
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show the keys that look like they copy the model, the highest score first."""
    with open_state(config, state) as (_, database):
        from stingy_server.cli.watch_table import run

        run(database, once=once, as_json=as_json)


def _json_lines(ledger_store: "Ledger", *, after: int) -> Iterator[str]:

    for seq, entry in ledger_store.entries(after=after):
        yield json.dumps({"seq": seq, **entry._asdict()})
