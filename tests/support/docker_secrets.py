"""docker/make_secrets.py, which is no package."""

import runpy
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docker" / "make_secrets.py"
make: Callable[..., None] = runpy.run_path(str(SCRIPT))["make"]
