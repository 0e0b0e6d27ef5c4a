"""Contracts on the source of the serving packages. pyproject.toml has the import contracts."""

from pathlib import Path

import pytest

from checks import compared_secrets, unpickling

ROOT = Path(__file__).parents[2]
SERVING = [*(ROOT / "server").rglob("*.py"), *(ROOT / "protection").rglob("*.py")]


@pytest.mark.parametrize("path", SERVING, ids=lambda path: path.name)
def test_M1_no_serving_module_can_unpickle(path: Path) -> None:
    assert unpickling(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SERVING, ids=lambda path: path.name)
def test_A5_no_secret_is_compared_byte_by_byte(path: Path) -> None:
    assert compared_secrets(path.read_text(encoding="utf-8")) == []
