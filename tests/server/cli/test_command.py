"""The shared parts of the commands: options that a dataclass has for several of them."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from stingy_server.cli.command import spread_options


@dataclass(frozen=True, kw_only=True)
class Size:
    width: Annotated[int, typer.Option(help="In pixels.")]
    height: Annotated[int, typer.Option(help="In pixels.")] = 2


def test_fields_of_a_dataclass_are_options_of_the_command() -> None:
    app = typer.Typer()
    drawn: list[tuple[str, Size, bool]] = []

    @app.command()
    @spread_options
    def draw(name: str, size: Size, grey: bool = False) -> None:
        """Draw a picture."""
        drawn.append((name, size, grey))

    assert CliRunner().invoke(app, ["cat", "--width", "3", "--grey"]).exit_code == 0
    assert drawn == [("cat", Size(width=3), True)]
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "Draw a picture." in shown
    assert shown.index("--width") < shown.index("--height") < shown.index("--grey")


def test_field_without_a_default_is_an_option_that_must_be_given() -> None:
    app = typer.Typer()

    @app.command()
    @spread_options
    def draw(size: Size) -> None:
        raise AssertionError("the command ran without a width")

    ended = CliRunner().invoke(app, ["--height", "3"])
    assert ended.exit_code == 2
    assert "Missing option" in ended.output
