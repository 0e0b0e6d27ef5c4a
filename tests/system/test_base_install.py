"""A base install has the client but no torch and no server, and its command runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a copy of the project in a fresh environment, with a plain `pip install`.

    Returns the interpreter of the environment.
    """
    folder = tmp_path_factory.mktemp("base")
    copy, environment = folder / "project", folder / "environment"
    ignored = shutil.ignore_patterns(".*", "tests", "docs", "dist", "demo", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    interpreter = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip: list[str | Path] = [interpreter, "-m", "pip", "--disable-pip-version-check"]
    completed = run(*pip, "install", "--quiet", "--no-compile", copy)
    assert completed.returncode == 0, completed.stderr
    return interpreter


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "STINGY_"))}
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        check=False,
        cwd=Path(command[0]).parent,
        env=environment,
        text=True,
    )


def test_M2_base_install_has_the_client_and_nothing_heavy(python: Path) -> None:
    listed = run(python, "-m", "pip", "list", "--format=freeze").stdout.lower()
    installed = {line.partition("==")[0] for line in listed.splitlines()}
    assert {"stingy", "httpx", "numpy", "pydantic", "typer"} <= installed
    assert installed & {"torch", "torchvision", "fastapi", "uvicorn", "pillow"} == set()
    completed = run(python, "-c", "import stingy_clients; print(stingy_clients.__file__)")
    assert completed.returncode == 0, completed.stderr
    assert str(python.parents[1].resolve()) in str(Path(completed.stdout.strip()).resolve())


def test_base_install_command_runs(python: Path) -> None:
    stingy = python.with_name("stingy")
    for command in ([stingy], [python, "-m", "stingy_clients"]):
        completed = run(*command, "predict", "--help")
        assert (completed.returncode, completed.stderr) == (0, "")
        assert "Usage: stingy predict" in completed.stdout
    completed = run(stingy, "predict", "none.png", "--key", "sk", "--model", "m")
    assert completed.returncode == 1
    assert "none.png" in completed.stderr


def test_command_of_a_missing_extra_names_the_extra(python: Path, tmp_path: Path) -> None:
    completed = run(python.with_name("stingy"), "serve", tmp_path)
    assert (completed.returncode, completed.stdout) == (2, "")
    assert completed.stderr == "stingy serve needs: pip install 'stingy[server]'\n"
