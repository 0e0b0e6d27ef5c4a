"""The commands about stolen models: `stingy prove`, and the study of what it can find."""

from pathlib import Path
from typing import Annotated

import typer

from stingy_attacker_eval.command_errors import report_errors


def prove(
    exhibit: Annotated[Path, typer.Argument(help="Folder that `stingy marks export` wrote.")],
    suspect: Annotated[
        str, typer.Argument(help="The suspect's URL, or its predictions: .csv, .json or .npz.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the answers and the proof.")] = Path(
        "proof"
    ),
    template: Annotated[
        Path | None, typer.Option(help="TOML file: how to query a suspect behind plain HTTP.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The suspect's model, for the Open Inference Protocol.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="SUSPECT_KEY", help="The key for the suspect.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds for each reply.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the proof as JSON.")] = False,
) -> None:
    """Question a suspect model about marked inputs, and say if it was trained on their answers."""
    with report_errors():
        from rich.console import Console

        from stingy_attacker_eval.errors import SuspectError
        from stingy_attacker_eval.ownership.interview import ClassNames, interview_suspect
        from stingy_attacker_eval.ownership.page import write_proof
        from stingy_attacker_eval.ownership.proof import check_provable, judge_suspect
        from stingy_attacker_eval.ownership.suspects import (
            HttpSuspect,
            OipSuspect,
            PredictionFile,
            Suspect,
        )
        from stingy_attacker_eval.ownership.template import read_template
        from stingy_attacker_eval.progress import report_progress
        from stingy_clients.documents.exhibit import read_exhibit

        document = read_exhibit(exhibit)
        check_provable(document)
        form = None if template is None else read_template(template)
        found: Suspect
        if "://" not in suspect:
            if form is not None or model is not None:
                raise SuspectError("expected a URL with --template or --model, got a file")
            found = PredictionFile(Path(suspect))
        elif (form is None) == (model is None):
            got = "neither" if form is None else "both"
            raise SuspectError(f"expected --template or --model for a URL, got {got}")
        elif form is not None:
            found = HttpSuspect(suspect, form, key=key, timeout=timeout)
        else:
            found = OipSuspect(suspect, model=str(model), key=key, timeout=timeout)
        names = ClassNames(document.labels, {} if form is None else form.classes)
        with report_progress(Console(stderr=True)) as reporter:
            interview = interview_suspect(
                document,
                exhibit,
                found,
                names,
                out=out,
                progress=lambda done, total: reporter.step(done, total, "questions"),
            )
        proof = judge_suspect(document, interview, suspect=found.name)
        page = write_proof(out, proof)
        if as_json:
            typer.echo(proof.model_dump_json(indent=2))
            return
        typer.echo(proof.sentence)
        for remark in proof.remarks:
            typer.echo(remark)
        typer.echo(f"What it does not prove, and the exhibit: {page}")


def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="A packaged study or a .toml path.")],
    out: Annotated[Path, typer.Option(help="Folder for students, results and the page.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Students to train, as SEED/STUDENT; * is any text.")
    ] = None,
) -> None:
    """Measure which thieves the marks find and how many innocents they accuse; resumable."""
    with report_errors():
        from rich.console import Console

        from stingy_attacker_eval.mark_study.run import run_study
        from stingy_attacker_eval.mark_study.settings import load_study

        page = run_study(load_study(name), out=out, only=only or (), console=Console())
        typer.echo(page)
