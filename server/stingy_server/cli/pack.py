"""`stingy bundle pack`: make a bundle from a network's file, and print what was found.

Each command imports heavy packages when it runs, so that `stingy --help` stays fast.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stingy_server.cli.command import Config, end, read_settings, to_line
from stingy_server.cli.progress import working

if TYPE_CHECKING:
    from stingy_protection import Policy
    from stingy_server.importers.found import Found, ImportOptions

Interpolation = Literal[
    "nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"
]
CHANNELS: dict[str, Literal[1, 3]] = {"1": 1, "3": 3}


def pack(
    source: Annotated[
        str,
        typer.Argument(
            help="A .pth, .pt, .safetensors or .onnx file, FILE.py:FUNCTION, torchvision:NAME, "
            "timm:NAME or a Hugging Face folder."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: bundles/ and the name.")
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            help="Network of a file of weights: torchvision:NAME, timm:NAME or FILE.py:FUNCTION."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of torchvision:NAME, timm:NAME, FILE.py:FUNCTION.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="File with a label a line, or JSON, or a list such as cat,dog."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Pixels: 224, or HEIGHTxWIDTH.")] = None,
    resize_shorter: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels of the shorter side before the middle is cut out."),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Of pixels / 255: numbers with commas, or imagenet, cifar10 or half."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="As --mean; default: that of the name in --mean.")
    ] = None,
    channels: Annotated[
        Literal["1", "3"] | None, typer.Option(help="3 for RGB, 1 for grey.")
    ] = None,
    interpolation: Annotated[
        Interpolation | None, typer.Option(help="Interpolation of the resizing.")
    ] = None,
    exif_rotation: Annotated[
        bool, typer.Option("--exif-rotation", help="Turn images as their EXIF says.")
    ] = False,
    outputs: Annotated[
        Literal["logits", "probabilities"] | None,
        typer.Option(help="Meaning of the network's rows; default: logits."),
    ] = None,
    policy: Annotated[str, typer.Option(help="Policy, such as stingy:n=3.")] = "stingy",
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1",
    config: Config = None,
) -> None:
    """Pack a classifier as a bundle: from weights, a named architecture, ONNX or own code."""

    from stingy_server.importers.found import NotImportable
    from stingy_server.importers.pack import model_name
    from stingy_server.importers.pack import pack as write
    from stingy_server.importers.sources import import_source

    settings = read_settings(config)
    try:
        options = _options(
            arch=arch,
            weights=weights,
            labels=labels,
            size=size,
            resize_shorter=resize_shorter,
            mean=mean,
            std=std,
            channels=channels,
            interpolation=interpolation,
            outputs=outputs,
            exif_rotation=exif_rotation,
        )
        with working("packing"):
            found = import_source(source, options)
            target = out or Path("bundles", name or model_name(found.name))
            chosen = write(
                found, target, name=name, version=version, policy=policy, settings=settings
            )
    except NotImportable as error:
        end(error.faults)
    for line in _report(found, chosen.policy, target, batch_size=settings.batch_size):
        typer.echo(to_line(line))


def tried(batch_size: int) -> str:
    """Describe the trial that a bundle has passed."""
    return f"alone, in a pair and in a batch of up to {batch_size}, twice: same answers"


def _options(
    *,
    arch: str | None,
    weights: Path | None,
    labels: str | None,
    size: str | None,
    resize_shorter: int | None,
    mean: str | None,
    std: str | None,
    channels: Literal["1", "3"] | None,
    interpolation: Interpolation | None,
    outputs: Literal["logits", "probabilities"] | None,
    exif_rotation: bool,
) -> "ImportOptions":
    from stingy_server.importers.found import ImportOptions
    from stingy_server.importers.labels import read_labels
    from stingy_server.importers.preprocessing import parse_mean_and_std, parse_size

    mean_values, std_values = parse_mean_and_std(mean, std)
    return ImportOptions(
        arch=arch,
        weights=weights,
        labels=None if labels is None else read_labels(labels),
        size=None if size is None else parse_size(size),
        resize_shorter=resize_shorter,
        mean=mean_values,
        std=std_values,
        channels=None if channels is None else CHANNELS[channels],
        interpolation=interpolation,
        outputs=outputs,
        exif_rotation=exif_rotation,
    )


def _report(found: "Found", policy: "Policy", out: Path, *, batch_size: int) -> list[str]:
    """Return the lines for the person who packed: what was found, tried and will leave."""
    from stingy_server.importers.preprocessing import describe_preprocessing
    from stingy_server.models.advice import openness_notes, policy_notes

    labels = ", ".join(found.classes[:3]) + (", ..." if len(found.classes) > 3 else "")
    lines = [
        f"network      {found.title}",
        f"classes      {len(found.classes)}: {labels}",
        f"images       {describe_preprocessing(found.preprocessing)}",
        f"rows         {found.outputs}",
        *(
            f"note         {note}"
            for note in (*found.notes, *openness_notes(policy), *policy_notes(policy))
        ),
        f"tried        {tried(batch_size)}",
        f"what leaves  {policy.describe()}",
        f"next         stingy serve {out}",
    ]
    return lines
