"""`stingy models`: list, load, share and unload versions. The commands work on the host alone."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stingy_server.cli.command import (
    AsJson,
    Config,
    State,
    end,
    open_state,
    require_number,
)
from stingy_server.cli.progress import working

if TYPE_CHECKING:
    from stingy_server.models.loading import LoadedModel
    from stingy_server.settings import ModelSettings, Settings
    from stingy_server.store.database import Database
    from stingy_server.store.deployments import Deployment, Deployments, Report

app = typer.Typer(
    no_args_is_help=True, help="List, load, share and unload the versions that are served."
)

WAIT_S = 90.0  # longer than a killed process still counts as alive
TRAFFIC_S = 3600.0
MOST_ENTRIES = 20_000  # of the ledger, whose times have no index

Name = Annotated[str, typer.Argument(help="Name of the model, as `stingy models list` shows it.")]
Version = Annotated[str, typer.Argument(help="Version of the model.")]
Share = Annotated[
    float,
    typer.Argument(min=0.0, max=1.0, callback=require_number, help="Share of the keys, 0 to 1."),
]


@app.command("list")
def list_models(config: Config = None, state: State = None, as_json: AsJson = False) -> None:
    """List the versions that every running server on this state folder serves."""
    with open_state(config, state, read_only=True) as (_, database):
        from stingy_server.store.deployments import Deployments

        reports = Deployments(database).reports()
        if as_json:
            typer.echo(json.dumps([asdict(report) for report in reports]))
            return
        if not reports:
            typer.echo("no server runs on this state folder")
            return
        from stingy_server.cli.tables.models import model_lines

        for line in model_lines(reports, _traffic(database)):
            typer.echo(line)


def _traffic(database: "Database") -> dict[tuple[str, str], str]:
    """Return the images that each version has answered in the last hour, as text."""
    from datetime import UTC, datetime, timedelta

    from stingy_server.cli.tables.models import hourly_images
    from stingy_server.store.ledger import Ledger
    from stingy_server.times import stamp

    ledger = Ledger(database)
    first = ledger.last(MOST_ENTRIES)
    since = stamp(datetime.now(UTC) - timedelta(seconds=TRAFFIC_S))
    return hourly_images(ledger.entries(after=first), since=since, is_cut=first > 0)


@app.command()
def load(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    name: Annotated[str | None, typer.Option(help="Name; default: the bundle's own.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Policy; default: the one in service under this name, if any."),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of the keys that get this version when they name none; "
            "required beside another version.",
        ),
    ] = None,
    looser: Annotated[
        bool,
        typer.Option(
            "--looser",
            help="Permit a policy that lets out more than the policy in service, or something "
            "else.",
        ),
    ] = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Load a version into every running server. It is served after a restart too."""
    from pydantic import ValidationError

    from stingy_server.settings import ModelSettings

    try:
        model = ModelSettings(bundle=bundle.resolve(), name=name, policy=policy, share=share)
    except ValidationError as error:
        end([f"--{detail['loc'][0]}: {detail['msg']}" for detail in error.errors()])
    with open_state(config, state) as (settings, database):
        from stingy_server.store.deployments import Deployments

        deployments = Deployments(database)
        _load(_deployment(model, settings, deployments, looser=looser), deployments)


def _deployment(
    model: "ModelSettings", settings: "Settings", deployments: "Deployments", *, looser: bool
) -> "Deployment":
    """Check a bundle and return a deployment that pins its present content and its policy."""
    from stingy_server.identity import bundle_digest
    from stingy_server.models.artefact import is_artefact
    from stingy_server.models.fleet import looser_faults
    from stingy_server.store.deployments import Deployment

    loaded = _check(model, settings)
    served = [report for report in deployments.reports() if report.fault is None]
    beside = [] if served else _next_start(loaded.name, settings, deployments)
    inherited = _policy_in_service(loaded.name, served, beside)
    if inherited and model.policy is None and not is_artefact(model.bundle):
        model = model.model_copy(update={"policy": inherited})
        loaded = _check(model, settings)
        typer.echo(f"the policy in service: {loaded.policy.describe()}")
    # Where a server runs, it decides, because it knows what is in service.
    if not looser and (faults := looser_faults(loaded, beside)):
        end(faults)
    bundle = bundle_digest(loaded.manifest, loaded.policy)
    return Deployment(loaded.name, loaded.manifest.version, model, bundle, looser)


def _check(model: "ModelSettings", settings: "Settings") -> "LoadedModel":
    """Load a bundle without its network. End if it has a fault."""
    from stingy_server.models.loading import load_bundles

    # The servers decide whether an open policy is allowed, because their flags are unknown here.
    one_model = settings.model_copy(update={"models": (model,), "allow_open": True})
    found, faults = load_bundles(one_model, with_networks=False)
    if faults:
        end(faults)
    return found[0]


def _next_start(name: str, settings: "Settings", deployments: "Deployments") -> "list[LoadedModel]":
    """Load the versions of a model that the next start serves, without those that have a fault."""
    from stingy_server.models.loading import load_bundles

    models = (*settings.models, *(desired.settings for desired in deployments.desired()))
    chosen = settings.model_copy(update={"models": models, "allow_open": True})
    found, _ = load_bundles(chosen, with_networks=False)
    return [model for model in found if model.name == name]


def _policy_in_service(
    name: str, served: "Sequence[Report]", beside: "Sequence[LoadedModel]"
) -> str | None:
    """Return the policy of the version that gets the rest of the keys, as it was written."""
    policies = [(each.share, each.written) for each in served if each.name == name]
    policies += [
        (each.settings.share, each.settings.policy or each.manifest.policy) for each in beside
    ]
    rest = [written for share, written in policies if share is None and written]
    return rest[0] if rest else None


def _load(deployment: "Deployment", deployments: "Deployments") -> None:
    name, version = deployment.name, deployment.version
    known = {(each.name, each.version) for each in deployments.reports()}
    known |= {(each.name, each.version) for each in deployments.desired()}
    if (name, version) in known:
        end([f"{name} {version} is served already; give the bundle another version"])
    deployments.upsert(deployment)
    try:
        reports = _wait(deployments, name, version, present=True)
    except BaseException:  # undo it, so that the next start does not serve it
        deployments.delete(name, version)
        raise
    faults = sorted({report.fault for report in reports if report.fault is not None})
    if faults:
        deployments.delete(name, version)
        end([*faults, f"{name} {version} is not served."])
    typer.echo(_outcome(f"{name} {version} is served", reports))
    for warning in sorted({line for report in reports for line in report.warnings.splitlines()}):
        typer.echo(f"warning: {warning}", err=True)


@app.command()
def share(
    name: Name, version: Version, of_keys: Share, config: Config = None, state: State = None
) -> None:
    """Set the share of the keys that get a loaded version; 1 is all that name no version."""
    with open_state(config, state) as (_, database):
        from stingy_server.store.deployments import Deployments

        deployments = Deployments(database)
        shares = _shares(deployments, name)
        others = sum(each or 0.0 for number, each in shares.items() if number != version)
        if others + of_keys > 1:
            end([f"expected shares that sum to at most 1, got {others + of_keys:g}"])
        if shares.get(version, of_keys) is None:
            end([f"{name} {version} gets the rest of the keys; set the share of another version"])
        for deployment in deployments.desired():
            if (deployment.name, deployment.version) == (name, version):
                deployments.upsert(deployment.with_share(of_keys))
                typer.echo(f"{name} {version} gets a share of {of_keys:g} within two seconds.")
                return
    end([_not_loaded(name, version)])


@app.command()
def unload(name: Name, version: Version, config: Config = None, state: State = None) -> None:
    """Stop serving a loaded version. Its requests have body_timeout_s + deadline_s to finish."""
    with open_state(config, state) as (_, database):
        from stingy_server.store.deployments import Deployments

        deployments = Deployments(database)
        shares = _shares(deployments, name)
        if len(shares) > 1 and shares.get(version, 0.0) is None:
            end([f"{name} {version} gets the rest of the keys; unload the others first"])
        if not deployments.delete(name, version):
            end([_not_loaded(name, version)])
        reports = _wait(deployments, name, version, present=False)
    typer.echo(_outcome(f"{name} {version} is no longer served", reports))


def _shares(deployments: "Deployments", name: str) -> dict[str, float | None]:
    """Return the share of each served version of a model."""
    reports = deployments.reports()
    return {
        each.version: each.share for each in reports if each.name == name and each.fault is None
    }


def _not_loaded(name: str, version: str) -> str:
    return (
        f"expected a version of `stingy models load`, got {name} {version}; "
        "a version of the settings ends when they change and the server restarts"
    )


def _wait(deployments: "Deployments", name: str, version: str, *, present: bool) -> list["Report"]:
    """Wait until every process has followed, and return their reports.

    Args:
        present: whether to wait until the version is served, or until it is not.
    """
    with working("waiting for every process"):
        return _wait_until(deployments, name, version, present=present)


def _wait_until(
    deployments: "Deployments", name: str, version: str, *, present: bool
) -> list["Report"]:
    until = time.monotonic() + WAIT_S
    while True:
        reports = deployments.reports()
        processes = {report.process for report in reports}
        matching = [
            report for report in reports if (report.name, report.version) == (name, version)
        ]
        behind = (
            processes - {r.process for r in matching} if present else {r.process for r in matching}
        )
        if not behind:
            return matching if present else reports
        if time.monotonic() > until:
            late = len(behind)
            end([f"expected every process to follow in {WAIT_S:g} s, got {late} that did not"])
        time.sleep(0.2)


def _outcome(change: str, reports: Sequence["Report"]) -> str:
    """Return a sentence about a change and the number of processes that made it."""
    processes = len({report.process for report in reports})
    if not processes:
        return f"{change} from the next start; no server runs on this state folder now."
    return f"{change} in {processes} process{'es' if processes > 1 else ''}."
