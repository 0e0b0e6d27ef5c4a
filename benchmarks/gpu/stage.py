"""The common parts of the stages: the folder of results, and the circumstances of a number."""

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
"""True for a rehearsal: sizes are tiny and the numbers have no value."""


def device() -> str:
    """Return "cuda" if there is a CUDA device, else "cpu"; a rehearsal takes the CPU."""
    return "cuda" if torch.cuda.is_available() and not REHEARSED else "cpu"


def results() -> Path:
    """Return the folder of results, RESULTS, which `run.sh` sets."""
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
    """Write RESULTS/NAME.json atomically; a later call replaces it."""
    path = results() / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**circumstances(), **found}, indent=1) + "\n")
    os.replace(temporary, path)


def run_benchmark(script: str, *arguments: str, timeout_s: float) -> str:
    """Run a benchmark of this repository and return its output.

    Raises RuntimeError, with the end of its errors, if it fails or takes too long.
    """
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    try:
        result = subprocess.run(  # noqa: S603
            command, check=False, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"expected {script} to end in {timeout_s:.0f} s, got no end") from None
    if result.returncode:
        raise RuntimeError(f"{script}: {result.stderr.strip()[-2000:]}")
    return result.stdout
