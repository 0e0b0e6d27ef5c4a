"""The arrows between packages are drawn in pyproject.toml; a broken one must turn red."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVING = [*(ROOT / "server").rglob("*.py"), *(ROOT / "protection").rglob("*.py")]
LOADERS = {"pickle", "joblib", "dill", "cloudpickle", "yaml", "marshal", "shelve"}


@pytest.mark.parametrize("path", SERVING, ids=lambda path: path.name)
def test_M1_nothing_that_serves_can_unpickle(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert LOADERS.isdisjoint(alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in LOADERS
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "load")
