"""Where and when an audit ran: what a reader needs to run it again."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import torch


def describe_environment(device: torch.device) -> dict[str, str | None]:
    """Return versions, hardware, source commit (None outside a checkout) and the date (UTC)."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(terse=True),
        "cpu": f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "commit": source_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def source_commit() -> str | None:
    """The commit this process runs, "+changes" where tracked files differ; None outside a checkout.

    Asked once, for what is imported does not change with the files. A copy of the code that went
    to another machine without its checkout says its commit in AUDIT_COMMIT.
    """
    return commit_of(Path(__file__).resolve()) or os.environ.get("AUDIT_COMMIT")


def commit_of(file: Path) -> str | None:
    """The checkout the file is in, if git tracks it: never that of a folder around an install."""
    try:
        _git(file, "ls-files", "--error-unmatch", file.name).check_returncode()
        found = _git(file, "rev-parse", "HEAD")
        found.check_returncode()
        changed = _git(file, "diff", "--quiet", "HEAD").returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + ("+changes" if changed else "")


def _git(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "--no-optional-locks", "-C", str(file.parent), *arguments]
    return subprocess.run(  # noqa: S603 - fixed arguments
        command, capture_output=True, text=True, check=False
    )
