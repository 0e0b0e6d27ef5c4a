"""The notebooks are committed without outputs, and `make notebooks` runs them."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in document["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks_to_serve_and_to_audit() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["audit_your_data", "serve_and_query"]


@every_notebook
def test_notebook_is_committed_without_outputs(path: Path) -> None:
    for cell in cells(path, "code"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


@every_notebook
def test_code_of_a_notebook_parses(path: Path) -> None:
    for cell in cells(path, "code"):
        lines = [line for line in cell["source"] if not line.startswith("%")]
        ast.parse("".join(lines))


@every_notebook
def test_links_of_a_notebook_have_targets(path: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    targets = re.findall(r"\]\(([^)#:]+)[^):]*\)", text)
    assert len(targets) >= 3
    for target in targets:
        assert (FOLDER / target).exists(), target
