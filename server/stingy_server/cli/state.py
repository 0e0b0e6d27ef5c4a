"""`stingy state`: back up, restore and check the state."""

from pathlib import Path
from typing import Annotated

import typer

from stingy_clients.text_table import make_printable
from stingy_server.cli.command import Config, State, end, read_settings
from stingy_server.cli.progress import counting, working

app = typer.Typer(no_args_is_help=True, help="Back up, restore and check the state.")


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    config: Config = None,
    state: State = None,
) -> None:
    """Copy the database and the pepper into a new folder, while servers run."""
    settings = read_settings(config, state)
    from stingy_server.maintenance.backup import back_up, broken_chains
    from stingy_server.store.base import StoreUnavailable

    try:
        with working("copying the state"):
            made = back_up(settings.state, settings.store, folder)
            broken = broken_chains(folder)
    except StoreUnavailable as error:
        end([str(error)])
    typer.echo(f"{folder} has the state of {made.created}, with {made.entries} ledger entries.")
    typer.echo("It has the pepper: keep it as secret as the state folder.")
    for fault in broken:
        typer.echo(f"warning: its ledger is broken, and a restore refuses it: {fault}", err=True)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `stingy state backup` made.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of a state, which is then lost.")
    ] = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Put a backup in the place of the state. No server may run on it."""
    settings = read_settings(config, state)
    from stingy_server.maintenance.restore import restore as restore_state
    from stingy_server.store.base import StoreUnavailable

    try:
        with working("restoring"):
            restored = restore_state(folder, settings.state, settings.store, replace=replace)
    except StoreUnavailable as error:
        end([str(error)])
    typer.echo(f"restored the state of {restored.manifest.created}.")
    if restored.returned is None:
        typer.echo(
            "There was no earlier state to compare with. Keys that were revoked or rotated after "
            "the backup, and images that were charged after it, came back unnamed."
        )
    elif not restored.returned:
        typer.echo("The earlier state had nothing later than the backup.")
    for line in restored.returned or []:
        typer.echo(make_printable(line))


@app.command()
def check(config: Config = None, state: State = None) -> None:
    """Check pages, pepper, tables, triggers, the ledger's chains, and budgets."""
    settings = read_settings(config, state)
    from stingy_server.maintenance.check import check_state
    from stingy_server.store.base import StoreUnavailable

    try:
        with counting("checking") as count:
            found = check_state(settings.state, settings.store, on_entries=count)
    except StoreUnavailable as error:
        end([str(error)])
    for note in found.notes:
        typer.echo(note)
    if found.faults:
        end(found.faults)
    typer.echo("no fault")
