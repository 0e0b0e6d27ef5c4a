"""`stingy marks`: list, export and delete what was kept of marked answers."""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stingy_clients.text_table import Column, format_table
from stingy_server.cli.command import (
    AsJson,
    Config,
    State,
    end,
    open_state,
    read_settings,
)
from stingy_server.cli.keys import operator

if TYPE_CHECKING:
    from stingy_server.marks.export import Subject
    from stingy_server.marks.secret import MarkSecret
    from stingy_server.settings import Settings
    from stingy_server.store.database import Database

app = typer.Typer(
    no_args_is_help=True, help="List, export and delete what was kept of marked answers."
)
COLUMNS = (
    Column("model", least=8),
    Column("key"),
    Column("marked", right=True),
    Column("controls", right=True),
    Column("first"),
    Column("last"),
)


@app.command("list")
def list_marks(config: Config = None, state: State = None, as_json: AsJson = False) -> None:
    """Count the marked inputs and the controls of each model and key."""
    with _open_marks(config, state) as (_, database, secret):
        from stingy_server.marks.mark_store import MarkStore

        counts: dict[tuple[str, str], dict[str, Any]] = defaultdict(
            lambda: {"marked": 0, "controls": 0, "first": "9", "last": ""}
        )
        for _, evidence in MarkStore(database, secret).all():
            answered = evidence.answered
            row = counts[answered.model, answered.key]
            row["marked" if answered.marked else "controls"] += 1
            row["first"] = min(row["first"], answered.time)
            row["last"] = max(row["last"], answered.time)
    rows = [{"model": model, "key": key, **row} for (model, key), row in sorted(counts.items())]
    if as_json:
        typer.echo(json.dumps(rows))
    elif rows:
        minutes = [{**row, "first": row["first"][:16], "last": row["last"][:16]} for row in rows]
        cells = [[str(row[column.head]) for column in COLUMNS] for row in minutes]
        for line in format_table(COLUMNS, cells):
            typer.echo(line)
    else:
        typer.echo("the state has no marks")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    model: Annotated[
        str | None, typer.Option(help="Name of the model; default: the only one.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Id of the key whose inputs go; default: all keys.")
    ] = None,
    config: Config = None,
    state: State = None,
) -> None:
    """Write an exhibit for `stingy prove`: marked inputs, controls and their answers."""
    with _open_marks(config, state) as (settings, database, secret):
        from stingy_server.marks.export import export as export_marks

        assert settings.marks is not None  # noqa: S101  `_open_marks` has ended otherwise
        exported = export_marks(
            database,
            secret,
            folder,
            subject=_subject(settings, model),
            settings=settings.marks,
            key=key,
            detail={"by": operator()},
        )
    exhibit = exported.exhibit
    typer.echo(
        f"{folder} has {len(exhibit.marked)} marked inputs and {len(exhibit.controls)} controls of "
        f"{exhibit.model}"
    )
    if exported.other_inputs:
        typer.echo(f"{exported.other_inputs} inputs of other versions of the model are left out")
    if exported.unanswered:
        typer.echo(
            f"{exported.unanswered} inputs are left out, because the ledger has no answer to their "
            "requests"
        )
    typer.echo(f"its digest is {exhibit.digest}, also in the ledger: keep it elsewhere too")
    typer.echo("It has customers' images: keep it as secret as the state folder.")


@app.command()
def forget(
    before: Annotated[
        str, typer.Option(help="Day of UTC, such as 2026-01-31. Marks of earlier days go.")
    ],
    config: Config = None,
    state: State = None,
) -> None:
    """Delete the marked inputs and the controls of earlier days for good."""
    try:
        day = datetime.strptime(before, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        end([f"--before: expected a day such as 2026-01-31, got {before}"])
    with open_state(config, state) as (_, database):
        from stingy_server.marks.mark_store import forget as forget_marks

        deleted = forget_marks(database, before=day, detail={"by": operator()})
    typer.echo(f"{deleted} marked inputs and controls are deleted")


@contextlib.contextmanager
def _open_marks(
    config: Path | None, state: Path | None
) -> Iterator[tuple["Settings", "Database", "MarkSecret"]]:
    """Open the state and the secret of its marks. A fault of either ends the command."""
    settings = read_settings(config, state)
    from stingy_server.marks.start import open_secret

    secret, faults = open_secret(settings)
    if faults:
        end(faults)
    if secret is None:
        end(["marks: expected a secret_file in the settings, got none"])
    with open_state(config, state) as (_, database):
        from stingy_server.marks.evidence import EvidenceUnreadable
        from stingy_server.marks.mark_store import MarkStore

        try:
            MarkStore(database, secret).is_known()
            yield settings, database, secret
        except EvidenceUnreadable as error:
            end([str(error)])


def _subject(settings: "Settings", name: str | None) -> "Subject":
    """Return the named model of the settings, or the only one. End if there is none."""
    from stingy_server.marks.export import Subject
    from stingy_server.models.loading import load_bundles

    models, faults = load_bundles(settings, with_networks=False)
    if faults:
        end(faults)
    names = sorted({model.name for model in models})
    if name is None and len(names) == 1:
        (name,) = names
    if name not in names:
        end([f"--model: expected one of {', '.join(names) or 'no models'}, got {name or 'none'}"])
    manifest = next(model.manifest for model in models if model.name == name)
    return Subject(name or "", tuple(manifest.classes), manifest.preprocessing.size)
