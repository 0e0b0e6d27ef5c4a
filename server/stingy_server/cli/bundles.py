"""`stingy bundle`: pack, check and show bundles, and export one with its policy fused in."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from stingy_server.cli.command import AsJson, Config, end, read_settings, to_line
from stingy_server.cli.pack import pack, tried
from stingy_server.cli.progress import working

bundle = typer.Typer(no_args_is_help=True, help="Pack, check, show and export bundles.")
bundle.command()(pack)

# By the kind of a bundle's weights.
FORMS = {
    "safetensors": "weights",
    "onnx": "ONNX program",
    None: "no weights: another model server runs it",
}
NETWORKS = {"safetensors": "none", "onnx": "in the program", None: "on the model server"}


@bundle.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    form: Annotated[
        Literal["onnx", "pt2"], typer.Option("--format", help="Format of the program.")
    ] = "onnx",
    fuse: Annotated[
        bool, typer.Option("--fuse", help="Fuse the policy into the program. Required.")
    ] = False,
    policy: Annotated[
        str | None, typer.Option(help="Policy, such as stingy:n=3; default: the bundle's own.")
    ] = None,
    layout: Annotated[
        Literal["plain", "triton"],
        typer.Option(help="plain: a folder; triton: a model in Triton's repository OUT."),
    ] = "plain",
    allow_open: Annotated[
        bool | None, typer.Option("--allow-open", help="Permit policies that hide nothing.")
    ] = None,
    config: Config = None,
) -> None:
    """Export a bundle as one program that returns indices and scores and no logits."""
    if not fuse:
        end(["expected --fuse, got none; without it the program would return every logit"])
    if layout == "triton" and form != "onnx":
        end(["expected --format onnx for --layout triton, got pt2"])
    from torch import nn

    from stingy_protection import PolicyConfigError
    from stingy_server.cli.triton_layout import triton_folder, write_config
    from stingy_server.inference.export import NotExportable
    from stingy_server.models.artefact import write_artefact
    from stingy_server.models.loading import load_bundles
    from stingy_server.settings_sources import load_settings

    models = [{"bundle": source, "policy": policy}]
    settings, faults = load_settings(config, models=models, allow_open=allow_open)
    loaded, model_faults = load_bundles(settings)
    if faults or model_faults:
        end([*faults, *model_faults])
    network, manifest, fused = loaded[0].network, loaded[0].manifest, loaded[0].policy
    if not isinstance(network, nn.Module):
        end(["expected a bundle, got an artefact; export its bundle instead"])
    folder = triton_folder(out, manifest) if layout == "triton" else out
    try:
        with working("exporting"):
            artefact = write_artefact(folder, network, manifest=manifest, policy=fused, format=form)
    except PolicyConfigError as error:
        end(error.faults)
    except NotExportable as error:
        end([str(error)])
    if layout == "triton":
        write_config(folder.parent, artefact, batch_size=settings.batch_size)
    typer.echo(f"{folder / artefact.file}: {artefact.policy.describe()} [{artefact.fingerprint}]")


@bundle.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The folder of a bundle or an artefact.")],
    config: Config = None,
) -> None:
    """Try a bundle or an artefact as a start of the server does, and serve nothing."""

    from stingy_server.importers.found import NotImportable
    from stingy_server.importers.pack import try_bundle
    from stingy_server.models.advice import openness_notes, policy_notes

    settings = read_settings(config)
    try:
        with working("trying"):
            model = try_bundle(folder, settings)
    except NotImportable as error:
        end(error.faults)
    typer.echo(f"model        {model.name} {model.manifest.version}")
    for note in (*openness_notes(model.policy), *policy_notes(model.policy)):
        typer.echo(f"note         {note}")
    typer.echo(f"tried        {tried(settings.batch_size)}")
    typer.echo(f"what leaves  {model.policy.describe()}")


@bundle.command()
def show(
    folder: Annotated[Path, typer.Argument(help="The folder of a bundle or an artefact.")],
    as_json: AsJson = False,
) -> None:
    """Show a bundle or an artefact, and check that its file is the one it names."""
    from stingy_protection import (
        BundleError,
        build_policy,
        parse_policy,
        read_manifest,
    )
    from stingy_protection.bundles.bundle import verified_bytes
    from stingy_server.importers.preprocessing import describe_preprocessing
    from stingy_server.models.artefact import is_artefact, read_artefact, verified_program
    from stingy_server.models.no_bundle import suggest_pack

    try:
        if is_artefact(folder):
            artefact = read_artefact(folder)
            manifest, form = artefact.manifest, f"{artefact.format}, policy fused in"
            verified_program(folder, artefact)
        else:
            manifest = read_manifest(folder, with_weights=False)
            form = FORMS[manifest.weights]
            if manifest.weights is not None:
                verified_bytes(folder, manifest)
    except BundleError as error:
        advice = "" if is_artefact(folder) else suggest_pack(folder)
        end([f"{fault}{advice}" for fault in error.faults])
    name, options = parse_policy(manifest.policy)
    policy = build_policy(name, num_classes=len(manifest.classes), **options)
    fields = {
        "name": manifest.name,
        "version": manifest.version,
        "form": form,
        "network": manifest.factory or NETWORKS[manifest.weights],
        "source": manifest.source or "not recorded",
        "classes": len(manifest.classes),
        "images": describe_preprocessing(manifest.preprocessing),
        "rows": manifest.outputs,
        "policy": policy.describe(),
        "fingerprint": policy.fingerprint,
        "sha256": manifest.sha256 or "none",
    }
    if as_json:
        typer.echo(json.dumps(fields))
        return
    for key, value in fields.items():
        typer.echo(to_line(f"{key:12}{value}"))
