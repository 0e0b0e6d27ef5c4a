"""The server's part of the `stingy` command.

Each command imports heavy packages when it runs, so that `stingy --help` stays fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from stingy_server.cli import console as console_commands
from stingy_server.cli import keys, ledger, marks, models
from stingy_server.cli import state as state_commands
from stingy_server.cli.bundles import bundle
from stingy_server.cli.command import AsJson, Config, State, end, open_state
from stingy_server.cli.tryout import try_bundle

app = typer.Typer()
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(ledger.app, name="ledger")
app.add_typer(console_commands.app, name="console")
app.add_typer(marks.app, name="marks")
app.add_typer(state_commands.app, name="state")
app.add_typer(bundle, name="bundle")
app.command("try")(try_bundle)


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


@app.command()
def watch(
    once: Annotated[bool, typer.Option("--once", help="Print once and exit.")] = False,
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show the keys that look like they copy the model, the highest score first."""
    with open_state(config, state, read_only=True) as (_, database):
        from stingy_server.cli.tables.watch import run

        run(database, once=once, as_json=as_json)
