"""The `stingy` command: `predict`, `usage`, and commands of the entry points "stingy.commands".

Invariant: the base install always runs. A command whose extra is missing names that extra.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from stingy_clients.answers import Answer, BudgetUsage, Usage
from stingy_clients.client import Client
from stingy_clients.errors import BadImage, BadInput, ClientError
from stingy_clients.text_table import make_printable

_GROUP = "stingy.commands"
_DISTRIBUTION = "stingy"
_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
_OWN = frozenset({"predict", "usage"})

KeyText = Annotated[str, typer.Option("--key", envvar="STINGY_KEY", help="The API key.")]
Url = Annotated[str, typer.Option("--url", envvar="STINGY_URL", help="The server's address.")]
Ca = Annotated[
    Path | None,
    typer.Option(
        envvar="STINGY_CA",
        help="File of certificates to trust, in PEM; default: the well-known ones.",
    ),
]
LOCAL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Commands:
    """The `stingy` command and its plug-ins.

    Args:
        app: the command, with all plug-ins that could be loaded.
        extras: the extra that each of our plug-in commands needs.
        missing: the extras whose plug-ins could not be loaded.
    """

    app: typer.Typer
    extras: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def main() -> None:
    """Run the `stingy` command with the arguments of this process."""
    commands = load_commands()
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if commands.missing and name and name not in {*_OWN, *commands.extras}:
        _exit_with(f"stingy {name} needs: {_install_hint(commands.missing)}", code=2)
    try:
        commands.app(prog_name="stingy")
    except ModuleNotFoundError as error:
        if name not in commands.extras or not _is_third_party(error.name):
            raise
        _exit_with(f"stingy {name} needs: {_install_hint((commands.extras[name],))}", code=2)


def load_commands() -> Commands:
    """Build the command with all plug-ins that can be loaded.

    Each of our own entry points has the name of the extra that its commands need.
    """
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},  # of subcommands too
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
    epilog = f"More commands: {_install_hint(tuple(missing))}" if missing else None
    app.callback(epilog=epilog)(_handle_options)
    app.command("predict")(predict)
    app.command("usage")(usage)
    return Commands(app, extras, tuple(missing))


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE", help="JPEG, PNG or WebP files, or folders of them."),
    ],
    *,
    key: KeyText,
    url: Url = LOCAL,
    ca: Ca = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model's name; default: the one that the server serves."),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="The model's version; default: the server's choice.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the scores as the server sent them.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per image, one per line.")
    ] = False,
) -> None:
    """Classify images with a model on a server: a table for each, or a line for those of a folder.

    An image of a folder that cannot be read is named, and the others are classified.
    """
    failed = False
    try:
        with Client(url, key, ca=ca) as client:
            for path in images:
                in_folder = path.is_dir()
                for image in _list_images(path) if in_folder else [path]:
                    fault = None
                    try:
                        answer = client.predict(image, model=model, version=version)
                    except BadImage as error:
                        fault = f"{image}: {error}"
                    except BadInput as error:
                        fault = str(error)
                    if fault is not None:
                        if not in_folder:
                            _exit_with(make_printable(fault), code=1)
                        typer.secho(make_printable(fault), fg=typer.colors.RED, err=True)
                        failed = True
                    elif in_folder and not as_json:
                        typer.echo(make_printable(f"{image}: {_in_one_line(answer, raw=raw)}"))
                    else:
                        _print_answer(image, answer, as_json=as_json, raw=raw)
    except ClientError as error:
        _exit_with(make_printable(str(error)), code=1)
    if failed:
        raise typer.Exit(1)


def usage(
    *,
    key: KeyText,
    url: Url = LOCAL,
    ca: Ca = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the images that a key has used of its budgets, and when they reset."""
    try:
        with Client(url, key, ca=ca) as client:
            found = client.usage()
    except ClientError as error:
        _exit_with(make_printable(str(error)), code=1)
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        _print_usage(found)


def _handle_options(
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


def _print_answer(image: Path, answer: Answer, *, as_json: bool, raw: bool) -> None:
    if as_json:
        classes = [entry.model_dump(exclude_none=True) for entry in answer.classes]
        document = {
            "image": str(image),
            "model": answer.model,
            "version": answer.version,
            "scores": answer.form,
            "classes": classes,
        }
        typer.echo(json.dumps(document))
        return
    # Imported here, because rich slows the start and only this branch draws a table.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    typer.echo(make_printable(f"{image}: {_describe(answer, raw=raw)}"))
    table = Table("label")
    rows = [[Text(make_printable(entry.label))] for entry in answer.classes]
    if (column := _score_column(answer, raw=raw)) is not None:
        head, scores = column
        table.add_column(Text(make_printable(head)), justify="right")
        for row, score in zip(rows, scores, strict=True):
            row.append(Text(score))
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _list_images(folder: Path) -> list[Path]:
    """List the images of a folder by their names, in order. Hidden files are left out."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise BadInput(
            f"expected a folder that can be read, got {folder}: {error.strerror}"
        ) from None
    found = [
        path for path in paths if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        names = ", ".join(_SUFFIXES)
        raise BadInput(f"expected images in the folder {folder} ({names}), got none")
    return found


def _in_one_line(answer: Answer, *, raw: bool) -> str:
    """Return the classes of an answer with their scores, best first."""
    column = _score_column(answer, raw=raw)
    scores = [f" {score}" for score in column[1]] if column else [""] * len(answer.classes)
    return ", ".join(
        entry.label + score for entry, score in zip(answer.classes, scores, strict=True)
    )


def _print_usage(found: Usage) -> None:
    # Imported here, because rich slows the start and only this function draws a table.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("models", "period", "resets (UTC)")
    for column in ("used", "budget"):
        table.add_column(column, justify="right")
    budgets = {"all": found, **{make_printable(name): own for name, own in found.models.items()}}
    for name, budget in budgets.items():
        for period, resets, used, limit in _usage_rows(budget):
            shown = "no limit" if limit is None else f"{limit:,}"
            table.add_row(Text(name), period, resets, f"{used:,}", shown)
    Console().print(table)
    left = "no limit" if found.remaining is None else f"{found.remaining:,} images"
    typer.echo(f"key {make_printable(found.key)}: {left} left now")


def _usage_rows(budget: BudgetUsage) -> Iterator[tuple[str, str, int, int | None]]:
    yield "in all", "", budget.used, budget.budget
    for name, period in (("day", budget.day), ("month", budget.month)):
        if period is not None:
            yield name, f"{period.resets:%Y-%m-%d %H:%M}", period.used, period.budget


def _describe(answer: Answer, *, raw: bool) -> str:
    """Describe an answer in a line: the model, what was withheld, and what the numbers are."""
    kept, withheld = len(answer.classes), answer.withheld
    counted = f"{withheld or 'none'} of {answer.num_classes} classes withheld"
    text = f"{answer.model} {answer.version}, {counted}"
    if answer.form == "none":
        return f"{text}, no scores"
    if raw or not withheld or answer.probabilities is None:
        return text
    if kept == 1:
        return f"{text}, so the probability is always 1"
    return f"{text}, probabilities among the other {kept}"


def _score_column(answer: Answer, *, raw: bool) -> tuple[str, list[str]] | None:
    """Return the head and the values of the column of scores, or None without scores."""
    if answer.form == "none":
        return None
    if raw or answer.probabilities is None:
        scores = [entry.score for entry in answer.classes if entry.score is not None]
        return answer.form, [f"{score:.10g}" for score in scores]
    values = [f"{value:.3f}" for value in answer.probabilities]
    return f"probability (sent as {answer.form})", values


def _is_third_party(module: str | None) -> bool:
    return bool(module) and "." not in str(module) and not str(module).startswith("stingy_")


def _install_hint(extras: tuple[str, ...]) -> str:
    return " or ".join(f"pip install 'stingy[{extra}]'" for extra in extras)


def _exit_with(message: str, *, code: int) -> NoReturn:
    typer.secho(message, fg=typer.colors.RED, err=True)
    raise SystemExit(code)
