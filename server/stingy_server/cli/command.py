"""The shared parts of the server's commands: options, access to the state, faults."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from stingy_clients.text_table import make_printable

if TYPE_CHECKING:
    from stingy_server.maintenance.reader import Reader
    from stingy_server.settings import Settings
    from stingy_server.store.database import Database

State = Annotated[
    Path | None, typer.Option(help="State folder; default: that of the settings, or .stingy.")
]
Config = Annotated[Path | None, typer.Option(help="Settings file; default: stingy.toml, if any.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

MAX_COUNT = 2**62  # the largest number that the store takes


def spread_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of its dataclass parameters as options, in their place.

    Args:
        command: takes a dataclass, whose fields are annotated as the parameters of a command are.
    """
    signature = inspect.signature(command)
    groups: dict[str, type[Any]] = {
        parameter.name: parameter.annotation
        for parameter in signature.parameters.values()
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)
    }
    options: list[Parameter] = []
    for parameter in signature.parameters.values():
        if (group := groups.get(parameter.name)) is None:
            options.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
            continue
        for field in fields(group):
            default = Parameter.empty if field.default is MISSING else field.default
            options.append(
                Parameter(
                    field.name, Parameter.KEYWORD_ONLY, default=default, annotation=field.type
                )
            )

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            given = {field.name: values.pop(field.name) for field in fields(group)}
            values[name] = group(**given)
        command(**values)

    run.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return run


def require_number(value: float | None) -> float | None:
    """Refuse NaN, which is within all bounds of an option."""
    if value is not None and value != value:
        raise typer.BadParameter("expected a number, got NaN")
    return value


def read_settings(config: Path | None, state: Path | None = None) -> "Settings":
    """Read the settings. A fault of theirs ends the command."""
    from stingy_server.settings_sources import load_settings

    settings, faults = load_settings(config, state=state)
    if faults:
        end(faults)
    return settings


@contextlib.contextmanager
def open_state(
    config: Path | None, state: Path | None, *, create: bool = False, read_only: bool = False
) -> Iterator[tuple["Settings", "Database"]]:
    """Open the state that the settings name. A fault of either ends the command.

    Args:
        create: make the state if there is none.
        read_only: change nothing, so that a state of an earlier release is not upgraded.
    """
    settings = read_settings(config, state)
    from stingy_server.store.base import StoreUnavailable
    from stingy_server.store.database import Database, open_to_read

    try:
        with contextlib.closing(
            open_to_read(settings.state, settings.store)
            if read_only
            else Database(settings.state, store=settings.store, create=create)
        ) as database:
            yield settings, database
    except StoreUnavailable as error:
        end([str(error)])


@contextlib.contextmanager
def open_present(config: Path | None, state: Path | None) -> Iterator["Reader"]:
    """Open the state that the settings name to read it as it is. A fault ends the command."""
    settings = read_settings(config, state)
    from stingy_server.maintenance.opening import open_reader
    from stingy_server.store.base import StoreUnavailable

    try:
        with contextlib.closing(open_reader(settings.state, settings.store)) as reader:
            yield reader
    except StoreUnavailable as error:
        end([str(error)])


def end(faults: Sequence[str]) -> NoReturn:
    """Print the faults on stderr and exit with status 2."""
    for fault in faults:
        typer.secho(make_printable(fault), fg="red", err=True)
    raise typer.Exit(2)
