"""docker/install.py, which is no package."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docker" / "install.py"
_made = runpy.run_path(str(SCRIPT))
packages: Callable[..., Iterator[list[str | Path]]] = _made["packages"]
stingy: Callable[[Path], Iterator[list[str | Path]]] = _made["stingy"]
split: Callable[[str], tuple[str, list[str]]] = _made["split"]
