"""`stingy torchserve`: archives and a configuration for TorchServe, with the gate in its worker.

Each command imports heavy packages when it runs, so that `stingy --help` stays fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from stingy_server.cli.command import Config, end
from stingy_server.cli.progress import working

app = typer.Typer()
torchserve = typer.Typer(
    no_args_is_help=True, help="Prepare TorchServe to serve bundles behind the gate."
)
app.add_typer(torchserve, name="torchserve")


@torchserve.command()
def archive(
    bundle: Annotated[Path, typer.Argument(help="The bundle to pack.")],
    export_path: Annotated[Path, typer.Option(help="The model store; created if it is absent.")],
    policy: Annotated[
        str | None, typer.Option(help="Policy, such as stingy:n=3; default: the bundle's own.")
    ] = None,
    config: Config = None,
    allow_open: Annotated[
        bool | None, typer.Option("--allow-open", help="Permit a policy that hides nothing.")
    ] = None,
) -> None:
    """Pack a bundle as a .mar whose handler answers through the gate."""
    from stingy_protection import BundleError
    from stingy_server.models.artefact import is_artefact
    from stingy_server.models.loading import load_bundles
    from stingy_server.settings_sources import load_settings
    from stingy_server.torchserve.archive import write_archive

    model = {"bundle": bundle, "policy": policy}
    settings, faults = load_settings(config, models=[model], allow_open=allow_open)
    if is_artefact(bundle):
        end([*faults, f"{bundle}: expected a bundle, got an artefact; pack its bundle instead"])
    with working("loading"):
        loaded, model_faults = load_bundles(settings)
    if faults or model_faults:
        end([*faults, *model_faults])
    (checked,) = loaded
    try:
        path = write_archive(
            export_path,
            manifest=checked.manifest,
            policy=checked.policy,
            policy_text=policy or checked.manifest.policy,
            bundle=bundle,
            settings=settings,
        )
    except BundleError as error:
        end(error.faults)
    typer.echo(f"{path}: {checked.policy.describe()} [{checked.policy.fingerprint}]")


@torchserve.command()
def config(
    model_store: Annotated[Path, typer.Option(help="The folder with the .mar files.")],
    port: Annotated[
        int, typer.Option(min=1, max=65531, help="Port of predictions; the next four are used too.")
    ] = 9080,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("config.properties"),
) -> None:
    """Write a config.properties for all archives of a model store, closed to other machines."""
    from stingy_protection import BundleError
    from stingy_server.torchserve.archive import configuration, read_archives

    try:
        archives = read_archives(model_store)
    except BundleError as error:
        end(error.faults)
    out.write_text(configuration(model_store, archives, port=port), encoding="utf-8")
    typer.echo(f"torchserve --foreground --ncs --ts-config {out}")
