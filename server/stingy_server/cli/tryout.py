"""`stingy try`: a page on this machine that shows what a bundle knows and what leaves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stingy_server.cli.command import Config, end
from stingy_server.cli.progress import working

if TYPE_CHECKING:
    from stingy_clients.documents.audit_report import AuditReport
    from stingy_server.settings import Settings
    from stingy_server.tryout.workbench import Workbench


def try_bundle(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    audit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A finished audit, with report.json.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of 127.0.0.1; 0: any free one.")
    ] = 0,
    config: Config = None,
) -> None:
    """Show on a page what a bundle knows of an image, and what leaves under a policy."""
    with working("loading"):
        from stingy_server.loopback.access import TOKEN_LIFE_S, Access
        from stingy_server.loopback.runner import HOST, bind, page_address, run_page
        from stingy_server.models.artefact import is_artefact
        from stingy_server.process.core_dumps import forbid_core_dumps
        from stingy_server.process.listening import cannot_listen
        from stingy_server.settings_sources import load_settings
        from stingy_server.tryout.app import try_app
        from stingy_server.tryout.choice import Chooser

    forbid_core_dumps()  # one would write the images to a disk
    if is_artefact(bundle):
        end([f"{bundle}: expected a bundle, got an artefact, which has no logits; try its bundle"])
    settings, faults = load_settings(config, models=[{"bundle": bundle}], allow_open=True)
    if faults:
        end(faults)
    found = None if audit is None else _read_audit(audit)
    with working("trying the bundle"):
        workbench = _open(settings)
    manifest = workbench.manifest
    chooser = Chooser(manifest.policy, num_classes=len(manifest.classes), tiers=settings.tiers)
    try:
        listener = bind(port)
    except OSError as error:
        end([cannot_listen(HOST, port, error)])
    access = Access()

    def print_address() -> None:
        typer.echo(page_address(listener, access))

    typer.echo(f"{manifest.name} {manifest.version}: open this address in a browser", err=True)
    print_address()
    typer.echo(
        f"It opens once, within {TOKEN_LIFE_S:g} seconds. Press Enter for another, Ctrl-C to end.",
        err=True,
    )
    run_page(
        try_app(workbench, chooser, found),
        listener,
        access=access,
        another="Press Enter in the terminal of the command for another.",
        max_body_bytes=settings.max_body_bytes,
        on_enter=print_address,
    )


def _open(settings: "Settings") -> "Workbench":
    """Load the one bundle of the settings and try it, as a start does. A fault ends the command."""
    import secrets

    from torch import nn

    from stingy_server.inference.onnx_program import OnnxProgram
    from stingy_server.models.loading import load_bundles
    from stingy_server.models.opening import NotServable, open_forward
    from stingy_server.tryout.workbench import Workbench

    models, faults = load_bundles(settings)
    if faults:
        end(faults)
    (model,) = models
    if not isinstance(model.network, nn.Module | OnnxProgram):
        end([f"{model.name}: expected a bundle with weights, got one without"])
    try:
        forward = open_forward(
            model.network, manifest=model.manifest, policy=model.policy, settings=settings
        )
    except NotServable as error:
        end([f"{model.name}: {fault}" for fault in error.faults])
    return Workbench(model.manifest, forward, settings=settings, secret=secrets.token_bytes(16))


def _read_audit(folder: Path) -> "AuditReport":
    from stingy_clients.documents.audit_report import read_audit_report
    from stingy_clients.errors import ClientError

    try:
        return read_audit_report(folder)
    except ClientError as error:
        end([str(error)])
