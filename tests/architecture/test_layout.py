"""The layout of folders: small folders, short test modules, and tests that mirror the packages."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    name: ROOT / name / f"stingy_{name}"
    for name in ("attacker_eval", "clients", "protection", "server")
}
MAX_MODULES = 15
MAX_LINES = 400


def test_package_folders_have_at_most_15_modules() -> None:
    counts: dict[Path, int] = {}
    for package in PACKAGES.values():
        for path in package.rglob("*.py"):
            if path.name != "__init__.py":
                counts[path.parent] = counts.get(path.parent, 0) + 1
    assert len(counts) > 10
    large = {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > MAX_MODULES}
    assert not large, f"expected at most {MAX_MODULES} modules in a folder, got {large}"


def test_test_modules_have_at_most_400_lines() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "tests").rglob("*.py")
    }
    assert len(lines) > 50
    long = {name: n for name, n in lines.items() if n > MAX_LINES}
    assert not long, f"expected at most {MAX_LINES} lines in a test module, got {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_test_folders_mirror_the_rooms_of_their_package(package: str) -> None:
    tests = ROOT / "tests" / package
    for folder in (path for path in tests.rglob("*") if any(path.glob("test_*.py"))):
        room = PACKAGES[package] / folder.relative_to(tests)
        assert (room / "__init__.py").is_file(), (
            f"{folder.relative_to(ROOT)} has no room {room.relative_to(ROOT)}"
        )
