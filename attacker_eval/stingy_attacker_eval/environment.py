"""The environment of an audit: all that a reader needs to run it again."""

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
        "training": "bfloat16" if trains_in_bfloat16(device) else "float32",
        "commit": source_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def default_device() -> torch.device:
    """Return CUDA if there is a CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trains_in_bfloat16(device: torch.device) -> bool:
    """Return True if networks for images of 16x16 pixels and more are trained in bfloat16.

    They are on CUDA, and on processors with instructions for it, but for grouped convolutions.
    """
    return device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def source_commit() -> str | None:
    """Return the commit of the running code; None outside a checkout.

    "+changes" is added if tracked files differ from the commit. The result is cached, because
    imported code does not change with the files. For a copy of the code without its checkout, the
    environment variable AUDIT_COMMIT gives the commit.
    """
    return find_commit(Path(__file__).resolve()) or os.environ.get("AUDIT_COMMIT")


def find_commit(file: Path) -> str | None:
    """Return the commit of the file's checkout; None if git does not track the file.

    A checkout around an installed package does not count, because git does not track the file.
    """
    try:
        _git(file, "ls-files", "--error-unmatch", file.name).check_returncode()
        head = _git(file, "rev-parse", "HEAD")
        head.check_returncode()
        changed = _git(file, "diff", "--quiet", "HEAD").returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if changed else "")


def _git(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "--no-optional-locks", "-C", str(file.parent), *arguments]
    return subprocess.run(  # noqa: S603 - fixed arguments
        command, capture_output=True, text=True, check=False
    )
