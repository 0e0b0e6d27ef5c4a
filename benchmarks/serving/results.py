"""The stored results: one sample for each server, round and number of connections."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from load import Load

ROOT = Path(__file__).parents[2]
OWN = ("stingy", "torch", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "numpy")


@dataclass(frozen=True)
class Sample:
    """A server under one load. The CPU time is of its whole process tree, dead ones included."""

    server: str
    round: int
    connections: int
    load: Load
    cpu_s: float
    rss_mb: float
    processes: int

    @property
    def cpu_ms(self) -> float:
        """Return CPU milliseconds a request."""
        return 1000 * self.cpu_s / max(1, self.load.requests)


@dataclass(frozen=True)
class Failure:
    """A server without numbers, and the reason."""

    server: str
    round: int
    reason: str


def circumstances() -> dict[str, object]:
    """Return machine, date, versions and commit, without which a number means nothing."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain")),
        "versions": {name: version(name) for name in OWN},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    completed = subprocess.run(  # noqa: S603
        ["/usr/bin/env", "git", "-C", str(ROOT), *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    return completed.stdout.strip()


def as_json(
    about: dict[str, object], samples: Iterable[Sample], failures: Iterable[Failure]
) -> str:
    document = {
        **about,
        "samples": [asdict(sample) | {"cpu_ms": sample.cpu_ms} for sample in samples],
        "failures": [asdict(failure) for failure in failures],
    }
    return json.dumps(document, indent=1) + "\n"
