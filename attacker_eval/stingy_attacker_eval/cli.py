"""The audit's part of the `stingy` command. A command imports torch and the rest when it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class ExecutorKind(StrEnum):
    """The place where students are trained."""

    LOCAL = "local"
    RAY = "ray"


class ReportFormat(StrEnum):
    """The format in which a finished audit is printed or drawn."""

    HTML = "html"
    JSON = "json"
    CSV = "csv"
    MD = "md"


app = typer.Typer(no_args_is_help=True)
audit = typer.Typer(
    no_args_is_help=True, help="Attack an endpoint and report how much the attacks gain."
)
app.add_typer(audit, name="audit")


@audit.command()
def run(
    protocol: Annotated[str, typer.Argument(help="A packaged protocol's name or a .toml path.")],
    out: Annotated[Path, typer.Option(help="Folder for rows, answers and the report.")],
    url: Annotated[str, typer.Option(envvar="STINGY_URL", help="The server's address.")],
    key: Annotated[str, typer.Option(envvar="STINGY_KEY", help="A customer's key.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Runs to do: [ATTACKER/]ENDPOINT/ATTACK/STUDENT/SEED or any one; * is any text."
        ),
    ] = None,
    bundles: Annotated[
        Path | None,
        typer.Option(help="The lab's folder, with the networks for white-box attacks."),
    ] = None,
    parallel: Annotated[
        int,
        typer.Option(
            min=1, help="Students trained at once, each in a process; with ray, on each GPU."
        ),
    ] = 1,
    executor_kind: Annotated[
        ExecutorKind,
        typer.Option("--executor", help="ray: each student is a task of the Ray at $RAY_ADDRESS."),
    ] = ExecutorKind.LOCAL,
    shard: Annotated[
        str, typer.Option(help="i/n: do the i-th of n equal parts of the runs.")
    ] = "1/1",
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Only this seed of the protocol; may be repeated. See audit join."),
    ] = None,
) -> None:
    """Buy answers over HTTP, train students on them, and write report.json and report.html."""
    with _report_errors():
        from rich.console import Console

        from stingy_attacker_eval.audit.executors import in_processes, in_turn, on_ray
        from stingy_attacker_eval.audit.protocol import load_protocol
        from stingy_attacker_eval.audit.runner import run_audit
        from stingy_attacker_eval.audit.runs import parse_shard
        from stingy_attacker_eval.oracle.oracle import HttpOracle
        from stingy_attacker_eval.report.html import read_audit, write_report
        from stingy_attacker_eval.report.terminal import print_table
        from stingy_clients import Client

        settings = load_protocol(protocol).with_seeds(seed or ())
        executor = in_turn if parallel == 1 else in_processes(parallel)
        if executor_kind is ExecutorKind.RAY:
            executor = on_ray(per_gpu=parallel)
        networks = None
        if bundles is not None:
            from stingy_attacker_eval.teachers import protocol_networks

            networks = protocol_networks(settings, bundles=bundles)
        console = Console()
        with Client(url, key) as client:
            oracles = {
                endpoint.name: HttpOracle(client, model=endpoint.model)
                for endpoint in settings.endpoints
            }
            run_audit(
                settings,
                oracles=oracles,
                out=out,
                console=console,
                networks=networks,
                only=only or (),
                shard=parse_shard(shard),
                remaining=client.usage().remaining,
                executor=executor,
            )
        print_table(read_audit(out), console)
        console.print(f"Report: {write_report(out)}", highlight=False, markup=False)


@audit.command()
def join(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Finished audits.")],
    out: Annotated[Path, typer.Option(help="A new folder for all rows and their report.")],
    selection_seed: Annotated[
        list[int] | None,
        typer.Option(help="A seed that chooses the best attack and is not reported."),
    ] = None,
) -> None:
    """Join audits of one protocol that have other seeds into one report, without a server."""
    with _report_errors():
        from rich.console import Console

        from stingy_attacker_eval.audit.join import join_audits
        from stingy_attacker_eval.report.html import read_audit, write_report
        from stingy_attacker_eval.report.terminal import print_table

        join_audits(folders, out=out, selection_seeds=tuple(selection_seed or ()))
        console = Console()
        print_table(read_audit(out), console)
        console.print(f"Report: {write_report(out)}", highlight=False, markup=False)


@audit.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where report.json is.")],
    form: Annotated[
        ReportFormat,
        typer.Option("--format", help="html writes DIR/report.html; the others are printed."),
    ] = ReportFormat.HTML,
) -> None:
    """Draw or print the report of a finished audit from its report.json."""
    with _report_errors():
        from stingy_attacker_eval.report.html import read_audit, write_report

        if form is ReportFormat.HTML:
            typer.echo(write_report(folder))
            return
        from stingy_attacker_eval.report.exporters import as_csv, as_json, as_markdown

        export = {
            ReportFormat.JSON: as_json,
            ReportFormat.CSV: as_csv,
            ReportFormat.MD: as_markdown,
        }[form]
        typer.echo(export(read_audit(folder)), nl=False)


@audit.command()
def gate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where report.json is.")],
    max_uplift: Annotated[
        float, typer.Option(help="Largest 95 % upper bound of the best uplift, in points.")
    ],
    endpoint: Annotated[
        list[str] | None, typer.Option(help="Check only this endpoint; may be repeated.")
    ] = None,
    attacker: Annotated[
        list[str] | None, typer.Option(help="Check only this attacker; may be repeated.")
    ] = None,
) -> None:
    """Exit with 1 and the reasons if an uplift may be too large or a run is missing or broken."""
    with _report_errors():
        from stingy_attacker_eval.errors import GateError
        from stingy_attacker_eval.report.analysis import read_audit
        from stingy_attacker_eval.report.ci_gate import gate_faults, gate_lines

        audit, endpoints, attackers = (
            read_audit(folder),
            tuple(endpoint or ()),
            tuple(attacker or ()),
        )
        faults = gate_faults(audit, max_uplift=max_uplift, endpoints=endpoints, attackers=attackers)
        if faults:
            raise GateError(*faults)
        for line in gate_lines(audit, endpoints=endpoints, attackers=attackers):
            typer.echo(line)


@audit.command()
def lab(
    out: Annotated[Path, typer.Option(help="Folder for the bundles.")],
    protocol: Annotated[
        str | None, typer.Option(help="Train the teachers of this protocol, by name or .toml path.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set, as in a protocol, such as npz:PATH.  [default: digits]"),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="The teachers' network.  [default: cnn_large]")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="Width of the network's first block, for cnn_*.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="[default: 12]")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.  [default: 0.1]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="[default: 0]")] = None,
    nasty_from_normal: Annotated[
        bool, typer.Option("--nasty-from-normal", help="Start the nasty teacher from the normal.")
    ] = False,
    nasty_epochs: Annotated[
        int | None, typer.Option(min=1, help="[default: those of the normal teacher]")
    ] = None,
    nasty_lr: Annotated[
        float | None, typer.Option(help="[default: that of the normal teacher]")
    ] = None,
    omega: Annotated[float | None, typer.Option(min=0, help="Weight of the nasty loss.")] = None,
    tau: Annotated[float | None, typer.Option(help="Temperature of the nasty loss.")] = None,
) -> None:
    """Train a normal teacher and its nasty twin, or a protocol's teachers, and pack them.

    A teacher that is there already, trained in the same way, is kept.
    """
    with _report_errors():
        from rich.console import Console

        from stingy_attacker_eval.audit.protocol import load_protocol
        from stingy_attacker_eval.datasets.datasets import load_dataset
        from stingy_attacker_eval.errors import EvalError
        from stingy_attacker_eval.teachers import (
            teacher_settings,
            train_protocol_teachers,
            train_teachers,
        )

        console = Console(stderr=True)
        training: dict[str, Any] = {
            "network": network,
            "width": width,
            "epochs": epochs,
            "lr": lr,
            "seed": seed,
            "nasty_epochs": nasty_epochs,
            "nasty_lr": nasty_lr,
            "omega": omega,
            "tau": tau,
            "nasty_from_normal": nasty_from_normal or None,
        }
        options = (dataset, *training.values())
        if protocol is not None:
            if any(option is not None for option in options):
                raise EvalError(
                    "expected --protocol, or options for data, network and training, got both"
                )
            teachers = train_protocol_teachers(load_protocol(protocol), out=out, console=console)
        else:
            settings = teacher_settings(**training)
            data = load_dataset(dataset or "digits")
            teachers = train_teachers(data, out=out, settings=settings, console=console)
        for teacher in teachers:
            typer.echo(
                f"{teacher.name}: {teacher.accuracy:.1f} % in {teacher.seconds:.1f} s, "
                f"{teacher.bundle}{' (kept)' if teacher.kept else ''}"
            )


@audit.command()
def attacks(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the attacks with their needs and references."""
    with _report_errors():
        import json

        from rich.console import Console
        from rich.table import Table

        from stingy_attacker_eval.attacks import attack_types

        found = [
            {
                "name": attack.name,
                "title": attack.title,
                "needs": ", ".join(sorted(attack.requires)),
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
    """Train, serve, attack and report on one small data set, in about a minute."""
    with _report_errors():
        from rich.console import Console

        from stingy_attacker_eval.demo import run_demo

        run_demo(out, console=Console())


@contextmanager
def _report_errors() -> Iterator[None]:
    """Print an error in red, one line for each fault, and exit with 1; with 130 on Ctrl-C.

    Only EvalError, ClientError and OSError are handled.
    """
    from stingy_attacker_eval.errors import EvalError
    from stingy_clients import ClientError

    try:
        yield
    except (EvalError, ClientError) as error:
        for line in getattr(error, "faults", (str(error),)):
            typer.secho(line, fg="red", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        typer.secho(f"{error.strerror or type(error).__name__}{where}", fg="red", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as stop:
        typer.secho(str(stop) or "stopped; finished work is kept", fg="red", err=True)
        raise typer.Exit(130) from None
