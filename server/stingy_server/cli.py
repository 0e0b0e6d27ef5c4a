"""The server's part of the `stingy` command: `serve` and `keys`.

Heavy imports wait until a command runs, so that `stingy --help` stays fast.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from stingy_server.keys import KeyStore

app = typer.Typer()
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
app.add_typer(keys, name="keys")

State = Annotated[
    Path | None, typer.Option(help="The state folder; default: as in the settings, .stingy.")
]
Config = Annotated[Path | None, typer.Option(help="Settings file; default: stingy.toml, if any.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def serve(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Bundles to serve, each under its own name.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Policy of the given bundles, such as stingy:n=3; default: their own."),
    ] = None,
    config: Config = None,
    state: State = None,
    host: Annotated[str | None, typer.Option(help="Address; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default: 8080; 0: any free one.")] = None,
    allow_open: Annotated[
        bool | None, typer.Option("--allow-open", help="Permit policies that hide nothing.")
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict", help="One padded batch shape for every answer.")
    ] = None,
) -> None:
    """Serve model bundles behind their policies."""
    from rich.console import Console

    console = Console(stderr=True)
    models = [{"bundle": bundle, "policy": policy} for bundle in bundles or []]
    with console.status("loading"):
        from stingy_server.app import create_app
        from stingy_server.errors import ConfigurationError
        from stingy_server.serve import serve as run
        from stingy_server.settings import load_settings

        settings, faults = load_settings(
            config,
            models=models or None,
            state=state,
            host=host,
            port=port,
            allow_open=allow_open,
            strict=strict,
        )
        if policy is not None and not models:
            faults.append("--policy: expected bundles on the command line, got none")
        try:
            application = create_app(settings, faults=faults)
        except ConfigurationError as error:
            _end(error.faults)
    try:
        run(application, console=console)
    except ConfigurationError as error:
        _end(error.faults)


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whom the key is for.")],
    budget: Annotated[int, typer.Option(min=1, max=2**62, help="Images it may ask.")],
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown now and never again."""
    with _store(config, state) as store:
        key, text = store.create(name, budget=budget)
    if as_json:
        typer.echo(json.dumps({"id": key.id, "key": text}))
    else:
        typer.echo(f"{text}\n{key.budget} images for {key.name}; this key is not shown again.")


@keys.command("list")
def list_keys(config: Config = None, state: State = None, as_json: AsJson = False) -> None:
    """Show the keys with what they have used."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    with _store(config, state) as store:
        found = store.all()
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in found]))
        return
    table = Table("id", "name", "used", "budget", "created", "revoked")
    for key in found:
        table.add_row(
            key.id, key.name, str(key.used), str(key.budget), key.created, key.revoked or ""
        )
    Console().print(table)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `stingy keys list` shows it.")],
    config: Config = None,
    state: State = None,
) -> None:
    """Make a key invalid at once, in every running server."""
    with _store(config, state) as store:
        revoked = store.revoke(key_id)
    if not revoked:
        _end([f"expected the id of a valid key, got {key_id}; see: stingy keys list"])
    typer.echo(f"{key_id} is revoked.")


@contextlib.contextmanager
def _store(config: Path | None, state: Path | None) -> Iterator["KeyStore"]:
    """The key store of these settings; what keeps it from working ends the command."""
    from stingy_server.keys import KeyStore, StoreUnavailable
    from stingy_server.settings import load_settings

    settings, faults = load_settings(config, state=state)
    if faults:
        _end(faults)
    try:
        with contextlib.closing(KeyStore(settings.state)) as store:
            yield store
    except StoreUnavailable as error:
        _end([str(error)])


def _end(faults: Sequence[str]) -> NoReturn:
    for fault in faults:
        typer.secho(fault, fg="red", err=True)
    raise typer.Exit(2)
