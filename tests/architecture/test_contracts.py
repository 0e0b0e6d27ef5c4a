"""Contracts on the source of the serving packages. pyproject.toml has the import contracts."""

import ast
from pathlib import Path

import pytest

from checks import compared_secrets, unpickling

ROOT = Path(__file__).parents[2]
SERVING = [*(ROOT / "server").rglob("*.py"), *(ROOT / "protection").rglob("*.py")]


# The one module that reads pickles, with torch's restricted unpickler. It is in the room of the
# importers, which no serving process imports: the contract of the rooms has it above them.
PICKLES = ROOT / "server" / "stingy_server" / "importers" / "state_file.py"


@pytest.mark.parametrize(
    "path", [path for path in SERVING if path != PICKLES], ids=lambda path: path.name
)
def test_M1_no_serving_module_can_unpickle(path: Path) -> None:
    assert unpickling(path.read_text(encoding="utf-8")) == []


def test_M1_importer_of_pickles_calls_no_code_of_theirs() -> None:
    source = PICKLES.read_text(encoding="utf-8")
    assert unpickling(source) == ["torch.load"]
    assert unrestricted_loads(source) == []
    assert len(unrestricted_loads(source.replace(", weights_only=True", ""))) == 1


@pytest.mark.parametrize("path", SERVING, ids=lambda path: path.name)
def test_A5_no_secret_is_compared_byte_by_byte(path: Path) -> None:
    assert compared_secrets(path.read_text(encoding="utf-8")) == []


def unrestricted_loads(source: str) -> list[str]:
    """Find the uses of `torch.load` that may call code of the pickle."""
    tree = ast.parse(source)
    restricted = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and any(ast.unparse(keyword) == "weights_only=True" for keyword in node.keywords)
    }
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if ast.unparse(node) == "torch.load" and id(node) not in restricted
    ]
