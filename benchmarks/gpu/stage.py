"""What the stages share: the folder of results, and where and of what a number was obtained."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
REHEARSED = os.environ.get("REHEARSE") == "1"
"""Whether sizes are tiny and the numbers worth nothing."""


def device() -> str:
    """CUDA where there is one; a rehearsal is on the CPU."""
    return "cuda" if torch.cuda.is_available() and not REHEARSED else "cpu"


def results() -> Path:
    """The folder that `run.sh` names."""
    folder = Path(os.environ.get("RESULTS", ROOT / "benchmarks" / "gpu" / "results"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def circumstances() -> dict[str, object]:
    """Describe the device, the versions, the commit and the date."""
    name = torch.cuda.get_device_name() if device() == "cuda" else "cpu"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "commit": os.environ.get("AUDIT_COMMIT"),
        "rehearsed": REHEARSED,
    }


def write(name: str, **found: Any) -> None:
    """Write RESULTS/NAME.json as soon as anything is known; a later call replaces it."""
    path = results() / f"{name}.json"
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps({**circumstances(), **found}, indent=1) + "\n")
    os.replace(aside, path)


def printed(script: str, *arguments: str, timeout_s: float) -> str:
    """Run a benchmark of this repository and return what it printed.

    Raises RuntimeError with the end of its errors if it fails or takes too long.
    """
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    try:
        said = subprocess.run(  # noqa: S603
            command, check=False, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{script}: not done in {timeout_s:.0f} s") from None
    if said.returncode:
        raise RuntimeError(f"{script}: {said.stderr.strip()[-2000:]}")
    return said.stdout
