"""The audit's part of the `stingy` command. A command imports torch and the rest when it runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stingy_attacker_eval import prove_commands
from stingy_attacker_eval.command_errors import report_errors


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
    TEXT = "text"


_WIDE = 120  # characters of a terminal that has room for references

app = typer.Typer(no_args_is_help=True)
audit = typer.Typer(
    no_args_is_help=True, help="Attack an endpoint and report how much the attacks gain."
)
app.add_typer(audit, name="audit")
app.command()(prove_commands.prove)
audit.command("mark-study")(prove_commands.study)


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
    with report_errors():
        from rich.console import Console

        from stingy_attacker_eval.audit.executors import in_processes, in_turn, on_ray
        from stingy_attacker_eval.audit.protocol_file import load_protocol
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
            from stingy_attacker_eval.lab.protocol_lab import protocol_networks

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
    with report_errors():
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
    with report_errors():
        from stingy_attacker_eval.report.html import read_audit, write_report

        if form is ReportFormat.HTML:
            typer.echo(write_report(folder))
            return
        if form is ReportFormat.TEXT:
            from rich.console import Console

            from stingy_attacker_eval.report.terminal import print_verdicts

            print_verdicts(read_audit(folder), Console())
            return
        from stingy_attacker_eval.report.exporters import as_csv, as_json, as_markdown

        export = {
            ReportFormat.JSON: as_json,
            ReportFormat.CSV: as_csv,
            ReportFormat.MD: as_markdown,
        }[form]
        typer.echo(export(read_audit(folder)), nl=False)


@audit.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="The folder of the first audit.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The folder of the second audit.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write.", show_default="B/compare.html")
    ] = None,
) -> None:
    """Compare two audits of the same data, students and training, and flag what leaks more."""
    with report_errors():
        from rich.console import Console

        from stingy_attacker_eval.report.comparison import compare_audits
        from stingy_attacker_eval.report.html import read_audit, write_comparison
        from stingy_attacker_eval.report.terminal import print_comparison

        found = compare_audits(read_audit(before), read_audit(after))
        page = out or after / "compare.html"
        print_comparison(found, Console())
        write_comparison(found, page)
        typer.echo(page)


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
    junit: Annotated[
        Path | None, typer.Option(help="Write the result as JUnit XML to this file.")
    ] = None,
) -> None:
    """Print PASS, or FAIL with the reasons and exit with 1.

    It fails if an uplift may be too large, or if a run is missing or broken.
    """
    with report_errors():
        from rich.console import Console

        from stingy_attacker_eval.errors import AuditError, GateError
        from stingy_attacker_eval.files import write_atomic
        from stingy_attacker_eval.report.analysis import read_audit
        from stingy_attacker_eval.report.ci_gate import CALL, gate_cases, gate_lines, junit_xml
        from stingy_attacker_eval.report.terminal import print_verdict_lines

        audit = read_audit(folder)
        endpoints, attackers = tuple(endpoint or ()), tuple(attacker or ())
        cases = gate_cases(audit, max_uplift=max_uplift, endpoints=endpoints, attackers=attackers)
        if junit is not None:
            write_atomic(junit, junit_xml(cases, title=audit.report.config.title))
        faults = tuple(fault for case in cases for fault in case.faults)
        if cases[0].subject == CALL:
            raise AuditError(*faults)
        typer.echo("FAIL" if faults else "PASS")
        print_verdict_lines(audit, Console(), attackers=attackers)
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
        int | None,
        typer.Option(min=1, max=4096, help="Width of the network's first block, for cnn_*."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="[default: 12]")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.  [default: 0.1]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="[default: 0]")] = None,
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
    with report_errors():
        from rich.console import Console

        from stingy_attacker_eval.audit.protocol_file import load_protocol
        from stingy_attacker_eval.datasets.datasets import load_dataset
        from stingy_attacker_eval.errors import EvalError
        from stingy_attacker_eval.lab.protocol_lab import train_protocol_teachers
        from stingy_attacker_eval.lab.teachers import teacher_settings, train_teachers

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
    """List the attacks with their needs and references, one line each. JSON has the whole texts."""
    with report_errors():
        import json

        from stingy_attacker_eval.attacks import attack_types
        from stingy_clients.text_table import Column, format_table, terminal_width

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
        columns = [
            Column("attack"),
            Column("what it does", least=24),
            Column("needs", least=12),
            Column("reference", least=12),
        ]
        shown = len(columns) if terminal_width() >= _WIDE else len(columns) - 1
        rows = [[*item.values()][:shown] for item in found]
        for line in format_table(columns[:shown], rows):
            typer.echo(line)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The demo's own folder.")] = Path("demo"),
) -> None:
    """Train, serve, attack and report on one small data set, in about a minute."""
    with report_errors():
        from rich.console import Console

        from stingy_attacker_eval.demo import run_demo

        run_demo(out, console=Console())
