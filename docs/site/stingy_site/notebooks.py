"""The notebooks: run from the first cell to the last, and written as pages of the site."""

from pathlib import Path
from typing import Any

SECONDS = 1200  # for one cell, on a busy machine


def run_notebook(source: Path, target: Path) -> None:
    """Run a notebook in an empty folder, and keep it with its outputs.

    Raises nbclient.exceptions.CellExecutionError if a cell fails.
    """
    import tempfile

    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.read(source, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(
            notebook, timeout=SECONDS, kernel_name="python3", resources=resources
        ).execute()
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


def write_page(notebook: Path, page: Path) -> None:
    """Write a notebook that has run as Markdown, with its pictures beside it."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(str(notebook))
    page.parent.mkdir(parents=True, exist_ok=True)
    for name, content in resources.get("outputs", {}).items():
        picture = f"{page.stem}_{name}"
        (page.parent / picture).write_bytes(content)
        text = text.replace(f"]({name})", f"]({picture})")
    page.write_text(text.replace(".ipynb)", ".md)"), encoding="utf-8")
