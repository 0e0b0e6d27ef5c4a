"""The packages of the images: only files with known hashes, and all that are needed."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docker_files import DOCKER, ROOT, instructions
from docker_scripts import packages, split, stingy

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = [ROOT / "requirements.lock", *sorted(DOCKER.glob("*.lock"))]
NEEDED = {
    "server": ["server", "redis", "postgres"],
    "torchserve": ["server", "torchserve"],
    "ray": ["server", "redis", "postgres", "ray"],
}
every_image = pytest.mark.parametrize("name", NEEDED)


def pins(lock: str) -> dict[str, str]:
    """Return the version of every distribution in a lock and check that each has hashes."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", lock):
        if pinned := re.match(r"([\w.-]+)==([\w.+!-]+)", block):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), pinned[0]
            found[canonicalize_name(pinned[1])] = pinned[2]
    return found


def locks_of(name: str) -> list[Path]:
    """Return the locks that the Dockerfile of an image passes to install.py."""
    runs = [value for kind, value in instructions(DOCKER / f"{name}.Dockerfile") if kind == "RUN"]
    program, script, *locks = json.loads(runs[0])
    assert (program, script) == ("python", "/source/docker/install.py")
    assert json.loads(runs[1]) == [program, script]
    return [ROOT / lock for lock in locks]


@every_image
def test_M2_image_installs_only_by_install_py(name: str) -> None:
    commands = [value for _, value in instructions(DOCKER / f"{name}.Dockerfile")]
    assert not any(re.search(r"\b(pip|uv|conda|curl|git)\b", value) for value in commands)


@every_image
def test_M2_locks_of_an_image_satisfy_its_extras(name: str) -> None:
    locked = {name: pin for lock in locks_of(name) for name, pin in pins(lock.read_text()).items()}
    extras = PROJECT["project"]["optional-dependencies"]
    required = [*PROJECT["project"]["dependencies"], *(a for e in NEEDED[name] for a in extras[e])]
    for requirement in map(Requirement, required):
        if requirement.name != "stingy":
            assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_M2_build_lock_has_the_build_requirements() -> None:
    required = {Requirement(text).name for text in PROJECT["build-system"]["requires"]}
    assert required <= set(pins((DOCKER / "build.lock").read_text()))


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_M2_lock_names_no_host_and_has_the_tested_versions(path: Path) -> None:
    lock = path.read_text()
    assert "://" not in lock
    assert not re.search(r"^-", lock, re.MULTILINE)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = {str(canonicalize_name(line.split("==")[0])): line for line in lines if "==" in line}
    for name, version in pins(lock).items():
        assert tested.get(name, f"=={version}").endswith(f"=={version}"), name


@pytest.mark.parametrize("index", ["", "https://example.org/cpu"])
def test_M2_only_pytorch_is_installed_without_hashes(index: str, tmp_path: Path) -> None:
    every = [*packages(locks_of("ray"), tmp_path, index=index), *stingy(tmp_path)]
    installs = [list(map(str, command)) for command in every if "install" in command]
    by_hash = [words for words in installs if "--require-hashes" in words]
    from_index = [words for words in installs if "--index-url" in words]
    (built,) = [words for words in installs if "--no-index" in words]
    assert len(installs) == len(by_hash) + len(from_index) + 1
    assert all("--no-deps" in words for words in installs)
    assert built[-1] == "stingy"
    torch = [f"torch=={pins(LOCKS[0].read_text())['torch']}"]
    torch += [f"torchvision=={pins(LOCKS[0].read_text())['torchvision']}"]
    assert [words[-4:] for words in from_index] == (
        [["--index-url", index, *torch]] if index else []
    )


def test_lock_without_pytorch_keeps_all_other_pins_and_hashes(tmp_path: Path) -> None:
    lock = LOCKS[0].read_text()
    left, torch = split(lock)
    removed = set(pins(lock)) - set(pins(left))
    assert {"torch", "torchvision", "triton", "nvidia-nccl-cu13", "cuda-bindings"} <= removed
    assert all(re.match(r"torch|triton|nvidia|cuda", name) for name in removed)
    assert [pin.split("==")[0] for pin in torch] == ["torch", "torchvision"]
    assert set(left.splitlines()) <= set(lock.splitlines())
    assert pins(left).items() <= pins(lock).items()
