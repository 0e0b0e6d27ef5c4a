"""The audit's part of the `stingy` command; torch and the rest are imported only when one runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
audit = typer.Typer(no_args_is_help=True, help="Steal from an endpoint and say how much it got.")
app.add_typer(audit, name="audit")


@audit.command()
def run(
    protocol: Annotated[str, typer.Argument(help="A packaged protocol's name or a .toml path.")],
    out: Annotated[Path, typer.Option(help="Folder for rows, answers and the report.")],
    url: Annotated[str, typer.Option(envvar="STINGY_URL", help="The server's address.")],
    key: Annotated[str, typer.Option(envvar="STINGY_KEY", help="A customer's key.")],
) -> None:
    """Buy answers over HTTP, train students on them, write report.json and report.html."""
    with _told():
        from rich.console import Console

        from stingy_attacker_eval.oracle import HttpOracle
        from stingy_attacker_eval.protocol import load_protocol
        from stingy_attacker_eval.report import read_report, write_report
        from stingy_attacker_eval.runner import run_audit
        from stingy_attacker_eval.table import print_table
        from stingy_clients import Client

        settings = load_protocol(protocol)
        console = Console()
        with Client(url, key) as client:
            oracles = {
                endpoint.name: HttpOracle(client, model=endpoint.model)
                for endpoint in settings.endpoints
            }
            run_audit(settings, oracles=oracles, out=out, console=console)
        print_table(read_report(out), console)
        console.print(f"Report: {write_report(out)}", highlight=False, markup=False)


@audit.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where report.json is.")],
) -> None:
    """Draw report.html again from report.json."""
    with _told():
        from stingy_attacker_eval.report import write_report

        typer.echo(write_report(folder))


@audit.command()
def lab(
    out: Annotated[Path, typer.Option(help="Folder for the bundles normal and nasty.")],
    dataset: Annotated[str, typer.Option(help='"digits" or "npz:PATH".')] = "digits",
) -> None:
    """Train a normal and a nasty teacher and pack them as bundles."""
    with _told():
        from stingy_attacker_eval.data import load_dataset
        from stingy_attacker_eval.lab import train_teachers

        for teacher in train_teachers(load_dataset(dataset), out=out):
            typer.echo(
                f"{teacher.name}: {teacher.accuracy:.1f} % in {teacher.seconds:.1f} s, "
                f"{teacher.bundle}"
            )


@audit.command()
def attacks(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the attacks: what each needs and where it comes from."""
    with _told():
        import json

        from rich.console import Console
        from rich.table import Table

        from stingy_attacker_eval.attacks import attack_types

        found = [
            {
                "name": attack.name,
                "title": attack.title,
                "needs": ", ".join(sorted(attack.needs)),
                "reference": attack.reference,
            }
            for attack in attack_types().values()
        ]
        if as_json:
            typer.echo(json.dumps(found, indent=2))
            return
        table = Table("attack", "what it does", "needs", "reference")
        for item in found:
            table.add_row(*item.values())
        Console().print(table)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The demo's own folder.")] = Path("demo"),
) -> None:
    """Train, serve, steal, report: the whole of Stingy on one small data set, in two minutes."""
    with _told():
        from rich.console import Console

        from stingy_attacker_eval.demo import run_demo

        run_demo(out, console=Console())


@contextmanager
def _told() -> Iterator[None]:
    """Errors of ours end the command with one red line a fault, exit 1; Ctrl-C with 130."""
    from stingy_attacker_eval.errors import EvalError
    from stingy_clients import ClientError

    try:
        yield
    except (EvalError, ClientError) as error:
        for line in getattr(error, "faults", (str(error),)):
            typer.secho(line, fg="red", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as stop:
        typer.secho(str(stop) or "stopped; what was finished is kept", fg="red", err=True)
        raise typer.Exit(130) from None
