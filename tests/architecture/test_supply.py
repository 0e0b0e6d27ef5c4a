"""The installed distributions: pinned versions, pinned hashes, no known vulnerability."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
DEPLOYED = [
    Requirement(text)
    for text in (
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["server"],
        *PROJECT["optional-dependencies"]["redis"],
        *PROJECT["optional-dependencies"]["postgres"],
        *PROJECT["optional-dependencies"]["oidc"],
    )
]
# The first release of each without its known vulnerabilities.
FLOORS = {"starlette": "1.3.1", "pillow": "12.3", "torch": "2.10"}


def pins() -> dict[str, tuple[Version, list[str]]]:
    """Read the version and the hashes of each distribution from the lock file."""
    found: dict[str, tuple[Version, list[str]]] = {}
    for block in re.split(r"\n(?=\S)", LOCK):
        if pinned := re.match(r"([A-Za-z0-9._-]+)==(\S+)", block):
            hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block)
            found[canonicalize_name(pinned[1])] = (Version(pinned[2]), hashes)
    return found


def test_M2_every_pin_has_hashes_and_no_host_is_named() -> None:
    assert len(pins()) > 40
    assert all(hashes for _, hashes in pins().values())
    assert "://" not in LOCK
    assert not re.search(r"^-", LOCK, re.MULTILINE)


def test_M2_the_lock_pins_the_tested_versions_of_the_extras() -> None:
    for requirement in DEPLOYED:
        version, _ = pins()[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, requirement.name
    tested = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    for name, version_tested in tested.items():
        if pinned := pins().get(canonicalize_name(name)):
            assert pinned[0] == Version(version_tested), name


@pytest.mark.parametrize("name", FLOORS)
def test_M2_no_release_with_a_known_vulnerability_is_allowed(name: str) -> None:
    (requirement,) = [r for r in DEPLOYED if canonicalize_name(r.name) == name]
    (floor,) = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
    assert floor >= Version(FLOORS[name])
