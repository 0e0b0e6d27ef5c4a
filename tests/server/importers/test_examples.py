"""The examples, and the commands of docs/bundles.md on the files that the examples write."""

import importlib.util
import re
import runpy
import shlex
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stingy_server.cli.main import app

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGE = (ROOT / "docs" / "bundles.md").read_text(encoding="utf-8")
COMMANDS = list(dict.fromkeys(re.findall(r"^\$ (stingy bundle .*)$", PAGE, re.MULTILINE)))
NEEDS = {"timm": "timm", "hf_": "transformers"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run the examples in a folder of their own, which stays the current one."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter and of DataParallel
        patch.chdir(folder)
        for example in EXAMPLES:
            if not missing(example.name):
                shutil.copy(example, folder)
                runpy.run_path(str(example), run_name="__main__")
        yield folder


def missing(text: str) -> str | None:
    """Return the package that a command or an example needs and that is not installed."""
    for word, package in NEEDS.items():
        if word in text and importlib.util.find_spec(package) is None:
            return package
    return None


def run(command: str) -> str:
    """Run a command of the page, and return what it prints. It must succeed."""
    if (package := missing(command)) is not None:
        pytest.skip(f"needs {package}")
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    return result.stdout


def command_of(example: Path) -> str:
    """Return the command in the docstring of an example."""
    (command,) = re.findall(
        r"^    (stingy bundle pack (?:.*\\\n)*.*)$", example.read_text("utf-8"), re.MULTILINE
    )
    return " ".join(command.replace("\\\n", " ").split())


def test_at_least_five_examples_run_without_other_packages() -> None:
    assert sum(missing(example.name) is None for example in EXAMPLES) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_page_runs(folder: Path, command: str) -> None:
    if " pack " in command:
        shutil.rmtree(folder / "bundles", ignore_errors=True)
    else:
        run(COMMANDS[0])
    assert run(command)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_command_of_an_example_is_one_of_the_page(example: Path) -> None:
    assert command_of(example) in COMMANDS


def test_page_shows_what_the_command_prints(folder: Path) -> None:
    shutil.rmtree(folder / "bundles", ignore_errors=True)
    assert run(COMMANDS[0]) in PAGE
