"""A base install is the client alone: no torch, no server, and the command runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment after a plain `pip install` of a copy of this."""
    folder = tmp_path_factory.mktemp("base")
    copy, environment = folder / "project", folder / "environment"
    kept = shutil.ignore_patterns(".*", "tests", "docs", "dist", "demo", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=kept)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    found = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip: list[str | Path] = [found, "-m", "pip", "--disable-pip-version-check"]
    done = run(*pip, "install", "--quiet", "--no-compile", copy)
    assert done.returncode == 0, done.stderr
    return found


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


def test_M2_the_client_is_there_and_nothing_heavy(python: Path) -> None:
    listed = run(python, "-m", "pip", "list", "--format=freeze").stdout.lower()
    installed = {line.partition("==")[0] for line in listed.splitlines()}
    assert {"stingy", "httpx", "numpy", "pydantic", "typer"} <= installed
    assert installed & {"torch", "torchvision", "fastapi", "uvicorn", "pillow"} == set()
    done = run(python, "-c", "import stingy_clients; print(stingy_clients.__file__)")
    assert done.returncode == 0, done.stderr
    assert str(python.parents[1].resolve()) in str(Path(done.stdout.strip()).resolve())


def test_the_command_runs(python: Path) -> None:
    stingy = python.with_name("stingy")
    for command in ([stingy], [python, "-m", "stingy_clients"]):
        done = run(*command, "predict", "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: stingy predict" in done.stdout
    done = run(stingy, "predict", "none.png", "--key", "sk", "--model", "m")
    assert done.returncode == 1
    assert "none.png" in done.stderr


def test_a_command_of_an_extra_says_which(python: Path, tmp_path: Path) -> None:
    done = run(python.with_name("stingy"), "serve", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stingy serve needs: pip install 'stingy[server]'\n"
