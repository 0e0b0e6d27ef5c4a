"""The `stingy` command: `predict`, and whatever the entry points of "stingy.commands" add.

Invariant: the base install always runs; a command whose extra is missing names that extra.
"""

import json
import sys
from dataclasses import dataclass, field
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from stingy_clients.answers import Answer
from stingy_clients.client import Client
from stingy_clients.errors import BadImage, ClientError

_GROUP = "stingy.commands"
_DISTRIBUTION = "stingy"


@dataclass(frozen=True)
class Commands:
    """The whole command: `extras` maps a command to its extra, `missing` are those not loaded."""

    app: typer.Typer
    extras: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def main() -> None:
    """Runs the `stingy` command with the arguments of this process."""
    commands = load_commands()
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if commands.missing and name and name not in {"predict", *commands.extras}:
        _leave(f"stingy {name} needs: {_install(commands.missing)}", code=2)
    try:
        commands.app(prog_name="stingy")
    except ModuleNotFoundError as error:
        if name not in commands.extras or not _is_third_party(error.name):
            raise
        _leave(f"stingy {name} needs: {_install((commands.extras[name],))}", code=2)


def load_commands() -> Commands:
    """The command with all plug-ins that can be loaded.

    Our own entry points bear the name of the extra that their commands need.
    """
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    extras: dict[str, str] = {}
    missing: list[str] = []
    for point in sorted(entry_points(group=_GROUP), key=lambda point: point.name):
        ours = point.dist is not None and point.dist.name == _DISTRIBUTION
        try:
            plugin = point.load()
        except ModuleNotFoundError as error:
            if not (ours and _is_third_party(error.name)):
                raise
            missing.append(point.name)
            continue
        app.add_typer(plugin)
        if ours:
            extras |= dict.fromkeys(typer.main.get_group(plugin).commands, point.name)
    epilog = f"More commands: {_install(tuple(missing))}" if missing else None
    app.callback(epilog=epilog)(_root)
    app.command("predict")(predict)
    return Commands(app, extras, tuple(missing))


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="JPEG or PNG files.")],
    *,
    key: Annotated[str, typer.Option(envvar="STINGY_KEY", help="The API key.")],
    model: Annotated[str, typer.Option(help="The model's name on the server.")],
    url: Annotated[
        str, typer.Option(envvar="STINGY_URL", help="Where the server is.")
    ] = "http://127.0.0.1:8080",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line and image.")
    ] = False,
) -> None:
    """Asks a server what is on images."""
    try:
        with Client(url, key) as client:
            for image in images:
                try:
                    answer = client.predict(image, model=model)
                except BadImage as error:
                    _leave(_printable(f"{image}: {error}"), code=1)
                _show(image, answer, as_json=as_json)
    except ClientError as error:
        _leave(_printable(str(error)), code=1)


def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda on: _show_version(on),
            help="Show the version.",
        ),
    ] = False,
) -> None:
    """Serve a classifier without giving it away, query it, and audit what it leaks."""


def _show_version(on: bool) -> None:
    if on:
        typer.echo(f"stingy {version(_DISTRIBUTION)}")
        raise typer.Exit


def _show(image: Path, answer: Answer, *, as_json: bool) -> None:
    if as_json:
        classes = [entry.model_dump(exclude_none=True) for entry in answer.classes]
        document = {
            "image": str(image),
            "model": answer.model,
            "version": answer.version,
            "classes": classes,
        }
        typer.echo(json.dumps(document))
        return
    # Imported here: only this branch draws, and rich takes a noticeable part of the start.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    typer.echo(_printable(str(image)))
    table = Table("label")
    table.add_column("score", justify="right")
    for entry in answer.classes:
        score = "" if entry.score is None else f"{entry.score}"
        table.add_row(Text(_printable(entry.label)), score)
    Console().print(table)


def _printable(text: str) -> str:
    """Without control characters: a server must not steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _is_third_party(module: str | None) -> bool:
    return bool(module) and "." not in str(module) and not str(module).startswith("stingy_")


def _install(extras: tuple[str, ...]) -> str:
    return " or ".join(f"pip install 'stingy[{extra}]'" for extra in extras)


def _leave(message: str, *, code: int) -> NoReturn:
    typer.secho(message, fg=typer.colors.RED, err=True)
    raise SystemExit(code)
