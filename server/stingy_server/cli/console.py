"""`stingy console`: the operator's page, and another address that opens it."""

import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stingy_server.cli.command import Config, State, end, read_settings
from stingy_server.cli.keys import operator

if TYPE_CHECKING:
    from stingy_server.settings import Settings

app = typer.Typer(help="Show keys, alarms and traffic on a page of this machine.")

PORT = 8090
CONNECT_S = 2.0
Port = Annotated[int, typer.Option(min=0, max=65_535, help="Port of the page; 0: any free one.")]


@app.callback(invoke_without_command=True)
def console(
    context: typer.Context,
    write: Annotated[
        bool, typer.Option("--write", help="Permit to release and revoke keys on the page.")
    ] = False,
    audit: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder of an audit, for estimates; repeat for others."),
    ] = None,
    port: Port = PORT,
    config: Config = None,
    state: State = None,
) -> None:
    """Show keys, alarms, traffic and models on a page that only this machine reaches."""
    if context.invoked_subcommand is not None:
        if write or audit or config or state or port != PORT:
            end([f"give the options after {context.invoked_subcommand}"])
        return
    settings = read_settings(config, state)
    from stingy_clients.documents.audit_report import read_audit_report
    from stingy_clients.errors import ClientError
    from stingy_server.console.app import console_app
    from stingy_server.console.estimates import Audits
    from stingy_server.console.feed import Feed
    from stingy_server.console.tokens import ConsoleAccess
    from stingy_server.loopback.runner import HOST, bind, run_page
    from stingy_server.process.listening import cannot_listen

    pepper = _pepper(settings)
    try:
        reports = [read_audit_report(folder) for folder in audit or []]
    except ClientError as error:
        end([f"--audit: {error}"])
    user = operator()
    feed = Feed(settings, Audits(reports, settings.tiers), operator=user)
    faults = feed.start()
    if not faults:
        try:
            listener = bind(port)
        except OSError as error:
            faults = [cannot_listen(HOST, port, error)]
    if faults:
        feed.close()
        end(faults)
    bound = listener.getsockname()[1]
    access = ConsoleAccess(pepper, bound)
    another = "stingy console token" + ("" if bound == PORT else f" --port {bound}")
    typer.echo(_address(pepper, bound))
    given = {"--config": config, "--state": state}
    same = [f" {name} {shlex.quote(str(path))}" for name, path in given.items() if path]
    typer.echo(f"It opens once, within a minute. For another: {another}{''.join(same)}", err=True)
    typer.echo(
        f"Changes are recorded as made by {user}."
        if write
        else "The page only reads; see --write.",
        err=True,
    )
    run_page(
        console_app(feed, writer=user if write else None),
        listener,
        access=access,
        another=f"For another, run: {another}",
        max_body_bytes=1024,
    )


@app.command()
def token(port: Port = PORT, config: Config = None, state: State = None) -> None:
    """Print another address that opens a running console once, within a minute."""
    settings = read_settings(config, state)
    pepper = _pepper(settings)
    try:
        socket.create_connection(("127.0.0.1", port), CONNECT_S).close()
    except OSError:
        end([f"expected a console on port {port}, got none; see: stingy console --help"])
    typer.echo(_address(pepper, port))


def _pepper(settings: "Settings") -> bytes:
    """Return the pepper of the state. End if there is none."""
    from stingy_server.store.base import StoreUnavailable
    from stingy_server.store.pepper import read_pepper

    try:
        return read_pepper(settings.state, create=False)
    except OSError:
        end([f"expected a state folder at {settings.state}, got none to read"])
    except StoreUnavailable as error:
        end([str(error)])


def _address(pepper: bytes, port: int) -> str:
    from stingy_server.console.tokens import make_token

    return f"http://127.0.0.1:{port}/?token={make_token(pepper, port)}"
