"""The Dockerfiles: linted, without root, with no program but those that serve."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docker_files import DOCKER, EDGE_UID, ROOT, environment, instructions, last_stage

DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
    "hadolint"
)
every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
@every_dockerfile
def test_hadolint_finds_nothing(path: Path) -> None:
    done = subprocess.run(
        [str(HADOLINT), "--failure-threshold", "style", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@every_dockerfile
def test_U4_user_is_not_root(path: Path) -> None:
    users = [value for name, value in last_stage(path) if name == "USER"]
    assert users[-1] == f"{EDGE_UID}:{EDGE_UID}"


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("server", {"python", "stingy"}),
        ("torchserve", {"python", "stingy", "torchserve", "java", "jspawnhelper"}),
    ],
)
def test_U4_no_program_is_left_but_those_that_serve(name: str, left: set[str]) -> None:
    path = DOCKER / f"{name}.Dockerfile"
    stages = [value for kind, value in instructions(path) if kind == "FROM"]
    assert stages[-1] == "scratch"
    assert [value for kind, value in last_stage(path) if kind == "RUN"] == []
    # The last stage copies from this step, so nothing can bring a program back.
    before = instructions(path)[: -len(last_stage(path))]
    kind, value = before[-1]
    assert kind == "RUN"
    python, script, *kept = json.loads(value)
    assert (python, script) == ("/usr/local/bin/python", "/strip.py")
    assert {Path(path).name for path in kept} == left


def test_U4_metrics_have_a_port_of_their_own() -> None:
    path = DOCKER / "server.Dockerfile"
    (exposed,) = [value.split() for name, value in last_stage(path) if name == "EXPOSE"]
    assert exposed == ["8080", environment(path)["STINGY_METRICS_PORT"]]


@every_dockerfile
def test_no_secret_is_in_the_image(path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "docker/secrets", "state", ".stingy"} <= set(ignored)
    arguments = {value.partition("=")[0] for name, value in instructions(path) if name == "ARG"}
    assert arguments == {"TORCH_INDEX"}
    assert not re.search(r"(?i)password|token|secret", str(environment(path)))


@every_dockerfile
def test_every_copied_path_exists(path: Path) -> None:
    for name, value in instructions(path):
        if name == "COPY" and not value.startswith("--from="):
            assert (ROOT / value.split()[0]).exists(), value
