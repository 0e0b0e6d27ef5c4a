"""The server's part of the `stingy` command.

Each command imports heavy packages when it runs, so that `stingy --help` stays fast.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stingy_server.cli import models
from stingy_server.cli.bundles import bundle
from stingy_server.cli.command import MAX_COUNT, AsJson, Config, State, end, open_state, table

if TYPE_CHECKING:
    from stingy_server.store.keys import Key
    from stingy_server.store.ledger import Ledger

app = typer.Typer()
app.add_typer(models.app, name="models")
keys = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
app.add_typer(keys, name="keys")
ledger = typer.Typer(
    no_args_is_help=True, help="Read the ledger, the record of all prediction requests."
)
app.add_typer(ledger, name="ledger")
app.add_typer(bundle, name="bundle")

KeyId = Annotated[
    str, typer.Argument(metavar="ID", help="The key's id, as `stingy keys list` shows it.")
]


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


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="The name of the key's owner.")],
    budget: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Images in all; default: no limit.")
    ] = None,
    per_day: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_COUNT, help="Images in a day of UTC; default: no limit."),
    ] = None,
    tier: Annotated[str, typer.Option(help="Tier of the key; the settings name them.")] = "full",
    rate: Annotated[
        str | None, typer.Option(help="Images in a period, such as 600/minute; default: no limit.")
    ] = None,
    request_rate: Annotated[
        str | None,
        typer.Option(help="Requests in a period, such as 100/second; default: the server's."),
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires.")
    ] = None,
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It is not shown again."""
    from datetime import UTC, datetime, timedelta

    with open_state(config, state, create=True) as (settings, database):
        from stingy_server.settings import FULL_TIER
        from stingy_server.store.keys import Keys

        known = [FULL_TIER, *settings.tiers]
        if tier not in known:
            end([f"expected one of the tiers {', '.join(known)}, got {tier}"])
        try:
            key, text = Keys(database).create(
                name,
                budget=budget,
                per_day=per_day,
                tier=tier,
                rate=rate,
                request_rate=request_rate,
                expires=None if days is None else datetime.now(UTC) + timedelta(days=days),
            )
        except ValueError as error:
            end([str(error)])
    if as_json:
        typer.echo(json.dumps({"id": key.id, "key": text}))
    else:
        typer.echo(text)
        typer.echo(f"This is the key of {name}, id {key.id}. It is not shown again.", err=True)


@keys.command("list")
def list_keys(config: Config = None, state: State = None, as_json: AsJson = False) -> None:
    """List the keys and the images that each has used."""
    from dataclasses import asdict

    with open_state(config, state) as (_, database):
        from stingy_server.store.keys import Keys

        found = Keys(database).all()
    if as_json:
        shown = [
            {**asdict(key), "budget": budget.total, "used": budget.used} for key, budget in found
        ]
        typer.echo(json.dumps(shown))
        return
    table(
        ("id", "name", "tier", "used", "budget", "created", "state"),
        (
            (
                key.id,
                key.name,
                key.tier,
                str(budget.used),
                "no limit" if budget.total is None else str(budget.total),
                key.created[:10],
                _validity(key),
            )
            for key, budget in found
        ),
    )


@keys.command()
def usage(
    key_id: KeyId,
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show the images that one key has used of its budgets."""
    with open_state(config, state) as (_, database):
        from stingy_server.store.budgets import today
        from stingy_server.store.keys import Keys

        found = {key.id: budget for key, budget in Keys(database).all()}
    if key_id not in found:
        end([f"expected the id of a key, got {key_id}; see: stingy keys list"])
    budget = found[key_id]
    fields = {
        "id": key_id,
        "used": budget.used,
        "budget": budget.total,
        "used_today": budget.day_used if budget.day >= today() else 0,
        "per_day": budget.day_total,
        "remaining": budget.remaining(today()),
    }
    if as_json:
        typer.echo(json.dumps(fields))
    else:
        table(tuple(fields), [tuple("" if v is None else str(v) for v in fields.values())])


@keys.command()
def revoke(key_id: KeyId, config: Config = None, state: State = None) -> None:
    """Make a key invalid at once, in every running server."""
    with open_state(config, state) as (_, database):
        from stingy_server.store.keys import Keys

        store = Keys(database)
        revoked = store.revoke(key_id)
        known = {key.id: key for key, _ in store.all()}
    if revoked:
        typer.echo(f"{key_id} is revoked.")
    elif key_id in known:
        end([f"{key_id} was revoked already, on {(known[key_id].revoked or '')[:10]}"])
    else:
        end([f"expected the id of a key, got {key_id}; see: stingy keys list"])


@keys.command()
def rotate(
    key_id: KeyId, config: Config = None, state: State = None, as_json: AsJson = False
) -> None:
    """Replace the text of a key. The old text is invalid at once; budgets and tier stay."""
    with open_state(config, state) as (_, database):
        from stingy_server.store.keys import Keys

        text = Keys(database).rotate(key_id)
    if text is None:
        end([f"expected the id of a valid key, got {key_id}; see: stingy keys list"])
    if as_json:
        typer.echo(json.dumps({"id": key_id, "key": text}))
    else:
        typer.echo(text)
        typer.echo(f"This is the new key of id {key_id}. It is not shown again.", err=True)


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


@keys.command()
def release(key_id: KeyId, config: Config = None, state: State = None) -> None:
    """Undo the action of an alarm on a key, within two seconds in every server."""
    with open_state(config, state) as (_, database):
        from stingy_server.detection.key_profiles import KeyProfileStore

        released = KeyProfileStore(database).release(key_id)
    if not released:
        end([f"expected the id of a key in alarm, got {key_id}; see: stingy watch"])
    typer.echo(f"{key_id} is released.")


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


def _validity(key: "Key") -> str:
    from datetime import UTC, datetime

    if key.revoked is not None:
        return f"revoked {key.revoked[:10]}"
    if key.expires is not None:
        past = key.expires <= datetime.now(UTC).isoformat()
        return f"{'expired' if past else 'expires'} {key.expires[:10]}"
    return "valid"
