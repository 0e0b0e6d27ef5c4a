"""`stingy keys`: create, list, change and end API keys."""

import json
import os
import pwd
import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stingy_server.cli.command import (
    AsJson,
    Config,
    State,
    end,
    open_state,
    read_settings,
    spread_options,
)
from stingy_server.cli.key_options import (
    KeyChange,
    KeyOptions,
    differences,
    read_change,
    unserved_models,
)

if TYPE_CHECKING:
    from stingy_server.store.key import Key, KeySettings
    from stingy_server.store.keys import Keys

app = typer.Typer(no_args_is_help=True, help="Create, list, change and revoke API keys.")

KeyId = Annotated[
    str,
    typer.Argument(
        metavar="ID|NAME",
        help="The key's id, as `stingy keys list` shows it, or its name if no other key has it.",
    ),
]
AllModels = Annotated[bool, typer.Option("--all-models", help="It may query all models.")]


@app.command()
@spread_options
def create(
    name: Annotated[str, typer.Argument(help="The name of the key's owner.")],
    options: KeyOptions,
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It is not shown again."""
    from datetime import datetime

    from stingy_server.store.keys import Keys, check_name

    # Before the state, so that a fault leaves no new one.
    change = read_change(read_settings(config, state), options, all_models=False)
    try:
        check_name(name)
    except ValueError as error:
        end([str(error)])
    with open_state(config, state, create=True) as (_, database):
        from stingy_server.store.key import Limits

        limits = {model: Limits(**own) for model, own in change.limits.items()}
        own = limits.pop("", Limits())
        given = dict(change.properties)
        expires = given.pop("expires", None)
        # Before the key, whose text is lost if anything fails between it and its print.
        unserved = unserved_models(database, change.named_models)
        key, text = Keys(database).create(
            name,
            budget=own.total,
            per_day=own.per_day,
            per_month=own.per_month,
            expires=None if expires is None else datetime.fromisoformat(expires),
            model_limits=limits,
            detail={"by": operator()},
            **given,
        )
    _print_text(key.id, text, f"This is the key of {name}, id {key.id}.", as_json=as_json)
    _note_unserved(unserved)


@app.command("list")
def list_keys(config: Config = None, state: State = None, as_json: AsJson = False) -> None:
    """List the keys with their limits and what each has used of them."""
    with open_state(config, state, read_only=True) as (_, database):
        from stingy_server.cli.tables.keys import documents, lines, read_rows

        rows = read_rows(database)
    if as_json:
        typer.echo(json.dumps(documents(rows)))
        return
    for line in lines(rows):
        typer.echo(line)


@app.command("set")
@spread_options
def set_key(
    key_id: KeyId,
    options: KeyOptions,
    all_models: AllModels = False,
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Change what a key may do, at once in every running server. Its text stays."""
    with open_state(config, state) as (settings, database):
        from stingy_server.store.keys import Keys

        change = read_change(settings, options, all_models=all_models)
        if change == KeyChange():
            end(["expected an option that changes the key, got none; see: stingy keys set --help"])
        store = Keys(database)
        found = find_key(store, key_id)
        unserved = unserved_models(database, change.named_models)
        try:
            done = store.set(found.id, change.apply, describe=_describe)
        except ValueError as error:  # of an earlier rate, such as release 0.1.0 took
            end([f"{found.id} has a rate that cannot be read: give a new one too: {error}"])
        if done is None:
            end([_revoked(found)])
        used = store.budget(found).used
    _note_unserved(unserved)
    changed = differences(*done)
    if as_json:
        shown = {name: {"before": old, "after": new} for name, old, new in changed}
        typer.echo(json.dumps({"id": found.id, "changes": shown}))
        return
    if not changed:
        typer.echo(f"{found.id} ({found.name}) has these settings already.")
        return
    typer.echo(f"{found.id} ({found.name})")
    width = max(len(name) for name, _, _ in changed)
    for name, old, new in changed:
        typer.echo(f"  {name:<{width}}  {old} → {new}")
    total = done[1].limits[""].total
    if total is not None and used >= total:
        typer.echo(f"It has used {used} images, so it gets no more.", err=True)


def _describe(before: "KeySettings", after: "KeySettings") -> dict[str, Any] | None:
    """Return what the ledger says about a change; None if there is none."""
    changed = differences(before, after)
    if not changed:
        return None
    return {"by": operator(), "changes": {name: [old, new] for name, old, new in changed}}


@app.command()
def usage(
    key_id: KeyId,
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show the images that one key has used of its budgets, and when they reset."""
    with open_state(config, state, read_only=True) as (_, database):
        from stingy_server.edge.usage_view import usage_document
        from stingy_server.store.keys import Keys

        store = Keys(database)
        key = find_key(store, key_id)
        document = usage_document(key, store.budget(key), store.model_budgets(key))
    if as_json:
        del document["key"]
        typer.echo(json.dumps({"id": key.id, "name": key.name, **document}))
        return
    from stingy_server.cli.tables.usage import usage_lines

    for line in usage_lines(key, document):
        typer.echo(line)


@app.command()
def revoke(key_id: KeyId, config: Config = None, state: State = None) -> None:
    """Make a key invalid at once, in every running server."""
    with open_state(config, state) as (_, database):
        from stingy_server.store.keys import Keys

        store = Keys(database)
        found = find_key(store, key_id)
        revoked = store.revoke(found.id, detail={"by": operator()})
    if not revoked:
        end([_revoked(found)])
    typer.echo(f"{found.id} is revoked.")


@app.command()
def rotate(
    key_id: KeyId, config: Config = None, state: State = None, as_json: AsJson = False
) -> None:
    """Replace the text of a key. The old text is invalid at once; budgets and tier stay."""
    with open_state(config, state) as (_, database):
        from stingy_server.store.keys import Keys

        store = Keys(database)
        found = find_key(store, key_id)
        text = store.rotate(found.id, detail={"by": operator()})
    if text is None:
        end([_revoked(found)])
    _print_text(found.id, text, f"This is the new key of id {found.id}.", as_json=as_json)


@app.command()
def release(key_id: KeyId, config: Config = None, state: State = None) -> None:
    """Undo the action of an alarm on a key, within two seconds in every server."""
    with open_state(config, state) as (_, database):
        from stingy_server.detection.key_profiles import KeyProfileStore
        from stingy_server.store.keys import Keys

        found = Keys(database).named(key_id)
        one = find_key(Keys(database), key_id).id if found else key_id
        released = KeyProfileStore(database).release(one, detail={"by": operator()})
    if not released:
        end([f"expected the id of a key in alarm, got {key_id}; see: stingy watch"])
    typer.echo(f"{one} is released.")


def _note_unserved(models: list[str]) -> None:
    if models:
        typer.echo(f"note: no running server serves {', '.join(models)}", err=True)


def operator() -> str:
    """Return who runs the command, as user@host, for the ledger."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may have no name for its user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def find_key(keys: "Keys", text: str) -> "Key":
    """Find the key of an id, or the one key of a name. End if there is none, or another one."""
    found = keys.named(text)
    if len(found) == 1:
        return found[0]
    if not found:
        end([f"expected the id or the name of a key, got {text}; see: stingy keys list"])
    ids = ", ".join(key.id for key in found)
    end([f"expected the name of one key, got {text} of {len(found)}: give one of the ids {ids}"])


def _revoked(key: "Key") -> str:
    on = f", on {key.revoked[:10]}" if key.revoked else ""
    return f"{key.id} was revoked already{on}"


def _print_text(key_id: str, text: str, about: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"id": key_id, "key": text}))
    else:
        typer.echo(text)
        typer.echo(f"{about} It is not shown again.", err=True)
