"""The scripts of docker/, which is no package: install.py, strip.py and make_secrets.py."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

DOCKER = Path(__file__).parents[2] / "docker"
_install = runpy.run_path(str(DOCKER / "install.py"))
packages: Callable[..., Iterator[list[str | Path]]] = _install["packages"]
stingy: Callable[[Path], Iterator[list[str | Path]]] = _install["stingy"]
split: Callable[[str], tuple[str, list[str]]] = _install["split"]
strip: Callable[[Path, list[str]], None] = runpy.run_path(str(DOCKER / "strip.py"))["strip"]
make_secrets: Callable[..., None] = runpy.run_path(str(DOCKER / "make_secrets.py"))["make"]
